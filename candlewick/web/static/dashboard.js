// The dashboard: what is shown is named in the address, #BTC-USD/5m; history comes from /v1/candles, and
// what changes from /v1/stream. Drawing waits for the next animation frame, however much comes.
//
// For measurements the page tells of itself: `window.candlewick` is documented at its end.

import { Problem, ask, pause, poll, request } from "./api.js";
import { Candles } from "./candles.js";
import { CandleChart } from "./chart.js";
import { DepthChart } from "./depth.js";
import { grouped, minute, percent, rounded, short } from "./format.js";
import { Health } from "./health.js";
import { Picker } from "./picker.js";
import { SpreadChart } from "./spread.js";
import { follow } from "./sse.js";
import { Tape, ofCoinbase, ofTicker } from "./tape.js";

const EXCHANGE = "coinbase";
const PRODUCT = /^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$/;
const WINDOWS = ["1m", "5m", "1h", "1d"];
const PAGE = 500; // candles of a page of history
const BOOK_MS = 1000;
const BOOK_DEPTH = 200;
const STATUS_MS = 2000;
const DAY_MS = 10_000;
const TRADES_MS = 1000; // between two looks for trades that the ticker passed over
const AWAY_MS = 30_000; // hidden for so long, the page lets go of its stream

const byId = (id) => document.getElementById(id);
const element = Object.fromEntries(
  [
    "product", "products", "windows", "price", "change", "high", "low", "volume", "bid", "ask", "spread", "link",
    "banner", "banner-text", "retry", "legend", "chart", "waiting", "depth", "depth-told", "spreads", "tape",
    "spoken-health", "spoken-link", "spoken-candle",
  ].map((id) => [id, byId(id)]),
);

const candles = new Candles();
const chart = new CandleChart(element.chart, candles, { inspect, wantOlder, speak });
const depth = new DepthChart(element.depth, element["depth-told"]);
const spreads = new SpreadChart(element.spreads);
const tape = new Tape(element.tape);
const health = new Health(
  Object.fromEntries([...document.querySelectorAll("[data-figure]")].map((cell) => [cell.dataset.figure, cell])),
  element["spoken-health"],
);
const picker = new Picker(
  element.product,
  element.products,
  (productId) => {
    go(productId, shown.window);
    element.chart.focus();
  },
  () => refreshProducts().catch(pass),
);

let shown = { product: "", window: "1m" };
let showing = new AbortController(); // of all that is asked for on behalf of what is shown
let older = null; // the address of the page of history before the oldest candle
let asksOlder = false;
let asksBook = false; // a product without a book has none to ask for
let inspected = null; // the start of the candle under the crosshair

// What came since the last frame.
let frame = 0;
let touched = new Set(); // starts of candles
let mustRedraw = false;
let ticker = null;
let lastPrice = NaN;
let passedOver = false; // trades that the ticker did not tell

// What is shown.

function go(product, windowName) {
  const hash = `#${product}/${windowName}`;
  if (location.hash === hash) route();
  else location.hash = hash; // the event does the rest
}

async function route() {
  const [product = "", windowName = ""] = hashParts();
  const wanted = { product, window: WINDOWS.includes(windowName) ? windowName : "1m" };
  if (!product) {
    await chooseProduct();
    return;
  }
  if (!PRODUCT.test(product)) {
    begin({ ...wanted, product: "" });
    wait(`“${product.slice(0, 40)}” is not the name of a product. Choose one: press /`);
    return;
  }
  begin(wanted);
  follow(streamPath(), { signal: showing.signal, hear, tell }).catch(pass);
  loadHistory(showing.signal).catch(pass);
  loadTrades(showing.signal).catch(pass);
  const path = encodeURIComponent(shown.product);
  poll(`/products/${path}/stats`, DAY_MS, takeDay, showing.signal).catch(pass);
  pollStatus(showing.signal).catch(pass);
}

function hashParts() {
  try {
    return decodeURIComponent(location.hash.slice(1)).split("/");
  } catch {
    return [location.hash.slice(1)];
  }
}

