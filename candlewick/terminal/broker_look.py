"""A look into Kafka, for `doctor`: are the topics what the settings say? Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from candlewick import topics
from candlewick.config import Settings, env_name
from candlewick.kafka import address
from candlewick.kafka.security import checked
from producers.topic import BrokerUnavailable, TopicSpec, words_of

PATIENCE_S = 10.0


class Wrong(NamedTuple):
    """What is not as it must be with a topic."""

    seen: str
    do: str


class Seen(NamedTuple):
    """What is in Kafka."""

    bootstrap: str
    ours: int
    """Topics of ours."""
    missing: list[str]
    wrong: list[Wrong]
    letters: int
    """Records of ``dead-letters`` that are still kept."""


def look(settings: Settings) -> Seen:
    """Look at the topics.

    Raises:
        CandlewickError: there is no broker, or it does not answer.
    """
    bootstrap = address.find(settings)
    try:
        return asyncio.run(_look(settings, bootstrap))
    except (TimeoutError, OSError, KafkaError) as error:
        raise BrokerUnavailable(bootstrap, words_of(error)) from None


async def _look(settings: Settings, bootstrap: str) -> Seen:
    specs = {spec.name: spec for spec in topics.specs(settings)}
    security = await checked(bootstrap, settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000, **security)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await admin.start()
            partitions = {
                topic["topic"]: topic["partitions"]
                for topic in await admin.describe_topics()
                if topic["topic"] in specs
            }
            configs = await _configs(admin, list(partitions))
            there = topics.DEAD_LETTERS in partitions
            letters = await _count(bootstrap, security, topics.DEAD_LETTERS) if there else 0
    finally:
        await admin.close()
    wrong = [
        each
        for name in partitions
        for each in compare(specs[name], partitions[name], configs.get(name, {}), settings.replication)
    ]
    return Seen(bootstrap, len(partitions), sorted(specs.keys() - partitions.keys()), wrong, letters)


def compare(
    spec: TopicSpec, partitions: list[dict[str, Any]], config: dict[str, str], replication: int
) -> list[Wrong]:
    """Return in what a topic differs from what it must be, the worst first."""
    found = []
    if len(partitions) != spec.partitions:
        seen = f"{spec.name} has {len(partitions)} partitions, not {spec.partitions}"
        found.append(Wrong(seen, f"set {env_name('partitions')} to what the topics have"))
    if any(partition["leader"] < 0 for partition in partitions):
        found.append(Wrong(f"{spec.name} has partitions without a leader", "look at the brokers' logs"))
    copies = min((len(partition["replicas"]) for partition in partitions), default=0)
    if copies < replication:
        seen = f"{spec.name} has {copies} copies, not {replication}"
        found.append(Wrong(seen, "candlewick kafka reassign-partitions"))
    for name, value in spec.config.items():
        if config.get(name, value) != value:
            alter = f"--alter --topic {spec.name} --add-config {name}={value}"
            seen = f"{spec.name} has {name}={config[name]}, the settings say {value}"
            found.append(Wrong(seen, f"candlewick kafka configs {alter}"))
    return found


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = {}
    for answer in await admin.describe_configs(asked):
        for code, _, _, name, entries in answer.resources:
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


async def _count(bootstrap: str, security: Mapping[str, Any], topic: str) -> int:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, enable_auto_commit=False, **security
    ) as consumer:
        parts = consumer.assignment()
        first, last = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        return int(sum(last[part] - first[part] for part in parts))
