/** Says a text word by word, with the pauses that a language model would make. */

import { setTimeout as sleep } from "node:timers/promises";
import { InvalidInputError } from "dcf";

/** Made once per replica. It is async: while one text pauses, the others are said. */
export class Handler {
  pauseMs = Number(process.env.PAUSE_MS ?? 50);

  /** One text in, its words out. */
  async *call(req) {
    yield* this.say(req.text, req.signal);
  }

  /** Texts in, as they come; the words of each out. */
  async *stream(requests) {
    for await (const req of requests) yield* this.say(req.text, req.signal);
  }

  async *say(text, signal) {
    const words = text.match(/\s*\S+\s*/g); // the blanks stay, so that the words together are the text
    if (!words) throw new InvalidInputError("there is nothing to say: send a text");
    let said = 0;
    try {
      for (const word of words) {
        if (said) await sleep(this.pauseMs, undefined, { signal }); // ends at once when the caller has gone
        yield word;
        said += 1;
      }
    } finally {
      console.log(`said ${said} of ${words.length} words`); // also where the caller has gone
    }
  }
}
