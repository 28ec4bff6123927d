"""Says a text word by word, with the pauses that a language model would make."""

import asyncio
import os
import re
from pathlib import Path
from urllib.parse import parse_qs

import dcf

LONGEST = 40  # letters; a longer word is refused where it stands, so that an error mid-stream can be seen


class Handler:
    """Made once per replica. It is async: while one text pauses, the others are said."""

    def __init__(self):
        self.pause_s = float(os.environ.get("PAUSE_S", "0.05"))
        self.page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    async def __call__(self, req):
        """One text in, its words out."""
        if wants_page(req):
            yield dcf.Reply(self.page, content_type="text/html; charset=utf-8")
            return
        async for word in self.say(text_of(req)):
            yield word

    async def stream(self, requests):
        """Texts in, as they come; the words of each out."""
        async for req in requests:
            async for word in self.say(text_of(req)):
                yield word

    async def say(self, text):
        words = re.findall(r"\s*\S+\s*", text)  # the blanks stay, so that the words together are the text
        said = 0
        try:
            for word in words:
                if said:
                    await asyncio.sleep(self.pause_s)
                if len(word.strip()) > LONGEST:
                    raise ValueError(f"a word of {len(word.strip())} letters is too long to say; {LONGEST} at most")
                yield word
                said += 1
            # An empty chunk says that this was all: a browser's EventSource cannot tell an end from a broken
            # connection, and a WebSocket stays open for the next text.
            yield ""
        finally:
            print(f"said {said} of {len(words)} words")  # also where the caller has gone


def wants_page(req):
    """Whether a browser opens the function's address."""
    call = req.metadata
    accept = next((value for name, value in call.get("headers", {}).items() if name.lower() == "accept"), "")
    return (
        call.get("method") == "GET" and call["path"] == "/" and "text=" not in call["query"] and "text/html" in accept
    )


def text_of(req):
    """The body; where there is none, `text` of the query: a browser's EventSource cannot send a body."""
    text = req.text
    if not text:
        try:
            text = parse_qs(req.metadata.get("query", ""), errors="strict").get("text", [""])[0]
        except ValueError as error:
            raise dcf.InvalidInputError(f"text= is not UTF-8: {error}") from None
    if not text.strip():
        raise dcf.InvalidInputError("there is nothing to say: send a text, or ask with ?text=...")
    return text
