import * as api from "./api.js";
import { copyText } from "./clipboard.js";
import { curl } from "./curl.js";
import { display, placeholder } from "./display.js";
import { byId, find } from "./dom.js";
import { editor } from "./editor.js";
import { exampleView } from "./examples.js";
import { Gallery } from "./gallery.js";
import { keptRows, maskPng } from "./mask.js";
import { pngBlob } from "./png.js";
import { title } from "./recipe.js";
import { Run } from "./run.js";
import { randomSeed, Settings } from "./settings.js";
import { together } from "./sse.js";
import { showError, showStatus } from "./status.js";
import { Tile } from "./tile.js";
import { viewer } from "./viewer.js";

/** @import { Model } from "./api.js" */
/** @import { Examples } from "./examples.js" */
/** @import { GalleryImage } from "./gallery.js" */
/** @import { StoredImage } from "./history.js" */
/** @import { Edit, Recipe } from "./recipe.js" */
/** @import { GenerationEvent } from "./sse.js" */

const EDIT_PREVIEWS = 3; // the most that the edits endpoint sends
const STRIP_SCALES = [1, 2, 4, 7.5];

/** The page for one model: connects the form, the display and the gallery with the server. */
export class Playground {
  #model;
  #settings;
  #gallery;
  #examples;
  /** The image in the viewer. @type {GalleryImage | null} */
  #shown = null;
  /** The image in the editor. @type {GalleryImage | null} */
  #edited = null;
  /** @type {Run | null} */
  #run = null;

  /**
   * @param {Model} model
   * @param {StoredImage[]} stored images of any model, oldest first
   * @param {Examples | null} examples
   */
  constructor(model, stored, examples) {
    this.#model = model;
    this.#examples = examples;
    this.#settings = new Settings(byId("settings", HTMLFormElement), model);
    this.#gallery = new Gallery(model, stored, (image) => this.#select(image));
    this.#listen();
    const { newest } = this.#gallery;
    if (!newest) {
      this.#showPlaceholder();
      return;
    }
    this.#select(newest);
    this.#settings.seed = "";
  }

