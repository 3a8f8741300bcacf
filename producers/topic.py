"""Topics as they must be: made where they are missing, checked where they are there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import structlog
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from models.errors import CandlewickError, TopicError

log = structlog.get_logger(__name__)

TRADES = "trades"
BOOKS = "books"
DEAD_LETTERS = "dead-letters"
FEEDS = "feeds"
GAPS = "gaps"


class BrokerUnavailable(CandlewickError):
    """Kafka does not answer at the address that was given."""

    def __init__(self, bootstrap: str, reason: str) -> None:
        super().__init__(bootstrap, reason)
        self.bootstrap = bootstrap
        self.reason = reason

    def __str__(self) -> str:
        return f"Kafka at {self.bootstrap} does not answer: {self.reason}"


class TopicSpec(msgspec.Struct, frozen=True):
    """What a topic must be. ``config`` holds Kafka's own names: ``{"cleanup.policy": "compact"}``."""

    name: str
    partitions: int
    config: Mapping[str, str] = {}


async def ensure_topics(
    bootstrap: str,
    specs: Iterable[TopicSpec],
    *,
    replication: int = -1,
    timeout_s: float = 30.0,
    security: Mapping[str, Any] | None = None,
) -> None:
    """Create the topics that are missing, and check the partition counts of those that are there.

    Arguments:
        replication: copies of each partition; -1 is the broker's default.
        security: aiokafka's options for TLS and SASL.

    Raises:
        BrokerUnavailable: nobody answers within ``timeout_s``.
        TopicError: a topic has another partition count, or cannot be created.
    """
    wanted = {spec.name: spec for spec in specs}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **(security or {}))
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            there = await _partition_counts(admin)
            missing = [spec for name, spec in wanted.items() if name not in there]
            if missing:
                await _create(admin, missing, replication)
            # The controller knows the new ones already, this broker soon.
            while not wanted.keys() <= (there := await _partition_counts(admin)).keys():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except (TimeoutError, errors.KafkaError) as error:
        raise BrokerUnavailable(bootstrap, words_of(error)) from error
    finally:
        await admin.close()
    for name, spec in wanted.items():
        if there[name] != spec.partitions:
            raise TopicError(
                name,
                f"{there[name]} partitions",
                str(spec.partitions),
                "keys would move between partitions: set the partition count to what the topic has, "
                "or delete the topic and the tables made from it",
            )


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Return the topics whose partitions all have a leader."""
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


async def _create(admin: AIOKafkaAdminClient, specs: list[TopicSpec], replication: int) -> None:
    # An empty assignment is what aiokafka's NewTopic asks for beside a replication factor of -1.
    assignments: dict[int, list[int]] | None = {} if replication == -1 else None
    answer = await admin.create_topics(
        [NewTopic(spec.name, spec.partitions, replication, assignments, dict(spec.config)) for spec in specs]
    )
    for name, code, *words in answer.topic_errors:
        error = errors.for_code(code)
        # Another producer may have been a moment faster; its partition count is checked like any.
        if error not in (errors.NoError, errors.TopicAlreadyExistsError):
            said = (words[0] if words else None) or error.__name__
            raise TopicError(name, "not been created", "to exist", str(said))
    log.info("Created topics", topics=[spec.name for spec in specs])


def words_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
