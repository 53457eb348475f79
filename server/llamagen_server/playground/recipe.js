/** Recipes and their descriptions. A recipe holds the request fields that determine one image. */

/** @import { Model } from "./api.js" */

/**
 * @typedef {object} Recipe
 * @property {string} [prompt] of a text model
 * @property {number} [class_id] of a class model
 * @property {number} [cfg_scale]
 * @property {number} [cfg_interval]
 * @property {string} [cfg_schedule]
 * @property {number} [cfg_min_p]
 * @property {number} [temperature]
 * @property {number} [top_k]
 * @property {number} [top_p]
 * @property {number} [seed] chosen by the server if omitted
 * @property {Edit} [edit] absent unless the image was inpainted
 */

/**
 * @typedef {object} Edit
 * @property {Recipe} source recipe of the original image
 * @property {boolean[]} masked one per image token, in raster order; true: inpainted, false: kept
 */

/**
 * Returns the prompt or the name of the class.
 * @param {Recipe} recipe
 * @param {Model} model
 */
export function title({ prompt, class_id: id }, model) {
  if (prompt !== undefined) return prompt;
  const name = model.labels?.[String(id)]?.[0];
  return name ? `${name} (class ${id})` : `class ${id}`;
}

/** @param {Recipe} recipe */
export function fileName(recipe) {
  const words = recipe.prompt ?? `class ${recipe.class_id}`;
  const slug = words
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .slice(0, 60);
  return `${slug.replace(/^-|-$/g, "") || "image"}-${recipe.seed}.png`;
}

const SAMPLING_NAMES = /** @type {const} */ ({
  cfg_interval: "interval",
  cfg_schedule: "schedule",
  temperature: "temperature",
  cfg_min_p: "min-p",
  top_k: "top-k",
  top_p: "top-p",
});

/**
 * Returns pairs of name and value: the seed, the guidance scale, the settings that differ from the model's defaults
 * and the number of inpainted tokens.
 * @param {Recipe} recipe
 * @param {Model} model
 * @returns {[string, string][]}
 */
export function details(recipe, model) {
  /** @type {[string, string][]} */
  const pairs = [["seed", String(recipe.seed)]];
  if (model.guided) pairs.push(["guidance", String(recipe.cfg_scale)]);
  for (const name of /** @type {(keyof typeof SAMPLING_NAMES)[]} */ (Object.keys(SAMPLING_NAMES))) {
    const value = recipe[name];
    if (value !== undefined && value !== model.defaults[name]) pairs.push([SAMPLING_NAMES[name], String(value)]);
  }
  if (recipe.edit) pairs.push(["inpainted", countMasked(recipe.edit.masked)]);
  return pairs;
}

/** @param {boolean[]} masked */
function countMasked(masked) {
  return `${masked.filter(Boolean).length} of ${masked.length} image tokens`;
}