function begin(wanted) {
  showing.abort();
  showing = new AbortController();
  shown = wanted;
  older = null;
  asksOlder = false;
  asksBook = false;
  inspected = null;
  touched = new Set();
  mustRedraw = false;
  ticker = null;
  lastPrice = NaN;
  passedOver = false;
  candles.clear();
  chart.clear(wanted.window);
  spreads.clear();
  tape.clear();
  health.clear();
  depth.show(null, "no book yet", 2);
  for (const name of ["price", "change", "high", "low", "volume", "bid", "ask", "spread"]) {
    element[name].textContent = "–";
  }
  element.price.dataset.move = "";
  element.legend.replaceChildren();
  picker.chosen = wanted.product;
  for (const radio of element.windows.querySelectorAll("input")) radio.checked = radio.value === wanted.window;
  document.title = wanted.product ? `${wanted.product} · Candlewick` : "Candlewick";
  wait(wanted.product ? `Waiting for candles of ${wanted.product}` : "");
}

async function chooseProduct() {
  begin({ product: "", window: shown.window });
  const { signal } = showing;
  wait("Waiting for a feed: no product is followed yet");
  while (!signal.aborted) {
    try {
      const products = await refreshProducts();
      const first =
        products.find((product) => product.product_id === "BTC-USD") ??
        products.find((product) => product.has_candles) ?? products[0];
      tell({ kind: "open" });
      if (first && !signal.aborted) {
        history.replaceState(null, "", `#${first.product_id}/${shown.window}`);
        route();
        return;
      }
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      tell({ kind: "broken", problem: error, waitMs: 2000, retry: () => {} });
    }
    await pause(2000, signal);
  }
}

async function refreshProducts() {
  const products = (await ask("/v1/products")).filter((product) => product.exchange === EXCHANGE);
  picker.products = products;
  return products;
}

function wait(text) {
  element.waiting.textContent = text;
  element.waiting.hidden = !text;
}

// History.

function pagePath() {
  return `/v1/candles/${encodeURIComponent(shown.product)}?window=${shown.window}&limit=${PAGE}`;
}

async function loadHistory(signal) {
  for (;;) {
    try {
      const page = await ask(pagePath(), { signal });
      older = page.next;
      candles.add(page.candles);
      chart.redraw();
      chart.rewind();
      showLegend();
      if (candles.size) wait("");
      return;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      explain(error);
      await pause(Math.max(1000, error.retryAfterS * 1000), signal);
      if (signal.aborted) return;
    }
  }
}

function explain(problem) {
  if (candles.size) return;
  if (problem.kind === "no-data") wait(`Waiting for the first trade of ${shown.product}`);
  else if (problem.kind === "unknown-product") wait(`No feed has spoken of ${shown.product} yet. Choose a product: press /`);
  else if (problem.status && problem.kind !== "recovering") wait(problem.message);
}

function wantOlder() {
  if (older && !asksOlder) loadOlder(showing.signal).catch(pass);
}

async function loadOlder(signal) {
  asksOlder = true;
  try {
    const page = await ask(older, { signal });
    older = page.next;
    candles.add(page.candles);
    mustRedraw = true;
    wake();
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) throw error;
    await pause(2000, signal); // and then whoever scrolls asks again
  } finally {
    if (!signal.aborted) asksOlder = false;
  }
}

async function loadTrades(signal) {
  for (;;) {
    passedOver = false;
    try {
      // All that the tape shows: those that were passed over are older than the newest.
      const trades = await ask(`/products/${encodeURIComponent(shown.product)}/trades?limit=40`, { signal });
      tape.take(trades.map(ofCoinbase), chart.digits);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      passedOver = true;
    }
    do await pause(TRADES_MS, signal);
    while (!passedOver && !signal.aborted);
    if (signal.aborted) return;
  }
}

// What changes.

function streamPath() {
  const product = encodeURIComponent(shown.product);
  return `/v1/stream?product_id=${product}&channels=candles,ticker&window=${shown.window}`;
}

