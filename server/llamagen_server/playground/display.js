/** The large area of the page. It shows one view: a placeholder, a running generation, an image or the editor. */

import { byId, copyOf, find, make } from "./dom.js";

const RASTER_CELLS = 64;

/** @param {HTMLElement} view */
export function display(view) {
  const area = byId("display");
  const hadFocus = area.contains(document.activeElement);
  area.replaceChildren(view);
  view.scrollIntoView({ block: "nearest" });
  if (hadFocus) area.focus();
}

/** Returns the view that is shown while there is no image: a partly filled grid. */
export function placeholder() {
  const view = copyOf("placeholder-template");
  for (let i = 0; i < RASTER_CELLS; i++) {
    const cell = make("i");
    cell.style.setProperty("--i", String(i));
    find(view, ".raster").append(cell);
  }
  return view;
}
