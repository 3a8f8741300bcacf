"""Candles, against figures summed up anew from the list of trades, in fractions."""

import decimal
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ids
from models.candle import Candle
from models.decimals import EXACT
from models.trade import Trade

QUICK = settings(deadline=None, max_examples=60)
MINUTE = 60_000_000
START = 1_700_006_400_000_000  # a midnight


def trade(trade_id: int, time_us: int = START, price: str = "1", size: str = "1", side: str = "buy") -> Trade:
    return Trade("coinbase", "BTC-USD", trade_id, Decimal(price), Decimal(size), side, time_us, time_us)  # type: ignore[arg-type]


def of(trades: Iterable[Trade]) -> Candle:
    with decimal.localcontext(EXACT):
        return Candle.of(list(trades))


def merged(left: Candle, right: Candle) -> Candle:
    with decimal.localcontext(EXACT):
        return left.merge(right)


def added(trades: Iterable[Trade]) -> Candle:
    """Return the candle of trades that come one by one, some of them again."""
    first, *rest = trades
    candle = of([first])
    for another in rest:
        if not ids.holds(candle.ids, another.trade_id):
            candle = merged(candle, of([another]))
    return candle


def to_12_digits(number: Fraction) -> Fraction:
    step = Fraction(1)
    while number >= step * 10**12:
        step *= 10
    while number < step * 10**11:
        step /= 10
    return round(number / step) * step


@dataclass(frozen=True)
class Figures:
    """What a candle must say, from the set of its trades alone."""

    exact: dict[str, Fraction]
    counts: dict[str, int]
    vwap: Fraction


def recomputed(trades: Iterable[Trade]) -> Figures:
    by_id = {each.trade_id: each for each in trades}
    in_time = sorted(by_id.values(), key=lambda each: (each.event_time_us, each.trade_id))
    prices = [Fraction(each.price) for each in in_time]
    volume = sum((Fraction(each.size) for each in in_time), Fraction())
    quote_volume = sum((Fraction(each.size) * Fraction(each.price) for each in in_time), Fraction())
    bought = sum((Fraction(each.size) for each in in_time if each.taker_side == "buy"), Fraction())
    return Figures(
        exact={
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": volume,
            "quote_volume": quote_volume,
            "buy_volume": bought,
            "sell_volume": volume - bought,
        },
        counts={"trade_count": len(by_id), "first_trade_id": min(by_id), "last_trade_id": max(by_id)},
        vwap=to_12_digits(quote_volume / volume),
    )


def figures_of(candle: Candle) -> Figures:
    shown: dict[str, Any] = msgspec.structs.asdict(candle.figures())
    for name in ("state", "complete", "late_trades", "missing_trades", "revision"):
        del shown[name]
    vwap = Fraction(shown.pop("vwap"))
    counts = {name: shown.pop(name) for name in ("trade_count", "first_trade_id", "last_trade_id")}
    assert all(text.replace(".", "", 1).isdigit() for text in shown.values())
    return Figures({name: Fraction(text) for name, text in shown.items()}, counts, vwap)


numbers = st.builds(
    lambda digits, places: Decimal((0, tuple(map(int, str(digits))), -places)),
    st.integers(1, 10**28 - 1) | st.integers(1, 10**5),
    st.integers(0, 28),
)


@st.composite
def trades_of_a_minute(draw: st.DrawFn, min_size: int = 1, max_size: int = 12) -> list[Trade]:
    """Trades with different ids; their times often tie, and do not follow the ids."""
    trade_ids = draw(st.lists(st.integers(1, 40), min_size=min_size, max_size=max_size, unique=True))
    return [
        Trade(
            "coinbase",
            "BTC-USD",
            trade_id,
            draw(numbers),
            draw(numbers),
            draw(st.sampled_from(("buy", "sell"))),
            START + draw(st.sampled_from((0, 1, 2, MINUTE - 1))),
            0,
        )
        for trade_id in trade_ids
    ]


@QUICK
@given(trades_of_a_minute(), st.data())
def test_any_order_and_any_duplicates_of_the_same_trades_give_the_same_candle(
    trades: list[Trade], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(trades), max_size=6))
    shuffled = data.draw(st.permutations(trades + again))
    expected = recomputed(trades)
    assert figures_of(of(trades)) == expected
    assert figures_of(added(shuffled)) == expected
    assert added(shuffled) == of(trades) == of(sorted(trades, key=lambda each: each.trade_id))


