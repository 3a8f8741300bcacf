"""Books whose changes are lost, or change places."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from math import inf
from typing import Any

from faults.exchange import honest
from faults.flow import Flow
from faults.ledger import PRODUCTS
from faults.scenario import Outcome, Plan, scenario

# F9: books.


@scenario(
    "F9",
    "level changes are lost, or change places",
    "never in step and crossed; <= 1 resubscribe in 5 s and symbol; in step <= 5 s after",
)
async def books(plan: Plan) -> Outcome:
    """Drop and swap deltas, which nothing in the exchange's protocol shows, and watch the books."""
    lasts_s = 15.0 if plan.quick else 120.0
    answers = crossed = 0
    async with Flow(plan, lasts_s=lasts_s + 40.0, bend=honest) as flow:
        await flow.until(flow.books_are_in_step)
        assert flow.evil
        asked = len(flow.evil.requests)
        await flow.set_faults(drop_updates=0.05, reorder_updates=0.2)
        end = time.monotonic() + lasts_s
        while time.monotonic() < end:
            for product in PRODUCTS:
                book = ((await flow.get(f"/stats/1m/{product}")) or {}).get("book")
                answers += book is not None
                crossed += bool(
                    book and book["in_step"]
                    and Decimal(book["highest_bid"]) >= Decimal(book["lowest_ask"])
                )  # fmt: skip
            await asyncio.sleep(0.05)
        done = {name: flow.faults_done(name) for name in ("drop_updates", "reorder_updates")}
        await flow.set_faults(drop_updates=0.0, reorder_updates=0.0)
        back_s = await flow.until(flow.books_are_in_step, 60)
        resubscribes = _resubscribes(flow.evil.requests[asked:])
        verdict = await flow.verdict()
        silent = await _differing_books(flow)
    apart = [b - a for times in resubscribes.values() for a, b in pairwise(times)]
    closest = min(apart, default=inf)
    return Outcome(
        all(done.values())
        and answers > 0
        and not crossed
        and bool(resubscribes)
        and closest >= 4.9
        and back_s is not None
        and back_s <= 5.0
        and verdict.zero,
        f"{done}: {crossed} of {answers:,} answers crossed and in step; "
        f"{sum(map(len, resubscribes.values()))} resubscribes, {closest:.1f} s apart at least; all in step "
        f"{_seconds(back_s)} after the end; {silent} of {len(PRODUCTS)} books then differ "
        f"from the exchange's, unseen; {verdict}",
    )


def _resubscribes(requests: list[tuple[float, dict[str, Any]]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    for at, request in requests:
        if request["type"] == "subscribe" and "level2_batch" in request["channels"]:
            for product in request["product_ids"]:
                times[product].append(at)
    return times


async def _differing_books(flow: Flow) -> int:
    """Count the products whose best prices are not the exchange's, though their book is in step."""
    differing = 0
    told = await flow.get("/v1/status")
    for product in told["products"] if told else []:
        async with flow.http.get(f"{flow.mock.rest_url}/products/{product['product_id']}/book") as answer:
            book = await answer.json()
        best = [Decimal(book["bids"][0][0]), Decimal(book["asks"][0][0])]
        ours = [Decimal(product["book"][name] or 0) for name in ("highest_bid", "lowest_ask")]
        differing += product["book"]["state"] == "in step" and best != ours
    return differing


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
