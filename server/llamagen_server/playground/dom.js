/** Typed access to the elements of the page. A missing element, or one of another type, throws an error. */

/**
 * @template {Element} [T=HTMLElement]
 * @param {string} id
 * @param {new () => T} [type]
 * @returns {T}
 */
export function byId(id, type) {
  return checked(document.getElementById(id), `#${id}`, type);
}

/**
 * Returns the first element below `parent` that matches the selector.
 * @template {Element} [T=HTMLElement]
 * @param {ParentNode} parent
 * @param {string} selector
 * @param {new () => T} [type]
 * @returns {T}
 */
export function find(parent, selector, type) {
  return checked(parent.querySelector(selector), selector, type);
}

/**
 * @param {HTMLElement} form
 * @returns {HTMLInputElement[]} the sliders of a form
 */
export function rangeInputs(form) {
  return /** @type {HTMLInputElement[]} */ ([...form.querySelectorAll("input[type=range]")]);
}

/**
 * Returns a copy of the one element in a template.
 * @param {string} templateId
 * @returns {HTMLElement}
 */
export function copyOf(templateId) {
  const [element] = byId(templateId, HTMLTemplateElement).content.children;
  return checked(element?.cloneNode(true), `#${templateId}`);
}

/**
 * Makes an element with the given properties and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/**
 * Calls `work` when the button for an action is clicked.
 * @param {ParentNode} view
 * @param {string} action value of the button's `data-action`
 * @param {() => void} work
 */
export function onAction(view, action, work) {
  find(view, `[data-action=${action}]`).addEventListener("click", work);
}

/**
 * @template {Element} T
 * @param {Node | null | undefined} element
 * @param {string} name
 * @param {new () => T} [type]
 * @returns {T}
 */
function checked(element, name, type) {
  if (element instanceof (type ?? HTMLElement)) return /** @type {T} */ (element);
  throw new TypeError(`${name} is ${element?.constructor.name ?? "missing"}, not ${(type ?? HTMLElement).name}`);
}
