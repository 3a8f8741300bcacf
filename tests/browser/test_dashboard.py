"""The dashboard in a real browser, held against what the API says."""

from __future__ import annotations

import re
import time
import urllib.request
from decimal import Decimal
from typing import Any

import pytest
from browser.conftest import Open
from browser.system import MINUTE_US, System
from playwright.sync_api import Page, expect
from rig import get, until

from models.trade import Trade

pytestmark = pytest.mark.browser

MINUTES = 1200
"""Of the product that only the tests trade: three pages of history."""
HISTORY_FROM = time.time_ns() // 1000 // MINUTE_US * MINUTE_US - MINUTES * MINUTE_US
REFUSED = r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|status of (503|404)"


def history(product_id: str, first: int, minutes: range) -> list[Trade]:
    """One trade in each of these minutes."""
    return [
        Trade(
            "coinbase", product_id, first + index, Decimal(5000 + (index * 37) % 101) / 100, Decimal(index % 9 + 1) / 10,
            "buy" if index % 3 else "sell", at_us := HISTORY_FROM + minute * MINUTE_US + 1_000_000, at_us,
        )
        for index, minute in enumerate(minutes)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def quiet(system: System) -> str:
    """A product with 1200 candles that nobody but the tests trades."""
    system.send(history("HIST-USD", 1, range(MINUTES)))
    until(lambda: (day := system.workers[0].day("HIST-USD")) and day["last_trade_id"] >= MINUTES)
    return "HIST-USD"


def wait(page: Page, expression: str, arg: Any = None) -> None:
    """Wait until an expression is true. Playwright's own wait would need `eval`, which the policy forbids."""
    until(lambda: page.evaluate(expression, arg), lambda: f"{expression} did not come true, {arg=}")


def bars(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("window.candlewick.drawn()")
    return found


def as_bars(rows: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    names = ("open", "high", "low", "close")
    return [(row["start_ms"] / 1000, *(float(row[name]) for name in names)) for row in rows]


def plain(drawn: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [tuple(bar[name] for name in ("time", "open", "high", "low", "close")) for bar in drawn]


def wait_for_bars(page: Page, count: int = 1) -> None:
    wait(page, "count => window.candlewick?.drawn().length >= count", arg=count)


def figure(page: Page, name: str) -> Any:
    return page.locator(f"[data-figure={name}]")


PAINTED = """selector => {
  const canvas = document.querySelector(selector);
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
}"""


def choose(page: Page, window: str) -> None:
    page.get_by_text(window, exact=True).click()
    wait(page, "name => window.candlewick.shown().window === name", arg=window)


def test_all_that_is_live_is_there_within_seconds_and_goes_on(system: System, open_page: Open) -> None:
    began = time.monotonic()
    page, _ = open_page("/#BTC-USD/1m")
    wait_for_bars(page)
    assert time.monotonic() - began < 10
    expect(page.locator("#price")).to_have_text(re.compile(r"^[\d,]+\.\d\d$"))
    expect(page.locator("#spread")).to_have_text(re.compile(r"^\d+\.\d\d$"))
    expect(page.locator("#change")).to_contain_text("%")
    expect(page.locator("#depth-told")).to_contain_text("levels")
    expect(page.locator("#link")).to_have_text("live")
    expect(figure(page, "feed")).to_have_text("connected")
    expect(figure(page, "book")).to_have_text("in step")
    expect(figure(page, "latency")).to_contain_text("ms")
    wait(page, "document.querySelectorAll('#tape tr:not([hidden])').length > 5")
    assert page.evaluate(PAINTED, "#depth")
    before = page.evaluate("window.candlewick.lastUpdate.candle")
    wait(
        page,
        """before => {
          const { candle, receivedAt, drawnAt } = window.candlewick.lastUpdate;
          return drawnAt >= receivedAt && candle.trade_count > before.trade_count;
        }""",
        arg=before,
    )
    # The last bar is the last candle, whatever came in between.
    until(lambda: plain(bars(page))[-1] == as_bars(system.rows("BTC-USD", "limit=1"))[0])
    ids = page.evaluate(
        "[...document.querySelectorAll('#tape tr:not([hidden])')].map(row => Number(row.dataset.id))"
    )
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == len(ids)


TAPE = "[...document.querySelectorAll('#tape tr:not([hidden])')].map(row => [Number(row.dataset.id), row.innerText])"


def test_the_tape_shows_each_trade_of_its_own_product(system: System, open_page: Open) -> None:
    def trades(product_id: str, ids: range, price: str) -> list[Trade]:
        now_us = time.time_ns() // 1000
        return [
            Trade("coinbase", product_id, each, Decimal(price), Decimal(1), "buy", now_us + each, now_us)
            for each in ids
        ]

    def shown() -> list[int]:
        return [trade_id for trade_id, _ in page.evaluate(TAPE)]

    system.send([*trades("TAPE-USD", range(1, 6), "12.5"), *trades("TAPF-USD", range(1, 31), "77.5")])
    until(lambda: all(get(f"{system.base}/v1/ticker/{name}")[0] == 200 for name in ("TAPE-USD", "TAPF-USD")))
    page, _ = open_page("/#TAPE-USD/1m")
    until(lambda: shown() == [5, 4, 3, 2, 1])
    system.send(trades("TAPE-USD", range(6, 31), "12.5"))  # at once: the ticker passes most of them over
    until(lambda: shown() == list(range(30, 0, -1)))
    page.evaluate("location.hash = '#TAPF-USD/1m'")
    until(lambda: len(told := page.evaluate(TAPE)) == 30 and all("77.5" in text for _, text in told))


@pytest.mark.parametrize("window", ["1m", "5m", "1h", "1d"])
def test_every_window_shows_what_the_api_says(
    system: System, open_page: Open, quiet: str, window: str
) -> None:
    page, _ = open_page(f"/#{quiet}/1m")
    wait_for_bars(page)
    if window != "1m":
        choose(page, window)
    expected = as_bars(system.rows(quiet, f"window={window}&limit=500"))
    until(lambda: plain(bars(page)) == expected)
    assert page.url.endswith(f"#{quiet}/{window}")
    last = system.rows(quiet, f"window={window}&limit=1")[0]
    expect(page.locator("#legend")).to_contain_text(f"Trades {last['trade_count']:,}")
    page.go_back() if window != "1m" else page.reload()
    until(lambda: page.evaluate("window.candlewick?.shown().window") == "1m")
    wait(page, "window.candlewick.drawn().length === 500")


def test_scrolling_to_the_left_loads_all_that_there_is(system: System, open_page: Open, quiet: str) -> None:
    page, _ = open_page(f"/#{quiet}/1m")
    wait_for_bars(page, 500)
    newest = bars(page)
    page.mouse.move(500, 400)

    def scrolled() -> bool:
        page.mouse.wheel(-3000, 0)
        page.wait_for_timeout(50)  # for the page's own frames, which must come to pass in between
        return len(bars(page)) >= MINUTES

    until(scrolled)
    drawn = bars(page)
    assert plain(drawn) == as_bars(system.rows(quiet, "limit=5000"))
    assert drawn[-500:] == newest


def test_a_gap_shows_and_its_repair_draws_the_candle_again(system: System, open_page: Open) -> None:
    page, _ = open_page("/#ETH-USD/1m")
    wait_for_bars(page)
    until(lambda: get(f"{system.base}/v1/gaps?product_id=ETH-USD&state=open")[1] == [])
    system.faults(drop_trades=1, rest_error=1)
    try:
        wait(page, "window.candlewick.markers().some(marker => / missing$/.test(marker.text))")
        start = page.evaluate("window.candlewick.markers().find(marker => marker.text).time")
        found = next(bar for bar in bars(page) if bar["time"] == start)
        assert found["color"] == "rgba(0, 0, 0, 0)"  # hollow
        expect(figure(page, "gaps")).not_to_have_text("0")
        expect(figure(page, "missing")).not_to_have_text("0")
        expect(page.locator("#legend")).to_contain_text("incomplete")
    finally:
        system.faults(drop_trades=0, rest_error=0)
    wait(page, "!window.candlewick.markers().some(marker => marker.text)")
    expect(figure(page, "gaps")).to_have_text("0")

    def is_drawn_as_it_is() -> bool:
        row = next(row for row in system.rows("ETH-USD", "limit=50") if row["start_ms"] == start * 1000)
        bar = next(bar for bar in bars(page) if bar["time"] == start)
        return plain([bar]) == as_bars([row]) and ("color" in bar) != row["complete"]

    until(is_drawn_as_it_is)


def test_a_late_trade_amends_an_older_candle_which_is_marked(
    system: System, open_page: Open, quiet: str
) -> None:
    page, _ = open_page(f"/#{quiet}/1m")
    wait_for_bars(page, 500)
    minute = MINUTES - 20
    start_s = (HISTORY_FROM + minute * MINUTE_US) // 1_000_000
    assert not page.evaluate("window.candlewick.markers().length")
    at_us = HISTORY_FROM + minute * MINUTE_US + 30_000_000
    late = Trade("coinbase", quiet, MINUTES + 1, Decimal("77.5"), Decimal(2), "buy", at_us, at_us)
    system.send([late])
    wait(
        page,
        "time => window.candlewick.markers().some(marker => marker.time === time && marker.shape === 'circle')",
        arg=start_s,
    )
    row = next(row for row in system.rows(quiet, "limit=50") if row["start_ms"] == start_s * 1000)
    assert (row["revision"], row["late_trades"], row["high"]) == (1, 1, "77.5")
    assert as_bars([row])[0] in plain(bars(page))
    page.locator("#chart").focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#legend")).to_contain_text("revision 1, late trades 1")
    expect(page.locator("#spoken-candle")).to_contain_text("revision 1")


def test_a_killed_worker_is_waited_for_and_nothing_is_missing_afterwards(
    system: System, open_page: Open
) -> None:
    page, watch = open_page("/#BTC-USD/1m")
    watch.allowed = REFUSED
    wait_for_bars(page)
    page.evaluate("window.mark = 'not loaded again'")
    worker = system.workers[0]
    worker.command.process.kill()
    worker.command.process.wait()
    expect(page.locator("#banner")).to_contain_text(re.compile(r"Connection lost, trying again in \d+ s"))
    expect(page.locator("#link")).to_have_text("offline")
    expect(page.locator("#spoken-link")).to_have_text("Connection lost, trying again")
    before = page.evaluate("window.candlewick.lastUpdate.candle.last_trade_id")
    worker.command = worker.start()
    expect(page.locator("#banner")).to_be_hidden(timeout=60_000)
    wait(page, "id => window.candlewick.lastUpdate.candle.last_trade_id > id", arg=before)
    assert page.evaluate("window.mark") == "not loaded again"
    expect(figure(page, "feed")).to_have_text("connected")
    until(lambda: plain(bars(page))[-5:] == as_bars(system.rows("BTC-USD", "limit=5")))


def test_who_joins_late_sees_the_same_candles(system: System, open_page: Open) -> None:
    first, _ = open_page("/#BTC-USD/1m")
    wait_for_bars(first)
    count = first.evaluate("window.candlewick.lastUpdate?.candle.trade_count ?? 0")
    wait(first, "count => window.candlewick.lastUpdate?.candle.trade_count !== count", arg=count)
    second, _ = open_page("/#BTC-USD/1m")
    wait_for_bars(second, len(bars(first)))
    until(lambda: bars(second) == bars(first))


def test_before_the_first_trade_it_says_what_it_waits_for(system: System, open_page: Open) -> None:
    system.follow("NEW-USD")
    until(lambda: any(each["product_id"] == "NEW-USD" for each in get(f"{system.base}/v1/products")[1]))
    page, watch = open_page("/#NEW-USD/1m")
    watch.allowed = r"status of 404"
    expect(page.locator("#waiting")).to_have_text("Waiting for the first trade of NEW-USD")
    expect(page.locator("#banner")).to_be_hidden()
    now_us = time.time_ns() // 1000
    system.send([Trade("coinbase", "NEW-USD", 1, Decimal("0.00001234"), Decimal(5), "buy", now_us, now_us)])
    wait_for_bars(page)
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#price")).to_have_text("0.00001234")


def test_the_keyboard_is_enough(system: System, open_page: Open, quiet: str) -> None:
    page, _ = open_page("/#BTC-USD/1m")
    wait_for_bars(page)
    page.keyboard.press("ArrowRight")
    wait(page, "window.candlewick.shown().window === '5m'")
    page.keyboard.press("ArrowLeft")
    wait(page, "window.candlewick.shown().window === '1m'")
    page.keyboard.press("/")
    expect(page.locator("#product")).to_be_focused()
    expect(page.locator("#products [role=option]").first).to_be_visible()
    page.keyboard.type("hist")
    expect(page.locator("#products [role=option]")).to_have_count(1)
    page.keyboard.press("Enter")
    wait(page, "product => window.candlewick.shown().product === product", arg=quiet)
    expect(page.locator("#chart")).to_be_focused()
    wait_for_bars(page, 500)
    page.keyboard.press("Home")
    oldest = system.rows(quiet, "limit=500")[0]["start"].replace("T", " ")[:16]
    expect(page.locator("#legend .when")).to_have_text(f"{oldest} UTC")
    page.keyboard.press("Escape")
    newest = system.rows(quiet, "limit=1")[0]["start"].replace("T", " ")[:16]
    expect(page.locator("#legend .when")).to_have_text(f"{newest} UTC")
    # Everything that can be used is reached by Tab, in the order of the page, and can be seen to be.
    page.reload()
    wait_for_bars(page)
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                  const active = document.activeElement;
                  const seen = active.matches("input[type=radio]") ? active.nextElementSibling : active;
                  const outline = getComputedStyle(seen).outlineStyle;
                  return [active.id || active.value || active.textContent.trim(), outline];
                }"""
            )
        )
    names = [name for name, _ in reached]
    assert names[0].endswith("Candlewick")
    assert names[1:6] == ["product", "1m", "◐", "API", "chart"]
    assert all(outline != "none" for _, outline in reached[:6]), reached


@pytest.mark.parametrize("width", [360, 768, 1024])
def test_a_small_screen_needs_no_scrolling_to_the_side(open_page: Open, width: int) -> None:
    page, _ = open_page("/#BTC-USD/1m", viewport={"width": width, "height": 740}, has_touch=True)
    wait_for_bars(page)
    wait(page, "document.querySelectorAll('#tape tr:not([hidden])').length > 5")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("chart", "depth", "spreads", "health"):
        box = page.locator(f"#{name}").bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 60
        assert box["x"] + box["width"] <= width


def background(page: Page) -> int:
    red = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0]
    return int(red)


def test_dark_and_light_follow_the_system_until_one_is_chosen(open_page: Open) -> None:
    page, _ = open_page("/#BTC-USD/1m", color_scheme="light")
    wait_for_bars(page)
    assert background(page) > 200
    page.emulate_media(color_scheme="dark")
    until(lambda: background(page) < 50)
    page.get_by_role("button", name="Switch between dark and light").click()
    until(lambda: background(page) > 200)
    page.reload()
    wait_for_bars(page)
    assert background(page) > 200


def test_two_products_are_each_shown_by_their_own_candles(system: System, open_page: Open) -> None:
    page, _ = open_page("/")
    wait(page, "window.candlewick?.shown().product === 'BTC-USD'")  # the first that there is
    wait_for_bars(page)
    other, _ = open_page("/#ETH-USD/1m")
    wait_for_bars(other)
    page.locator("#product").click()
    page.locator("#products [role=option]", has_text="ETH-USD").click()
    wait(page, "window.candlewick.shown().product === 'ETH-USD'")
    wait_for_bars(page)
    until(
        lambda: (
            plain(bars(page))[-1] == plain(bars(other))[-1] == as_bars(system.rows("ETH-USD", "limit=1"))[0]
        )
    )
    assert "ETH-USD" in page.title()


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=document.title='owned'>/1m",
        "%3Cscript%3Edocument.title%3D'owned'%3C/script%3E/1m",
        "%E0%A4%A",
        "constructor/__proto__",
        "../../v1/status/1m",
        "BTC-USD%00/1m",
        "Ｂ".join(["", "TC-USD/1m"]),
        "A" * 5000,
    ],
)
def test_a_strange_name_in_the_address_does_no_harm(open_page: Open, name: str) -> None:
    page, _ = open_page(f"/#{name}")
    expect(page.locator("#waiting")).to_contain_text("is not the name of a product")
    assert page.title() == "Candlewick"
    assert not page.locator("#waiting *").count()
    page.evaluate("location.hash = '#BTC-USD/99y'")
    wait(page, "window.candlewick.shown().window === '1m'")
    wait_for_bars(page)


def test_an_unknown_product_is_said_to_be_unknown(open_page: Open) -> None:
    page, watch = open_page("/#NONE-USD/1m")
    watch.allowed = r"status of 404"
    expect(page.locator("#waiting")).to_contain_text("No feed has spoken of NONE-USD yet")


def test_a_token_is_asked_for_and_kept_while_the_tab_is_open(system: System, open_page: Open) -> None:
    token = "correct-horse-battery"
    worker = system.worker("guarded", CANDLEWICK_TOKEN=token)
    until(lambda: get(f"{worker.base}/readyz")[0] == 200)
    page, watch = open_page("/#BTC-USD/1m", base=worker.base)
    watch.allowed = r"status of 401"
    dialog = page.locator("dialog")
    expect(dialog).to_contain_text("asks for a token")
    page.keyboard.type("wrong-wrong-wrong-wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The token was refused")
    expect(dialog).to_have_count(1)
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    wait_for_bars(page)
    expect(page.locator("#link")).to_have_text("live")
    page.reload()
    wait_for_bars(page)
    expect(dialog).to_have_count(0)
    worker.command.end()
    watch.allowed = rf"{REFUSED}|status of 401"


HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def streams(system: System) -> int:
    with urllib.request.urlopen(f"{system.base}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    found = re.search(r'^candlewick_stream_clients{kind="sse"} (\d+)', told, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_page_that_nobody_sees_gives_its_stream_back(system: System, open_page: Open) -> None:
    until(lambda: streams(system) == 0)
    page, _ = open_page("/")
    until(lambda: streams(system) == 1)
    page.clock.install()
    page.evaluate(HIDE, True)
    page.clock.fast_forward(31_000)
    until(lambda: streams(system) == 0)
    page.evaluate(HIDE, False)
    until(lambda: streams(system) == 1)
    wait_for_bars(page)


MERGING = """async () => {
  const { Candles } = await import("/static/candles.js");
  const candle = (start_ms, revision, trade_count) => ({ start_ms, revision, trade_count });
  const candles = new Candles();
  const told = [
    candles.take(candle(60, 0, 5)), candles.take(candle(60, 0, 4)), candles.take(candle(60, 0, 5)),
    candles.take(candle(120, 0, 1)), candles.take(candle(60, 1, 6)), candles.take(candle(60, 0, 9)),
    candles.take(candle(90, 0, 1)), candles.take(candle(30, 0, 1)),
  ];
  const added = candles.add([candle(0, 0, 1), candle(60, 0, 5), candle(90, 1, 1)]);
  return [told, added, candles.all().map(({ start_ms, revision }) => [start_ms, revision]), candles.last().start_ms];
}"""


def test_candles_are_merged_by_start_and_the_higher_revision_wins(open_page: Open) -> None:
    page, _ = open_page("/")
    told, added, held, last = page.evaluate(MERGING)
    assert told == ["placed", "", "placed", "placed", "placed", "", "between", "between"]
    assert (added, last) == (1, 120)
    assert held == [[0, 0], [30, 0], [60, 1], [90, 1], [120, 0]]
