/** The gallery of a demo model: images that it generated, each with its recipe (`python -m demo.gallery`). */

import { copyOf, find, make } from "./dom.js";
import { title } from "./recipe.js";

/** @import { Model } from "./api.js" */
/** @import { Recipe } from "./recipe.js" */

/**
 * @typedef {object} Examples
 * @property {number} columns of the sheet
 * @property {Recipe[]} recipes of the images on the sheet, row by row
 * @property {string} sheet URL of an image of all images
 */

/** Files of each demo model. @type {Record<string, { recipes: string, sheet: string }>} */
const DEMOS = {
  "llamagen-demo": { recipes: "playground/examples_text.json", sheet: "playground/examples_text.webp" },
  "llamagen-demo-class": { recipes: "playground/examples_class.json", sheet: "playground/examples_class.webp" },
};

/**
 * Returns the examples of a model; null for a model of the user's, and if they cannot be loaded.
 * @param {Model} model
 * @returns {Promise<Examples | null>}
 */
export async function loadExamples(model) {
  const demo = DEMOS[model.id];
  if (!demo) return null;
  try {
    return { ...(await (await fetch(demo.recipes)).json()), sheet: demo.sheet };
  } catch (error) {
    console.warn("The examples cannot be loaded:", error);
    return null;
  }
}

/**
 * @param {Examples} examples
 * @param {Model} model
 * @param {(recipe: Recipe) => void} onChoose
 */
export function exampleView({ columns, recipes, sheet }, model, onChoose) {
  const view = copyOf("examples-template");
  const list = find(view, ".examples");
  list.style.setProperty("--columns", String(columns));
  const rows = Math.ceil(recipes.length / columns);
  recipes.forEach((recipe, i) => {
    const name = title(recipe, model);
    const button = make("button", { type: "button", title: name, ariaLabel: name });
    button.style.backgroundImage = `url(${sheet})`;
    button.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    button.style.backgroundPosition = `${share(i % columns, columns)} ${share(Math.floor(i / columns), rows)}`;
    button.addEventListener("click", () => onChoose(recipe));
    list.append(make("li", {}, button));
  });
  return view;
}

/**
 * Returns the background's position that shows cell `index` of `count`.
 * @param {number} index
 * @param {number} count
 */
const share = (index, count) => (count > 1 ? `${(100 * index) / (count - 1)}%` : "0%");
