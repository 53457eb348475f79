/** An error that the server reported, or a failed connection to it. The message is shown to the user. */
export class ServerError extends Error {}

/**
 * Returns a handler that turns a network error into a ServerError. A cancelled request keeps its AbortError.
 * @param {string} message
 * @returns {(error: Error) => never}
 */
export function wrapNetworkError(message) {
  return (error) => {
    throw error.name === "AbortError" ? error : new ServerError(message);
  };
}
