/** The server's HTTP API. Addresses are relative to the page, so that it works behind a path prefix too. */

export class ServerError extends Error {
  /** `status` is that of the reply, 0 when there was none. */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let key = sessionStorage.getItem("api-key");
let askForKey;

export const hasKey = () => key !== null;

/** `ask(message, signal)` gives a promise of a key; it is called whenever the server wants one. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export async function isReady() {
  return (await send("ready")).ok;
}

/** The model that is served, with its labels if it has any. */
export async function getModel() {
  const { data } = await (await request("v1/models")).json();
  const reply = await request(`v1/models/${encodeURIComponent(data[0].id)}`);
  return reply.json();
}

/** Draws `n` pictures; gives the events `partial_image`, `completed` and at last `done`. */
export async function* generate(recipe, n, partialImages, signal) {
  const body = JSON.stringify({
    ...recipe, n, output_format: "png", stream: true, partial_images: partialImages,
  });
  const headers = { "Content-Type": "application/json" };
  yield* events(await request("generate", { method: "POST", headers, body, signal }), "done");
}

/** Draws parts of a picture anew; gives the events `image_edit.partial_image` and at last `image_edit.completed`. */
export async function* edit(recipe, image, region, partialImages, signal) {
  const body = new FormData();
  const fields = { ...recipe, n: 1, stream: true, partial_images: partialImages };
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("image", image, "image.png");
  if (region.keepRows === null) body.append("mask", region.mask, "mask.png");
  else body.append("keep_rows", region.keepRows);
  yield* events(await request("v1/images/edits", { method: "POST", body, signal }), "image_edit.completed");
}

async function request(path, options = {}) {
  for (;;) {
    const authorization = key === null ? {} : { Authorization: `Bearer ${key}` };
    const reply = await send(path, { ...options, headers: { ...options.headers, ...authorization } });
    if (reply.ok) return reply;
    const message = await errorMessage(reply);
    if (reply.status !== 401) throw new ServerError(message, reply.status);
    key = await askForKey(message, options.signal);
    sessionStorage.setItem("api-key", key);
  }
}

function send(path, options) {
  return fetch(path, options).catch(brokenBy("The server cannot be reached."));
}

/** What a failing connection throws becomes a ServerError; that somebody cancelled stays what it is. */
function brokenBy(message) {
  return (error) => {
    throw error.name === "AbortError" ? error : new ServerError(message);
  };
}

async function errorMessage(reply) {
  const body = await reply.json().catch(() => null);
  return body?.error?.message ?? `The server answered ${reply.status}.`;
}

/** Server-sent events up to the one of type `last`. */
async function* events(reply, last) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(brokenBy("The connection to the server was lost."));
    if (done) throw new ServerError("The server hung up before the picture was finished.");
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (!data) continue;
      const event = JSON.parse(data.slice(6));
      if (event.type === "error") throw new ServerError(event.error.message);
      yield event;
      if (event.type === last) return;
    }
  }
}
