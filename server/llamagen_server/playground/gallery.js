import { byId, make } from "./dom.js";
import * as history from "./history.js";
import { title } from "./recipe.js";

/** @import { Model } from "./api.js" */
/** @import { StoredImage } from "./history.js" */

/** @typedef {StoredImage & { url: string, thumb: HTMLLIElement, button: HTMLButtonElement }} GalleryImage */

/** The list of all images of a model, which the browser stores. */
export class Gallery {
  /**
   * Resolves once all images that were added are in the database.
   * @type {Promise<unknown>}
   */
  written = Promise.resolve();

  /** Newest first. @type {GalleryImage[]} */
  #images = [];
  #isRunning = false;
  #model;
  #onSelect;

  /**
   * @param {Model} model
   * @param {StoredImage[]} stored images of any model, oldest first
   * @param {(image: GalleryImage) => void} onSelect called when the user clicks an image
   */
  constructor(model, stored, onSelect) {
    this.#model = model;
    this.#onSelect = onSelect;
    for (const image of stored) if (image.model === model.id) this.#insert(image);
  }

  get newest() {
    return this.#images[0];
  }

  /**
   * Stores a new image and puts it in front of the others.
   * @param {Pick<StoredImage, "recipe" | "blob" | "source">} image
   */
  add(image) {
    const id = Math.max(Date.now(), (this.newest?.id ?? 0) + 1);
    const stored = { ...image, id, model: this.#model.id };
    this.written = history.add(stored);
    return this.#insert(stored);
  }

  clear() {
    history.remove(this.#images.map(({ id }) => id));
    for (const { url, thumb } of this.#images) {
      URL.revokeObjectURL(url);
      thumb.remove();
    }
    this.#images = [];
    this.#update();
  }

  /**
   * Marks the image in the display, if there is one.
   * @param {GalleryImage | null} shown
   */
  markShown(shown) {
    for (const image of this.#images) image.button.ariaCurrent = String(image === shown);
  }

  /**
   * Shows or hides the item that stands for the running generation.
   * @param {boolean} isRunning
   */
  setRunning(isRunning) {
    this.#isRunning = isRunning;
    byId("running").hidden = !isRunning;
    this.#update();
  }

  /** @param {StoredImage} stored */
  #insert(stored) {
    const url = URL.createObjectURL(stored.blob);
    const name = title(stored.recipe, this.#model);
    const thumbnail = make("img", { src: url, alt: name, loading: "lazy" });
    const button = make("button", { type: "button", title: name }, thumbnail);
    const image = { ...stored, url, button, thumb: make("li", {}, button) };
    button.addEventListener("click", () => this.#onSelect(image));
    byId("running").after(image.thumb);
    this.#images.unshift(image);
    this.#update();
    return image;
  }

  #update() {
    byId("history").hidden = !this.#images.length && !this.#isRunning;
  }
}
