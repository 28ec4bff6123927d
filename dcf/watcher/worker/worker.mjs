/**
 * Run the user's Node.js handler for a watcher: `node worker.mjs DATA_FD CONTROL_FD`.
 *
 * One file, standard library only, Node 18 and later: it runs in the user's Node,
 * beside the user's packages. Protocol: proto/worker.md.
 *
 * Data socket     calls come in, answers go out; belongs to the main thread.
 * Control socket  what must arrive while a handler runs; read by a thread (`relayControl`),
 *                 which passes it to the main thread, and ends a process that is too busy to end itself.
 *
 * Handlers run in the main thread, at most `slots` at once, in the order in which the
 * calls' input was whole. A handler that blocks is told of cancels when it asks `req.cancelled`.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import Module from "node:module";
import net from "node:net";
import path from "node:path";
import { TextDecoder, types } from "node:util";
import { fileURLToPath, pathToFileURL } from "node:url";
import { MessageChannel, Worker as Thread, isMainThread, receiveMessageOnPort, workerData } from "node:worker_threads";

const PROTOCOL = 1;
const HEADER_BYTES = 10;
const OPEN_PREFIX_BYTES = 9;
const REPLY_PREFIX_BYTES = 15;
const HELLO = 1, STATE = 2, OPEN = 3, DATA = 4, REPLY = 5, ERROR = 6, CANCEL = 8, CREDIT = 9, SHUTDOWN = 10, BATCH = 11;
const LAST = 1, STREAM = 2, END = 4;
const CONTENT_SHIFT = 3;
const BYTES = 0, TEXT = 1, JSON_TEXT = 2;
const MESH_BIT = 0x80000000;
const MAX_FRAME_BYTES = 8 * 1024 * 1024;
const PIECE_BYTES = 256 * 1024;
const WINDOW_BYTES = 1024 * 1024;
const STREAM_PIECE_BYTES = 64 * 1024, STREAM_WINDOW_BYTES = 64 * 1024;
const FRAME_COST_BYTES = 64;
const ASYNC_SLOTS = 100;
const BIG_ANSWERS = 32; // that wait for their readers; more, and handlers keep their slots
const FLUSH_BYTES = 64 * 1024; // so much is written at once
const TURN_MS = 1; // calls that start, and generators that never wait, let the others run this often
const CHECK_MS = 5000; // for Node to find a syntax error again
const LEAVE_MS = 1500; // for the handler's own `exit` listeners; the watcher kills after 2000
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one fires at once
const LONGEST_CAUSE = 8; // errors in a chain of causes that are shown: the chain may be a circle
const BUG = 70, USAGE = 2; // exit statuses
const EMPTY = Buffer.alloc(0);

// -- what a handler may use: `import { Reply } from "dcf"`, `require("dcf")`, `globalThis.dcf` ---------------

/** Throw it in a handler: the caller sees 400 INVALID_ARGUMENT and this text. */
class InvalidInputError extends Error {
  static { this.prototype.name = this.name; }
}

/** Thrown where a handler waits for input that will never come: nobody waits for the answer any more. */
class ClientGoneError extends Error {
  static { this.prototype.name = this.name; }

  constructor(message = "nobody waits for the answer any more") {
    super(message);
  }
}

/** A mesh call failed; `code` is the error's code, such as function_not_found. */
class MeshError extends Error {
  static { this.prototype.name = this.name; }

  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** An answer with its own content type and metadata (HTTP headers of the answer); the body may be a generator. */
class Reply {
  constructor(body, { contentType, metadata } = {}) {
    this.body = body;
    this.contentType = contentType;
    this.metadata = metadata ?? {};
  }
}

/** What every view of a call has: a request, and a stream of them. */
class CallView {
  #call;

  constructor(call, info) {
    this.#call = call;
    this.info = info;
  }

  /** An object with method, path, query and headers; empty for a call without them. */
  get metadata() {
    return this.#call.metadata;
  }

  /** The call's id, the same in every log. */
  get invocationId() {
    return this.#call.invocationId;
  }

  /** An AbortSignal for fetch and the like: aborted when nobody waits any more, and at the deadline. */
  get signal() {
    return this.#call.signal;
  }

  /** Whether nobody waits for the answer any more; code that blocks asks now and then. */
  get cancelled() {
    this.#call.readCancels();
    return this.#call.cancelled || this.remainingMs === 0;
  }

  /** Milliseconds until the caller stops waiting; null if it has no deadline. */
  get remainingMs() {
    return this.#call.remainingMs;
  }
}

/** One input of a call, as the handler sees it. */
class Request extends CallView {
  constructor(call, info, input) {
    super(call, info);
    this.input = input;
  }

  /** The input as UTF-8 text. */
  get text() {
    try {
      return UTF8.decode(this.input);
    } catch {
      throw new InvalidInputError("the input is not UTF-8 text");
    }
  }

  /** The input as JSON. */
  json() {
    const text = this.text;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new InvalidInputError(`the input is not JSON: ${error.message}`);
    }
  }
}

// A byte order mark stays: the text is what was sent.
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What `stream(requests)` gets: an async iterator of Request. It has no `return`: a loop that was left may go on. */
class Requests extends CallView {
  #call;
  #giveCredit;

  constructor(call, info, giveCredit) {
    super(call, info);
    this.#call = call;
    this.#giveCredit = giveCredit;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    const call = this.#call;
    while (!call.inputs.length && !call.inputEnded && !call.cancelled) await call.changed.wait();
    if (call.cancelled) throw new ClientGoneError();
    if (!call.inputs.length) return { done: true, value: undefined };
    const { body, cost } = call.inputs.shift();
    call.owed += cost;
    const due = !call.inputs.length || call.owed >= STREAM_WINDOW_BYTES / 4;
    if (due && !call.inputEnded) this.#giveCredit(call);
    return { done: false, value: new Request(call, this.info, body) };
  }
}

// -- frames ------------------------------------------------------------------------------------------------

/** The watcher broke the protocol: this process ends, for it must not guess. */
class ProtocolError extends Error {}

/** Cuts what one socket delivers into frames. */
class FrameReader {
  #kept = [];
  #keptBytes = 0;
  #neededBytes = HEADER_BYTES;

