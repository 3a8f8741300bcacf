"""Real messages, by WebSocket, as server-sent events and from each topic, held against the document of them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiokafka
import jsonschema
import msgspec
import pytest
from rig import START_US, Command, Worker, get, send, trades, until
from websockets.asyncio.client import connect

from candlewick import config, topics
from models.trade import Heartbeat
from producers.topic import ensure_topics

pytestmark = pytest.mark.broker

PRODUCTS = ("BTC-USD", "ETH-USD")
DAY_US = 86_400_000_000


class Served(NamedTuple):
    base: str
    document: dict[str, Any]
    kafka: str


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A market in which everything happens: a minute is a second, frames are bad, hidden and cut off."""
    folder = tmp_path_factory.mktemp("asyncapi")
    commands: list[Command] = []

    def run(*args: str, **env: str) -> Command:
        commands.append(Command(folder / f"{len(commands)}-{args[0]}.log", args, env))
        return commands[-1]

    asyncio.run(ensure_topics(kafka, topics.specs(config.load({}))))
    asyncio.run(disturb(kafka))
    products = ",".join(PRODUCTS)
    mock = run("mock-exchange", "--products", products, "--speed", "60", "--data-dir", str(folder / "mock"))
    url = mock.line("mock exchange at ")
    faults = {"drop_trades": 0.01, "malformed": 0.01, "disconnect": 0.0005}
    exchange = url.replace("ws://", "http://").rstrip("/")
    request = urllib.request.Request(
        f"{exchange}/mock/faults", json.dumps(faults).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).close()
    options = (
        "--feed",
        url,
        "--products",
        products,
        "--broker",
        kafka,
        "--data-dir",
        str(folder / "producer"),
    )
    run("produce", *options, CANDLEWICK_KEYFRAME_S="1")
    worker = Worker(run, kafka, folder / "worker", "asyncapi", CANDLEWICK_KEEP_1M_DAYS="1")
    until(lambda: get(f"{worker.base}/readyz")[0] == 200)
    until(lambda: all(get(f"{worker.base}/stats/1m/{each}?closed=true")[0] == 200 for each in PRODUCTS))
    try:
        yield Served(worker.base, get(f"{worker.base}/asyncapi.json")[1], kafka)
    finally:
        for command in reversed(commands):
            command.process.terminate()
        for command in commands:
            command.process.wait(30)


async def disturb(kafka: str) -> None:
    """Write what makes a worker take back rows, and what it cannot read."""
    days = [
        msgspec.structs.replace(trade, event_time_us=at_us, received_time_us=at_us)
        for at_us, trade in zip(
            range(START_US, START_US + 8 * DAY_US, 2 * DAY_US), trades("OLD-USD", 1, 4), strict=True
        )
    ]
    at_us = days[-1].event_time_us
    quiet: Any = Heartbeat("coinbase", "OLD-USD", 4, at_us, at_us)  # busy products need none
    await send(kafka, [*days, quiet])
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(topics.TRADES, b"\xff\x00", b"coinbase:BAD-USD")
        await producer.send_and_wait(topics.TRADES, b"{}", b"coinbase:BAD-USD")


