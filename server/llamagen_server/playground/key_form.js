import { byId } from "./dom.js";

/**
 * Asks the user for the API key.
 * @param {string} message why the server rejected the request
 * @param {AbortSignal} [signal] cancels the question
 * @returns {Promise<string>}
 */
export function askForKey(message, signal) {
  const form = byId("key-form");
  const input = byId("key", HTMLInputElement);
  byId("key-hint").textContent = message;
  form.hidden = false;
  input.focus();
  return new Promise((resolve, reject) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      resolve(input.value);
    };
    signal?.addEventListener("abort", () => {
      form.hidden = true;
      reject(signal.reason);
    });
  });
}