@QUICK
@given(trades_of_a_minute(min_size=3), st.data())
def test_merge_is_associative_and_commutative(trades: list[Trade], data: st.DataObject) -> None:
    one = data.draw(st.integers(1, len(trades) - 2))
    two = data.draw(st.integers(one + 1, len(trades) - 1))
    parts = [of(trades[:one]), of(trades[one:two]), of(trades[two:])]
    whole = of(trades)
    for left, middle, right in permutations(parts):
        assert merged(merged(left, middle), right) == whole
        assert merged(left, merged(middle, right)) == whole


def test_trades_of_one_instant_are_ordered_by_their_ids() -> None:
    tied = [trade(9, price="9"), trade(10, price="10"), trade(11, price="11")]
    for order in permutations(tied):
        for candle in (of(order), added(order)):
            assert (candle.open, candle.close) == (Decimal(9), Decimal(11))
            assert (candle.opened, candle.closed) == ((START, 9), (START, 11))


def test_open_and_close_are_chosen_by_time_before_id() -> None:
    candle = added([trade(1, START + 2, "5"), trade(3, START, "3"), trade(2, START + 1, "4")])
    assert (candle.open, candle.close) == (Decimal(3), Decimal(5))
    assert (candle.first_trade_id, candle.last_trade_id) == (1, 3)


def test_sums_keep_every_one_of_28_digits() -> None:
    large, tiny = "9" * 28, "0." + "0" * 27 + "1"
    candle = added([trade(1, price=large, size=large), trade(2, price=tiny, size=tiny)])
    assert candle.figures().volume == large + tiny[1:]
    assert candle.figures().quote_volume == str(int(large) ** 2) + "." + "0" * 55 + "1"


def a_day_of_trades(random: Random, count: int) -> list[Trade]:
    """Trades of one day, a third of them at one of a few busy instants, in no order."""
    busy = [START + random.randrange(86_400_000_000) for _ in range(5)]
    trades = []
    for trade_id in random.sample(range(1, 2 * count), count):
        time_us = random.choice(busy) if random.random() < 0.3 else START + random.randrange(86_400_000_000)
        price = Decimal(
            (0, tuple(random.choices(range(1, 10), k=random.randint(1, 28))), -random.randint(0, 28))
        )
        size = Decimal(
            (0, tuple(random.choices(range(1, 10), k=random.randint(1, 28))), -random.randint(0, 28))
        )
        trades.append(
            Trade("coinbase", "X-Y", trade_id, price, size, random.choice(("buy", "sell")), time_us, 0)
        )
    return trades


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 2**32))
def test_minutes_merge_into_their_hour_and_hours_into_their_day_exactly(seed: int) -> None:
    random = Random(seed)
    trades = a_day_of_trades(random, 1200)
    by_minute: dict[int, list[Trade]] = {}
    for each in trades:
        by_minute.setdefault((each.event_time_us - START) // MINUTE, []).append(each)
    minutes = {minute: of(inside) for minute, inside in by_minute.items()}
    hours: dict[int, Candle] = {}
    for minute in random.sample(sorted(minutes), len(minutes)):
        hour = minute // 60
        hours[hour] = merged(hours[hour], minutes[minute]) if hour in hours else minutes[minute]
    for hour, candle in hours.items():
        inside = [each for minute in range(60 * hour, 60 * hour + 60) for each in by_minute.get(minute, [])]
        assert figures_of(candle) == recomputed(inside)
        assert candle == of(inside)
    day, *rest = random.sample(list(hours.values()), len(hours))
    for candle in rest:
        day = merged(day, candle)
    assert figures_of(day) == recomputed(trades)
    assert day == of(trades)


def test_a_candle_follows_another_when_every_id_is_above() -> None:
    low, high, both = of([trade(1), trade(3)]), of([trade(4)]), of([trade(2), trade(5)])
    assert high.follows(low)
    assert not low.follows(high)
    assert not both.follows(low)
    assert not low.follows(low)
