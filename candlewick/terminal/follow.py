"""A worker's stream, followed for as long as somebody watches.

That it ends is expected: a worker is started again, its products move. It is said as a `Lost` among the
events, and the next connection goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import aiohttp

from candlewick.terminal.client import NoWorker, Refused, Stranger, Where, refusal, seconds_of, words_of
from candlewick.terminal.events import Event, Reader

QUIET_S = 45.0
"""A stream that says nothing for so long is dead: it pings every 15."""
FIRST_WAIT_S = 1.0
MOST_WAIT_S = 10.0


class Joined(NamedTuple):
    """The stream is open."""


class Lost(NamedTuple):
    """There is no stream for the moment."""

    reason: str
    wait_s: float
    """Until the next try."""


async def follow(
    session: aiohttp.ClientSession, there: Where, target: str, marks: Callable[[Event], bool]
) -> AsyncGenerator[Event | Joined | Lost]:
    """Yield what a stream tells, for ever.

    Arguments:
        marks: says whether what came up to this event need not come again.

    Raises:
        Unasked: there never was a stream, and waiting would not change it.
    """
    last_id, lost, joined = "", 0, False
    while True:
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(lost, 10))
        reader = Reader()
        headers = there.headers | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            async with session.get(
                there.url + target,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=QUIET_S),
            ) as answer:
                if answer.status == 200:
                    if answer.content_type != "text/event-stream":
                        raise Stranger(there.url, f"it answered a stream with {answer.content_type}")
                    yield Joined()
                    lost, joined = 0, True
                    wait_s = FIRST_WAIT_S
                    while part := await answer.content.readany():
                        for event in reader.take(part):
                            if marks(event):
                                last_id = event.id
                            yield event
                    reason = "the worker ended it"
                else:
                    error = refusal(there, answer.status, await answer.read())
                    if not _may_pass(error, answer.status, joined):
                        raise error
                    reason = str(error)
                    wait_s = max(wait_s, min(MOST_WAIT_S, seconds_of(answer.headers.get("Retry-After"))))
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            reason = words_of(failure)
            if not joined:
                raise NoWorker(there.url, reason) from None
        yield Lost(reason, wait_s)
        lost += 1
        await asyncio.sleep(wait_s)


def _may_pass(error: Exception, status: int, joined: bool) -> bool:
    """Say whether asking again later can help."""
    if isinstance(error, Refused) and error.kind == "no-data":
        return True
    return status in (429, 502, 503, 504) or (joined and status != 401)