  #listen() {
    const form = this.#settings.form;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#generate(this.#settings.read(), this.#settings.n);
    });
    const prompt = form.querySelector("textarea");
    prompt?.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      // A phone hides its keyboard when the field loses the focus.
      if (matchMedia("(pointer: coarse)").matches) prompt.blur();
      form.requestSubmit();
    });
    byId("cancel").addEventListener("click", () => this.#run?.cancel());
    byId("reset").addEventListener("click", () => this.#settings.reset());
    byId("lock").addEventListener("click", () => this.#toggleSeed());
    byId("examples").hidden = !this.#examples;
    byId("examples").addEventListener("click", () => this.#showPlaceholder());
    byId("clear").addEventListener("click", () => this.#clearHistory());
    find(byId("running"), "button").addEventListener("click", () => this.#run && this.#display(this.#run.view));
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key !== "Escape") return;
    if (this.#run) this.#run.cancel();
    else if (this.#edited) this.#show(this.#edited);
  }

  #toggleSeed() {
    const image = this.#shown ?? this.#gallery.newest;
    this.#settings.seed = this.#settings.seed === "" ? String(image?.recipe.seed ?? randomSeed()) : "";
  }

  #clearHistory() {
    if (!confirm("Delete all images in the history?")) return;
    this.#gallery.clear();
    if (!this.#run) this.#showPlaceholder();
  }

  /**
   * @param {Recipe} recipe
   * @param {number} n
   */
  #generate(recipe, n) {
    const previews = numPreviews(n, this.#model.grid_size);
    const tiles = Array.from({ length: n }, (_, i) => new Tile(`Image ${i + 1}`));
    const run = new Run(title(recipe, this.#model), tiles, previews);
    return this.#start(run, () => recipe, api.generate(this.#model.id, recipe, n, previews, run.signal));
  }

  /**
   * Generates an image again at several guidance scales, with the same seed.
   * @param {GalleryImage} image
   */
  #strip({ recipe }) {
    const previews = numPreviews(STRIP_SCALES.length, this.#model.grid_size);
    const recipes = STRIP_SCALES.map((scale) => ({ ...recipe, cfg_scale: scale }));
    const tiles = STRIP_SCALES.map((scale) => new Tile(`Guidance scale ${scale}`, { caption: `guidance ${scale}` }));
    const run = new Run(title(recipe, this.#model), tiles, previews, { oneRow: true });
    const streams = recipes.map((each) => api.generate(this.#model.id, each, 1, previews, run.signal));
    return this.#start(run, (index) => recipes[index] ?? recipe, together(streams));
  }

  /**
   * @param {Recipe} recipe
   * @param {Edit} edit
   * @param {Blob} original PNG file
   */
  #inpaint(recipe, edit, original) {
    const { grid_size: grid, image_size: size } = this.#model;
    const region = { keepRows: keptRows(edit.masked, grid), mask: pngBlob(maskPng(edit.masked, grid, size)) };
    const tile = new Tile("Image", { originalUrl: URL.createObjectURL(original) });
    const run = new Run(title(recipe, this.#model), [tile], EDIT_PREVIEWS);
    const events = api.edit(this.#model.id, recipe, original, region, EDIT_PREVIEWS, run.signal);
    return this.#start(run, () => ({ ...recipe, edit }), events, original);
  }

  /**
   * @param {Run} run
   * @param {(index: number) => Recipe} recipeOf returns the recipe of an image of the run
   * @param {AsyncIterable<GenerationEvent>} events
   * @param {Blob} [source] the image that is inpainted
   */
  async #start(run, recipeOf, events, source) {
    if (this.#run) {
      showStatus("Still generating. Press Escape to cancel.");
      return;
    }
    const before = this.#shown;
    this.#setRun(run);
    showStatus(run.n === 1 ? "Generating…" : `Generating ${run.n} images…`);
    this.#display(run.view);
    try {
      const add = (/** @type {Blob} */ blob, /** @type {number} */ seed, /** @type {number} */ index) =>
        this.#gallery.add({ recipe: { ...recipeOf(index), seed }, blob, source });
      const seconds = await run.follow(events, add, (image) => this.#select(image));
      await this.#gallery.written;
      const [first, ...others] = run.images;
      showStatus(`${others.length ? `${run.images.length} images` : "1 image"} in ${seconds.toFixed(1)} s.`);
      if (first && !others.length && run.isDisplayed) this.#show(first);
    } catch (error) {
      run.stop();
      if (!run.hasStarted && run.isDisplayed) this.#show(before);
      if (error instanceof DOMException && error.name === "AbortError") showStatus("Cancelled.");
      else showError(error);
    } finally {
      this.#setRun(null);
    }
  }

  /** @param {Run | null} run */
  #setRun(run) {
    this.#run = run;
    const cancel = byId("cancel");
    const generate = byId("generate");
    if (!run && document.activeElement === cancel) generate.focus();
    cancel.hidden = !run;
    generate.setAttribute("aria-disabled", String(run !== null));
    this.#gallery.setRunning(run !== null);
  }

  /** @param {HTMLElement} view */
  #display(view) {
    this.#shown = null;
    this.#edited = null;
    display(view);
    this.#gallery.markShown(null);
  }

  #showPlaceholder() {
    const generate = (/** @type {Recipe} */ recipe) => {
      if (!this.#run) {
        this.#settings.reset(); // the image was made with the model's defaults
        this.#settings.restore(recipe);
      }
      this.#settings.form.requestSubmit();
    };
    this.#display(this.#examples ? exampleView(this.#examples, this.#model, generate) : placeholder());
  }

  /**
   * Shows an image in the viewer and its settings in the form.
   * @param {GalleryImage} image
   */
  #select(image) {
    this.#show(image);
    this.#settings.restore(image.recipe);
  }

  /** @param {GalleryImage | null} image null: the placeholder */
  #show(image) {
    if (!image) {
      this.#showPlaceholder();
      return;
    }
    const actions = {
      vary: () => this.#vary(image),
      strip: () => this.#strip(image),
      edit: () => this.#edit(image),
      curl: () => this.#copyCommand(image),
    };
    this.#display(viewer(image, this.#model, actions));
    this.#shown = image;
    this.#gallery.markShown(image);
  }

  /** @param {GalleryImage} image */
  async #copyCommand({ recipe }) {
    await copyText(curl(recipe, this.#model));
    showStatus("Command copied to the clipboard.");
  }

  /**
   * Generates or inpaints again with another seed.
   * @param {GalleryImage} image
   */
  #vary({ recipe: { seed: _seed, edit, ...recipe }, source }) {
    if (edit && source) return this.#inpaint(recipe, edit, source);
    this.#settings.seed = "";
    return this.#generate(recipe, this.#settings.n);
  }

  /** @param {GalleryImage} image */
  #edit(image) {
    const inpaint = (/** @type {boolean[]} */ masked) => {
      if (!masked.includes(true)) showStatus("First paint over the area to inpaint.");
      else if (this.#settings.check()) {
        this.#inpaint(this.#settings.read(), { source: image.recipe, masked }, image.blob);
      }
    };
    this.#settings.seed = ""; // with the seed of the image, the result would look much the same
    this.#display(editor(image, this.#model, { inpaint, close: () => this.#show(image) }));
    this.#edited = image;
  }
}

/**
 * Returns the number of previews per image, fewer if one request has many images. The server splits the image
 * tokens into twice as many parts and sends a preview after parts 1, 3, 5, …: an even divisor of the grid size lets
 * each preview end with a whole row.
 * @param {number} n images
 * @param {number} grid image tokens per side
 */
function numPreviews(n, grid) {
  const most = Math.min(Math.max(4, Math.floor(32 / n)), 16);
  let previews = most;
  while (previews > 1 && grid % (2 * previews) !== 0) previews--;
  return previews;
}