function hear({ event, data, receivedAt }) {
  const told = JSON.parse(data);
  if (event === "ticker") {
    if (told) takeTicker(told);
  } else if (event === "snapshot") {
    for (const candle of told.candles) take(candle, receivedAt);
  } else if (event === "candle") {
    take(told, receivedAt);
  }
}

function take(candle, receivedAt) {
  const place = candles.take(candle);
  if (!place) return;
  const update = { receivedAt, drawnAt: null, candle };
  window.candlewick.lastUpdate = update;
  window.candlewick.onUpdate?.(update);
  if (place === "between") mustRedraw = true;
  else touched.add(candle.start_ms);
  wake();
}

function takeTicker(told) {
  if (tape.newest && told.trade_id > tape.newest + 1) passedOver = true;
  if (told.trade_id !== ticker?.trade_id) tape.take([ofTicker(told)], chart.digits);
  ticker = told;
  wake();
}

function wake() {
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  if (mustRedraw) chart.redraw();
  else {
    for (const start of [...touched].sort((one, other) => one - other)) chart.draw(candles.at(start));
  }
  if (mustRedraw || touched.size) {
    wait("");
    showLegend();
  }
  const update = window.candlewick.lastUpdate;
  if (update && update.drawnAt === null) update.drawnAt = performance.timeOrigin + performance.now();
  mustRedraw = false;
  touched.clear();
  if (ticker) showTicker(ticker);
}

function showTicker({ price, bid, ask: asked }) {
  const digits = chart.digits;
  const value = Number(price);
  const text = grouped(price, digits);
  if (element.price.textContent !== text) {
    element.price.textContent = text;
    if (Number.isFinite(lastPrice)) element.price.dataset.move = value > lastPrice ? "up" : "down";
    document.title = `${text} ${shown.product} · Candlewick`;
  }
  lastPrice = value;
  put(element.bid, bid ? grouped(bid, digits) : "–");
  put(element.ask, asked ? grouped(asked, digits) : "–");
  put(element.spread, bid && asked ? rounded(Number(asked) - Number(bid), digits) : "–");
  if (bid && asked) spreads.take(Number(bid), Number(asked), Date.now(), digits);
}

function takeBook(book, problem) {
  depth.show(book, problem ? (problem.kind === "no-data" ? "no book yet" : problem.message) : null, chart.digits);
}

function takeDay(day, problem) {
  if (problem) return;
  const change = Number(day.last) / Number(day.open) - 1;
  element.change.textContent = percent(change);
  element.change.className = change > 0 ? "buy" : change < 0 ? "sell" : "";
  element.high.textContent = grouped(day.high, chart.digits);
  element.low.textContent = grouped(day.low, chart.digits);
  element.volume.textContent = `${short(Number(day.volume))} ${shown.product.split("-")[0]}`;
}

async function pollStatus(signal) {
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        const response = await request("/v1/status", { signal });
        const serverMs = Date.parse(response.headers.get("Date")) || Date.now();
        const product = health.show(await response.json(), EXCHANGE, shown.product, serverMs);
        if (product && product.book.state !== "none" && !asksBook) {
          asksBook = true;
          const path = `/v1/book/${encodeURIComponent(shown.product)}?depth=${BOOK_DEPTH}`;
          poll(path, BOOK_MS, takeBook, signal).catch(pass);
        }
      } catch {
        if (signal.aborted) return;
        health.lost();
      }
    }
    await pause(STATUS_MS, signal);
  }
}

// The connection.

let countdown = 0;
let retryNow = () => {};

function tell(state) {
  clearInterval(countdown);
  if (state.kind === "open") {
    say("live", "live");
    element.banner.hidden = true;
    return;
  }
  if (state.kind === "connecting") {
    if (element.banner.hidden) say("connecting", "connecting");
    else element["banner-text"].textContent = "Connecting again …";
    return;
  }
  const { problem } = state;
  explain(problem);
  if (problem.kind === "no-data" || problem.kind === "unknown-product") {
    say("connecting", "waiting");
    return;
  }
  const what = problem.kind === "recovering" ? "The worker is reading its tables back" : problem.message;
  say("broken", "offline", `${what}, trying again`);
  const until = performance.now() + state.waitMs;
  const count = () => {
    const left = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    element["banner-text"].textContent = `${what}, trying again in ${left} s`;
  };
  count();
  countdown = setInterval(count, 250);
  retryNow = state.retry;
  element.banner.hidden = false;
}

