// The strip at the bottom: how feed, book and worker are, of /v1/status.

import { age } from "./format.js";

const SAMPLES = 15; // of the feed's latency, whose median is shown
const FRESH_MS = 30_000; // a feed says something every 10 s

export class Health {
  #cells;
  #spoken;
  #latencies = [];

  /** `cells` has an element for each figure, by name; `spoken` is read out when what it says changes. */
  constructor(cells, spoken) {
    this.#cells = cells;
    this.#spoken = spoken;
  }

  clear() {
    this.#latencies = [];
    for (const cell of Object.values(this.#cells)) put(cell, "–", "");
  }

  /** Show the status of a product at a time of the server, in milliseconds since 1970; returns its part. */
  show(status, exchange, productId, serverMs) {
    const product = status.products.find((each) => each.product_id === productId && each.exchange === exchange);
    const feed = feedOf(status, exchange, productId);
    const fresh = feed && serverMs - feed.updated_us / 1000 < FRESH_MS;
    const feedState = feed ? (fresh ? feed.state : "silent") : "none";
    const cells = this.#cells;
    put(cells.feed, feedState, feedState === "connected" ? "ok" : "bad");
    const book = product?.book.state ?? "none";
    put(cells.book, book, { "in step": "ok", none: "" }[book] ?? "bad");
    const tradeAge = product?.last_trade_age_ms;
    put(cells.trade, tradeAge == null ? "none yet" : age(tradeAge), "");
    this.#latency(product?.feed_latency_ms);
    const workers = status.workers.filter((worker) => worker.ready);
    const lag = workers.reduce((sum, worker) => sum + (worker.lag_records ?? 0), 0);
    put(cells.lag, `${lag.toLocaleString("en")} ${lag === 1 ? "record" : "records"}`, lag > 10_000 ? "warn" : "ok");
    const allReady = workers.length === status.workers.length;
    put(cells.workers, `${workers.length} of ${status.workers.length}`, allReady ? "ok" : "bad");
    put(cells.gaps, String(product?.gaps ?? "–"), product?.gaps ? "warn" : "ok");
    put(cells.missing, String(product?.missing_trades ?? "–"), product?.missing_trades ? "warn" : "ok");
    put(cells.reconnects, String(feed?.reconnects ?? "–"), "");
    const gaps = product?.gaps ? `, ${product.gaps} open gaps` : "";
    this.#say(`Feed ${feedState}, book ${book}${gaps}`);
    return product;
  }

  /** Say that the status cannot be had. */
  lost() {
    for (const cell of Object.values(this.#cells)) cell.dataset.level = "old";
  }

  #latency(latencyMs) {
    if (latencyMs != null) this.#latencies = [...this.#latencies, latencyMs].slice(-SAMPLES);
    const sorted = [...this.#latencies].sort((one, other) => one - other);
    const median = sorted[sorted.length >> 1];
    put(this.#cells.latency, median === undefined ? "–" : median > 10_000 ? age(median) : `${median} ms`, "");
  }

  #say(text) {
    if (this.#spoken.textContent !== text) this.#spoken.textContent = text;
  }
}

function feedOf(status, exchange, productId) {
  const feeds = status.feeds.filter((feed) => feed.exchange === exchange && feed.products.includes(productId));
  return feeds.sort((one, other) => other.updated_us - one.updated_us)[0];
}

function put(cell, text, level) {
  if (cell.textContent !== text) cell.textContent = text;
  cell.dataset.level = level;
}
