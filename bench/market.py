"""A made-up market: the same trades and books for the same seed. Pure.

Symbols are chosen so that every partition has its share of them. Trades are a millisecond grid in
event time, a million to the hour, from midnight: they fill one 1d candle, one 1h candle for each
million, and sixty times as many 1m candles.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal

from aiokafka.partitioner import murmur2

from models.book import BookDelta, BookSnapshot, Level
from models.times import rfc3339
from models.trade import Trade
from models.window import BY_NAME

EXCHANGE = "coinbase"
STEP_US = 3_600
"""Between two trades: a million in an hour, over all symbols."""
MOST_TRADES = 20_000_000
"""What fits into one day, with room."""
LEVELS = 50
"""A side of a book."""


def partition_of(symbol: str, partitions: int) -> int:
    """Return the partition of a symbol's key, as every Kafka client computes it."""
    return int((murmur2(f"{EXCHANGE}:{symbol}".encode()) & 0x7FFFFFFF) % partitions)


def symbols(count: int, partitions: int) -> list[str]:
    """Return made-up product ids, the same number in every partition, or one more."""
    room = dict.fromkeys(range(partitions), count // partitions)
    for partition in range(count % partitions):
        room[partition] += 1
    found: list[str] = []
    number = 0
    while len(found) < count:
        symbol = f"X{number}-USD"
        partition = partition_of(symbol, partitions)
        if room[partition]:
            room[partition] -= 1
            found.append(symbol)
        number += 1
    return found


def midnight(now_us: int) -> int:
    """Return the start of the day: old enough to be no trade of the future, too young to be swept."""
    return BY_NAME["1d"].start_of(now_us)


def trades(
    names: Sequence[str], count: int, start_us: int, step_us: int = STEP_US, seed: int = 1
) -> Iterator[Trade]:
    """Yield trades of all symbols, mixed, ids of each rising by one, prices a random walk."""
    chance = random.Random(seed)
    pick, uniform = chance.random, chance.randrange
    ids = [0] * len(names)
    cents = [10_000 + 997 * index for index in range(len(names))]
    for number in range(count):
        index = int(pick() * len(names))
        ids[index] += 1
        cents[index] = max(100, cents[index] + uniform(-5, 6))
        time_us = start_us + number * step_us
        yield Trade(
            exchange=EXCHANGE,
            symbol=names[index],
            trade_id=ids[index],
            price=Decimal(cents[index]).scaleb(-2),
            size=Decimal(uniform(1, 500_000_000)).scaleb(-8),
            taker_side="buy" if pick() < 0.5 else "sell",
            event_time_us=time_us,
            received_time_us=time_us + 40_000,
            sequence=number + 1,
        )


def snapshot(symbol: str, time_us: int, levels: int = LEVELS) -> BookSnapshot:
    """Return a whole book."""
    return BookSnapshot(
        exchange=EXCHANGE,
        symbol=symbol,
        event_time_us=time_us,
        received_time_us=time_us + 40_000,
        bids=tuple((_bid(level), Decimal("1.50000000")) for level in range(levels)),
        asks=tuple((_ask(level), Decimal("1.50000000")) for level in range(levels)),
    )


def deltas(
    names: Sequence[str], count: int, changes: int, start_us: int, step_us: int, seed: int = 1
) -> Iterator[BookDelta]:
    """Yield frames of ``changes`` level changes each; one in eight removes a level, the touch included."""
    chance = random.Random(seed)
    for number in range(count):
        time_us = start_us + number * step_us
        bids: list[Level] = []
        asks: list[Level] = []
        for _ in range(changes):
            stays = chance.random() < 0.875
            size = Decimal(chance.randrange(1, 500_000_000)).scaleb(-8) if stays else Decimal(0)
            # Most changes are near the touch.
            level = min(int(chance.expovariate(0.1)), LEVELS - 1)
            if chance.random() < 0.5:
                bids.append((_bid(level), size))
            else:
                asks.append((_ask(level), size))
        yield BookDelta(
            EXCHANGE, names[number % len(names)], time_us, time_us + 40_000, tuple(bids), tuple(asks)
        )


def match_frame(trade: Trade) -> str:
    """Return a trade as Coinbase sends it."""
    return (
        f'{{"type":"match","trade_id":{trade.trade_id},"maker_order_id":"ac928c66-ca53-498f-9c13-a110027a60e8",'
        f'"taker_order_id":"132fb6ae-456b-4654-b4e0-d681ac05cea1",'
        f'"side":"{"sell" if trade.taker_side == "buy" else "buy"}","size":"{trade.size:f}",'
        f'"price":"{trade.price:f}","product_id":"{trade.symbol}","sequence":{trade.sequence},'
        f'"time":"{_time(trade.event_time_us)}"}}'
    )


def update_frame(delta: BookDelta) -> str:
    """Return level changes as Coinbase sends them."""
    changes = [f'["buy","{price:f}","{size:f}"]' for price, size in delta.bids]
    changes += [f'["sell","{price:f}","{size:f}"]' for price, size in delta.asks]
    return (
        f'{{"type":"l2update","product_id":"{delta.symbol}","changes":[{",".join(changes)}],'
        f'"time":"{_time(delta.event_time_us or 0)}"}}'
    )


def _bid(level: int) -> Decimal:
    return Decimal(8_343_216 - 7 * level).scaleb(-2)


def _ask(level: int) -> Decimal:
    return Decimal(8_343_217 + 7 * level).scaleb(-2)


def _time(time_us: int) -> str:
    text = rfc3339(time_us)
    return text if "." in text else text.replace("Z", ".000000Z")
