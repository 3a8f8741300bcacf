// Mid and spread of the last minutes, as the ticker tells them: two small lines.

import { createChart, LineSeries } from "./vendor/lightweight-charts-5.2.1.mjs";
import { rounded } from "./format.js";

const MOST = 900; // points, at most one a second
const CUT_TO = 600;
const DRAW_MS = 250; // the least time between two drawings

export class SpreadChart {
  #chart;
  #mids;
  #spreads;
  #points = [];
  #digits = 2;
  #drawnMs = 0;

  constructor(element) {
    this.#chart = createChart(element, {
      autoSize: true,
      layout: { attributionLogo: false, fontFamily: getComputedStyle(element).fontFamily, fontSize: 10 },
      handleScroll: false,
      handleScale: false,
      rightPriceScale: { minimumWidth: 66, borderVisible: false },
      timeScale: { timeVisible: true, secondsVisible: true, borderVisible: false, minBarSpacing: 0.2 },
    });
    const options = {
      lineWidth: 1,
      priceLineVisible: false,
      crosshairMarkerRadius: 2,
      priceFormat: { type: "custom", minMove: 1e-8, formatter: (value) => rounded(value, this.#digits) },
    };
    this.#mids = this.#chart.addSeries(LineSeries, options);
    this.#spreads = this.#chart.addSeries(LineSeries, { ...options, lineType: 1 }, 1);
    const [main, below] = this.#chart.panes();
    main.setStretchFactor(3);
    below.setStretchFactor(2);
    document.addEventListener("themechange", () => this.paint());
    this.paint();
  }

  /** Take the colours of the page. */
  paint() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    this.#chart.applyOptions({
      layout: {
        background: { color: color("panel") },
        textColor: color("muted"),
        panes: { separatorColor: color("line"), enableResize: false },
      },
      grid: { vertLines: { visible: false }, horzLines: { color: color("grid") } },
      crosshair: {
        vertLine: { color: color("muted"), labelBackgroundColor: color("label") },
        horzLine: { color: color("muted"), labelBackgroundColor: color("label") },
      },
    });
    this.#mids.applyOptions({ color: color("text") });
    this.#spreads.applyOptions({ color: color("accent") });
  }

  clear() {
    this.#points = [];
    this.#draw();
  }

  /** Take the best prices of a moment, in milliseconds since 1970. */
  take(bid, ask, nowMs, digits) {
    this.#digits = digits;
    const point = { time: Math.floor(nowMs / 1000), mid: (bid + ask) / 2, spread: ask - bid };
    const last = this.#points.at(-1);
    if (last && point.time < last.time) return; // the clock was set back
    if (last?.time === point.time) this.#points.pop();
    this.#points.push(point);
    if (last?.time === point.time && nowMs - this.#drawnMs < DRAW_MS) return;
    this.#drawnMs = nowMs;
    if (this.#points.length > MOST) {
      this.#points = this.#points.slice(-CUT_TO);
      this.#draw();
    } else {
      this.#mids.update({ time: point.time, value: point.mid });
      this.#spreads.update({ time: point.time, value: point.spread });
      if (this.#points.length < MOST) this.#chart.timeScale().fitContent();
    }
  }

  #draw() {
    this.#mids.setData(this.#points.map(({ time, mid }) => ({ time, value: mid })));
    this.#spreads.setData(this.#points.map(({ time, spread }) => ({ time, value: spread })));
    this.#chart.timeScale().fitContent();
  }
}
