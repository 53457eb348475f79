/** Recipes in words. A recipe holds the fields of a request that make one picture. */

/** What a picture shows: its prompt or the name of its class. */
export function title(recipe, model) {
  if (recipe.prompt !== undefined) return recipe.prompt;
  const name = model.labels?.[recipe.class_id]?.[0];
  return name ? `${name} (class ${recipe.class_id})` : `class ${recipe.class_id}`;
}

export function fileName(recipe) {
  const words = recipe.prompt ?? `class ${recipe.class_id}`;
  const slug = words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-|-$/g, "");
  return `${slug || "picture"}-${recipe.seed}.png`;
}

const NAMES = {
  cfg_interval: "interval", cfg_schedule: "schedule", temperature: "temperature", top_k: "top-k", top_p: "top-p",
};

/** Pairs of name and value: the seed, the guidance, and what differs from the model's defaults. */
export function details(recipe, model) {
  const usual = { cfg_interval: -1, cfg_schedule: "constant", ...model.defaults };
  const unusual = Object.keys(NAMES).filter((name) => recipe[name] !== undefined && recipe[name] !== usual[name]);
  return [
    ["seed", recipe.seed],
    ...(model.guided ? [["guidance", recipe.cfg_scale]] : []),
    ...unusual.map((name) => [NAMES[name], recipe[name]]),
    ...(recipe.edit ? [["redrawn", `${recipe.edit.marked.filter(Boolean).length} cells`]] : []),
  ];
}
