"""Every metric of ``/metrics``, once: name, kind, labels and meaning. The manual's table is made of it.

Units are seconds, bytes and counts; a label takes few values, or those of the products that are followed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from models.producer_status import LATENCY_BOUNDS_MS

Kind = Literal["counter", "gauge", "histogram"]
Since = Literal["now", "worker", "producer", "tables"]


class Family(NamedTuple):
    """One metric, of as many series as its labels have values."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    since: Since
    """Of a counter, whose start it counts from: a restart of that begins anew; ``tables`` never do."""
    bounds: tuple[float, ...] = ()
    """Of a histogram, the upper bounds of its buckets; one more has the rest."""


ALL: list[Family] = []
"""In the order of `/metrics`."""

PRODUCT = ("exchange", "product")
FEED = ("exchange", "producer")

QUICK_S = (
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5, 60,
)  # fmt: skip
"""Bounds for what takes some milliseconds, and tens of them on a bad day."""


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return _declare(Family(f"candlewick_{name}", "gauge", text, labels, "now"))


def _counter(name: str, text: str, labels: tuple[str, ...] = (), since: Since = "worker") -> Family:
    return _declare(Family(f"candlewick_{name}_total", "counter", text, labels, since))


def _histogram(
    name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...], since: Since = "worker"
) -> Family:
    return _declare(Family(f"candlewick_{name}_seconds", "histogram", text, labels, since, bounds))


def _declare(family: Family) -> Family:
    ALL.append(family)
    return family


BUILD = _gauge("build_info", "1; the version is a label.", ("version",))
READY = _gauge("ready", "1 once the tables are recovered.")
LAG = _gauge("consumer_lag_messages", "Records that are not folded yet.", ("topic", "partition"))

FEED_CONNECTED = _gauge(
    "feed_connected",
    "1 while a connection is subscribed, and the producer says so; a feed that was stopped is not told of.",
    FEED,
)
FEED_HEARD = _gauge("feed_last_status_timestamp_seconds", "When the producer last spoke of itself.", FEED)
FEED_FRAME = _gauge("feed_last_message_timestamp_seconds", "When the last frame came; 0: none yet.", FEED)
FEED_CONNECTIONS = _gauge("feed_connections", "Connections, by state: connected, or away.", (*FEED, "state"))
FEED_UNACKED = _gauge("feed_unacked_records", "Records that wait for Kafka's word.", FEED)
FEED_SPILL = _gauge("feed_spill_bytes", "What the producer's disk holds for Kafka.", FEED)
FEED_GAPS = _gauge("feed_gaps_open", "Gaps that the producer has to repair.", FEED)
FEED_LACKING = _gauge(
    "feed_gaps_unavailable", "Of these, gaps of which the exchange does not have every trade.", FEED
)
FEED_FRAMES = _counter("feed_messages", "Frames received.", FEED, "producer")
FEED_RECONNECTS = _counter(
    "feed_reconnects", "Connections that ended, by reason.", (*FEED, "reason"), "producer"
)
FEED_REFUSED = _counter("feed_refused_frames", "Frames that could not be read.", FEED, "producer")
FEED_LETTERS = _counter("feed_dead_letters", "Dead letters that the producer wrote.", FEED, "producer")
FEED_RESUBSCRIBED = _counter(
    "feed_book_resubscribes", "Times that a book was asked for again.", FEED, "producer"
)
FEED_SPILLED = _counter(
    "feed_spilled_records", "Records that went to disk because Kafka was away.", FEED, "producer"
)
FEED_DROPPED = _counter("feed_dropped_records", "Records that are lost: the disk was full.", FEED, "producer")
REPAIRED = _counter("gap_repaired_trades", "Missing trades that were fetched over REST.", FEED, "producer")
FEED_LATENCY = _histogram(
    "feed_latency",
    "Of each trade, from the exchange's time to its receipt.",
    FEED,
    tuple(bound / 1000 for bound in LATENCY_BOUNDS_MS),
    "producer",
)

TRADES = _counter("trades_processed", "Trades that were folded, also those that came again.", PRODUCT)
HEARTBEATS = _counter("heartbeats_processed", "Heartbeats that were folded.", ("exchange",))
BOOK_RECORDS = _counter("book_records_processed", "Records of books that were folded.", ("exchange",))
DUPLICATES = _counter("trades_duplicate", "Trades that came again, and changed nothing.", PRODUCT, "tables")
LATE = _counter(
    "trades_late", "Trades that came after their minute had closed, and amended it.", PRODUCT, "tables"
)
EXPIRED = _counter("trades_expired", "Trades whose minute is not kept any more.", PRODUCT, "tables")
REJECTED = _counter("records_rejected", "Records that went to the dead letters.", ("topic",))
CLOSED = _counter("candles_closed", "Candles that closed.", ("window",))
REVISIONS = _counter("candle_revisions", "Amendments of closed candles.", ("window",))
TO_FOLD = _histogram(
    "trade_to_fold",
    "From the receipt of a trade by the producer to its candle: of a product's last in each batch.",
    (),
    QUICK_S,
)

GAPS = _counter("gaps", "Gaps that were found, by what showed them.", (*PRODUCT, "cause"))
MISSED = _counter("gap_missing_trades", "Trades that were found missing.", PRODUCT)
GAPS_OPEN = _gauge("gaps_open", "Gaps that are not repaired yet.", PRODUCT)
MISSING = _gauge("missing_trades", "Trades that are missing now.", PRODUCT)
LAST_TRADE = _gauge("last_trade_timestamp_seconds", "The exchange's time of the last trade.", PRODUCT)
WATERMARK = _gauge("watermark_timestamp_seconds", "How far event time has come.", PRODUCT)
PRICE = _gauge("last_price", "Of the last trade, for pictures: exact numbers are in the API.", PRODUCT)
BID = _gauge("best_bid", "While the book is in step; as exact as last_price.", PRODUCT)
ASK = _gauge("best_ask", "While the book is in step; as exact as last_price.", PRODUCT)
IN_STEP = _gauge("book_in_step", "1 while the book can be trusted.", PRODUCT)
BOOKS_LOST = _counter("book_lost", "Times that a book went out of step, by cause.", ("exchange", "cause"))

CLIENTS = _gauge("stream_clients", "Open streams, by kind: sse, websocket.", ("kind",))
CUT_OFF = _counter("stream_slow_disconnects", "Streams that were cut off: too far behind.", ("kind",))
REQUESTS = _histogram(
    "http_request", "Requests that were answered, but streams.", ("route", "status"), QUICK_S
)

PROCESS = (
    ("process_cpu_seconds_total", "counter", "Processor time, user and system."),
    ("process_resident_memory_bytes", "gauge", "Memory in use."),
    ("process_virtual_memory_bytes", "gauge", "Memory that is mapped."),
    ("process_start_time_seconds", "gauge", "When the worker began."),
    ("process_open_fds", "gauge", "Open files and sockets."),
    ("process_max_fds", "gauge", "How many there may be."),
)
"""What Prometheus's own client tells of any process, on Linux."""


def markdown() -> str:
    """Return the table of metrics for the manual."""
    lines = ["| metric | kind | labels | what it is | counts since the start of |", "|---|---|---|---|---|"]
    for family in ALL:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        since = "" if family.since == "now" else f"the {family.since}"
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} | {since} |")
    for name, kind, text in PROCESS:
        lines.append(f"| `{name}` | {kind} |  | {text} | {'the worker' if kind == 'counter' else ''} |")
    return "\n".join(lines)
