// The last trades, the newest first. The ticker tells the last one; those between two are asked for.

import { clock, grouped, size as sized } from "./format.js";

const ROWS = 40;
const DRAW_MS = 100;

export class Tape {
  #rows = [];
  #trades = []; // the newest first: {id, price, size, side, time}
  #digits = 2;
  #waiting = false;

  constructor(body) {
    for (let count = 0; count < ROWS; count++) {
      const row = body.insertRow();
      for (let cell = 0; cell < 3; cell++) row.insertCell();
      row.hidden = true;
      this.#rows.push(row);
    }
  }

  clear() {
    this.#trades = [];
    this.#draw();
  }

  /** The id of the newest trade that is shown; 0 if there is none. */
  get newest() {
    return this.#trades[0]?.id ?? 0;
  }

  /** Take trades in any order; those that are known are passed over. */
  take(trades, digits) {
    const known = new Set(this.#trades.map((trade) => trade.id));
    const more = trades.filter((trade) => !known.has(trade.id));
    if (!more.length) return;
    this.#digits = digits;
    this.#trades = [...more, ...this.#trades].sort((one, other) => other.id - one.id).slice(0, ROWS);
    if (this.#waiting) return;
    this.#waiting = true;
    setTimeout(() => {
      this.#waiting = false;
      this.#draw();
    }, DRAW_MS);
  }

  #draw() {
    this.#rows.forEach((row, index) => {
      const trade = this.#trades[index];
      row.hidden = !trade;
      if (!trade) delete row.dataset.id; // the next product may have a trade of the same id
      if (!trade || row.dataset.id === String(trade.id)) return;
      row.dataset.id = trade.id;
      row.className = trade.side;
      const [price, size, time] = row.cells;
      price.textContent = grouped(trade.price, this.#digits);
      size.textContent = sized(Number(trade.size));
      time.textContent = clock(trade.time);
    });
  }
}

/** A trade of the ticker. */
export function ofTicker(ticker) {
  const { trade_id: id, price, size, side, time } = ticker;
  return { id, price, size, side, time };
}

/** A trade of /products/<id>/trades, which tells the maker's side. */
export function ofCoinbase(trade) {
  const { trade_id: id, price, size, side, time } = trade;
  return { id, price, size, side: side === "sell" ? "buy" : "sell", time };
}
