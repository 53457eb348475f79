import { copyOf, find } from "./dom.js";

/** An image during generation. The part that has been generated grows from the top. */
export class Tile {
  #tile;
  #image;
  #progress;
  #button;
  #caption;
  #lastPreview = performance.now();

  /**
   * @param {string} label
   * @param {{ originalUrl?: string, caption?: string }} [options] originalUrl: the image that is inpainted; it is shown
   *   from the beginning
   */
  constructor(label, { originalUrl, caption = "" } = {}) {
    this.element = copyOf("tile-template");
    this.#tile = find(this.element, ".tile");
    this.#image = find(this.element, "img", HTMLImageElement);
    this.#progress = find(this.element, "progress", HTMLProgressElement);
    this.#button = find(this.element, "button", HTMLButtonElement);
    this.#progress.setAttribute("aria-label", label);
    this.#caption = caption;
    find(this.element, ".caption").textContent = caption;
    this.#tile.classList.toggle("inpainting", originalUrl !== undefined);
    if (originalUrl) this.#show(originalUrl);
  }

  /**
   * @param {string} b64 PNG file
   * @param {number} share generated part of the image, between 0 and 1
   */
  preview(b64, share) {
    const now = performance.now();
    this.#grow(share, Math.min(now - this.#lastPreview, 2000));
    this.#lastPreview = now;
    this.#show(`data:image/png;base64,${b64}`);
  }

  /**
   * Shows the finished image.
   * @param {string} url
   * @param {string} name
   * @param {() => void} open called when the user clicks the image
   */
  finish(url, name, open) {
    this.#grow(1, 250);
    this.#show(url);
    this.#tile.classList.add("finished");
    this.#image.alt = this.#caption ? `${name}, ${this.#caption}` : name;
    this.#button.disabled = false;
    this.#button.addEventListener("click", open);
  }

  /** Ends the progress display; the image stays incomplete. */
  stop() {
    this.#tile.classList.add("stopped");
  }

  /**
   * @param {number} share
   * @param {number} milliseconds duration of the transition
   */
  #grow(share, milliseconds) {
    this.#progress.value = share;
    this.#tile.style.setProperty("--pace", `${milliseconds}ms`);
    this.#tile.style.setProperty("--generated", String(share));
  }

  /** @param {string} url */
  #show(url) {
    this.#image.src = url;
    this.#image.hidden = false;
  }
}
