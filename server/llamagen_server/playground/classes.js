import { find, make } from "./dom.js";

const MAX_OPTIONS = 50;

/** @typedef {{ id: number, names: string[] }} LabelledClass */

/** A text field that finds a class by one of its names or by its id. */
export class ClassPicker {
  #input;
  #list;
  /** @type {LabelledClass[]} */
  #classes;
  #id = 0;
  #active = -1;

  /**
   * @param {HTMLInputElement} input
   * @param {HTMLElement} list
   * @param {Record<string, string[]>} labels names of each class id
   */
  constructor(input, list, labels) {
    this.#input = input;
    this.#list = list;
    this.#classes = Object.entries(labels).map(([id, names]) => ({ id: Number(id), names }));
    input.placeholder = `Search ${this.#classes.length} classes`;
    input.addEventListener("input", () => this.#open(input.value.trim().toLowerCase()));
    input.addEventListener("click", () => this.#open(""));
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("mousedown", (event) => event.preventDefault()); // the input keeps the focus
    this.value = this.#classes[0]?.id ?? 0;
  }

  get value() {
    return this.#id;
  }

  set value(id) {
    this.#id = id;
    this.#input.value = this.#classes.find((entry) => entry.id === id)?.names[0] ?? String(id);
    this.#input.setCustomValidity("");
  }

  /**
   * Returns the best matches. An exact id comes first, then names that contain the query early.
   * @param {string} query in lower case
   */
  #matches(query) {
    const ranked = this.#classes.map((entry) => ({ entry, rank: rank(entry, query) }));
    const found = ranked.filter((match) => match.rank < Infinity).sort((a, b) => a.rank - b.rank);
    return found.slice(0, MAX_OPTIONS).map((match) => match.entry);
  }

  /** @param {string} query in lower case */
  #open(query) {
    if (query === "") this.#input.select();
    const options = this.#matches(query).map((entry) => this.#option(entry));
    this.#list.replaceChildren(...options);
    this.#list.hidden = options.length === 0;
    this.#input.setAttribute("aria-expanded", String(options.length > 0));
    this.#input.setCustomValidity(options.length ? "" : "No class has this name or id.");
    this.#activate(0);
  }

  /** @param {LabelledClass} entry */
  #option({ id, names: [name = String(id), ...others] }) {
    const more = make("small", { textContent: [...others, id].join(" · ") });
    const option = make("div", { role: "option", id: `class-${id}` }, name, more);
    option.addEventListener("click", () => this.#choose(id));
    return option;
  }

  /** Closes the list; the field shows the chosen class again. */
  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
    this.value = this.#id;
  }

  /** @param {number} index taken modulo the number of options */
  #activate(index) {
    const options = [...this.#list.children];
    this.#active = (index + options.length) % options.length;
    for (const option of options) option.ariaSelected = String(option === options[this.#active]);
    const active = options[this.#active];
    if (!active) return;
    active.scrollIntoView({ block: "nearest" });
    this.#input.setAttribute("aria-activedescendant", active.id);
  }

  /** @param {number} id */
  #choose(id) {
    this.#id = id;
    this.#close();
  }

  /**
   * Handles the keys of an open list: arrows move, Enter chooses, Escape closes. With the list closed, Enter and Escape
   * belong to the form.
   * @param {KeyboardEvent} event
   */
  #onKey(event) {
    const isOpen = !this.#list.hidden;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && isOpen) this.#activate(this.#active + step);
    else if (step) this.#open("");
    else if (isOpen && event.key === "Enter") find(this.#list, "[aria-selected=true]").click();
    else if (isOpen && event.key === "Escape") this.#close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/**
 * Returns the rank of a match, lowest first; Infinity if the class does not match.
 * @param {LabelledClass} entry
 * @param {string} query in lower case
 */
function rank({ id, names }, query) {
  if (String(id) === query) return 0;
  const positions = names.map((name) => name.toLowerCase().indexOf(query)).filter((position) => position >= 0);
  return 1 + Math.min(...positions);
}
