"""What a Coinbase recording holds, computed by itself: shares no code with the project.

    python tests/flows/truth.py recording.jsonl.gz > truth.json

Prints {"candles": {"1m BTC-USD 2025-08-22T20:11:00Z": {…}}, "books": {"BTC-USD": {…}}}.
"""

# fmt: off
import gzip
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal, getcontext

getcontext().prec = 120
SIZES = {"1m": 60, "1h": 3600, "1d": 86400}


def main(path):
    trades, books = {}, {}
    for line in gzip.open(path, "rt"):
        entry = json.loads(line)
        frame = json.loads(entry["raw"]) if entry["dir"] == "in" else {}
        kind, product = frame.get("type"), frame.get("product_id")
        if kind in ("match", "last_match"):
            trades[product, frame["trade_id"]] = frame
        elif kind == "snapshot":
            books[product] = {side: {Decimal(p): Decimal(s) for p, s in frame[side]} for side in ("bids", "asks")}
        elif kind == "l2update":
            for side, price, size in frame["changes"]:
                levels = books[product]["bids" if side == "buy" else "asks"]
                levels[Decimal(price)] = Decimal(size)
                if not levels[Decimal(price)]:
                    del levels[Decimal(price)]
    groups = defaultdict(list)
    for (product, _), frame in trades.items():
        seconds = int(datetime.fromisoformat(frame["time"].replace("Z", "+00:00")).timestamp())
        for window, size in SIZES.items():
            start = datetime.fromtimestamp(seconds - seconds % size, UTC)
            groups[f"{window} {product} {start:%Y-%m-%dT%H:%M:%SZ}"].append(frame)
    candles = {}
    for name, frames in groups.items():
        frames.sort(key=lambda f: (f["time"], f["trade_id"]))
        rows = [(Decimal(f["price"]), Decimal(f["size"]), f["side"]) for f in frames]
        volume = sum(s for _, s, _ in rows)
        bought = sum((s for _, s, maker in rows if maker == "sell"), Decimal(0))
        candles[name] = {
            "open": str(rows[0][0]), "close": str(rows[-1][0]),
            "high": str(max(p for p, _, _ in rows)), "low": str(min(p for p, _, _ in rows)),
            "volume": f"{volume:f}", "quote_volume": f"{sum(p * s for p, s, _ in rows):f}",
            "buy_volume": f"{bought:f}", "sell_volume": f"{volume - bought:f}", "trade_count": len(rows),
            "first_trade_id": min(f["trade_id"] for f in frames), "last_trade_id": max(f["trade_id"] for f in frames),
        }
    tops = {p: (max(b["bids"]), min(b["asks"])) for p, b in books.items()}
    last = {
        p: {"highest_bid": f"{bid:f}", "highest_bid_size": f"{books[p]['bids'][bid]:f}", "lowest_ask": f"{ask:f}",
            "lowest_ask_size": f"{books[p]['asks'][ask]:f}", "spread": f"{ask - bid:f}", "mid": (bid + ask) / 2}
        for p, (bid, ask) in tops.items()
    }
    json.dump({"candles": candles, "books": last}, sys.stdout, indent=1, default=str)


if __name__ == "__main__":
    main(sys.argv[1])
