/** The status line and the error message below the form. */

import { byId } from "./dom.js";
import { ServerError } from "./errors.js";

/** @param {string} text */
export function showStatus(text) {
  const status = byId("status");
  // A screen reader would read an unchanged status again.
  if (status.textContent !== text) status.textContent = text;
  byId("error").textContent = "";
}

/** @param {unknown} error */
export function showError(error) {
  if (!(error instanceof ServerError)) console.error(error);
  showStatus("");
  byId("error").textContent = error instanceof Error ? error.message : String(error);
}
