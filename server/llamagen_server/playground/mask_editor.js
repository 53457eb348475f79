import { brushStroke, context2d, rectangle } from "./mask.js";

/** @import { Point } from "./mask.js" */

/**
 * @typedef {object} Stroke
 * @property {Point} start
 * @property {Point} last
 * @property {boolean} value what the stroke sets
 * @property {boolean[]} before the mask before the stroke
 */

/** An HTML canvas on which the user paints a token mask. */
export class MaskEditor {
  /** @type {"brush" | "rectangle"} */
  tool = "brush";
  /** Width of the brush in cells. */
  brush = 1;

  #canvas;
  #context;
  #onChange;
  /** @type {Stroke | null} */
  #stroke = null;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} grid image tokens per side
   * @param {(masked: boolean[]) => void} onChange
   */
  constructor(canvas, grid, onChange) {
    this.grid = grid;
    /** @type {boolean[]} */
    this.masked = new Array(grid * grid).fill(false);
    this.#onChange = onChange;
    this.#canvas = canvas;
    this.#context = context2d(canvas);
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    canvas.addEventListener("lostpointercapture", () => {
      this.#stroke = null;
    });
    new ResizeObserver(() => this.#render()).observe(canvas);
  }

  /**
   * Sets every cell of the mask.
   * @param {(row: number, column: number, isMasked: boolean) => boolean} isMasked gets the current value
   */
  update(isMasked) {
    this.masked = this.masked.map((masked, i) => isMasked(Math.floor(i / this.grid), i % this.grid, masked));
    this.#render();
    this.#onChange(this.masked);
  }

  /** @param {PointerEvent} event */
  #begin(event) {
    if (event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    const point = this.#point(event);
    const value = !this.masked[Math.floor(point.y) * this.grid + Math.floor(point.x)];
    this.#stroke = { start: point, last: point, value, before: this.masked };
    this.#extend(event);
  }

  /** @param {PointerEvent} event */
  #extend(event) {
    if (!this.#stroke) return;
    const { start, last, value, before } = this.#stroke;
    const point = this.#point(event);
    const isRectangle = this.tool === "rectangle";
    const covers = isRectangle ? rectangle(start, point) : brushStroke(last, point, this.brush);
    if (isRectangle) this.masked = before;
    this.#stroke.last = point;
    this.update((row, column, isMasked) => (covers(row, column) ? value : isMasked));
  }

  /**
   * @param {PointerEvent} event
   * @returns {Point}
   */
  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const cells = (/** @type {number} */ share) => Math.min(Math.max(share, 0), 0.9999) * this.grid;
    return { x: cells((event.clientX - box.left) / box.width), y: cells((event.clientY - box.top) / box.height) };
  }

  #render() {
    const size = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    const line = (/** @type {number} */ i) => Math.round((i * size) / this.grid);
    const context = this.#context;
    this.#canvas.width = size;
    this.#canvas.height = size;
    this.masked.forEach((isMasked, i) => {
      const [column, row] = [i % this.grid, Math.floor(i / this.grid)];
      const [x, y] = [line(column), line(row)];
      const [width, height] = [line(column + 1) - x, line(row + 1) - y];
      if (isMasked) fillMasked(context, x, y, width, height);
      context.strokeStyle = "#80808080";
      context.strokeRect(x + 0.5, y + 0.5, width, height);
    });
  }
}

/**
 * Fills a rectangle with diagonal lines that continue in neighbouring rectangles.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 */
function fillMasked(context, x, y, width, height) {
  context.fillStyle = "#ffffffd0";
  context.fillRect(x, y, width, height);
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.beginPath();
  const gap = 8 * devicePixelRatio;
  for (let d = Math.ceil((x + y) / gap) * gap; d < x + y + width + height; d += gap) {
    context.moveTo(d - y, y);
    context.lineTo(d - y - height, y + height);
  }
  context.lineWidth = 1.5 * devicePixelRatio;
  context.strokeStyle = "#0c6b5899";
  context.stroke();
  context.restore();
}
