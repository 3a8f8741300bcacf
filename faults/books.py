"""Books whose changes are lost, or change places."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise
from math import inf
from typing import Any

from faults.exchange import honest
from faults.flow import Flow
from faults.ledger import PRODUCTS
from faults.rig import spread
from faults.scenario import Outcome, Plan, scenario

# F9: books.

BURST_S = 2.0
BACK_S = 6.0
"""How soon a book must be in step that was lost once or twice: 5 s apart, and the snapshot's way."""
LONGEST_S = 65.0
"""How soon one that was lost again and again: each time it waits for twice as long, up to a minute."""
STEADY_S = 2.0
"""Lost changes may show late: all books must be in step for so long."""


@scenario(
    "F9",
    "level changes are lost, or change places",
    "never in step and crossed; <= 1 resubscribe in 5 s and symbol; in step "
    f"<= {BACK_S:.0f} s after {BURST_S:.0f} s of it, <= {LONGEST_S:.0f} s after minutes",
)
async def books(plan: Plan) -> Outcome:
    """Drop and swap deltas, which nothing in the exchange's protocol shows, and watch the books."""
    storm_s, calm_s = (5.0, 30.0) if plan.quick else (120.0, 80.0)
    async with Flow(plan, lasts_s=BURST_S + storm_s + calm_s, bend=honest) as flow:
        await flow.until(flow.books_are_in_step)
        assert flow.evil
        asked = len(flow.evil.requests)
        watch = Watch(flow)
        burst_s = await watch.storm(BURST_S)
        in_burst = len(flow.evil.requests) - asked
        after_s = await watch.storm(storm_s)
        resubscribes = _resubscribes(flow.evil.requests[asked:])
        verdict = await flow.verdict()
        silent = await _differing_books(flow)
    apart = [b - a for times in resubscribes.values() for a, b in pairwise(times)]
    closest = min(apart, default=0.0)
    return Outcome(
        all(watch.done.values())
        and watch.answers > 0
        and not watch.crossed
        and in_burst > 0
        and closest >= 4.9
        and burst_s <= BACK_S
        and after_s <= LONGEST_S
        and verdict.zero,
        f"{spread(watch.done)}: {watch.crossed} of {watch.answers:,} answers crossed and in step; "
        f"{sum(map(len, resubscribes.values()))} resubscribes, {closest:.1f} s apart at least; all in step "
        f"{burst_s:.1f} s after {BURST_S:.0f} s of it, {after_s:.1f} s after {storm_s:.0f} s; {silent} of "
        f"{len(PRODUCTS)} books then differ from the exchange's, unseen; {verdict}",
    )


class Watch:
    """Asks for books while their changes are lost, and counts."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.answers = self.crossed = 0
        self.done: Counter[str] = Counter()

    async def storm(self, seconds: float) -> float:
        """Let changes be lost for so long; return the seconds until all books are in step, inf if never."""
        flow = self._flow
        await flow.set_faults(drop_updates=0.05, reorder_updates=0.2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for product in PRODUCTS:
                book = ((await flow.get(f"/stats/1m/{product}")) or {}).get("book")
                self.answers += book is not None
                self.crossed += bool(
                    book and book["in_step"]
                    and Decimal(book["highest_bid"]) >= Decimal(book["lowest_ask"])
                )  # fmt: skip
            await asyncio.sleep(0.05)
        for name in ("drop_updates", "reorder_updates"):
            self.done[name] = flow.faults_done(name)
        await flow.set_faults(drop_updates=0.0, reorder_updates=0.0)
        return await self._back()

    async def _back(self) -> float:
        """Return the seconds until all books are in step, and stay so; inf if they never do."""
        began = since = time.monotonic()
        while since - began < LONGEST_S + 15.0:
            if not await self._flow.books_are_in_step():
                since = time.monotonic()
            elif time.monotonic() - since > STEADY_S:
                return since - began
            await asyncio.sleep(0.05)
        return inf


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
