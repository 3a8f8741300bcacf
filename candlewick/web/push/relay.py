"""Another worker's stream, event by event: for listeners of what is not here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import aiohttp
import msgspec
from yarl import URL

from candlewick.app import app
from candlewick.web import peers
from candlewick.web.problems import Problem, recovering
from candlewick.web.push.hub import Topic
from models.answers import Channel, ProblemBody

BEGIN_S = 5.0
"""In which a worker must begin to answer."""
QUIET_S = 45.0
"""A stream that says nothing for so long is dead: it pings every 15."""


async def ask(url: URL, topics: Sequence[Topic], count: int, last_id: str) -> aiohttp.ClientResponse:
    """Ask a worker to stream topics of one exchange, from ``count`` candles on. The caller closes the answer.

    Raises:
        Problem: it does not answer, or has them not.
    """
    names = {
        "product_id": ",".join(dict.fromkeys(topic.product_id for topic in topics)),
        "channels": ",".join(dict.fromkeys(topic.channel for topic in topics)),
        "window": ",".join(dict.fromkeys(topic.window for topic in topics if topic.window)) or "1m",
        "snapshot": str(count),
        "exchange": topics[0].exchange,
    }
    headers = {**peers.asking(), **({"Last-Event-ID": last_id} if last_id else {})}
    try:
        async with asyncio.timeout(BEGIN_S):
            answer: aiohttp.ClientResponse = await app.http_client.get(
                url.join(URL("/v1/stream").with_query(names)),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=QUIET_S),
            )
            if answer.status == 200:
                return answer
            async with answer:
                problem = msgspec.json.decode(await answer.read(), type=ProblemBody)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise recovering(f"{url} did not answer ({type(error).__name__})") from None
    kind = problem.type.removeprefix("/problems/")
    retry_after_s = 2 if problem.status == 503 else 0
    raise Problem(problem.status, kind, problem.title, problem.detail, retry_after_s)


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield whole server-sent events. It ends when the worker is gone, or does not have them any more."""
    waiting = b""
    try:
        while part := await answer.content.readany():
            *whole, waiting = (waiting + part).split(b"\n\n")
            for event in whole:
                yield event + b"\n\n"
    except (aiohttp.ClientError, TimeoutError, OSError):
        return


class Told(NamedTuple):
    """What an event tells."""

    topic: Topic
    is_snapshot: bool
    data: bytes


class _Whose(msgspec.Struct):
    exchange: str
    product_id: str
    window: str = ""


_decode_whose = msgspec.json.Decoder(_Whose).decode
_CHANNELS: dict[bytes, Channel] = {
    b"snapshot": "candles", b"candle": "candles", b"book": "book", b"ticker": "ticker",
}  # fmt: skip


def read(event: bytes) -> Told | None:
    """Return what an event tells; None for one without data."""
    fields = dict(line.split(b": ", 1) for line in event.splitlines() if b": " in line)
    if b"data" not in fields:
        return None
    name, data = fields[b"event"], fields[b"data"]
    whose = _decode_whose(data)
    topic = Topic(_CHANNELS[name], whose.exchange, whose.product_id, whose.window)
    return Told(topic, name == b"snapshot", data)
