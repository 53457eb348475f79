/** Shell commands that generate an image again. */

import { hasKey } from "./api.js";
import { keptRows, maskPng } from "./mask.js";
import { fileName } from "./recipe.js";

/** @import { Model } from "./api.js" */
/** @import { Recipe } from "./recipe.js" */

/**
 * Returns the command for a recipe. For an inpainted image, the commands that generate its original come first.
 * @param {Recipe} recipe
 * @param {Model} model
 * @returns {string}
 */
export function curl(recipe, model) {
  const { edit, ...sampling } = recipe;
  const fields = { model: model.id, ...sampling };
  if (!edit) {
    const body = quote(JSON.stringify(fields));
    return `curl --json ${body} \\\n  -H 'accept: image/png'${key()} ${url("generate")} -o ${fileName(recipe)}`;
  }
  const rows = keptRows(edit.masked, model.grid_size);
  const mask = fileName(recipe).replace(/png$/, "mask.png");
  const forms = Object.entries(fields).map(([name, value]) => `--form-string ${name}=${quote(String(value))}`);
  return [
    curl(edit.source, model),
    ...(rows === null ? [`echo ${maskPng(edit.masked, model.grid_size, model.image_size)} | base64 -d > ${mask}`] : []),
    `curl -F image=@${fileName(edit.source)} -F ${rows === null ? `mask=@${mask}` : `keep_rows=${rows}`} \\
  ${forms.join(" ")} \\
 ${key()} ${url("v1/images/edits")} \\
  | sed -E 's/.*"b64_json": ?"([^"]+)".*/\\1/' | base64 -d > ${fileName(recipe)}`,
  ].join("\n");
}

const url = (/** @type {string} */ path) => quote(new URL(path, document.baseURI).href);
const key = () => (hasKey() ? ' -H "authorization: Bearer $LLAMAGEN_API_KEY"' : "");
const quote = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