  /** Call `onFrame({callId, kind, flags, payload})` for each frame that `chunk` makes whole. */
  feed(chunk, onFrame) {
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
    // Joined only when a frame is whole: a large one comes in many chunks.
    if (this.#keptBytes < this.#neededBytes) return;
    const data = this.#kept.length === 1 ? chunk : Buffer.concat(this.#kept, this.#keptBytes);
    let position = 0;
    let end;
    while ((end = position + this.#sizeAt(data, position)) <= data.length) {
      const start = position + HEADER_BYTES;
      onFrame({
        callId: data.readUInt32BE(position + 4), kind: data[position + 8], flags: data[position + 9],
        payload: data.subarray(start, end),
      });
      position = end;
    }
    this.#neededBytes = end - position;
    this.#keptBytes = data.length - position;
    this.#kept = this.#keptBytes ? [data.subarray(position)] : [];
  }

  /** Bytes of the frame at `position`; of its header alone where that is not whole yet. */
  #sizeAt(data, position) {
    if (data.length - position < HEADER_BYTES) return HEADER_BYTES;
    const length = data.readUInt32BE(position);
    if (length > MAX_FRAME_BYTES) throw new ProtocolError(`a frame of ${length} bytes`);
    return HEADER_BYTES + length;
  }
}

function packHeader(callId, kind, flags, length) {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32BE(length, 0);
  header.writeUInt32BE(callId, 4);
  header[8] = kind;
  header[9] = flags;
  return header;
}

function packReplyPrefix(handlerMs, content, headBytes) {
  const prefix = Buffer.alloc(REPLY_PREFIX_BYTES);
  prefix.writeUInt32BE(Math.max(0, Math.min(Math.trunc(handlerMs * 1000), 0xffffffff)), 0);
  prefix[10] = content;
  prefix.writeUInt32BE(headBytes, 11);
  return prefix;
}

function packOpenPrefix(metadataBytes) {
  const prefix = Buffer.alloc(OPEN_PREFIX_BYTES);
  prefix.writeUInt32BE(metadataBytes, 5);
  return prefix;
}

/** Cut an OPEN payload. */
function unpackOpen(payload) {
  checkLength(payload, OPEN_PREFIX_BYTES, "an OPEN");
  const idEnd = OPEN_PREFIX_BYTES + payload[4];
  const metadataEnd = idEnd + payload.readUInt32BE(5);
  checkLength(payload, metadataEnd, "an OPEN");
  return {
    deadlineMs: payload.readUInt32BE(0),
    invocationId: payload.subarray(OPEN_PREFIX_BYTES, idEnd),
    metadata: payload.subarray(idEnd, metadataEnd),
    body: payload.subarray(metadataEnd),
  };
}

/** The piece of the answer in a REPLY payload. */
function unpackReplyBody(payload) {
  checkLength(payload, REPLY_PREFIX_BYTES, "a REPLY");
  const start = REPLY_PREFIX_BYTES + payload.readUInt32BE(11);
  checkLength(payload, start, "a REPLY");
  return payload.subarray(start);
}

function checkLength(payload, bytes, what) {
  if (payload.length < bytes) throw new ProtocolError(`${what} shorter than its prefix says`);
}

function unpackCredit(payload) {
  if (payload.length !== 4) throw new ProtocolError(`a CREDIT of ${payload.length} bytes`);
  return payload.readUInt32BE(0);
}

function unpackCallIds(payload) {
  if (!payload.length || payload.length % 4) throw new ProtocolError(`a BATCH of ${payload.length} bytes`);
  return Array.from({ length: payload.length / 4 }, (_, n) => payload.readUInt32BE(4 * n));
}

function unpackObject(payload, what) {
  let value;
  try {
    value = JSON.parse(UTF8.decode(payload));
  } catch (error) {
    throw new ProtocolError(`JSON in ${what} that cannot be read (${error.message})`);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new ProtocolError(`no JSON object in ${what}`);
}

/** (piece, whether it is the last) of a body; an empty body is one empty piece. */
function* piecesOf(body, size) {
  for (let start = 0; start === 0 || start < body.length; start += size) {
    yield [body.subarray(start, start + size), start + size >= body.length];
  }
}

// -- results -----------------------------------------------------------------------------------------------

/**
 * What a handler returned, as it travels: {content, head, body}; `head` is the reply's own metadata or null.
 * Bytes are copied: a handler may use its buffer again while its answer waits for the reader.
 */
function encodeResult(result) {
  if (result instanceof Reply) {
    const { content, body } = encodeResult(result.body);
    return { content, head: headOf(result), body };
  }
  if (typeof result === "string") return { content: TEXT, head: null, body: Buffer.from(result) };
  if (ArrayBuffer.isView(result)) {
    const bytes = new Uint8Array(result.buffer, result.byteOffset, result.byteLength);
    return { content: BYTES, head: null, body: Buffer.from(bytes) };
  }
  if (types.isAnyArrayBuffer(result)) return { content: BYTES, head: null, body: Buffer.from(new Uint8Array(result)) };
  return { content: JSON_TEXT, head: null, body: Buffer.from(encodeJson(result)) };
}

function encodeJson(result) {
  let text;
  let why = "";
  try {
    text = JSON.stringify(result);
  } catch (error) { // a BigInt, a cycle, a toJSON that throws
    why = ` (${describe(error)})`;
  }
  if (text !== undefined) return text;
  throw new TypeError(`the handler returned ${nameOf(result)}, which is not bytes, a string or JSON${why}`);
}

/** The type of a value, for people. */
function nameOf(value) {
  return typeof value === "object" ? value?.constructor?.name ?? "an object" : typeof value;
}

/** A Reply's own metadata, as they travel. */
function headOf(reply) {
  const texts = Object.entries(reply.metadata).map(([key, value]) => [key, String(value)]);
  const head = { metadata: Object.fromEntries(texts) };
  if (reply.contentType) head.content_type = String(reply.contentType);
  return head;
}

function packHead(head) {
  return head ? Buffer.from(JSON.stringify(head)) : EMPTY;
}

/** The iterable whose items are the answer: a generator, a Readable; null where the result is the answer itself. */
function outputsOf(result) {
  const body = result instanceof Reply ? result.body : result;
  if (typeof body !== "object" || body === null) return null;
  const isGenerator = typeof body.next === "function" && typeof body[Symbol.iterator] === "function";
  return isGenerator || typeof body[Symbol.asyncIterator] === "function" ? body : null;
}

// -- errors, for people ------------------------------------------------------------------------------------

/** `TypeError: message` of whatever was thrown. */
function describe(error) {
  if (!isError(error)) return attempt(() => String(error));
  return attempt(() => {
    // A subclass that sets no name is known by its class.
    const name = error.name === "Error" ? error.constructor?.name || "Error" : error.name;
    return error.message ? `${name}: ${error.message}` : String(name);
  });
}

function isError(value) {
  return value instanceof Error || types.isNativeError(value);
}

function attempt(makeText) {
  try {
    return makeText();
  } catch {
    return "(its text cannot be made)";
  }
}

const WORKER_FILE = fileURLToPath(import.meta.url);

/** A stack without the lines of this file and of what lies below it: they help nobody. */
function withoutOurs(stack) {
  const below = /^ +at .*node:(internal|async_hooks|diagnostics_channel)/;
  const isOurs = (line) => line.includes(WORKER_FILE) || below.test(line);
  return stack.split("\n").filter((line) => !isOurs(line)).join("\n");
}

/** The stack of an error and of its causes. */
function stackOf(error) {
  const stacks = [];
  let one = error;
  do {
    const stack = isError(one) ? attempt(() => String(one.stack)) : `${describe(one)} (thrown, and no Error)`;
    stacks.push(withoutOurs(stack));
    one = isError(one) ? one.cause : undefined;
  } while (one !== undefined && stacks.length < LONGEST_CAUSE);
  return `${stacks.join("\nCaused by: ")}\n`;
}

/** End the process, which the watcher replaces, rather than guess or go on deaf. */
function die(error) {
  const text = error instanceof ProtocolError ? `the watcher broke the protocol: ${error.message}` : error.stack;
  process.stderr.write(`dcf worker: ${text}\n`);
  process.exit(BUG);
}

/** `work`, with its bugs ending the process. User code never runs in it uncaught. */
function endedByBugs(work) {
  return (...args) => {
    try {
      work(...args);
    } catch (error) {
      die(error);
    }
  };
}

// -- calls -------------------------------------------------------------------------------------------------

/** Lets async code wait until something about its owner has changed. */
class Change {
  #promise = null;
  #resolve;

  wait() {
    this.#promise ??= new Promise((resolve) => (this.#resolve = resolve));
    return this.#promise;
  }

  tell() {
    if (this.#promise === null) return;
    this.#promise = null;
    this.#resolve();
  }
}

/** One invocation, from its OPEN frame to its last answer frame. */
class Call {
  whole = false; // all of its input is here, and it is no stream
  started = false;
  cancelled = false;
  credit = WINDOW_BYTES;
  changed = new Change(); // input has come, or credit, or it was cancelled
  batch = null; // the calls of one run, where the handler takes several
  streaming = false; // its answer is a stream, which has begun
  inputs = null; // of a stream: messages that the handler has not taken
  inputEnded = false; // of a stream
  messageBytes = 0; // of the message that is still coming
  owed = 0; // credit for what was taken, not yet given
  #deadline;
  #deadlineTimer = null;
  #invocationId;
  #metadata;
  #controller = null;

  constructor(id, opening, readCancels) {
    this.id = id;
    this.pieces = [opening.body];
    this.readCancels = readCancels;
    this.#deadline = opening.deadlineMs ? performance.now() + opening.deadlineMs : null;
    this.#invocationId = opening.invocationId;
    this.#metadata = opening.metadata;
  }

  get invocationId() {
    return this.#invocationId.toString("latin1");
  }

  get metadata() {
    // Most handlers never ask: parsed for the one that does. That it cannot be read is the watcher's fault.
    if (Buffer.isBuffer(this.#metadata)) {
      try {
        this.#metadata = this.#metadata.length ? unpackObject(this.#metadata, "an OPEN's metadata") : {};
      } catch (error) {
        die(error);
      }
    }
    return this.#metadata;
  }

  get remainingMs() {
    return this.#deadline === null ? null : Math.max(0, this.#deadline - performance.now());
  }

  get signal() {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.cancelled) this.#controller.abort(new ClientGoneError());
      else if (this.#deadline !== null) this.#abortAtDeadline();
    }
    return this.#controller.signal;
  }

  #abortAtDeadline() {
    const abort = () => this.#controller.abort(new DOMException("The call's deadline has passed", "TimeoutError"));
    this.#deadlineTimer = setTimeout(abort, Math.min(this.remainingMs, LONGEST_TIMER_MS)).unref();
  }

  /** The caller's patience was for the answer, or the first chunk of it, which is here. */
  dropDeadline() {
    this.#deadline = null;
    clearTimeout(this.#deadlineTimer);
  }

  cancel() {
    this.cancelled = true;
    this.#controller?.abort(new ClientGoneError());
    this.changed.tell();
  }

  /** The calls that one run of the handler answers. */
  get run() {
    return this.batch ?? [this];
  }

  get runIsCancelled() {
    return this.run.every((call) => call.cancelled);
  }

  /** Whether this error only says that the handler has heard of its cancel. */
  isFarewell(error) {
    if (!this.cancelled) return false;
    if (error instanceof MeshError) return error.code === "client_gone";
    return error instanceof ClientGoneError || error?.name === "AbortError";
  }

  /** The input in memory of its own, from offset 0: typed arrays may look at it, and it keeps no other call's bytes. */
  takeBody() {
    const pieces = this.pieces;
    this.pieces = null;
    const body = Buffer.allocUnsafeSlow(pieces.reduce((size, piece) => size + piece.length, 0));
    let position = 0;
    for (const piece of pieces) position += piece.copy(body, position);
    return body;
  }
}

// -- the sockets -------------------------------------------------------------------------------------------

/** The data socket. What is put in one turn of the event loop leaves in one write. */
class DataLink {
  #socket;
  #held = [];
  #heldBytes = 0;
  #flushAsked = false;

  /** `onFrame` takes each frame, `onRead` what is to be done when those of one read are taken. */
  constructor(fd, onFrame, onRead) {
    const reader = new FrameReader();
    const onChunk = (chunk) => {
      reader.feed(chunk, onFrame);
      onRead();
    };
    this.#socket = new net.Socket({ fd, readable: true, writable: true });
    this.#socket.on("data", endedByBugs(onChunk));
    this.#socket.on("error", () => process.exit(0)); // the watcher is gone, and with it everybody who wanted an answer
    this.#socket.on("close", () => process.exit(0));
    process.on("exit", this.flush); // an answer in the socket is an answer
  }

  put(callId, kind, flags, ...parts) {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    this.#held.push(packHeader(callId, kind, flags, length), ...parts);
    this.#heldBytes += HEADER_BYTES + length;
    if (this.#heldBytes > FLUSH_BYTES) this.flush();
    else if (!this.#flushAsked) {
      this.#flushAsked = true;
      setImmediate(this.#flushAsAsked);
    }
  }

  putJson(callId, kind, flags, value) {
    this.put(callId, kind, flags, Buffer.from(JSON.stringify(value)));
  }

  putCredit(callId, bytes) {
    const payload = Buffer.allocUnsafe(4);
    payload.writeUInt32BE(bytes);
    this.put(callId, CREDIT, 0, payload);
  }

  #flushAsAsked = () => {
    this.#flushAsked = false;
    this.flush();
  };

  flush = () => {
    if (!this.#heldBytes) return;
    const data = Buffer.concat(this.#held, this.#heldBytes);
    this.#held = [];
    this.#heldBytes = 0;
    this.#socket.write(data);
  };

  /** Write the last words and end the process. */
  endWith(status) {
    this.flush();
    this.#socket.write(EMPTY, () => process.exit(status));
  }
}

/** The control socket, as its thread relays it: read when the event loop turns, and by `drain` while code blocks it. */
class ControlLink {
  #port;
  #onChunk;

  constructor(fd, onFrame) {
    const reader = new FrameReader();
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#onChunk = endedByBugs((chunk) => {
      if (chunk === null) process.exit(0);
      // A message has no Buffer: it comes as the Uint8Array below it.
      reader.feed(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength), onFrame);
    });
    port1.on("message", this.#onChunk);
    // Neither NODE_OPTIONS nor the user's variables: nothing of the handler's is loaded there.
    const nothing = { env: {}, execArgv: [] };
    const given = { workerData: { fd, port: port2 }, transferList: [port2] };
    const thread = new Thread(new URL(import.meta.url), { ...given, ...nothing });
    thread.on("error", die);
  }

  drain = () => {
    let message;
    while ((message = receiveMessageOnPort(this.#port)) !== undefined) this.#onChunk(message.message);
  };
}

/** The control thread. It ends the process where the main one does not: no endless loop outlives its watcher. */
function relayControl({ fd, port }) {
  const reader = new FrameReader();
  const socket = new net.Socket({ fd, readable: true, writable: true });
  const endSoon = () => setTimeout(() => process.kill(process.pid, "SIGKILL"), LEAVE_MS);
  socket.on("data", (chunk) => {
    port.postMessage(chunk);
    try {
      reader.feed(chunk, ({ kind }) => kind === SHUTDOWN && endSoon());
    } catch {
      endSoon(); // the main thread finds the same, and says it
    }
  });
  socket.on("error", () => {}); // `close` follows
  socket.on("close", () => {
    port.postMessage(null);
    endSoon();
  });
}

// -- mesh --------------------------------------------------------------------------------------------------

/** A call that the handler makes. */
class MeshCall {
  credit = WINDOW_BYTES;
  changed = new Change(); // credit has come, or it has ended
  pieces = [];

  constructor(id, parent) {
    this.id = id;
    this.parent = parent;
    this.answer = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  }
}

/** The mesh calls under way. */
class Mesh {
  #link;
  #currentCall;
  #calls = new Map();
  #count = 0;

  /** `currentCall` tells the call on whose behalf code runs, or null. */
  constructor(link, currentCall) {
    this.#link = link;
    this.#currentCall = currentCall;
  }

  /** Call another function; its answer as a Buffer. Rejects with MeshError, or with the signal's reason. */
  call = async (name, input = "", { signal } = {}) => {
    signal?.throwIfAborted();
    const { body } = encodeResult(input);
    const parent = this.#currentCall();
    if (parent?.runIsCancelled) throw clientGone();
    const mesh = this.#open(parent);
    const abort = () => this.#cancel(mesh, signal.reason);
    signal?.addEventListener("abort", abort);
    this.#send(mesh, name, body).catch(die);
    try {
      return await mesh.answer;
    } catch (error) {
      if (error instanceof MeshError) Error.captureStackTrace(error); // it was made where nobody has called
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  };

  #open(parent) {
    do this.#count = (this.#count + 1) % MESH_BIT;
    while (this.#calls.has(MESH_BIT + this.#count));
    const mesh = new MeshCall(MESH_BIT + this.#count, parent);
    this.#calls.set(mesh.id, mesh);
    return mesh;
  }

  /** Send the input as credit allows; ends early where the call has ended. */
  async #send(mesh, name, body) {
    const metadata = Buffer.from(JSON.stringify({ function: String(name), parent: mesh.parent?.id ?? 0 }));
    let kind = OPEN;
    let head = [packOpenPrefix(metadata.length), metadata];
    for (const [piece, last] of piecesOf(body, PIECE_BYTES)) {
      while (mesh.credit < piece.length && this.#isOpen(mesh)) await mesh.changed.wait();
      if (!this.#isOpen(mesh)) return;
      mesh.credit -= piece.length;
      this.#link.put(mesh.id, kind, last ? LAST : 0, ...head, piece);
      kind = DATA;
      head = [];
    }
  }

  #isOpen(mesh) {
    return this.#calls.get(mesh.id) === mesh;
  }

  #close(mesh) {
    this.#calls.delete(mesh.id);
    mesh.changed.tell();
  }

  #cancel(mesh, reason) {
    if (!this.#isOpen(mesh)) return;
    this.#close(mesh);
    this.#link.put(mesh.id, CANCEL, 0);
    mesh.reject(reason);
  }

  /** A run of the handler was cancelled: what it waits for is over. */
  cancelFor(calls) {
    for (const mesh of [...this.#calls.values()]) if (calls.includes(mesh.parent)) this.#cancel(mesh, clientGone());
  }

  onFrame({ callId, kind, flags, payload }) {
    const mesh = this.#calls.get(callId);
    if (kind === CREDIT) return this.#onCredit(mesh, unpackCredit(payload));
    if (kind === ERROR) return this.#onError(mesh, unpackObject(payload, "an ERROR"));
    if (kind === REPLY) return this.#onPiece(mesh, flags, unpackReplyBody(payload));
    if (kind === DATA) return this.#onPiece(mesh, flags, payload);
    throw new ProtocolError(`kind ${kind} of a mesh call`);
  }

  #onCredit(mesh, bytes) {
    if (!mesh) return;
    mesh.credit += bytes;
    mesh.changed.tell();
  }

  #onError(mesh, { code = "internal", message = "" }) {
    if (!mesh) return;
    this.#close(mesh);
    mesh.reject(new MeshError(code, message));
  }

  #onPiece(mesh, flags, piece) {
    if (!mesh) return;
    mesh.pieces.push(piece);
    if (flags & LAST) {
      this.#close(mesh);
      mesh.resolve(Buffer.concat(mesh.pieces));
    } else if (piece.length) this.#link.putCredit(mesh.id, piece.length);
  }
}

function clientGone() {
  return new MeshError("client_gone", "the call that this mesh call was made for was cancelled");
}

// -- the handler -------------------------------------------------------------------------------------------

/** The file is there, the handler is not. */
class HandlerMissingError extends Error {}

const AsyncFunction = (async () => {}).constructor;
const GeneratorFunction = function* () {}.constructor;
const AsyncGeneratorFunction = async function* () {}.constructor;

/** The user's handler and what kind of one it is: `call(req)` or null, `stream(requests)` or null. */
class Handler {
  constructor(call, stream, owner) {
    const isAsync = (one) => one instanceof AsyncFunction || one instanceof AsyncGeneratorFunction;
    this.call = call && call.bind(owner);
    this.stream = stream && stream.bind(owner);
    this.isAsync = [call, stream].filter(Boolean).every(isAsync);
    this.streams = stream !== null || call instanceof GeneratorFunction || call instanceof AsyncGeneratorFunction;
  }

  checkBatch() {
    if (!this.streams) return;
    throw new HandlerMissingError("a handler that streams cannot be batched: take `batch` out of its config.yaml");
  }
}

async function loadHandler(source, fileName, name) {
  const file = path.resolve(source, fileName);
  if (!fs.existsSync(file)) throw new HandlerMissingError(`the handler file ${fileName} is not there`);
  const module = await import(pathToFileURL(file));
  const exported = findExport(module, fileName, name);
  if (typeof exported !== "function") {
    throw new HandlerMissingError(`${name} in ${fileName} is neither a class nor a function`);
  }
  if (!isClass(exported)) return new Handler(exported, null);
  const object = new exported();
  await object.init?.();
  return handlerOf(object, fileName, name);
}

/** CommonJS comes as the default export; its names are seen beside it only where Node can tell them. */
function findExport(module, fileName, name) {
  if (module[name] !== undefined) return module[name];
  const whole = module.default;
  if (whole?.[name] !== undefined) return whole[name];
  if (typeof whole === "function" && whole.name === name) return whole;
  const exported = { ...whole, ...module };
  const there = Object.keys(exported).filter((key) => typeof exported[key] === "function").sort();
  throw new HandlerMissingError(`${fileName} exports no ${name}; it has: ${there.join(", ") || "nothing"}`);
}

function isClass(exported) {
  if (/^class\b/.test(Function.prototype.toString.call(exported))) return true;
  // What compilers make of a class for an older JavaScript.
  return Boolean(exported.prototype?.call || exported.prototype?.stream);
}

function handlerOf(object, fileName, name) {
  const [call, stream] = [object.call, object.stream].map((one) => (typeof one === "function" ? one : null));
  if (call || stream) return new Handler(call, stream, object);
  throw new HandlerMissingError(`class ${name} in ${fileName} has neither call(req) nor stream(requests)`);
}

/** (one line for people, the traceback) of what went wrong while the handler was loaded. */
function explainLoad(error, file) {
  if (error instanceof HandlerMissingError) return { cause: error.message, traceback: "" };
  const excerpt = error instanceof SyntaxError ? excerptOf(error, file) : "";
  const found = /^(.+):(\d+)\n/.exec(excerpt);
  const place = found ? ` (${path.basename(found[1])}, line ${found[2]})` : "";
  const cause = `${describe(error)}${place} while the handler was loaded`;
  return { cause: cause.replace(/\s+/g, " "), traceback: found ? withoutOurs(excerpt) : stackOf(error) };
}

/** What begins with `file:line` of a SyntaxError. */
function excerptOf(error, file) {
  if (!error.stack.startsWith("SyntaxError")) return error.stack;
  // Of an ES module Node keeps the place to itself, but it prints it when it is asked for nothing else.
  return spawnSync(process.execPath, ["--check", file], { encoding: "utf8", timeout: CHECK_MS }).stderr;
}

/** Let `import "dcf"` and `require("dcf")` find `api`, whatever node_modules has. */
function installModule(api) {
  Object.defineProperty(globalThis, "dcf", { value: api });
  const load = Module._load;
  Module._load = (request, ...rest) => (request === "dcf" ? api : load(request, ...rest));
  const names = Object.keys(api);
  const url = `data:text/javascript,export const {${names}} = globalThis.dcf; export default globalThis.dcf;`;
  const resolve = (name, context, next) => (name === "dcf" ? { url, shortCircuit: true } : next(name, context));
  if (Module.registerHooks) {
    Module.registerHooks({ resolve });
    return;
  }
  // Older ones run the hook in a thread of theirs, from its source. Before 18.19 and 20.6 there is none:
  // ES modules take `globalThis.dcf` there.
  const source = `const url = ${JSON.stringify(url)}; export const resolve = ${resolve};`;
  Module.register?.(`data:text/javascript,${encodeURIComponent(source)}`);
}

// -- the worker --------------------------------------------------------------------------------------------

/** The calls, from their OPEN to their answer. */
class Worker {
  #data;
  #control;
  #mesh;
  #settings = null;
  #info = null;
  #handler = null;
  #slots = 0;
  #calls = new Map();
  #newestId = 0; // of the call that was opened last; ids grow
  #earlyCancels = new Set();
  #line = []; // lists of calls that one run of the handler takes, in the order in which they start
  #running = 0;
  #bigAnswers = 0;
  #bigAnswersChanged = new Change();
  #turnEndsAt = 0; // then the event loop shall go round, for the sake of everybody else
  #turnAsked = false;
  #current = new AsyncLocalStorage(); // the call on whose behalf code runs

  constructor(dataFd, controlFd) {
    this.#data = new DataLink(dataFd, (frame) => this.#onDataFrame(frame), this.#beginTurn);
    const { node: version } = process.versions;
    this.#data.putJson(0, HELLO, 0, { protocol: PROTOCOL, runtime: "node", version, pid: process.pid });
    this.#data.flush(); // before the handler's constructor, which may block
    this.#mesh = new Mesh(this.#data, () => this.#currentCall());
    this.#control = new ControlLink(controlFd, (frame) => this.#onControlFrame(frame));
  }

  // -- start

  async #load(settings) {
    const { source, handler_file: file, handler_name: name, batch_max_size: batch = 0 } = settings;
    this.#settings = settings;
    this.#info = Object.freeze({ function: settings.function, name: settings.function, replica: settings.replica });
    try {
      installModule(Object.freeze({ Reply, InvalidInputError, ClientGoneError, MeshError, meshCall: this.#mesh.call }));
      const handler = await loadHandler(source, file, name);
      if (batch) handler.checkBatch();
      this.#handler = handler;
    } catch (error) {
      this.#data.putJson(0, STATE, 0, { state: "failed", ...explainLoad(error, path.resolve(source, file)) });
      this.#data.endWith(1);
      return;
    }
    const { isAsync, streams, stream } = this.#handler;
    this.#slots = settings.slots || (isAsync && !batch ? ASYNC_SLOTS : 1);
    const state = { state: "ready", async: isAsync, slots: this.#slots, streams, bidirectional: stream !== null };
    this.#data.putJson(0, STATE, 0, batch ? { ...state, batch } : state);
  }

  // -- frames come in

  #onDataFrame(frame) {
    if (this.#settings === null) return this.#onHello(frame);
    if (this.#handler === null) throw new ProtocolError(`kind ${frame.kind} before the handler was ready`);
    if (frame.kind === OPEN) return this.#onOpen(frame);
    if (frame.kind === DATA) return this.#onInput(frame);
    if (frame.kind === BATCH) return this.#onBatch(frame);
    throw new ProtocolError(`kind ${frame.kind} on the data socket`);
  }

  #onHello({ kind, payload }) {
    if (kind !== HELLO) throw new ProtocolError(`kind ${kind} before HELLO`);
    const settings = unpackObject(payload, "HELLO");
    if (settings.protocol !== PROTOCOL) throw new ProtocolError(`version ${settings.protocol}, expected ${PROTOCOL}`);
    for (const key of ["source", "handler_file", "handler_name"]) {
      if (typeof settings[key] !== "string") throw new ProtocolError(`a HELLO without ${key}`);
    }
    this.#load(settings).catch(die);
  }

  #onOpen({ callId, flags, payload }) {
    if (callId === 0 || callId >= MESH_BIT || this.#calls.has(callId)) {
      throw new ProtocolError(`an OPEN with the call id ${callId}`);
    }
    const call = new Call(callId, unpackOpen(payload), this.#control.drain);
    this.#newestId = callId;
    this.#calls.set(callId, call);
    if (this.#earlyCancels.delete(callId)) this.#giveUp(call);
    else if (flags & STREAM) this.#openInputs(call, flags);
    else if (flags & LAST) this.#onWhole(call);
  }

  /** A call whose input is a stream starts at once. */
  #openInputs(call, flags) {
    if (this.#handler.stream === null) {
      this.#finishWithError(call, "invalid_input", "the handler takes one input a call: it has no stream(requests)");
      return;
    }
    call.inputs = [];
    call.pieces = [];
    call.inputEnded = Boolean(flags & LAST);
    call.owed = STREAM_WINDOW_BYTES;
    if (!call.inputEnded) this.#giveCredit(call); // the first: it is here now, and will not be sent elsewhere
    this.#line.push([call]);
  }

  #onInput({ callId, flags, payload }) {
    const call = this.#calls.get(callId);
    if (!call) return;
    if (call.whole || call.inputEnded) throw new ProtocolError(`DATA of call ${callId} after its LAST`);
    if (call.inputs) this.#onMessagePiece(call, flags, payload);
    else this.#onBodyPiece(call, flags, payload);
  }

  #onBodyPiece(call, flags, piece) {
    call.pieces.push(piece);
    if (flags & LAST) this.#onWhole(call);
    else if (piece.length) this.#data.putCredit(call.id, piece.length);
  }

  /** What is not the end of a message is credited at once: the handler cannot take it yet. */
  #onMessagePiece(call, flags, piece) {
    const cost = piece.length + FRAME_COST_BYTES;
    call.pieces.push(piece);
    call.messageBytes += piece.length;
    if (call.messageBytes > this.#settings.max_payload_bytes) return this.#refuseMessage(call);
    if (flags & END) {
      call.inputs.push({ body: Buffer.concat(call.pieces), cost });
      call.pieces = [];
      call.messageBytes = 0;
    } else if (!(flags & LAST)) {
      call.owed += cost;
      this.#giveCredit(call);
    }
    call.inputEnded = Boolean(flags & LAST);
    call.changed.tell();
  }

  #refuseMessage(call) {
    const text = `a message of more than ${this.#settings.max_payload_bytes} bytes (max_payload)`;
    this.#finishWithError(call, "payload_too_large", text);
    this.#stop(call);
  }

  #giveCredit = (call) => {
    this.#data.putCredit(call.id, call.owed);
    call.owed = 0;
  };

  /** With batches, a BATCH frame says when a call starts. */
  #onWhole(call) {
    call.whole = true;
    if (!this.#settings.batch_max_size) this.#line.push([call]);
  }

  #onBatch({ payload }) {
    const calls = unpackCallIds(payload).map((id) => this.#calls.get(id)).filter(Boolean);
    if (!this.#settings.batch_max_size || calls.some((call) => !call.whole || call.batch)) {
      throw new ProtocolError("a BATCH of calls that cannot start");
    }
    for (const call of calls) call.batch = calls;
    this.#line.push(calls);
  }

  #onControlFrame(frame) {
    const { callId, kind, payload } = frame;
    if (kind === SHUTDOWN) process.exit(0);
    if (callId >= MESH_BIT) this.#mesh.onFrame(frame);
    else if (kind === CANCEL) this.#onCancel(callId);
    else if (kind === CREDIT) this.#onCredit(this.#calls.get(callId), unpackCredit(payload));
    else throw new ProtocolError(`kind ${kind} on the control socket`);
  }

  #onCredit(call, bytes) {
    if (!call) return;
    call.credit += bytes;
    call.changed.tell();
  }

  #onCancel(callId) {
    const call = this.#calls.get(callId);
    if (call) return call.started ? this.#stop(call) : this.#giveUp(call);
    // Either answered, and the two crossed, or still unread in the data socket: then it is ahead. Ids begin again.
    const ahead = (callId - this.#newestId + MESH_BIT) % MESH_BIT;
    if (ahead > 0 && ahead < MESH_BIT / 2) this.#earlyCancels.add(callId);
  }

  /** Answer a call that was cancelled before it started. */
  #giveUp(call) {
    call.cancel();
    this.#finishWithError(call, "client_gone", "cancelled before the handler started");
  }

  /** Tell a running handler that nobody waits for this call. A batch goes on for those that still wait. */
  #stop(call) {
    call.cancel();
    this.#bigAnswersChanged.tell();
    if (call.runIsCancelled) this.#mesh.cancelFor(call.run);
  }

  // -- calls run

  #beginTurn = () => {
    this.#turnAsked = false;
    this.#turnEndsAt = performance.now() + TURN_MS;
    this.#startNext();
  };

  /** Start what may start now; handlers that block get a turn of the event loop each. */
  #startNext() {
    while (this.#line.length && this.#running < this.#slots) {
      if (performance.now() > this.#turnEndsAt) return this.#askForTurn();
      this.#control.drain(); // what is cancelled shall not start
      this.#start(this.#line.shift().filter((call) => this.#isOpen(call)));
    }
  }

  #askForTurn() {
    if (this.#turnAsked) return;
    this.#turnAsked = true;
    setImmediate(this.#beginTurn);
  }

  #start(calls) {
    if (!calls.length) return;
    this.#data.flush(); // an answer must not wait for another call's handler
    this.#running += 1;
    for (const call of calls) call.started = true;
    const run = this.#settings.batch_max_size ? () => this.#runBatch(calls) : () => this.#run(calls[0]);
    this.#current.run(calls[0], run).then(this.#onReturn, die);
  }

  #onReturn = () => {
    this.#running -= 1;
    this.#startNext();
  };

