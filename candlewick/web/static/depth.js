// The depth of a book on a canvas: sizes summed from the best price outwards, bids left, asks right.

import { grouped, percent, rounded, short } from "./format.js";

export class DepthChart {
  #canvas;
  #told; // a line of text beside it, also for those who cannot see the canvas
  #book = null;
  #pointerX = null;
  #digits = 2;

  constructor(canvas, told) {
    this.#canvas = canvas;
    this.#told = told;
    new ResizeObserver(() => this.draw()).observe(canvas);
    document.addEventListener("themechange", () => this.draw());
    canvas.addEventListener("pointermove", (event) => {
      this.#pointerX = event.offsetX;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.#pointerX = null;
      this.draw();
    });
  }

  /** Show a book of /v1/book, or with null that there is none, and why. */
  show(book, why, digits) {
    this.#digits = digits;
    this.#book = book?.in_step && book.bids.length && book.asks.length ? summed(book) : null;
    if (this.#book) {
      const { bids, asks } = this.#book;
      this.#told.textContent = `${short(bids.at(-1).sum)} bid, ${short(asks.at(-1).sum)} asked, ${bids.length} and ${asks.length} levels`;
    } else {
      this.#told.textContent = why ?? (book?.in_step ? "one side of the book is empty" : "the book is out of step");
    }
    this.#canvas.setAttribute("aria-label", `Depth: ${this.#told.textContent}`);
    this.draw();
  }

  draw() {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    const scale = devicePixelRatio;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.#book) return;
    const style = getComputedStyle(canvas);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const { bids, asks, mid } = this.#book;
    // As far to either side as both sides reach.
    const reach = Math.min(mid - bids.at(-1).price, asks.at(-1).price - mid) || mid * 1e-4;
    const bottom = height - 18;
    const inside = (level) => Math.abs(level.price - mid) <= reach * 1.0001;
    const most = Math.max(...[bids, asks].map((side) => side.findLast(inside)?.sum ?? side[0].sum));
    const x = (price) => ((price - mid) / reach + 1) * (width / 2);
    const y = (sum) => bottom - (Math.min(sum, most) / most) * (bottom - 14);
    for (const [side, name] of [[bids, "up"], [asks, "down"]]) {
      const edge = side === bids ? 0 : width;
      context.beginPath();
      context.moveTo(x(side[0].price), bottom);
      let sum = 0;
      for (const level of side) {
        context.lineTo(x(level.price), y(sum));
        context.lineTo(x(level.price), y(level.sum));
        ({ sum } = level);
        if (!inside(level)) break;
      }
      context.lineTo(edge, y(sum));
      context.lineTo(edge, bottom);
      context.fillStyle = color(`${name}-soft`);
      context.fill();
      context.strokeStyle = color(name);
      context.lineWidth = 1;
      context.stroke();
    }
    context.font = `10px ${style.fontFamily}`;
    context.fillStyle = color("muted");
    context.textBaseline = "bottom";
    const labels = [[mid - reach, "left", 2], [mid, "center", width / 2], [mid + reach, "right", width - 2]];
    for (const [price, align, at] of labels) {
      context.textAlign = align;
      context.fillText(rounded(price, this.#digits), at, height - 3);
    }
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText(short(most), 2, 2);
    if (this.#pointerX !== null) this.#point(context, { x, y, mid, reach, width, bottom, color });
  }

  #point(context, { x, y, mid, reach, width, bottom, color }) {
    const price = mid + ((this.#pointerX / width) * 2 - 1) * reach;
    const side = price < mid ? this.#book.bids : this.#book.asks;
    const level = side.findLast((each) => Math.abs(each.price - mid) <= Math.abs(price - mid));
    if (!level) return;
    context.strokeStyle = color("muted");
    context.beginPath();
    context.moveTo(x(level.price), 14);
    context.lineTo(x(level.price), bottom);
    context.stroke();
    context.fillStyle = color("text");
    context.textAlign = this.#pointerX < width / 2 ? "left" : "right";
    const share = percent(level.price / mid - 1);
    const text = `${short(level.sum)} to ${grouped(level.text, this.#digits)} (${share})`;
    context.fillText(text, this.#pointerX < width / 2 ? 40 : width - 2, 2);
    context.fillRect(x(level.price) - 2, y(level.sum) - 2, 4, 4);
  }
}

function summed(book) {
  const [bids, asks] = [book.bids, book.asks].map((side) => {
    let sum = 0;
    return side.map(([price, size]) => {
      sum += Number(size);
      return { price: Number(price), text: price, sum };
    });
  });
  return { bids, asks, mid: (bids[0].price + asks[0].price) / 2 };
}
