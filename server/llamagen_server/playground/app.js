/** Entry point of the page: waits until the server is ready and opens the playground for its model. */

import * as api from "./api.js";
import { display, placeholder } from "./display.js";
import { byId, find, make } from "./dom.js";
import { loadExamples } from "./examples.js";
import { load } from "./history.js";
import { askForKey } from "./key_form.js";
import { Playground } from "./playground.js";
import { showError, showStatus } from "./status.js";

const RETRY_MS = 1000;

api.onKeyNeeded(askForKey);
start().catch(showError);

async function start() {
  const waiting = placeholder();
  display(waiting);
  await untilReady(waiting);
  showStatus("");
  waiting.dataset.state = "idle";
  const model = await api.getModel(await chooseModel());
  const [stored, examples] = await Promise.all([load(), loadExamples(model)]);
  const form = byId("settings");
  byId("display").style.setProperty("--grid", String(model.grid_size));
  find(form, "details", HTMLDetailsElement).open = matchMedia("(min-width: 60rem)").matches;
  form.classList.remove("waiting");
  new Playground(model, stored, examples);
}

/** Returns the model of the page's address (`?model=NAME`), else the first; shows its name, and links to the others. */
async function chooseModel() {
  const names = await api.getModelNames();
  const asked = new URLSearchParams(location.search).get("model");
  const name = names.find((each) => each === asked) ?? names[0] ?? "";
  const links = names.map((each) => {
    const link = make("a", { textContent: each, href: `?${new URLSearchParams({ model: each })}` });
    if (each === name) link.ariaCurrent = "page";
    return link;
  });
  byId("model").replaceChildren(...(names.length > 1 ? links : [name]));
  return name;
}

/**
 * Asks the server until it is ready.
 * @param {HTMLElement} view shows that the model is loading
 */
async function untilReady(view) {
  for (;;) {
    try {
      if (await api.isReady()) return;
      showStatus("The model is loading…");
      view.dataset.state = "loading";
    } catch (error) {
      showStatus(`${error instanceof Error ? error.message : error} Retrying…`);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