class Reader:
    """Checks messages against the document, as strictly as it may be read: nothing else than it says."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = closed(document)
        self.seen: Counter[tuple[str, str]] = Counter()

    def check(self, channel: str, name: str, payload: Any, **beside: Any) -> None:
        """Check a message that must be the one of that name."""
        errors = self._errors(self.document["channels"][channel]["messages"][name], payload, beside)
        assert not errors, f"{channel}, {name}: {errors[:3]}\n{str(payload)[:2000]}\n{beside}"
        self.seen[channel, name] += 1

    def find(self, channel: str, payload: Any, **beside: Any) -> None:
        """Check a message that must be one, and only one, of the channel."""
        messages = self.document["channels"][channel]["messages"]
        errors = {name: self._errors(message, payload, beside) for name, message in messages.items()}
        fits = [name for name, found in errors.items() if not found]
        assert len(fits) == 1, f"{channel}: {fits or errors}\n{str(payload)[:2000]}\n{beside}"
        self.seen[channel, fits[0]] += 1

    def _errors(self, message: dict[str, Any], payload: Any, beside: dict[str, Any]) -> list[str]:
        parts = [("payload", message["payload"], payload)]
        if "headers" in beside:
            parts.append(
                ("headers", message.get("headers", {"type": "object", "maxProperties": 0}), beside["headers"])
            )
        if "key" in beside:
            parts.append(("key", message["bindings"]["kafka"]["key"], beside["key"]))
        return [
            f"{part}: {error.json_path}: {error.message[:300]}"
            for part, schema, value in parts
            for error in jsonschema.Draft7Validator(
                {"allOf": [schema], "components": self.document["components"]}
            ).iter_errors(value)
        ]

    def has_seen_all(self, channel: str, *but: str) -> None:
        """Check that each message of a channel has come."""
        wanted = self.document["channels"][channel]["messages"].keys() - set(but)
        assert {name for found, name in self.seen if found == channel} == wanted


def closed(value: Any) -> Any:
    """Return a document whose objects may have no other properties than those that it names."""
    value = copy.deepcopy(value)
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.values()
            if each.get("type") == "object" and "properties" in each:
                each.setdefault("additionalProperties", False)
    return value


@pytest.mark.parametrize(
    "topic",
    [topics.TRADES, topics.BOOKS, topics.CANDLES, topics.BOOK_STATS, topics.GAPS, topics.DEAD_LETTERS, topics.FEEDS],
)  # fmt: skip
def test_records_of_a_topic_are_as_the_document_says(served: Served, topic: str) -> None:
    reader = Reader(served.document)
    # Rows of a book are kept for a day as well: in this market, that is 24 minutes.
    rare = {topics.BOOK_STATS: ("cleared",)}.get(topic, ())

    async def read() -> None:
        async with aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=served.kafka, auto_offset_reset="earliest"
        ) as consumer:
            wanted = set(reader.document["channels"][topic]["messages"]) - set(rare)
            count = 0
            async with asyncio.timeout(60):
                while not wanted <= {name for _, name in reader.seen} or count < 5:
                    for records in (await consumer.getmany(timeout_ms=500)).values():
                        for record in records[:300]:
                            if b":BAD-USD" in (record.key or b""):
                                continue  # ours, and not as it should be
                            value = None if record.value is None else json.loads(record.value)
                            headers = {name: text.decode() for name, text in record.headers}
                            reader.find(topic, value, key=record.key.decode(), headers=headers)
                            count += 1

    with contextlib.suppress(TimeoutError):
        asyncio.run(read())
    reader.has_seen_all(topic, *rare)


CHANNELS = [
    ("candles", "1m"),
    ("candles", "5m"),
    ("candles", "1h"),
    ("book", "1m"),
    ("book", "1d"),
    ("ticker", "1m"),
]


async def test_messages_by_websocket_are_as_the_document_says(served: Served) -> None:
    reader = Reader(served.document)
    requests: list[dict[str, Any]] = [
        {"type": "subscribe", "channel": channel, "product_ids": list(PRODUCTS), "window": window, "snapshot": 5, "id": number}
        for number, (channel, window) in enumerate(CHANNELS)
    ]  # fmt: skip
    requests += [
        {"type": "subscribe", "channel": "heartbeats"},
        {
            "type": "unsubscribe",
            "channel": "candles",
            "product_ids": ["BTC-USD"],
            "window": "1h",
            "id": "bye",
        },
    ]
    kinds: set[tuple[str, str]] = set()
    async with (
        connect(f"{served.base.replace('http', 'ws', 1)}/v1/ws", max_size=None) as socket,
        asyncio.timeout(60),
    ):
        for request in requests:
            reader.check("websocket", request["type"], request)
            await socket.send(json.dumps(request))
        await socket.send('{"type":"subscribe","channel":"candles","product_ids":["NONE-USD"],"id":9}')
        await socket.send("rubbish")
        wanted = {("candles", "snapshot"), ("candles", "update"), ("book", "update"), ("ticker", "update"), ("heartbeats", "")}  # fmt: skip
        while not wanted <= kinds or sum(reader.seen.values()) < 100:
            message = json.loads(await socket.recv())
            name = {"subscriptions": "subscriptions", "error": "wrong"}.get(message.get("type"), "message")
            reader.check("websocket", name, message)
            if name == "message":
                kinds |= {
                    (message["channel"], event["type"]) for event in message["events"] or [{"type": ""}]
                }
                for event in message["events"]:
                    of = [each for name in ("candles", "books", "tickers") for each in event.get(name, ())]
                    assert of
                    assert {each["product_id"] for each in of} <= set(PRODUCTS)
    reader.has_seen_all("websocket")


def test_server_sent_events_are_as_the_document_says(served: Served) -> None:
    reader = Reader(served.document)
    query = f"product_id={','.join(PRODUCTS)}&channels=candles,book,ticker&window=1m,1h&snapshot=5"
    request = urllib.request.Request(f"{served.base}/v1/stream?{query}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        fields: dict[str, str] = {}
        while sum(reader.seen.values()) < 100 or len(reader.seen) < 4:
            line = answer.readline().decode()
            assert line, "the stream has ended"
            name, _, value = line.rstrip("\n").partition(": ")
            if line != "\n":
                fields[name] = value
            elif "data" in fields:
                data = json.loads(fields.pop("data"))
                reader.check("stream", fields["event"], data, headers=fields)
                fields = {}
            else:
                assert not fields.keys() - {"retry", ""}
                fields = {}
    reader.has_seen_all("stream")


def test_the_check_sees_what_is_not_in_the_document(served: Served) -> None:
    reader = Reader(served.document)
    heartbeat = {
        "channel": "heartbeats",
        "timestamp": "2026-11-01T00:00:00Z",
        "sequence_num": 0,
        "events": [],
    }
    reader.check("websocket", "message", heartbeat)
    for wrong in (
        {**heartbeat, "more": 1},
        {**heartbeat, "channel": "alerts"},
        {**heartbeat, "sequence_num": "0"},
    ):
        with pytest.raises(AssertionError, match="websocket, message"):
            reader.check("websocket", "message", wrong)
