import { copyOf, find, make, onAction } from "./dom.js";
import { details, fileName, title } from "./recipe.js";

/** @import { Model } from "./api.js" */
/** @import { GalleryImage } from "./gallery.js" */

/**
 * Returns the view of one image with its settings and the buttons for the given actions.
 * @param {GalleryImage} image
 * @param {Model} model
 * @param {{ vary: () => void, strip: () => void, edit: () => void, curl: () => void }} actions
 */
export function viewer({ recipe, url }, model, actions) {
  const view = copyOf("viewer-template");
  const name = title(recipe, model);
  Object.assign(find(view, "img"), { src: url, alt: name });
  find(view, ".title").textContent = name;
  for (const [term, value] of details(recipe, model)) {
    const pair = make("div", {}, make("dt", { textContent: term }), make("dd", { textContent: value }));
    find(view, "dl").append(pair);
  }
  find(view, "[data-action=strip]").hidden = !model.guided || recipe.edit !== undefined;
  for (const [action, work] of Object.entries(actions)) onAction(view, action, work);
  Object.assign(find(view, "[data-action=download]"), { href: url, download: fileName(recipe) });
  return view;
}
