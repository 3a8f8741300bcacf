// The candles that are shown: merged by their start from pages of history and from the stream. No page here.

export class Candles {
  #byStart = new Map();
  #starts = []; // in order

  clear() {
    this.#byStart.clear();
    this.#starts = [];
  }

  /** All, the oldest first. */
  all() {
    return this.#starts.map((start) => this.#byStart.get(start));
  }

  get size() {
    return this.#starts.length;
  }

  at(start) {
    return this.#byStart.get(start);
  }

  /** The newest, or undefined. */
  last() {
    return this.#byStart.get(this.#starts.at(-1));
  }

  /** The one that is so many places before or behind another, as far as there are some. */
  beside(start, places) {
    const index = this.#starts.indexOf(start) + places;
    return this.#byStart.get(this.#starts[Math.max(0, Math.min(this.#starts.length - 1, index))]);
  }

  /**
   * Take a candle from the stream: the higher revision wins, and of one revision the later word.
   *
   * Returns "placed" if it is the newest or took the place of another, "between" if it is older than the
   * newest and there was none at its start, and "" if it changes nothing.
   */
  take(candle) {
    const start = candle.start_ms;
    const known = this.#byStart.get(start);
    if (known && isOlder(candle, known)) return "";
    this.#byStart.set(start, candle);
    if (known) return "placed";
    if (!(start < this.#starts.at(-1))) {
      this.#starts.push(start);
      return "placed";
    }
    this.#sort();
    return "between";
  }

  /** Take a page of history; what the stream has said since stays. Returns how many were new. */
  add(page) {
    const before = this.#byStart.size;
    for (const candle of page) {
      const known = this.#byStart.get(candle.start_ms);
      if (!known || isOlder(known, candle)) this.#byStart.set(candle.start_ms, candle);
    }
    this.#sort();
    return this.#byStart.size - before;
  }

  #sort() {
    this.#starts = [...this.#byStart.keys()].sort((one, other) => one - other);
  }
}

function isOlder(candle, than) {
  if (candle.revision !== than.revision) return candle.revision < than.revision;
  return candle.trade_count < than.trade_count;
}
