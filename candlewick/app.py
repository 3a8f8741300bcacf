"""The Faust application: settings into ``faust.App``, and nothing else.

``faust -A candlewick.app worker`` finds ``app`` here, and through ``autodiscover`` the agents and
the views, which import this module; it imports none of them.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import faust

from candlewick import config, datadir, topics
from candlewick.checkpoint import Checkpoint
from candlewick.kafka import address, security
from candlewick.transport import BatchSchema, BatchTransport
from models.errors import CandlewickError
from producers.topic import ensure_topics

AUTODISCOVER = (
    "agents.candles",
    "agents.books",
    "candlewick.web.api.stats",
    "candlewick.web.api.candles",
    "candlewick.web.api.market",
    "candlewick.web.api.coinbase",
    "candlewick.web.api.udf",
    "candlewick.web.push.stream",
    "candlewick.web.push.ws",
    "candlewick.web.metrics",
    "candlewick.web.front",
    "candlewick.web.api.status",
    "candlewick.web.api.openapi",
    "candlewick.web.api.asyncapi",
)
SWITCH_S = 0.0005
"""For which a thread keeps the interpreter while another wants it.

The consumer has a thread of its own: a view would wait for Python's 5 ms while it unpacks a fetch.
"""
LONGEST_INSTANCE_ID = 249
"""Kafka's limit."""


class Application(faust.App):
    """Faust's application, with a `Checkpoint`, and topics that are made before it starts."""

    def __init__(self, settings: config.Settings, **options: Any) -> None:
        self.settings = settings
        self.bootstrap = address.find(settings)
        self.security = security.options(settings)
        (datadir.prepare(settings.data_dir) / "tables").mkdir(exist_ok=True)
        self.checkpoint = Checkpoint(self, settings.session_s)
        self.batches = BatchSchema(key_type=bytes, value_type=bytes)
        brokers = [f"aiokafka://{address.strip()}" for address in self.bootstrap.split(",")]
        credentials = security.for_faust(self.security)
        super().__init__(settings.app_id, broker=brokers, broker_credentials=credentials, **options)
        self.transport = BatchTransport(self.conf.broker_consumer, self)
        self.producer_transport = BatchTransport(self.conf.broker_producer, self)

    async def on_first_start(self) -> None:
        """Make the topics, or say what is wrong with them, before anything is subscribed or bound."""
        try:
            # Not what is set: Faust's own options may say otherwise.
            if self.conf.web_enabled and self.conf.web_transport.scheme == "tcp":
                config.may_bind(self.settings, self.conf.web_bind)
            if self.security:
                await security.must_be_let_in(self.bootstrap, self.security)
            await ensure_topics(
                self.bootstrap,
                topics.specs(self.settings),
                replication=self.settings.replication,
                security=self.security,
            )
        except CandlewickError as error:
            raise SystemExit(f"candlewick: {error}") from None
        # Faust takes a step that is slow for the end of the service, and never recovers again
        # (tables/recovery.py:615). Without its limit, aiokafka's own ends the worker, which is seen.
        recovery = self.tables.recovery
        wait = recovery._wait
        recovery._wait = lambda coroutine, timeout=None: wait(coroutine)
        await super().on_first_start()

    async def on_started(self) -> None:
        """Begin, and keep the garbage collector from what stays: each look through it takes 50 ms."""
        await super().on_started()
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)


def build(settings: config.Settings) -> Application:
    """Return the application for these settings. Reasons for each value: docs/decisions/002."""
    return Application(
        settings,
        autodiscover=AUTODISCOVER,
        datadir=str(Path(settings.data_dir) / "tables"),
        store="rocksdb://?driver=rocksdict",
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=16,
        broker_commit_interval=settings.commit_s,
        broker_max_poll_records=settings.batch_records,
        broker_session_timeout=settings.session_s,
        broker_heartbeat_interval=settings.session_s / 4,
        broker_rebalance_timeout=60,
        broker_request_timeout=max(60, settings.session_s * 1.5),  # a join may take a session
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 << 20,
        consumer_group_instance_id=_instance_id(settings),
        producer_linger=0.002,
        producer_max_batch_size=4 << 20,
        producer_max_request_size=topics.LARGEST_RECORD,
        producer_compression_type="zstd",
        producer_request_timeout=60,
        web_bind=settings.host,
        web_host=settings.advertised_host or settings.host,
        web_port=settings.port,
        web_tables_enabled=False,
        web_router_enabled=False,
        HttpClient=_http_client,
        # Faust would otherwise read F_* and APP_* variables of whoever started it.
        debug=False,
    )


def _http_client() -> aiohttp.ClientSession:
    """Return the client by which workers ask each other.

    Without aiohttp's limit of 100 connections: each stream that is passed on keeps one for as long as it
    lasts, and at the limit every other question would wait until one ends.
    """
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def _instance_id(settings: config.Settings) -> str | None:
    """Return the name under which Kafka gives a worker its former assignment back; None: it never does.

    An assignment has the worker's address in it. Faust stops taking part in its group, without a word, when
    it is given that of another address (assignor/partition_assignor.py:144): a worker that moves is another.
    """
    if not settings.worker_id:
        return None
    host = settings.advertised_host or settings.host
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{settings.worker_id}-{settings.port}-{host}")[
        :LONGEST_INSTANCE_ID
    ]


try:
    settings = config.load(os.environ)
    app = build(settings)
except CandlewickError as error:
    sys.exit(f"candlewick: {error}")