  #isOpen(call) {
    return this.#calls.get(call.id) === call;
  }

  /** Call the handler and answer; returns when the slot is free. */
  async #run(call) {
    const began = performance.now();
    try {
      const returned = this.#callHandler(call);
      // What is here is answered before another handler is started: an `await` would come after it.
      const result = typeof returned?.then === "function" ? await returned : returned;
      const outputs = outputsOf(result);
      if (outputs) await this.#runStream(call, result, outputs, began);
      else await this.#answer(call, this.#encode(result), performance.now() - began);
    } catch (error) {
      this.#fail(call, error);
    }
  }

  #callHandler(call) {
    if (call.inputs) return this.#handler.stream(this.#requestsOf(call));
    if (this.#handler.call) return this.#handler.call(this.#requestOf(call));
    // It has nothing but stream(): one input is a short stream.
    call.inputs = [{ body: call.takeBody(), cost: 0 }];
    call.inputEnded = true;
    return this.#handler.stream(this.#requestsOf(call));
  }

  #requestOf(call) {
    return new Request(call, this.#info, call.takeBody());
  }

  #requestsOf(call) {
    return new Requests(call, this.#info, this.#giveCredit);
  }

  #encode(result) {
    const encoded = encodeResult(result);
    const { length } = encoded.body;
    const most = this.#settings.max_payload_bytes;
    if (length > most) throw new RangeError(`the handler returned ${length} bytes; max_payload allows ${most}`);
    return encoded;
  }

  async #runBatch(calls) {
    const began = performance.now();
    let results;
    try {
      results = await this.#handler.call(calls.map((call) => this.#requestOf(call)));
      checkBatchResults(results, calls.length);
    } catch (error) {
      results = calls.map(() => new Failure(error));
    }
    const handlerMs = performance.now() - began;
    // All small ones are put before anything waits, so that they leave together.
    await Promise.all(calls.map((call, n) => this.#answerOne(call, results[n], handlerMs)));
  }

  async #answerOne(call, result, handlerMs) {
    try {
      if (result instanceof Failure) throw result.error;
      if (isError(result)) throw result;
      await this.#answer(call, this.#encode(result), handlerMs);
    } catch (error) {
      this.#fail(call, error);
    }
  }

  // -- and answers go out

  /** Send an answer; returns when the slot is free, which is before a large one has been taken. */
  async #answer(call, { content, head, body }, handlerMs) {
    const isBig = body.length > PIECE_BYTES;
    const own = packHead(isBig ? { ...head, length: body.length } : head);
    const prefix = packReplyPrefix(handlerMs, content, own.length);
    if (!isBig) {
      this.#finish(call, REPLY, LAST, prefix, own, body);
      return;
    }
    while (this.#bigAnswers >= BIG_ANSWERS && !call.cancelled) await this.#bigAnswersChanged.wait();
    this.#bigAnswers += 1;
    this.#sendBig(call, [prefix, own], body).catch(die);
  }

  async #sendBig(call, prefix, body) {
    let kind = REPLY;
    let head = prefix;
    for (const [piece, last] of piecesOf(body, PIECE_BYTES)) {
      while (call.credit < piece.length && !call.cancelled) await call.changed.wait();
      if (call.cancelled) {
        this.#finishWithError(call, "client_gone", "cancelled while the answer was sent");
        break;
      }
      call.credit -= piece.length;
      if (last) this.#finish(call, kind, LAST, ...head, piece);
      else this.#data.put(call.id, kind, 0, ...head, piece);
      kind = DATA;
      head = [];
    }
    this.#bigAnswers -= 1;
    this.#bigAnswersChanged.tell();
  }

  /** The last frame of a call, once: nothing is sent of a call that has been answered. */
  #finish(call, kind, flags, ...parts) {
    if (!this.#isOpen(call)) return;
    this.#calls.delete(call.id);
    call.dropDeadline();
    this.#data.put(call.id, kind, flags, ...parts);
  }

  #finishWithError(call, code, message, traceback = "") {
    const body = traceback ? { code, message, traceback } : { code, message };
    this.#finish(call, ERROR, LAST, Buffer.from(JSON.stringify(body)));
  }

  /** Answer with what a handler threw; its stack goes to the function's log. */
  #fail(call, error) {
    if (call.isFarewell(error)) {
      this.#finishWithError(call, "client_gone", "cancelled while the handler ran");
    } else if (error instanceof InvalidInputError) {
      this.#finishWithError(call, "invalid_input", error.message || "the handler refused the input");
    } else {
      const stack = stackOf(error);
      process.stderr.write(`invocation ${call.invocationId} failed\n${stack}`);
      this.#finishWithError(call, "handler_error", describe(error), this.#settings.debug ? stack : "");
    }
  }

  // -- an answer that is a stream

  /** Send what a generator yields, as fast as its reader takes it; it is closed where nobody does. */
  async #runStream(call, result, outputs, began) {
    const head = result instanceof Reply ? headOf(result) : null;
    const mayBlock = typeof outputs[Symbol.asyncIterator] !== "function";
    for await (const item of outputs) {
      await this.#sendMessage(call, this.#encode(item), head, began);
      if (call.cancelled) break;
      if (mayBlock) this.#data.flush(); // the next chunk may take its time, and this thread
      await this.#letOthersRun();
    }
    if (call.cancelled) this.#finishWithError(call, "client_gone", "cancelled while the answer was sent");
    else if (call.streaming) this.#finish(call, DATA, LAST);
    else this.#finish(call, REPLY, STREAM | LAST, ...packStreamHead(performance.now() - began, TEXT, head));
  }

  async #sendMessage(call, { content, head, body }, streamHead, began) {
    for (const [piece, last] of piecesOf(body, STREAM_PIECE_BYTES)) {
      while (call.streaming && call.credit <= 0 && !call.cancelled) await call.changed.wait();
      if (call.cancelled) return;
      if (!call.streaming) this.#beginStream(call, performance.now() - began, content, streamHead ?? head);
      call.credit -= piece.length + FRAME_COST_BYTES;
      this.#data.put(call.id, DATA, (last ? END : 0) | (content << CONTENT_SHIFT), piece);
    }
  }

  #beginStream(call, handlerMs, content, head) {
    call.streaming = true;
    call.credit -= WINDOW_BYTES - STREAM_WINDOW_BYTES;
    call.dropDeadline(); // it was for the first chunk; now the gateway looks that it does not stand still
    this.#data.put(call.id, REPLY, STREAM, ...packStreamHead(handlerMs, content, head));
  }

  async #letOthersRun() {
    if (performance.now() < this.#turnEndsAt) return;
    await new Promise(setImmediate);
    this.#turnEndsAt = performance.now() + TURN_MS;
  }

  // -- whose mesh call it is

  #currentCall() {
    const call = this.#current.getStore();
    if (call) return this.#isOpen(call) ? call : null;
    // An event of the handler's own making: if one call runs, it is the one.
    const running = [...this.#calls.values()].filter((one) => one.started);
    return running.length === 1 ? running[0] : null;
  }
}

