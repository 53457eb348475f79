import { ClassPicker } from "./classes.js";

const GUIDANCE = ["cfg_scale", "cfg_interval", "cfg_schedule"];
const SAMPLING = ["temperature", "top_k", "top_p"];
const MAX_SEED = 2 ** 32 - 1;

/** The form with what to draw and how. */
export class Settings {
  #fields;
  #picker;

  constructor(form, model) {
    this.model = model;
    this.form = form;
    this.#fields = form.elements;
    this.#setUpCondition();
    for (const range of form.querySelectorAll("input[type=range]")) this.#link(range, this.#fields[range.dataset.for]);
    for (const button of form.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => this.#step(button.dataset.for, Number(button.dataset.step)));
    }
    this.#fields.guidance.hidden = this.#fields.guidance.disabled = !model.guided;
    form.addEventListener("input", () => this.#show());
    // A field that is wrong must be visible to be told so.
    form.addEventListener("invalid", () => { form.querySelector("details").open = true; }, true);
    this.reset();
  }

  get n() {
    return Number(this.#fields.n.value);
  }

  get seed() {
    return this.#fields.seed.value;
  }

  set seed(seed) {
    this.#fields.seed.value = seed;
    this.#show();
  }

  set prompt(prompt) {
    this.#fields.prompt.value = prompt;
    this.#show();
  }

  /** Shows what is wrong, if anything is. */
  check() {
    return this.form.reportValidity();
  }

  /** The fields of a request; without a seed if the server is to draw one. */
  read() {
    const numbers = this.model.guided ? [...GUIDANCE, ...SAMPLING] : SAMPLING;
    const recipe = this.#condition();
    if (!this.model.guided) recipe.cfg_scale = 1;
    for (const name of numbers) recipe[name] = this.#fields[name].value;
    for (const name of numbers) if (name !== "cfg_schedule") recipe[name] = Number(recipe[name]);
    if (this.seed !== "") recipe.seed = Number(this.seed);
    return recipe;
  }

  /** The settings that made a picture. */
  restore(recipe) {
    if (recipe.prompt !== undefined) this.#fields.prompt.value = recipe.prompt;
    else if (this.#picker) this.#picker.value = recipe.class_id;
    else this.#fields.class_id.value = recipe.class_id;
    for (const name of [...GUIDANCE, ...SAMPLING]) if (name in recipe) this.#fields[name].value = recipe[name];
    this.seed = recipe.seed;
  }

  /** The model's defaults, and a random seed. */
  reset() {
    const values = { cfg_interval: -1, cfg_schedule: "constant", ...this.model.defaults, n: 1 };
    for (const [name, value] of Object.entries(values)) this.#fields[name].value = value;
    this.seed = "";
  }

  #condition() {
    if (this.model.condition === "text") return { prompt: this.#fields.prompt.value.trim() };
    return { class_id: this.#picker ? this.#picker.value : Number(this.#fields.class_id.value) };
  }

  /** Leaves the one field that fits the model. */
  #setUpCondition() {
    const { condition, labels, num_classes: classes } = this.model;
    const kind = condition === "text" ? "prompt" : labels ? "class_label" : "class_id";
    for (const field of this.form.querySelectorAll("[data-condition]")) {
      if (field.dataset.condition === kind) field.hidden = false;
      else field.remove();
    }
    if (kind === "class_id" && classes) this.#fields.class_id.max = classes - 1;
    if (kind !== "class_label") return;
    this.#picker = new ClassPicker(this.#fields.class_label, document.getElementById("class-list"), labels);
  }

  /** A slider and a number field that show one value; the number may be beyond the slider's end. */
  #link(range, number) {
    range.addEventListener("input", () => { number.value = range.value; });
  }

  #step(name, by) {
    const field = this.#fields[name];
    field.value = Math.min(Math.max(Number(field.value) + by, field.min), field.max);
  }

  /** What follows from the fields. */
  #show() {
    for (const range of this.form.querySelectorAll("input[type=range]")) {
      range.value = this.#fields[range.dataset.for].value;
      range.style.setProperty("--fill", (range.value - range.min) / (range.max - range.min));
    }
    if (this.model.guided) this.form.querySelector("#curve").setAttribute("d", this.#curve());
    const isRandom = this.seed === "";
    const lock = this.form.querySelector("#lock");
    lock.querySelector("use").setAttribute("href", isRandom ? "#icon-lock" : "#icon-dice");
    lock.setAttribute("aria-label", isRandom ? "Keep this seed" : "Random seed");
    lock.title = isRandom ? "Keep the seed of the picture shown" : "A new seed for every picture";
  }

  /** The guidance scale over the picture's codes, as an area in a box of 100 x 100; see guidance.py. */
  #curve() {
    const { cfg_scale: scale, cfg_interval: interval, cfg_schedule: schedule } = this.read();
    const last = this.model.grid_size ** 2 - 1;
    const rise = { constant: () => 1, linear: (t) => t, cosine: (t) => (1 - Math.cos(Math.PI * t)) / 2 }[schedule];
    const top = Math.max(scale, 1);
    const y = (token) => (interval >= 0 && token > interval + 1 ? 1 : 1 + (scale - 1) * rise(token / last));
    const point = (_, token) => `${(100 * token) / last} ${100 - (100 * y(token)) / top}`;
    return `M-2 102L-2 ${100 - (100 * y(0)) / top}L${Array.from({ length: last + 1 }, point).join("L")}H102V102Z`;
  }
}

export const randomSeed = () => Math.floor(Math.random() * (MAX_SEED + 1));
