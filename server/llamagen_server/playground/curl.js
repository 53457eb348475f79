/** Shell commands that make a picture again. */

import { hasKey } from "./api.js";
import { fileName } from "./format.js";
import { keptRows, maskPng } from "./mask.js";

/** The command for a recipe; for a redrawn picture, first those that make the picture it was made of. */
export function curl(recipe, model) {
  const { edit, ...fields } = recipe;
  if (!edit) {
    const body = quote(JSON.stringify(fields));
    return `curl --json ${body} \\\n  -H 'accept: image/png'${key()} ${address("generate")} -o ${fileName(recipe)}`;
  }
  const rows = keptRows(edit.marked, model.grid_size);
  const mask = fileName(recipe).replace(/png$/, "mask.png");
  const forms = Object.entries(fields).map(([name, value]) => `--form-string ${name}=${quote(String(value))}`);
  return [
    curl(edit.source, model),
    ...(rows === null ? [`echo ${maskPng(edit.marked, model.grid_size, model.image_size)} | base64 -d > ${mask}`] : []),
    `curl -F image=@${fileName(edit.source)} -F ${rows === null ? `mask=@${mask}` : `keep_rows=${rows}`} \\
  ${forms.join(" ")} \\
 ${key()} ${address("v1/images/edits")} \\
  | sed -E 's/.*"b64_json": ?"([^"]+)".*/\\1/' | base64 -d > ${fileName(recipe)}`,
  ].join("\n");
}

const address = (path) => quote(new URL(path, document.baseURI).href);
const key = () => (hasKey() ? ' -H "authorization: Bearer $LLAMAGEN_API_KEY"' : "");
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