/** Stands for a result where a whole batch has failed: anything can be thrown, an Error or not. */
class Failure {
  constructor(error) {
    this.error = error;
  }
}

function checkBatchResults(results, length) {
  if (Array.isArray(results) && results.length === length) return;
  const got = Array.isArray(results) ? `${results.length} results` : nameOf(results);
  throw new TypeError(`the handler returned ${got} for a batch of ${length} requests; expected an array as long`);
}

function packStreamHead(handlerMs, content, head) {
  const own = packHead(head);
  return [packReplyPrefix(handlerMs, content, own.length), own];
}

/** The descriptors of both sockets, from the command line. */
function readDescriptors() {
  const numbers = process.argv.slice(-2).map(Number);
  if (numbers.every(isSocket)) return numbers;
  const text = "the last two arguments have to be the numbers of inherited sockets, as a DCF watcher gives them";
  process.stderr.write(`dcf worker: ${text}\n`);
  process.exit(USAGE);
}

function isSocket(fd) {
  try {
    return fs.fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}

if (isMainThread) {
  // Ctrl-C is the watcher's: it drains, then ends us. Child processes do not inherit a listener.
  process.on("SIGINT", () => {});
  // What a handler prints is out before console.log returns, and not lost when the process ends. Node says that
  // pipes are synchronous on Linux, but what does not fit into one waits, unless it is told so.
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
  // At its start Node marks what it inherits close-on-exec, all of 0 to 15 and further up to the first gap; a program
  // can mark none itself. So a watcher has to give us low numbers, or child processes keep our ends of them open.
  new Worker(...readDescriptors());
} else {
  relayControl(workerData);
}
