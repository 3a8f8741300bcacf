// Candles and volume: what `Candles` holds, drawn by lightweight-charts. Times on its axis are seconds, UTC.

import {
  CandlestickSeries, createChart, createSeriesMarkers, CrosshairMode, HistogramSeries,
} from "./vendor/lightweight-charts-5.2.1.mjs";
import { digitsOf, grouped, short } from "./format.js";

const OLDER_FROM = 30; // Bars to the left of what is seen at which older ones are asked for.
const BARS_FIRST = 120;
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

export class CandleChart {
  #chart;
  #bars;
  #volumes;
  #markers;
  #marked = new Map(); // by start in ms, the marker of a candle
  #colors;
  #digits = 2;
  #candles;
  #newest = 0; // start in ms of the last candle that is drawn
  #inspected = null; // start in ms of the candle that is read by keyboard

  /**
   * `inspect(candle)` is told which candle the pointer or the keyboard is at, or null; `wantOlder()` that the
   * left end is near.
   */
  constructor(element, candles, { inspect, wantOlder, speak }) {
    this.#candles = candles;
    this.#chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: true, fontFamily: getComputedStyle(element).fontFamily, fontSize: 11 },
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { minimumWidth: 84, borderVisible: false },
      timeScale: { timeVisible: true, secondsVisible: false, borderVisible: false, rightOffset: 4 },
      kineticScroll: { mouse: false, touch: !CALM.matches },
      localization: { priceFormatter: (price) => this.#price(price) },
    });
    this.#bars = this.#chart.addSeries(CandlestickSeries, {
      borderVisible: true,
      priceFormat: { type: "custom", minMove: 0.01, formatter: (price) => this.#price(price) },
    });
    this.#volumes = this.#chart.addSeries(
      HistogramSeries,
      {
        priceFormat: { type: "custom", minMove: 1e-8, formatter: short },
        lastValueVisible: false,
        priceLineVisible: false,
      },
      1,
    );
    const [main, below] = this.#chart.panes();
    main.setStretchFactor(5);
    below.setStretchFactor(1);
    this.#markers = createSeriesMarkers(this.#bars, []);
    this.#chart.subscribeCrosshairMove(({ time, sourceEvent }) => {
      if (this.#inspected !== null && !sourceEvent) return; // it was set by keyboard
      this.#inspected = null;
      inspect(time === undefined ? null : this.#candles.at(time * 1000) ?? null);
    });
    this.#chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < OLDER_FROM) wantOlder();
    });
    element.addEventListener("keydown", (event) => this.#key(event, inspect, speak));
    element.addEventListener("blur", () => {
      if (this.#inspected === null) return;
      this.#inspected = null;
      this.#chart.clearCrosshairPosition();
      inspect(null);
    });
    document.addEventListener("themechange", () => this.paint());
    this.paint();
  }

  /** Take the colours of the page. */
  paint() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    this.#colors = Object.fromEntries(
      ["up", "down", "up-soft", "down-soft", "warn", "note"].map((name) => [name, color(name)]),
    );
    this.#chart.applyOptions({
      layout: {
        background: { color: color("panel") },
        textColor: color("muted"),
        panes: { separatorColor: color("line"), separatorHoverColor: color("hover") },
      },
      grid: { vertLines: { color: color("grid") }, horzLines: { color: color("grid") } },
      crosshair: {
        vertLine: { color: color("muted"), labelBackgroundColor: color("label") },
        horzLine: { color: color("muted"), labelBackgroundColor: color("label") },
      },
    });
    const { up, down } = this.#colors;
    this.#bars.applyOptions({
      upColor: up, downColor: down, borderUpColor: up, borderDownColor: down, wickUpColor: up, wickDownColor: down,
    });
    if (this.#candles.size) this.redraw();
  }

  /** Begin anew for another product or window: nothing is there yet. */
  clear(windowName) {
    this.#inspected = null;
    this.#digits = 2;
    this.redraw();
    this.#chart.applyOptions({ timeScale: { timeVisible: !windowName.endsWith("d") } });
    this.#chart.priceScale("right").applyOptions({ autoScale: true });
  }

  /** Draw all candles again; where history comes at the left, what is seen stays where it is. */
  redraw() {
    const all = this.#candles.all();
    this.#newest = all.at(-1)?.start_ms ?? 0;
    this.#fit(all.slice(-300));
    this.#bars.setData(all.map((candle) => this.#bar(candle)));
    this.#volumes.setData(all.map((candle) => this.#volume(candle)));
    this.#marked.clear();
    for (const candle of all) this.#mark(candle);
    this.#putMarkers();
  }

  /** Show the newest candles. */
  rewind() {
    const count = this.#candles.size;
    const width = this.#chart.timeScale().width();
    const seen = Math.max(30, Math.min(BARS_FIRST, Math.round(width / 8)));
    this.#chart.timeScale().setVisibleLogicalRange({ from: count - seen, to: count + 3 });
  }

  /** Draw one candle: a new one, the newest again, or an older one that was amended. */
  draw(candle) {
    const isOlder = candle.start_ms < this.#newest;
    this.#newest = Math.max(this.#newest, candle.start_ms);
    this.#fit([candle]);
    this.#bars.update(this.#bar(candle), isOlder);
    this.#volumes.update(this.#volume(candle), isOlder);
    if (this.#mark(candle)) this.#putMarkers();
  }

  /** What is drawn, as lightweight-charts has it. */
  drawn() {
    return this.#bars.data();
  }

  /** Markers that are drawn. */
  markers() {
    return this.#markers.markers();
  }

  #bar(candle) {
    const bar = {
      time: candle.start_ms / 1000,
      open: Number(candle.open),
      high: Number(candle.high),
      low: Number(candle.low),
      close: Number(candle.close),
    };
    if (candle.complete) return bar;
    // Hollow: trades of it are missing.
    return { ...bar, color: "rgba(0, 0, 0, 0)", borderColor: this.#colors.warn, wickColor: this.#colors.warn };
  }

  #volume(candle) {
    const rises = Number(candle.close) >= Number(candle.open);
    return {
      time: candle.start_ms / 1000,
      value: Number(candle.volume),
      color: this.#colors[rises ? "up-soft" : "down-soft"],
    };
  }

  /** Note the marker of a candle; returns whether that changes what is drawn. */
  #mark(candle) {
    const time = candle.start_ms / 1000;
    const marks = [];
    if (candle.revision > 0) {
      marks.push({ time, position: "aboveBar", shape: "circle", color: this.#colors.note, size: 0.6 });
    }
    if (candle.missing_trades > 0) {
      const text = `${candle.missing_trades} missing`;
      marks.push({ time, position: "belowBar", shape: "square", color: this.#colors.warn, size: 0.6, text });
    }
    const before = this.#marked.get(candle.start_ms) ?? [];
    if (marks.length) this.#marked.set(candle.start_ms, marks);
    else this.#marked.delete(candle.start_ms);
    return JSON.stringify(marks) !== JSON.stringify(before);
  }

  #putMarkers() {
    this.#markers.setMarkers([...this.#marked.values()].flat().sort((one, other) => one.time - other.time));
  }

  /** Show as many digits as the prices have. */
  #fit(candles) {
    const texts = candles.flatMap((candle) => [candle.open, candle.high, candle.low, candle.close]);
    const digits = Math.min(12, Math.max(this.#digits, ...texts.map(digitsOf)));
    if (digits === this.#digits && candles.length === 1) return;
    this.#digits = digits;
    this.#bars.applyOptions({ priceFormat: { type: "custom", minMove: 10 ** -digits, formatter: (price) => this.#price(price) } });
  }

  #price(price) {
    return price < 0 ? "" : grouped(price.toFixed(this.#digits));
  }

  /** Digits behind the point of this product's prices, as far as they were seen. */
  get digits() {
    return this.#digits;
  }

  #key(event, inspect, speak) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const scale = this.#chart.timeScale();
    const range = scale.getVisibleLogicalRange();
    const from = this.#inspected ?? this.#candles.last()?.start_ms;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 };
    if (event.key in steps && from !== undefined) {
      const first = this.#inspected === null && Math.abs(steps[event.key]) === 1;
      const candle = this.#candles.beside(from, first ? 0 : steps[event.key]);
      this.#inspected = candle.start_ms;
      this.#reveal(candle, scale, range);
      this.#chart.setCrosshairPosition(Number(candle.close), candle.start_ms / 1000, this.#bars);
      inspect(candle);
      speak(candle);
    } else if (event.key === "Escape" && this.#inspected !== null) {
      this.#inspected = null;
      this.#chart.clearCrosshairPosition();
      inspect(null);
    } else if ((event.key === "+" || event.key === "-") && range) {
      const factor = event.key === "+" ? 0.8 : 1.25;
      scale.setVisibleLogicalRange({ from: range.to - (range.to - range.from) * factor, to: range.to });
    } else return;
    event.preventDefault();
  }

  #reveal(candle, scale, range) {
    const index = scale.timeToIndex(candle.start_ms / 1000, true);
    if (!range || index === null || (index >= range.from && index <= range.to)) return;
    const width = range.to - range.from;
    const from = index < range.from ? index - 2 : index - width + 2;
    scale.setVisibleLogicalRange({ from, to: from + width });
  }
}
