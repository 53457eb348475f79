/** Client of the server's HTTP API. URLs are relative to the page, so that it also works behind a path prefix. */

import { ServerError, wrapNetworkError } from "./errors.js";
import { events } from "./sse.js";

/** @import { Recipe } from "./recipe.js" */
/** @import { GenerationEvent } from "./sse.js" */

/**
 * @typedef {object} Defaults
 * @property {number} cfg_scale
 * @property {number} cfg_interval
 * @property {string} cfg_schedule
 * @property {number} cfg_min_p
 * @property {number} temperature
 * @property {number} top_k
 * @property {number} top_p
 */

/**
 * @typedef {object} Model Reply of `/v1/models/{id}`.
 * @property {string} id
 * @property {"text" | "class"} condition
 * @property {number} image_size pixels per side
 * @property {number} grid_size image tokens per side
 * @property {boolean} guided whether the server runs both branches; false: cfg_scale must be 1
 * @property {Defaults} defaults sampling parameters of requests that omit them
 * @property {number} [num_classes] of a class model
 * @property {Record<string, string[]>} [labels] names of each class id, if the model has labels
 */

/**
 * @typedef {object} EditRegion Area of an image to inpaint: everything below some top rows, or a mask.
 * @property {number | null} keepRows rows of image tokens; null: use the mask
 * @property {Blob} mask PNG file, transparent where the image is inpainted
 */

/** @typedef {(message: string, signal?: AbortSignal) => Promise<string>} AskForKey */

let key = sessionStorage.getItem("api-key");
/** @type {AskForKey} */
let askForKey;
/** The question that rejected requests are waiting for, all for the same one. @type {Promise<void> | null} */
let question = null;

export const hasKey = () => key !== null;

/**
 * Sets the function that asks the user for an API key whenever the server requires one.
 * @param {AskForKey} ask
 */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Returns whether the model is loaded. vLLM's own server has no `/ready`; it answers only once it is. */
export async function isReady() {
  const reply = await send("ready");
  return reply.ok || reply.status === 404;
}

/**
 * Returns the first name of each model. Behind a proxy, several models may share an address; the other names of a model
 * have its first one as `root`. In vLLM's own server `root` is a path.
 * @returns {Promise<string[]>}
 */
export async function getModelNames() {
  /** @type {{ data: { id: string, root?: string }[] }} */
  const { data } = await (await request("v1/models")).json();
  const ids = data.map(({ id }) => id);
  return [...new Set(data.map(({ id, root = id }) => (ids.includes(root) ? root : id)))];
}

/**
 * @param {string} name
 * @returns {Promise<Model>}
 */
export async function getModel(name) {
  return (await request(`v1/models/${encodeURIComponent(name)}?labels=`)).json();
}

/**
 * Generates `n` images.
 * @param {string} model
 * @param {Recipe} recipe
 * @param {number} n
 * @param {number} partialImages previews per image
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<GenerationEvent, void>}
 */
export async function* generate(model, recipe, n, partialImages, signal) {
  const fields = { model, ...recipe, n, output_format: "png", stream: true, partial_images: partialImages };
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(fields), signal };
  yield* events(await request("generate", options), "done");
}

/**
 * Inpaints a region of an image.
 * @param {string} model
 * @param {Recipe} recipe
 * @param {Blob} image
 * @param {EditRegion} region
 * @param {number} partialImages previews
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<GenerationEvent, void>}
 */
export async function* edit(model, recipe, image, region, partialImages, signal) {
  const body = new FormData();
  const fields = { model, ...recipe, n: 1, stream: true, partial_images: partialImages };
  for (const [name, value] of Object.entries(fields)) body.append(name, String(value));
  body.append("image", image, "image.png");
  if (region.keepRows === null) body.append("mask", region.mask, "mask.png");
  else body.append("keep_rows", String(region.keepRows));
  yield* events(await request("v1/images/edits", { method: "POST", body, signal }), "image_edit.completed");
}

/**
 * Sends a request, and asks for another API key as long as the server rejects the current one.
 * @param {string} path
 * @param {RequestInit} options
 */
async function request(path, options = {}) {
  for (;;) {
    const sent = key;
    const headers = new Headers(options.headers);
    if (sent !== null) headers.set("Authorization", `Bearer ${sent}`);
    const reply = await send(path, { ...options, headers });
    if (reply.ok) return reply;
    const message = await errorMessage(reply);
    if (reply.status !== 401) throw new ServerError(message);
    if (key !== sent) continue; // another request's question was answered meanwhile
    question ??= replaceKey(message, options.signal ?? undefined).finally(() => {
      question = null;
    });
    await question;
  }
}

/**
 * @param {string} message
 * @param {AbortSignal} [signal]
 */
async function replaceKey(message, signal) {
  key = await askForKey(message, signal);
  sessionStorage.setItem("api-key", key);
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
function send(path, options) {
  return fetch(path, options).catch(wrapNetworkError("The server cannot be reached."));
}

/**
 * @param {Response} reply
 * @returns {Promise<string>}
 */
async function errorMessage(reply) {
  const body = await reply.json().catch(() => null);
  return body?.error?.message ?? `The server returned status ${reply.status}.`;
}
