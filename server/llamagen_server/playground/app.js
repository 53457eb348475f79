import * as api from "./api.js";
import { curl } from "./curl.js";
import { details, fileName, title } from "./format.js";
import * as history from "./history.js";
import { keptRows, maskPng, MaskEditor } from "./mask.js";
import { randomSeed, Settings } from "./settings.js";
import { Tile } from "./tile.js";

const EXAMPLES = {
  "llamagen-demo": [
    "a large red circle on a white background",
    "a small yellow diamond above a large blue square",
    "a green triangle in the top left corner on navy",
  ],
};
const EDIT_PREVIEWS = 3; // as many as the images API sends

const $ = (id) => document.getElementById(id);
const copyOf = (template) => $(template).content.firstElementChild.cloneNode(true);

let model;
let settings;
let pictures = []; // newest first: {id, model, recipe, blob, source, url, thumb}
let shown = null; // the picture on the stage
let edited = null; // the picture in the editor
let run = null; // what is being drawn: {controller, view}

api.onKeyNeeded(askForKey);
document.addEventListener("keydown", onEscape);
start();

async function start() {
  showEmpty();
  await untilReady();
  say("");
  showEmpty();
  try {
    model = await api.getModel();
  } catch (error) {
    return fail(error);
  }
  const records = await history.load();
  settings = new Settings($("settings"), model);
  $("model").textContent = model.id;
  $("settings").classList.remove("waiting");
  $("settings").querySelector("details").open = matchMedia("(min-width: 60rem)").matches;
  $("stage").style.setProperty("--grid", model.grid_size);
  listen();
  for (const record of records) if (record.model === model.id) enter(record);
  if (!pictures.length) return showEmpty();
  show(pictures[0]);
  settings.restore(pictures[0].recipe);
  settings.seed = "";
}

function listen() {
  $("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    generate(settings.read(), settings.n);
  });
  $("prompt")?.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (matchMedia("(pointer: coarse)").matches) event.target.blur(); // away with the on-screen keyboard
    $("settings").requestSubmit();
  });
  $("cancel").addEventListener("click", cancel);
  $("reset").addEventListener("click", () => settings.reset());
  $("lock").addEventListener("click", () => {
    settings.seed = settings.seed === "" ? ((shown ?? pictures[0])?.recipe.seed ?? randomSeed()) : "";
  });
  $("clear").addEventListener("click", clearHistory);
  $("drawing").firstElementChild.addEventListener("click", () => stage(run.view));
}

// Drawing

function generate(recipe, n) {
  // Fewer previews when many pictures are drawn at once, and at whole rows: after 1, 3, 5 … of `parts` parts.
  const most = Math.min(Math.max(4, Math.floor(32 / n)), 16);
  const parts = divisors(model.grid_size).filter((part) => part % 2 === 0 && part / 2 <= most).at(-1) ?? 2;
  const tiles = Array.from({ length: n }, (_, i) => new Tile(`Picture ${i + 1}`));
  return draw(recipe, tiles, parts, (signal) => api.generate(recipe, n, parts / 2, signal));
}

/** Draws the marked cells of a picture anew. `change` is {source: recipe, marked}, `image` the picture's file. */
function redraw(recipe, change, image) {
  const { grid_size: grid, image_size: size } = model;
  const region = { keepRows: keptRows(change.marked, grid), mask: pngBlob(maskPng(change.marked, grid, size)) };
  const tile = new Tile("Picture", URL.createObjectURL(image));
  return draw({ ...recipe, edit: change }, [tile], 2 * EDIT_PREVIEWS, (signal) =>
    api.edit(recipe, image, region, EDIT_PREVIEWS, signal), image);
}

