/** @param {string} b64 PNG file as base64 */
export function pngBlob(b64) {
  const bytes = Uint8Array.from(atob(b64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}
