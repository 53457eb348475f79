import { make } from "./dom.js";
import { pngBlob } from "./png.js";

/** @import { GenerationEvent } from "./sse.js" */
/** @import { GalleryImage } from "./gallery.js" */
/** @import { Tile } from "./tile.js" */

const MAX_COLUMNS = 4;

/** A request for images, or several for one image each, and their view, which shows each image as a tile. */
export class Run {
  /** @type {GalleryImage[]} */
  images = [];
  /** Whether an event has arrived. */
  hasStarted = false;

  #controller = new AbortController();
  #name;
  #tiles;
  #parts;

  /**
   * @param {string} name
   * @param {Tile[]} tiles one per image
   * @param {number} previews per image
   * @param {{ oneRow?: boolean }} [layout] oneRow: the images are compared, so they stand side by side
   */
  constructor(name, tiles, previews, { oneRow = false } = {}) {
    this.#name = name;
    this.#tiles = tiles;
    this.#parts = 2 * previews;
    const columns = oneRow ? tiles.length : Math.min(Math.ceil(Math.sqrt(tiles.length)), MAX_COLUMNS);
    this.view = runView(name, tiles, columns);
    this.view.classList.toggle("strip", oneRow);
  }

  get n() {
    return this.#tiles.length;
  }

  get signal() {
    return this.#controller.signal;
  }

  get isDisplayed() {
    return this.view.isConnected;
  }

  cancel() {
    this.#controller.abort();
  }

  /** Ends the requests after an error and leaves the images as they are. */
  stop() {
    this.cancel();
    for (const tile of this.#tiles) tile.stop();
  }

  /**
   * Shows the progress of the images until the last event.
   * @param {AsyncIterable<GenerationEvent>} events
   * @param {(blob: Blob, seed: number, index: number) => GalleryImage} add stores a finished image
   * @param {(image: GalleryImage) => void} open called when the user clicks a finished image
   * @returns {Promise<number>} duration in seconds
   */
  async follow(events, add, open) {
    let milliseconds;
    const started = performance.now();
    for await (const event of events) {
      this.hasStarted = true;
      if (event.type === "done") {
        milliseconds = event.timings?.total_ms;
        continue;
      }
      const index = event.index ?? 0;
      const tile = this.#tiles[index];
      if ("seed" in event) {
        const image = add(pngBlob(event.b64_json), event.seed, index);
        this.images.push(image);
        tile?.finish(image.url, this.#name, () => open(image));
      } else {
        tile?.preview(event.b64_json, (2 * event.partial_image_index + 1) / this.#parts);
      }
    }
    return (milliseconds ?? performance.now() - started) / 1000;
  }
}

/**
 * @param {string} name
 * @param {Tile[]} tiles
 * @param {number} columns
 */
function runView(name, tiles, columns) {
  const hasMany = tiles.length > 1;
  const list = make("ol", { className: "tiles" }, ...tiles.map((tile) => tile.element));
  list.style.setProperty("--columns", String(columns));
  const hint = hasMany ? `${name} · choose one to vary, edit or download it` : name;
  const view = make("figure", {}, list, make("figcaption", { textContent: hint }));
  view.classList.toggle("many", hasMany);
  return view;
}
