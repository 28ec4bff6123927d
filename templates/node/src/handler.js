/** What the function answers. */
exports.Handler = class {
  /** Made once per replica: load the model here; an `async init()` may follow, which is awaited. */
  constructor() {}

  /** Called once per request; `async`, and a generator that streams its answer, work as well. */
  call(req) {
    // req.input is a Buffer, req.text the same as text, req.json() as data; req.info says which function this is.
    // Return a Buffer, text, or anything JSON can say.
    return req.input;
  }
};
