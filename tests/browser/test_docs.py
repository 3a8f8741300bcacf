"""The API's documentation in a real browser: all of /openapi.json, readable, and it can be tried."""

from __future__ import annotations

import json
import re

import pytest
from browser.conftest import Open
from browser.system import System
from playwright.sync_api import expect
from rig import get

pytestmark = pytest.mark.browser


def test_every_path_and_schema_is_shown_and_every_link_leads_somewhere(
    system: System, open_page: Open
) -> None:
    page, _ = open_page("/docs")
    document = get(f"{system.base}/openapi.json")[1]
    expect(page.locator("section.operation")).to_have_count(sum(map(len, document["paths"].values())))
    shown = page.locator("section.operation h3 code").all_text_contents()
    assert sorted(shown) == sorted(path for path, methods in document["paths"].items() for _ in methods)
    assert set(page.locator("section.schema h3").all_text_contents()) == set(
        document["components"]["schemas"]
    )
    assert page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].filter(link => !document.getElementById(link.hash.slice(1))).length"
    ) == 0  # fmt: skip
    assert "undefined" not in page.locator("main").inner_text()
    assert "[object" not in page.locator("main").inner_text()


def test_it_is_searched_and_tried(system: System, open_page: Open) -> None:
    page, _ = open_page("/docs")
    expect(page.locator("section.operation").first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("/v1/products")
    expect(page.locator("section.operation:visible")).to_have_count(1)
    section = page.locator("section.operation:visible")
    section.get_by_text("Try it").click()
    section.get_by_role("button", name="Send").click()
    expect(section.locator("[role=status]")).to_contain_text(re.compile(r"^200 application/json"))
    told = json.loads(section.locator("pre").inner_text())
    assert {"BTC-USD", "ETH-USD"} <= {product["product_id"] for product in told}
    expect(section.locator(".curl")).to_have_text(f"curl '{system.base}/v1/products'")


def test_an_error_is_shown_as_it_is(open_page: Open) -> None:
    page, watch = open_page("/docs#get-v1-candles-product_id-")
    watch.allowed = r"status of 404"
    section = page.locator(
        "section.operation", has=page.get_by_text("/v1/candles/{product_id}", exact=True)
    ).first
    section.get_by_text("Try it").click()
    section.get_by_label("product_id", exact=True).fill("NONE-USD")
    page.keyboard.press("Enter")
    expect(section.locator("[role=status]")).to_contain_text("404 unknown-product")
    expect(section.locator("pre")).to_contain_text("no feed")


def test_a_stream_is_listened_to_for_a_moment(open_page: Open) -> None:
    page, _ = open_page("/docs")
    section = page.locator("section.operation", has=page.get_by_text("/v1/stream", exact=True)).first
    section.get_by_text("Try it").click()
    section.get_by_role("button", name="Send").click()
    expect(section.locator("pre")).to_contain_text("event: candle")
    expect(section.locator("pre")).to_contain_text("the stream goes on")


@pytest.mark.parametrize("width", [360, 1440])
def test_it_needs_no_scrolling_to_the_side(open_page: Open, width: int) -> None:
    page, _ = open_page("/docs", viewport={"width": width, "height": 800})
    expect(page.locator("section.operation").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
