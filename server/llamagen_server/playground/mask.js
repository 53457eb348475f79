/** Marking the cells of the code grid that are to be redrawn. `marked` holds one boolean per cell, in raster order. */

export class MaskEditor {
  #canvas;
  #context;
  #stroke = null;

  /** Draws on `canvas`; calls `onChange` after every change. */
  constructor(canvas, grid, onChange) {
    this.grid = grid;
    this.marked = new Array(grid * grid).fill(false);
    this.tool = "brush";
    this.brush = 1;
    this.onChange = onChange;
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#stroke && this.#extend(event));
    canvas.addEventListener("lostpointercapture", () => { this.#stroke = null; });
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** Marks the cells for which `test(row, column, isMarked)` holds. */
  mark(test) {
    this.marked = this.marked.map((marked, i) => test(Math.floor(i / this.grid), i % this.grid, marked));
    this.#draw();
    this.onChange();
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    const at = this.#cell(event);
    const value = !this.marked[Math.floor(at.y) * this.grid + Math.floor(at.x)];
    this.#stroke = { start: at, last: at, value, before: this.marked };
    this.#extend(event);
  }

  #extend(event) {
    const { start, last, value, before } = this.#stroke;
    const at = this.#cell(event);
    const covers = this.tool === "rectangle" ? inRectangle(start, at) : onPath(last, at, this.brush);
    if (this.tool === "rectangle") this.marked = before;
    this.#stroke.last = at;
    this.mark((row, column, marked) => (covers(row, column) ? value : marked));
  }

  /** Where a pointer is, in cells. */
  #cell(event) {
    const box = this.#canvas.getBoundingClientRect();
    const clamp = (share) => Math.min(Math.max(share, 0), 0.9999) * this.grid;
    return { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) };
  }

  #draw() {
    const size = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    const line = (i) => Math.round((i * size) / this.grid);
    const context = this.#context;
    this.#canvas.width = this.#canvas.height = size;
    this.marked.forEach((marked, i) => {
      const [x, y] = [i % this.grid, Math.floor(i / this.grid)];
      const cell = [line(x), line(y), line(x + 1) - line(x), line(y + 1) - line(y)];
      context.fillStyle = "#ffffffd0";
      if (marked) context.fillRect(...cell);
      if (marked) hatch(context, ...cell);
      context.strokeStyle = "#80808080";
      context.strokeRect(cell[0] + 0.5, cell[1] + 0.5, cell[2], cell[3]);
    });
  }
}

/** Diagonal lines that continue from cell to cell. */
function hatch(context, x, y, width, height) {
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

function inRectangle(a, b) {
  const [left, right] = [a.x, b.x].map(Math.floor).sort((p, q) => p - q);
  const [top, bottom] = [a.y, b.y].map(Math.floor).sort((p, q) => p - q);
  return (row, column) => row >= top && row <= bottom && column >= left && column <= right;
}

/** Cells under a square brush of `size` cells that moves from a to b. */
function onPath(a, b, size) {
  const steps = Math.ceil(2 * Math.hypot(b.x - a.x, b.y - a.y)) || 1;
  const corners = Array.from({ length: steps + 1 }, (_, i) => {
    const along = (from, to) => Math.round(from + ((to - from) * i) / steps - size / 2);
    return [along(a.x, b.x), along(a.y, b.y)];
  });
  return (row, column) =>
    corners.some(([x, y]) => column >= x && column < x + size && row >= y && row < y + size);
}

/** How many top rows are kept, if only whole rows below them are marked; else null. */
export function keptRows(marked, grid) {
  const first = marked.indexOf(true);
  const isWhole = first >= 0 && first % grid === 0 && marked.slice(first).every(Boolean);
  return isWhole ? first / grid : null;
}

/** A PNG file as base64 that is transparent where a picture is to be redrawn. */
export function maskPng(marked, grid, size) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, size, size);
  const cell = size / grid;
  marked.forEach((isMarked, i) => {
    if (isMarked) context.clearRect((i % grid) * cell, Math.floor(i / grid) * cell, cell, cell);
  });
  return canvas.toDataURL("image/png").split(",")[1];
}
