import { ClassPicker } from "./classes.js";
import { byId, find, rangeInputs } from "./dom.js";
import { guidanceCurve } from "./guidance_curve.js";

/** @import { Model } from "./api.js" */
/** @import { Recipe } from "./recipe.js" */

const GUIDANCE = /** @type {const} */ (["cfg_scale", "cfg_interval", "cfg_schedule"]);
const SAMPLING = /** @type {const} */ (["temperature", "cfg_min_p", "top_k", "top_p"]);
const MAX_SEED = 2 ** 32 - 1;

export const randomSeed = () => Math.floor(Math.random() * (MAX_SEED + 1));

/** The form with the condition of an image and the sampling settings. */
export class Settings {
  /** @type {ClassPicker | undefined} */
  #picker;

  /**
   * @param {HTMLFormElement} form
   * @param {Model} model
   */
  constructor(form, model) {
    this.model = model;
    this.form = form;
    this.#setUpCondition();
    this.#setUpNumbers();
    const guidance = find(form, "[name=guidance]", HTMLFieldSetElement);
    guidance.hidden = !model.guided;
    guidance.disabled = !model.guided;
    form.addEventListener("input", () => this.#update());
    // The browser can point at an invalid field only while it is visible.
    const expand = () => {
      find(form, "details", HTMLDetailsElement).open = true;
    };
    form.addEventListener("invalid", expand, true);
    this.reset();
  }

  get n() {
    return Number(this.#field("n").value);
  }

  /** The number in the field, or "" for a random seed. */
  get seed() {
    return this.#field("seed").value;
  }

  set seed(seed) {
    this.#field("seed").value = seed;
    this.#update();
  }

  /** Returns whether the form is valid; the browser shows the first error. */
  check() {
    return this.form.reportValidity();
  }

  /** Returns the fields of a request, without a seed if the server is to choose one. */
  read() {
    const recipe = this.#condition();
    if (this.model.guided) {
      recipe.cfg_scale = Number(this.#field("cfg_scale").value);
      recipe.cfg_interval = Number(this.#field("cfg_interval").value);
      recipe.cfg_schedule = this.#field("cfg_schedule").value;
    } else {
      recipe.cfg_scale = 1;
    }
    for (const name of SAMPLING) recipe[name] = Number(this.#field(name).value);
    if (this.seed !== "") recipe.seed = Number(this.seed);
    return recipe;
  }

  /**
   * Fills in the settings of an image.
   * @param {Recipe} recipe
   */
  restore(recipe) {
    if (recipe.prompt !== undefined) this.#field("prompt").value = recipe.prompt;
    else if (this.#picker) this.#picker.value = recipe.class_id ?? 0;
    else this.#field("class_id").value = String(recipe.class_id);
    for (const name of [...GUIDANCE, ...SAMPLING]) {
      if (recipe[name] !== undefined) this.#field(name).value = String(recipe[name]);
    }
    this.seed = String(recipe.seed ?? "");
  }

  /** Fills in the model's defaults and a random seed. */
  reset() {
    const values = { ...this.model.defaults, n: 1 };
    for (const [name, value] of Object.entries(values)) this.#field(name).value = String(value);
    this.seed = "";
  }

  /** @param {string} name */
  #field(name) {
    const field = this.form.elements.namedItem(name);
    if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) return field;
    if (field instanceof RadioNodeList) return field;
    throw new TypeError(`the form has no field ${name}`);
  }

  /** @returns {Recipe} */
  #condition() {
    if (this.model.condition === "text") return { prompt: this.#field("prompt").value.trim() };
    return { class_id: this.#picker ? this.#picker.value : Number(this.#field("class_id").value) };
  }

  /** Shows the one condition field that suits the model and removes the others. */
  #setUpCondition() {
    const { condition, labels, num_classes: classes } = this.model;
    const classField = labels ? "class_label" : "class_id";
    const kept = condition === "text" ? "prompt" : classField;
    for (const field of this.form.querySelectorAll("[data-condition]")) {
      if (field.getAttribute("data-condition") === kept) field.removeAttribute("hidden");
      else field.remove();
    }
    if (kept === "class_id" && classes) byId("class_id", HTMLInputElement).max = String(classes - 1);
    if (kept !== "class_label" || !labels) return;
    this.#picker = new ClassPicker(byId("class_label", HTMLInputElement), byId("class-list"), labels);
  }

  /** Connects the sliders and the +/- buttons to their number fields. A number may exceed the range of its slider. */
  #setUpNumbers() {
    for (const range of rangeInputs(this.form)) {
      const number = this.#field(range.dataset.for ?? "");
      range.addEventListener("input", () => {
        number.value = range.value;
      });
    }
    for (const button of this.form.querySelectorAll("button[data-step]")) {
      const field = byId(button.getAttribute("data-for") ?? "", HTMLInputElement);
      const step = Number(button.getAttribute("data-step"));
      button.addEventListener("click", () => {
        const value = Math.max(Number(field.value) + step, Number(field.min));
        field.value = String(Math.min(value, Number(field.max)));
      });
    }
  }

  /** Updates the sliders, the guidance curve and the seed button from the fields. */
  #update() {
    for (const range of rangeInputs(this.form)) {
      range.value = this.#field(range.dataset.for ?? "").value;
      const min = Number(range.min);
      range.style.setProperty("--fill", String((Number(range.value) - min) / (Number(range.max) - min)));
    }
    if (this.model.guided) {
      const { cfg_scale: scale = 1, cfg_interval: interval = -1, cfg_schedule: schedule = "constant" } = this.read();
      const curve = guidanceCurve({ scale, interval, schedule }, this.model.grid_size ** 2);
      find(this.form, "#curve", SVGPathElement).setAttribute("d", curve);
    }
    this.#updateSeedButton();
  }

  #updateSeedButton() {
    const isRandom = this.seed === "";
    const button = find(this.form, "#lock");
    find(button, "use", SVGUseElement).setAttribute("href", isRandom ? "#icon-lock" : "#icon-dice");
    button.setAttribute("aria-label", isRandom ? "Keep this seed" : "Random seed");
    button.title = isRandom ? "Keep the seed of the image shown" : "Use a new random seed for each image";
  }
}
