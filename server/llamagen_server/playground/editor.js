import { copyOf, find, onAction } from "./dom.js";
import { keptRows } from "./mask.js";
import { MaskEditor } from "./mask_editor.js";
import { title } from "./recipe.js";

/** @import { Model } from "./api.js" */
/** @import { GalleryImage } from "./gallery.js" */

/**
 * Returns the view in which the user paints a token mask over an image.
 * @param {GalleryImage} image
 * @param {Model} model
 * @param {{ inpaint: (masked: boolean[]) => void, close: () => void }} actions
 */
export function editor(image, model, actions) {
  const view = copyOf("editor-template");
  Object.assign(find(view, "img"), { src: image.url, alt: title(image.recipe, model) });
  const rows = find(view, "[name=rows]", HTMLInputElement);
  const mask = new MaskEditor(find(view, "canvas", HTMLCanvasElement), model.grid_size, (masked) => {
    // The field is not overwritten while the user types in it.
    if (document.activeElement !== rows) rows.value = String(keptRows(masked, model.grid_size) ?? "");
  });
  rows.max = String(model.grid_size);
  rows.addEventListener("input", () => {
    const kept = Number(rows.value);
    mask.update((row) => rows.value !== "" && row >= kept);
  });
  setUpTools(view, mask);
  onAction(view, "inpaint", () => actions.inpaint(mask.masked));
  onAction(view, "close", actions.close);
  return view;
}

/**
 * @param {HTMLElement} view
 * @param {MaskEditor} mask
 */
function setUpTools(view, mask) {
  find(view, "[name=brush]", HTMLInputElement).max = String(mask.grid / 2);
  view.addEventListener("input", ({ target }) => {
    if (!(target instanceof HTMLInputElement)) return;
    if (target.name === "tool") mask.tool = target.value === "rectangle" ? "rectangle" : "brush";
    if (target.name === "brush") mask.brush = Number(target.value);
  });
  onAction(view, "invert", () => mask.update((_row, _column, isMasked) => !isMasked));
  onAction(view, "clear", () => mask.update(() => false));
}
