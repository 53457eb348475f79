/** A picture while it is drawn: what is known of it grows from the top. */
export class Tile {
  #image;
  #progress;
  #button;
  #last = performance.now();

  /** `start` is the picture that is redrawn, if one is: it is there from the beginning. */
  constructor(label, start) {
    this.element = document.getElementById("tile-template").content.firstElementChild.cloneNode(true);
    this.#image = this.element.querySelector("img");
    this.#progress = this.element.querySelector("progress");
    this.#button = this.element.querySelector("button");
    this.#progress.setAttribute("aria-label", label);
    this.element.classList.toggle("redrawn", start !== undefined);
    if (start) this.#show(start);
  }

  /** Shows a preview of which the top `share` is known. */
  preview(b64, share) {
    const now = performance.now();
    this.#grow(share, Math.min(now - this.#last, 2000));
    this.#last = now;
    this.#show(`data:image/png;base64,${b64}`);
  }

  /** Shows the finished picture; a click on it calls `open`. */
  finish(url, name, open) {
    this.#grow(1, 250);
    this.#show(url);
    this.element.classList.add("finished");
    this.#image.alt = name;
    this.#button.disabled = false;
    this.#button.addEventListener("click", open);
  }

  /** Leaves the picture as it is. */
  stop() {
    this.element.classList.add("stopped");
  }

  #grow(share, milliseconds) {
    this.#progress.value = share;
    this.element.style.setProperty("--pace", `${milliseconds}ms`);
    this.element.style.setProperty("--known", share);
  }

  #show(url) {
    this.#image.src = url;
    this.#image.hidden = false;
  }
}
