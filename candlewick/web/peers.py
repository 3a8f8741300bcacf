"""Which worker has a symbol, and asking it: any worker answers for all.

A symbol's rows are on the worker that owns its partition. Faust's assignor tells every worker
which URL owns which partition; a request for another's symbol is asked there once. Path and query
are passed on, headers are not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import aiohttp
from aiokafka.partitioner import murmur2
from yarl import URL

from candlewick import config
from candlewick.app import app
from candlewick.web.access import ONE_HOP
from candlewick.web.problems import Problem, recovering, unknown_product
from tables import book_stats, candles

PASSED_ON = ("Cache-Control", "CB-AFTER", "CB-BEFORE", "ETag", "Link", "Retry-After")
"""Headers of an answer that mean something to who asked: kept when it is passed on, and told to scripts."""
TIMEOUT = aiohttp.ClientTimeout(total=5)


def partition_of(symbol_key: str) -> int:
    """Return the partition of ``exchange:symbol``, as every Kafka client computes it."""
    return int((murmur2(symbol_key.encode()) & 0x7FFFFFFF) % app.settings.partitions)


def locate(exchange: str, product_id: str) -> int:
    """Return the partition of a product that was asked for.

    Raises:
        Problem: it cannot be a product's name, or the tables are being recovered.
    """
    if not config.PRODUCT_ID.match(product_id):
        raise unknown_product(product_id[:50], exchange)
    if not is_ready():
        raise recovering("this worker is reading its tables back")
    return partition_of(f"{exchange}:{product_id}")


def is_ready() -> bool:
    """Say whether this worker's tables are recovered and no partition is moving."""
    return bool(app.tables.actives_ready) and not app.rebalancing


def owners() -> dict[int, URL]:
    """Return the URL of each partition's worker, as the last rebalance left it."""
    found = {}
    for url, topics in app.assignor.tables_metadata().items():
        for partition in topics.get(candles.table.changelog_topic_name, ()):
            found[partition] = URL(url)
    return found


def is_ours(partition: int) -> bool:
    """Say whether this worker owns the partition now."""
    return any(
        tp.partition == partition and tp.topic == candles.table.changelog_topic_name
        for tp in app.assignor.assigned_actives()
    )


def kept_here() -> list[tuple[int, str]]:
    """List (partition, ``exchange:symbol``) of the products that this worker has; none while it recovers."""
    if not is_ready():
        return []
    return [
        (partition, symbol_key)
        for partition in sorted(owners())
        if is_ours(partition)
        for symbol_key in sorted(
            {
                *candles.table.rows(partition).symbol_keys(),
                *book_stats.table.rows(partition).symbol_keys(),
            }
        )
    ]


def others() -> set[URL]:
    """Return the URLs of the other workers."""
    return {url for url in owners().values() if not _is_me(url)}


class Answer(NamedTuple):
    """What another worker said."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]


def asking() -> dict[str, str]:
    """Return the headers with which one worker asks another."""
    token = app.settings.token.get_secret_value()
    return {ONE_HOP: "1", **({"Authorization": f"Bearer {token}"} if token else {})}


async def ask(url: URL, path: str) -> Answer:
    """Ask another worker.

    Raises:
        Problem: it did not answer.
    """
    try:
        async with app.http_client.get(url.join(URL(path)), headers=asking(), timeout=TIMEOUT) as answer:
            headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            return Answer(answer.status, await answer.read(), answer.content_type, headers)
    except (TimeoutError, aiohttp.ClientError) as error:
        title = "Another worker has this"
        detail = f"{url} did not answer ({type(error).__name__})"
        raise Problem(503, "worker-unreachable", title, detail, retry_after_s=2) from None


async def ask_owner(request: Any, partition: int) -> Answer:
    """Pass a request on to the worker that owns a partition.

    Raises:
        Problem: nobody owns it now, or the owner did not answer.
    """
    url = owners().get(partition)
    if url is not None and _is_me(url):
        raise recovering(
            f"its worker calls itself {url}, as this one does: each needs its own advertised host"
        )
    if url is None or ONE_HOP in request.headers:
        raise recovering("its partition is on the way from one worker to another")
    return await ask(url, str(request.rel_url))


def _is_me(url: URL) -> bool:
    mine = URL(str(app.conf.canonical_url))
    return (url.host, url.port) == (mine.host, mine.port)