function say(state, text, spoken = text) {
  element.link.dataset.state = state;
  element.link.textContent = text;
  if (element["spoken-link"].textContent !== spoken) element["spoken-link"].textContent = spoken;
}

// The candle under the crosshair, or the newest.

function inspect(candle) {
  inspected = candle?.start_ms ?? null;
  showLegend();
}

function showLegend() {
  const candle = candles.at(inspected) ?? candles.last();
  if (!candle) return;
  const items = element.legend.children;
  const told = figures(candle);
  while (items.length > told.length) items[items.length - 1].remove();
  told.forEach(([name, text, kind = ""], index) => {
    const item = items[index] ?? element.legend.appendChild(legendItem());
    put(item.firstChild, name ? `${name} ` : "");
    put(item.lastChild, text);
    if (item.className !== kind) item.className = kind;
  });
}

function legendItem() {
  const item = document.createElement("span");
  item.append(document.createElement("b"), document.createElement("span"));
  return item;
}

/** Change a text only where it differs: each change costs a layout. */
function put(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function figures(candle) {
  const { digits } = chart;
  const open = Number(candle.open);
  const close = Number(candle.close);
  const side = close >= open ? "buy" : "sell";
  const told = [
    ["", `${minute(candle.start_ms)} UTC`, "when"],
    ["O", grouped(candle.open, digits), side],
    ["H", grouped(candle.high, digits), side],
    ["L", grouped(candle.low, digits), side],
    ["C", grouped(candle.close, digits), side],
    ["", percent(close / open - 1), side],
    ["Vol", short(Number(candle.volume))],
    ["VWAP", rounded(Number(candle.vwap), digits)],
    ["Trades", candle.trade_count.toLocaleString("en")],
    ["Bought", `${Math.round((100 * Number(candle.buy_volume)) / Number(candle.volume))} %`],
    ["", candle.state, candle.state],
  ];
  if (candle.revision) told.push(["", `revision ${candle.revision}, late trades ${candle.late_trades}`, "note"]);
  if (!candle.complete) {
    told.push(["", candle.missing_trades ? `incomplete, ${candle.missing_trades} missing` : "incomplete", "warn"]);
  }
  return told;
}

function speak(candle) {
  element["spoken-candle"].textContent = figures(candle).map(([name, text]) => `${name} ${text}`).join(", ");
}

// What the user does.

element.windows.addEventListener("change", (event) => go(shown.product, event.target.value));
element.retry.addEventListener("click", () => retryNow());
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=radio]), dialog")) return;
  if (event.key === "/") {
    element.product.focus();
    element.product.click();
  } else if (event.target === document.body && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const index = WINDOWS.indexOf(shown.window) + (event.key === "ArrowRight" ? 1 : -1);
    go(shown.product, WINDOWS[(index + WINDOWS.length) % WINDOWS.length]);
  } else return;
  event.preventDefault();
});

// A browser has six connections to a host for all its pages: one that nobody sees gives its own back.
let away = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(away);
  if (document.hidden) away = setTimeout(() => showing.abort(), AWAY_MS);
  else if (showing.signal.aborted) route();
});

function pass(error) {
  if (error.name !== "AbortError") reportError(error);
}

/**
 * For measurements and tests.
 *
 * lastUpdate  The last candle that changed something: `receivedAt`, when its bytes arrived, and `drawnAt`, when
 *             the chart had it (null until then), both in milliseconds since 1970 with their fractions, by this
 *             machine's clock; `candle`, as /v1/stream told it.
 * onUpdate    Set it to be called with each update as it comes, before it is drawn.
 * drawn()     The bars that lightweight-charts has, and `markers()` the markers.
 * shown()     The product and window.
 */
window.candlewick = {
  lastUpdate: null,
  onUpdate: null,
  drawn: () => chart.drawn(),
  markers: () => chart.markers(),
  shown: () => ({ ...shown }),
};

route();
