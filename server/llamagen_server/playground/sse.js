/** Server-sent events of the generation endpoints. */

import { ServerError, wrapNetworkError } from "./errors.js";

/**
 * @typedef {object} PreviewEvent
 * @property {"partial_image" | "image_edit.partial_image"} type
 * @property {number} [index] of the image in the request; absent in edits, which return one image
 * @property {number} partial_image_index
 * @property {string} b64_json PNG file
 */

/**
 * @typedef {object} CompletedEvent
 * @property {"completed" | "image_edit.completed"} type
 * @property {number} [index]
 * @property {string} b64_json PNG file
 * @property {number} seed
 */

/**
 * @typedef {object} DoneEvent
 * @property {"done"} type
 * @property {number} [index]
 * @property {{ total_ms: number }} timings
 */

/** @typedef {{ type: "error", error: { message: string } }} ErrorEvent */
/** @typedef {PreviewEvent | CompletedEvent | DoneEvent} GenerationEvent */

/**
 * Yields the events of a reply up to the one of type `last`.
 * @param {Response} reply
 * @param {GenerationEvent["type"]} last
 * @returns {AsyncGenerator<GenerationEvent, void>}
 * @throws {ServerError} for an event of type `error` and for a reply that ends early
 */
export async function* events(reply, last) {
  if (reply.body === null) throw new ServerError("The server sent an empty reply.");
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(wrapNetworkError("The connection to the server was lost."));
    if (done) throw new ServerError("The server closed the connection before the image was complete.");
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    for (const event of blocks.flatMap(parse)) {
      if (event.type === "error") throw new ServerError(event.error.message);
      yield event;
      if (event.type === last) return;
    }
  }
}

/**
 * Yields the events of several requests for one image each as they arrive, as if they belonged to one request: the index
 * of an event is that of its stream.
 * @param {AsyncGenerator<GenerationEvent, void>[]} streams
 * @returns {AsyncGenerator<GenerationEvent, void>}
 */
export async function* together(streams) {
  /** @param {AsyncGenerator<GenerationEvent, void>} stream */
  const next = (stream) => {
    const event = stream.next().then((result) => ({ stream, result }));
    event.catch(() => undefined); // if nobody waits for it any more
    return event;
  };
  const waiting = new Map(streams.map((stream) => [stream, next(stream)]));
  while (waiting.size) {
    const { stream, result } = await Promise.race(waiting.values());
    if (result.done) {
      waiting.delete(stream);
      continue;
    }
    waiting.set(stream, next(stream));
    yield { ...result.value, index: streams.indexOf(stream) };
  }
}

/**
 * Returns the event in a block of lines, or none if the block has no data.
 * @param {string} block
 * @returns {(GenerationEvent | ErrorEvent)[]}
 */
function parse(block) {
  const line = block.split("\n").find((text) => text.startsWith("data: "));
  return line ? [JSON.parse(line.slice("data: ".length))] : [];
}
