/** A field that finds a class by one of its names or its number. */
export class ClassPicker {
  #input;
  #list;
  #classes;
  #active = -1;

  /** `labels` maps ids to names. */
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
    list.addEventListener("click", (event) => this.#choose(event.target.closest("[role=option]")));
    this.value = this.#classes[0].id;
  }

  get value() {
    return this.id;
  }

  set value(id) {
    const found = this.#classes.find((entry) => entry.id === id);
    this.id = id;
    this.#input.value = found ? found.names[0] : String(id);
    this.#input.setCustomValidity("");
  }

  /** The best 50, those first whose names begin with the query. */
  #matches(query) {
    const rank = ({ id, names }) => {
      if (String(id) === query) return 0;
      const places = names.map((name) => name.toLowerCase().indexOf(query)).filter((place) => place >= 0);
      return places.length ? 1 + Math.min(...places) : Infinity;
    };
    const ranked = this.#classes.map((entry) => [rank(entry), entry]).filter(([r]) => r < Infinity);
    return ranked.sort(([a], [b]) => a - b).slice(0, 50).map(([, entry]) => entry);
  }

  #open(query) {
    if (query === "") this.#input.select();
    const options = this.#matches(query).map(({ id, names: [name, ...others] }) => {
      const option = document.createElement("li");
      option.role = "option";
      option.id = `class-${id}`;
      option.dataset.id = id;
      option.append(name);
      const more = document.createElement("small");
      more.textContent = [...others, id].join(" · ");
      option.append(more);
      return option;
    });
    this.#list.replaceChildren(...options);
    this.#list.hidden = options.length === 0;
    this.#input.setAttribute("aria-expanded", options.length > 0);
    this.#input.setCustomValidity(options.length ? "" : "No class has that name or number.");
    this.#activate(0);
  }

  /** What was typed and not chosen is dropped. */
  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", false);
    this.#input.removeAttribute("aria-activedescendant");
    this.value = this.id;
  }

  #activate(index) {
    const options = this.#list.children;
    if (!options.length) return;
    this.#active = (index + options.length) % options.length;
    for (const option of options) option.ariaSelected = option === options[this.#active];
    options[this.#active].scrollIntoView({ block: "nearest" });
    this.#input.setAttribute("aria-activedescendant", options[this.#active].id);
  }

  #choose(option) {
    this.id = Number(option.dataset.id);
    this.#close();
  }

  /** Arrows move, Enter chooses, Escape closes; with the list closed, Enter and Escape are the form's. */
  #onKey(event) {
    const isOpen = !this.#list.hidden;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) isOpen ? this.#activate(this.#active + step) : this.#open("");
    else if (isOpen && event.key === "Enter") this.#choose(this.#list.children[this.#active]);
    else if (isOpen && event.key === "Escape") this.#close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
