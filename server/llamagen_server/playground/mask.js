/** Token masks. A mask is an array with one boolean per image token, in raster order; true: inpainted, false: kept. */

import { make } from "./dom.js";

/**
 * @typedef {object} Point Position in the token grid; whole numbers are cell borders.
 * @property {number} x
 * @property {number} y
 */

/** @typedef {(row: number, column: number) => boolean} Region */

/**
 * Cells of the rectangle with corners at `a` and `b`.
 * @param {Point} a
 * @param {Point} b
 * @returns {Region}
 */
export function rectangle(a, b) {
  const isBetween = (/** @type {number} */ cell, /** @type {number} */ p, /** @type {number} */ q) =>
    cell >= Math.floor(Math.min(p, q)) && cell <= Math.floor(Math.max(p, q));
  return (row, column) => isBetween(row, a.y, b.y) && isBetween(column, a.x, b.x);
}

/**
 * Cells under a square brush of `size` cells that moves from `a` to `b`.
 * @param {Point} a
 * @param {Point} b
 * @param {number} size
 * @returns {Region}
 */
export function brushStroke(a, b, size) {
  const steps = Math.ceil(2 * Math.hypot(b.x - a.x, b.y - a.y)) || 1;
  const corners = Array.from({ length: steps + 1 }, (_, i) => {
    const along = (/** @type {number} */ from, /** @type {number} */ to) =>
      Math.round(from + ((to - from) * i) / steps - size / 2);
    return { left: along(a.x, b.x), top: along(a.y, b.y) };
  });
  return (row, column) =>
    corners.some(({ left, top }) => column >= left && column < left + size && row >= top && row < top + size);
}

/**
 * Returns the number of kept top rows if everything below them is masked and nothing else, otherwise null.
 * @param {boolean[]} masked
 * @param {number} grid image tokens per side
 */
export function keptRows(masked, grid) {
  const first = masked.indexOf(true);
  const isWhole = first >= 0 && first % grid === 0 && masked.slice(first).every(Boolean);
  return isWhole ? first / grid : null;
}

/**
 * Returns a PNG file as base64 that is transparent where the image is inpainted.
 * @param {boolean[]} masked
 * @param {number} grid image tokens per side
 * @param {number} size pixels per side
 */
export function maskPng(masked, grid, size) {
  const canvas = make("canvas", { width: size, height: size });
  const context = context2d(canvas);
  context.fillRect(0, 0, size, size);
  const cell = size / grid;
  masked.forEach((isMasked, i) => {
    if (isMasked) context.clearRect((i % grid) * cell, Math.floor(i / grid) * cell, cell, cell);
  });
  return canvas.toDataURL("image/png").replace(/^.*,/, "");
}

/** @param {HTMLCanvasElement} canvas */
export function context2d(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser has no 2D canvas.");
  return context;
}
