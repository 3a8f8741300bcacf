"""What the server says to a request, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.mock.requests import Refusal, Request, acknowledgement, parse

PRODUCTS = ("BTC-USD", "ETH-USD")


def refuse(message: object) -> tuple[str, str]:
    answer = parse(message if isinstance(message, str) else json.dumps(message), PRODUCTS)
    assert isinstance(answer, Refusal)
    frame = json.loads(answer.text())
    assert frame == {"type": "error", "message": answer.message, "reason": answer.reason}
    return answer.message, answer.reason


def subscribe(**fields: Any) -> dict[str, Any]:
    return {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches"], **fields}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"action": "subscribe"}, "Type has to be either subscribe or unsubscribe"),
        (subscribe(type="ping"), "Type has to be either subscribe or unsubscribe"),
        (subscribe(type=["subscribe"]), "Type has to be either subscribe or unsubscribe"),
        (subscribe(channels=[]), "No channels provided"),
        (subscribe(channels="matches"), "No channels provided"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"]}, "No channels provided"),
        (subscribe(channels=["ticket"]), "ticket is not a valid channel"),
        (subscribe(channels=[{"product_ids": ["BTC-USD"]}]), "null is not a valid channel"),
        (subscribe(channels=[["matches"]]), '["matches"] is not a valid channel'),
        (subscribe(product_ids=["FOO"]), "FOO is not a valid product"),
        (subscribe(product_ids=["BTC-USD", "btc-usd"]), "btc-usd is not a valid product"),
        (subscribe(product_ids=[]), " is not a valid product"),
        ({"type": "subscribe", "channels": ["matches"]}, " is not a valid product"),
        (subscribe(product_ids="BTC-USD"), "Invalid product ID provided"),
        (subscribe(product_ids=[1]), "Invalid product ID provided"),
        (subscribe(channels=[{"name": "matches", "product_ids": ["X-Y"]}]), "X-Y is not a valid product"),
    ],
)
def test_a_bad_subscribe_gets_the_exchanges_own_words(request_: object, reason: str) -> None:
    assert refuse(request_) == ("Failed to subscribe", reason)


@pytest.mark.parametrize("channel", ["level2", "level3", "full", "user"])
def test_private_channels_need_authentication_and_refuse_the_whole_request(channel: str) -> None:
    message, reason = refuse(subscribe(channels=["matches", channel]))
    assert message == "Failed to subscribe"
    assert reason.startswith("level2, level3, and full channels now require authentication.")


def test_an_unsubscribe_that_fails_says_so() -> None:
    bad = {"type": "unsubscribe", "product_ids": ["FOO"], "channels": ["matches"]}
    assert refuse(bad) == ("Failed to unsubscribe", "FOO is not a valid product")


@pytest.mark.parametrize("text", ["", "{", "nope", '{"type":"subscribe"', "[" * 100_000, "[]", "null", "1"])
def test_what_is_not_an_object_of_json_is_malformed(text: str) -> None:
    assert refuse(text)[0] == "Malformed JSON"


@given(
    st.text() | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_any_text_is_a_request_or_a_refusal(text: str) -> None:
    assert isinstance(parse(text, PRODUCTS), Request | Refusal)


def test_root_products_hold_for_all_channels_and_channels_may_have_their_own() -> None:
    channels = ["matches", {"name": "level2_50", "product_ids": ["ETH-USD", "BTC-USD"]}, "level2_batch"]
    assert parse(json.dumps(subscribe(channels=channels)), PRODUCTS) == Request(
        "subscribe", {"matches": ("BTC-USD",), "level2_batch": ("BTC-USD", "ETH-USD")}
    )
    own = {"type": "subscribe", "channels": [{"name": "heartbeat", "product_ids": ["ETH-USD"]}]}
    assert parse(json.dumps(own), PRODUCTS) == Request("subscribe", {"heartbeat": ("ETH-USD",)})


def test_the_acknowledgement_names_the_old_channel_and_no_account() -> None:
    held = {"level2_batch": {"BTC-USD": None, "ETH-USD": None}, "matches": {"BTC-USD": None}}
    assert json.loads(acknowledgement(held)) == {
        "type": "subscriptions",
        "channels": [
            {"name": "level2_50", "product_ids": ["BTC-USD", "ETH-USD"], "account_ids": None},
            {"name": "matches", "product_ids": ["BTC-USD"], "account_ids": None},
        ],
    }
