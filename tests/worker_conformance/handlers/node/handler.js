// The handler under test in Node.js: ../../README.md says what it does.
"use strict";

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");
const dcf = require("dcf");

if (process.env.CONFORMANCE_FAIL) throw new Error("CONFORMANCE_FAIL is set");

const POLL_MS = 2;

/** A line of its own in the file that the test reads. */
function note(command, what) {
  if (command.log) fs.appendFileSync(command.log, `${what}\n`);
}

/** Bytes that tell where they belong. */
function pattern(size) {
  const body = Buffer.alloc(size);
  for (let index = 0; index < size; index++) body[index] = index % 251;
  return body;
}

async function hold(command, req) {
  note(command, `started ${command.name}`);
  while (!fs.existsSync(command.until) && !req.cancelled) await sleep(POLL_MS);
  note(command, `ended ${command.name}`);
  return `held ${command.name}`;
}

function about(command, req) {
  return {
    function: req.info.function,
    replica: req.info.replica,
    invocation_id: req.invocationId,
    header: req.metadata.headers?.[command.header] ?? "",
    method: req.metadata.method ?? "",
    path: req.metadata.path ?? "",
    has_deadline: req.remainingMs !== null,
  };
}

async function mesh(command) {
  try {
    return await dcf.meshCall(command.function, command.size === undefined ? command.text : pattern(command.size));
  } catch (error) {
    if (error instanceof dcf.MeshError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

/** The streams that need nothing of their input. */
async function* streamOf(command) {
  switch (command.do) {
    case "count":
      for (let number = 0; number < command.count; number++) yield pattern(command.size);
      return;
    case "fail-after":
      for (let number = 0; number < command.count; number++) yield Buffer.from(String(number));
      throw new Error(command.message);
    case "kinds":
      yield Buffer.from("bytes");
      yield "text";
      yield { json: 1 };
      return;
    case "nothing":
      return;
    default:
      throw new dcf.InvalidInputError(`unknown command: ${command.do}`);
  }
}

/** A stream of one message that then stands still. */
async function* waiting(command, req) {
  note(command, `started ${command.name}`);
  try {
    yield Buffer.from("first");
    while (!req.cancelled) await sleep(POLL_MS);
  } finally {
    note(command, `ended ${command.name}`);
  }
}

async function batchOf(reqs) {
  const commands = reqs.map((req) => req.json());
  for (const [number, command] of commands.entries()) {
    if (command.do === "hold") await hold(command, reqs[number]);
    if (command.do === "fail_all") throw new Error(command.message);
  }
  const results = commands.map((command, number) => {
    // In a batch one call's error is its result.
    if (command.do === "fail") return new Error(command.message);
    if (command.do === "refuse") return new dcf.InvalidInputError(command.message);
    if (command.do === "bytes") return pattern(command.size);
    return { number, size: commands.length };
  });
  return commands.some((command) => command.do === "short") ? results.slice(0, -1) : results;
}

async function call(req) {
  if (Array.isArray(req)) return batchOf(req);
  if (req.input[0] !== 0x7b) return req.input;
  const command = req.json();
  switch (command.do) {
    case "text":
      return command.text;
    case "json":
      return command.value;
    case "reply":
      return new dcf.Reply(command.text, { contentType: command.content_type, metadata: command.metadata });
    case "bytes":
      return pattern(command.size);
    case "fail":
      throw new Error(command.message);
    case "refuse":
      throw new dcf.InvalidInputError(command.message);
    case "unsendable":
      return 10n;
    case "info":
      return about(command, req);
    case "print":
      console.log(command.text);
      return "printed";
    case "hold":
      return hold(command, req);
    case "wait":
      while (!req.cancelled) await sleep(POLL_MS);
      return "cancelled";
    case "mesh":
      return mesh(command);
    case "stream":
      return command.stream === "wait" ? waiting(command, req) : streamOf({ ...command, do: command.stream });
    default:
      throw new dcf.InvalidInputError(`unknown command: ${command.do}`);
  }
}

async function* stream(requests) {
  const { done, value: first } = await requests.next();
  if (done) return;
  const command = first.input[0] === 0x7b ? first.json() : {};
  switch (command.do) {
    case "echo":
      for await (const message of requests) yield message.input;
      return;
    case "take": {
      for (let number = 0; number < command.count; number++) await requests.next();
      await hold(command, requests);
      let rest = 0;
      for await (const _ of requests) rest++;
      yield Buffer.from(String(rest));
      return;
    }
    case "wait":
      note(command, `started ${command.name}`);
      try {
        yield Buffer.from("first");
        for await (const _ of requests);
      } finally {
        note(command, `ended ${command.name}`);
      }
      return;
    case undefined:
      yield first.input;
      return;
    default:
      yield* streamOf(command);
  }
}

/** Without streams of input; in batch mode it takes an array. */
class Plain {
  call(req) {
    return call(req);
  }
}

class StreamOnly {
  stream(requests) {
    return stream(requests);
  }
}

class Handler extends Plain {
  stream(requests) {
    return stream(requests);
  }
}

module.exports = { Handler, Plain, StreamOnly };