async function draw(recipe, tiles, parts, stream, source) {
  if (run) return say("Still drawing. Escape cancels.");
  const controller = new AbortController();
  const name = title(recipe, model);
  const before = shown;
  const started = performance.now();
  const made = [];
  let isEmpty = true;
  run = { controller, view: runView(tiles, name) };
  setBusy(true);
  say(tiles.length === 1 ? "Drawing…" : `Drawing ${tiles.length} pictures…`);
  stage(run.view);
  try {
    let milliseconds;
    for await (const { type, index = 0, ...event } of stream(controller.signal)) {
      isEmpty = false;
      if (type.endsWith("partial_image")) {
        tiles[index].preview(event.b64_json, (2 * event.partial_image_index + 1) / parts);
      } else if (type.endsWith("completed")) {
        const picture = keep({ ...recipe, seed: event.seed }, pngBlob(event.b64_json), source);
        made.push(picture);
        tiles[index].finish(picture.url, name, () => select(picture));
      } else {
        milliseconds = event.timings?.total_ms;
      }
    }
    const seconds = ((milliseconds ?? performance.now() - started) / 1000).toFixed(1);
    say(`${made.length === 1 ? "One picture" : `${made.length} pictures`} in ${seconds} s.`);
    if (made.length === 1 && run.view.isConnected) show(made[0]);
  } catch (error) {
    for (const tile of tiles) tile.stop();
    if (isEmpty && run.view.isConnected) before ? show(before) : showEmpty();
    if (error.name === "AbortError") say("Cancelled.");
    else fail(error);
  } finally {
    run = null;
    setBusy(false);
  }
}

function cancel() {
  run?.controller.abort();
}

function onEscape(event) {
  if (event.key !== "Escape") return;
  if (run) cancel();
  else if (edited) show(edited);
}

function setBusy(isBusy) {
  if (!isBusy && document.activeElement === $("cancel")) $("generate").focus();
  $("cancel").hidden = !isBusy;
  $("generate").setAttribute("aria-disabled", isBusy);
  $("drawing").hidden = !isBusy;
  showHistory();
}

/** Adds a new picture to the history. */
function keep(recipe, blob, source) {
  const id = Math.max(Date.now(), (pictures[0]?.id ?? 0) + 1);
  const record = { id, model: model.id, recipe, blob, source };
  history.add(record);
  return enter(record);
}

// The stage

function stage(view) {
  const hadFocus = $("stage").contains(document.activeElement);
  shown = edited = null;
  $("stage").replaceChildren(view);
  view.scrollIntoView({ block: "nearest" });
  if (hadFocus) $("stage").focus();
  markShown();
}

/** Cells of a grid, some of them drawn. */
function showEmpty() {
  const view = copyOf("empty-template");
  for (let i = 0; i < 64; i++) {
    const cell = document.createElement("i");
    cell.style.setProperty("--i", i);
    view.firstElementChild.append(cell);
  }
  for (const prompt of EXAMPLES[model?.id] ?? []) view.querySelector(".examples").append(example(prompt));
  stage(view);
}

function example(prompt) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
  button.addEventListener("click", () => {
    settings.prompt = prompt;
    $("settings").requestSubmit();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function runView(tiles, name) {
  const view = document.createElement("figure");
  view.classList.toggle("many", tiles.length > 1);
  const list = document.createElement("ol");
  list.className = "tiles";
  list.style.setProperty("--columns", Math.min(Math.ceil(Math.sqrt(tiles.length)), 4));
  list.append(...tiles.map((tile) => tile.element));
  const caption = document.createElement("figcaption");
  caption.textContent = tiles.length > 1 ? `${name} · choose one to vary, edit or download it` : name;
  view.append(list, caption);
  return view;
}

/** A picture that somebody chose: large, and with its settings in the form. */
function select(picture) {
  show(picture);
  settings.restore(picture.recipe);
}

function show(picture) {
  const { recipe, url } = picture;
  const view = copyOf("viewer-template");
  const name = title(recipe, model);
  Object.assign(view.querySelector("img"), { src: url, alt: name });
  view.querySelector(".title").textContent = name;
  for (const [term, value] of details(recipe, model)) {
    const pair = document.createElement("div");
    for (const [tag, text] of [["dt", term], ["dd", value]]) {
      pair.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    view.querySelector("dl").append(pair);
  }
  on(view, "vary", () => vary(picture));
  on(view, "edit", () => edit(picture));
  on(view, "curl", () => copy(curl(recipe, model)));
  Object.assign(view.querySelector("[data-action=download]"), { href: url, download: fileName(recipe) });
  stage(view);
  shown = picture;
  markShown();
}

function vary({ recipe: { seed, edit: change, ...recipe }, source }) {
  if (change) return redraw(recipe, change, source);
  settings.seed = "";
  return generate(recipe, settings.n);
}

function edit(picture) {
  const view = copyOf("editor-template");
  view.querySelector("img").src = picture.url;
  const rows = view.querySelector("[name=rows]");
  const mask = new MaskEditor(view.querySelector("canvas"), model.grid_size, () => {
    if (document.activeElement !== rows) rows.value = keptRows(mask.marked, mask.grid) ?? "";
  });
  rows.max = model.grid_size;
  rows.addEventListener("input", () => {
    const kept = Number(rows.value);
    mask.mark((row) => rows.value !== "" && row >= kept);
  });
  view.querySelector("[name=brush]").max = model.grid_size / 2;
  view.addEventListener("input", ({ target }) => {
    if (target.name === "tool") mask.tool = target.value;
    if (target.name === "brush") mask.brush = Number(target.value);
  });
  on(view, "invert", () => mask.mark((row, column, marked) => !marked));
  on(view, "clear", () => mask.mark(() => false));
  on(view, "close", () => show(picture));
  on(view, "redraw", () => {
    if (!mask.marked.includes(true)) return say("Mark the part that should change first.");
    if (settings.check()) redraw(settings.read(), { source: picture.recipe, marked: mask.marked }, picture.blob);
  });
  settings.seed = ""; // the old one would draw much the same again
  stage(view);
  edited = picture;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not a secure context, or not allowed
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say("The command is on the clipboard.");
}

// History

/** Puts a record in front of the others. */
function enter(record) {
  const picture = { ...record, url: URL.createObjectURL(record.blob), thumb: document.createElement("li") };
  const name = title(record.recipe, model);
  const button = Object.assign(document.createElement("button"), { type: "button", title: name });
  button.append(Object.assign(document.createElement("img"), { src: picture.url, alt: name, loading: "lazy" }));
  button.addEventListener("click", () => select(picture));
  picture.thumb.append(button);
  $("drawing").after(picture.thumb);
  pictures.unshift(picture);
  showHistory();
  return picture;
}

function showHistory() {
  $("history").hidden = !pictures.length && !run;
}

function markShown() {
  for (const picture of pictures) picture.thumb.firstElementChild.ariaCurrent = picture === shown;
}

function clearHistory() {
  if (!confirm("Forget all pictures in the history?")) return;
  history.remove(pictures);
  for (const { url, thumb } of pictures) {
    URL.revokeObjectURL(url);
    thumb.remove();
  }
  pictures = [];
  showHistory();
  if (!run) showEmpty();
}

// The server

async function untilReady() {
  for (;;) {
    try {
      if (await api.isReady()) return;
      say("The model is loading…");
      $("stage").firstElementChild.dataset.state = "busy";
    } catch (error) {
      say(`${error.message} Trying again…`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function askForKey(message, signal) {
  const form = $("key-form");
  $("key-hint").textContent = message;
  form.hidden = false;
  $("key").focus();
  return new Promise((resolve, reject) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      resolve($("key").value);
    };
    signal?.addEventListener("abort", () => {
      form.hidden = true;
      reject(signal.reason);
    });
  });
}

function say(text) {
  // A status that is set again would be read out again.
  if ($("status").textContent !== text) $("status").textContent = text;
  $("error").textContent = "";
}

function fail(error) {
  if (!(error instanceof api.ServerError)) console.error(error);
  say("");
  $("error").textContent = error.message;
}

// Small things

function on(view, action, work) {
  view.querySelector(`[data-action=${action}]`).addEventListener("click", work);
}

const divisors = (number) => Array.from({ length: number }, (_, i) => i + 1).filter((i) => number % i === 0);

const pngBlob = (b64) => new Blob([Uint8Array.from(atob(b64), (c) => c.charCodeAt(0))], { type: "image/png" });
