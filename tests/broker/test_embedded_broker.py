"""The embedded Kafka for real: start, stop, kill, refuse, and Kafka's own tools."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from candlewick import guard
from candlewick.kafka import jars
from candlewick.kafka.broker import (
    DataDirBroken,
    DataDirInUse,
    EmbeddedBroker,
    PortTaken,
    StartFailed,
    running_broker,
)
from candlewick.kafka.jars import JarsUnavailable
from candlewick.kafka.tools import UnknownTool, tool_command

pytestmark = pytest.mark.broker
on_one_loop = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 90
OWNER = """
import asyncio, sys
from candlewick.kafka.broker import EmbeddedBroker
async def main():
    async with EmbeddedBroker(sys.argv[1]) as broker:
        print(broker.pid, flush=True)
        await broker.wait()
asyncio.run(main())
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedBroker]:
    # A blank and a letter outside ASCII: both have broken JVM start scripts.
    async with EmbeddedBroker(tmp_path_factory.mktemp("broker") / "dätä dir") as broker:
        yield broker


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Send every request to a port of ours where nobody listens; no Maven folder."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.upper(), proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
        yield


async def create_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(name, 1, 1)])
        assert [code for _, code, *_ in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def topics(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    """Say whether a process has ended; in a container nobody may reap it, a zombie then."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def run(argv: list[str]) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(*argv, stdout=-1, stderr=-1)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


@on_one_loop
async def test_topic_and_port_are_kept_over_a_restart(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as first:
        await create_topic(first.bootstrap, "kept")
        assert running_broker(tmp_path) == first.bootstrap
        pid = first.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert running_broker(tmp_path) is None
    async with EmbeddedBroker(tmp_path) as second:
        assert second.bootstrap == first.bootstrap
        assert "kept" in await topics(second.bootstrap)


@on_one_loop
async def test_killed_owner_takes_the_jvm_along_and_frees_the_directory(
    tmp_path: Path,
) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        line = await asyncio.wait_for(owner.stdout.readline(), PATIENCE_S)
        jvm = psutil.Process(int(line))
        assert "java" in jvm.name()
    finally:
        owner.kill()
        await owner.wait()
    await asyncio.to_thread(wait_until, lambda: is_gone(jvm))
    # The first thread of a killed JVM may be a zombie before the last closes the port.
    await asyncio.to_thread(wait_until, lambda: running_broker(tmp_path) is None)
    async with EmbeddedBroker(tmp_path) as heir:
        assert running_broker(tmp_path) == heir.bootstrap


@on_one_loop
async def test_second_broker_on_a_data_directory_is_refused(
    broker: EmbeddedBroker,
) -> None:
    with pytest.raises(DataDirInUse) as refused:
        await EmbeddedBroker(broker.data_dir).__aenter__()
    assert str(broker.data_dir) in str(refused.value)
    assert refused.value.pid == os.getpid()
    # The refusal left the first one alone.
    assert running_broker(broker.data_dir) == broker.bootstrap


@on_one_loop
async def test_taken_port_is_refused(broker: EmbeddedBroker, tmp_path: Path) -> None:
    port = int(broker.bootstrap.rpartition(":")[2])
    with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1 is taken"):
        await EmbeddedBroker(tmp_path, port=port).__aenter__()


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        ("kafka", b"a file, not a folder"),
        ("kafka/meta.properties", b"\xff\x00 not a properties file"),
        ("kafka/meta.properties", b"version=1\nnode.id=7\ncluster.id=abc\n"),
        ("kafka/stray", b"topics without meta.properties"),
        ("logs", b"a file, not a folder"),
    ],
)
@on_one_loop
async def test_broken_data_directory_is_named(broken: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / broken).parent.mkdir(exist_ok=True)
    (tmp_path / broken).write_bytes(content)
    with pytest.raises(DataDirBroken) as error:
        await EmbeddedBroker(tmp_path).__aenter__()
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    # And it is not locked for a later, mended start.
    with pytest.raises(DataDirBroken):
        await EmbeddedBroker(tmp_path).__aenter__()


@on_one_loop
async def test_failed_start_shows_what_kafka_said(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="Invalid value many for configuration"):
        async with EmbeddedBroker(tmp_path, overrides={"num.io.threads": "many"}):
            pass


@on_one_loop
async def test_console_consumer_prints_key_and_value(broker: EmbeddedBroker) -> None:
    await create_topic(broker.bootstrap, "greetings")
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait("greetings", key=b"BTC-USD", value=b"hello")
    arguments = ["--topic", "greetings", "--from-beginning", "--max-messages", "1"]
    # One option by its old name and one by its new: Kafka refuses the mixture.
    arguments += ["--property", "print.key=true"]
    arguments += ["--formatter-property", "key.separator==>"]
    out, err = await run(tool_command("kafka-console-consumer.sh", arguments, broker.bootstrap))
    assert out.splitlines() == ["BTC-USD=>hello"]
    for noise in ("WARN", "deprecated", "SLF4J", "StatusLogger"):
        assert noise not in err


@on_one_loop
async def test_tools_are_told_the_broker_in_the_way_they_take_it(
    broker: EmbeddedBroker,
) -> None:
    out, _ = await run(tool_command("cluster", ["cluster-id"], broker.bootstrap))
    assert "Cluster ID" in out
    out, _ = await run(tool_command("metadata-quorum", ["describe", "--status"], broker.bootstrap))
    assert "LeaderId" in out
    log = next(broker.data_dir.glob("kafka/__cluster_metadata-0/*.log"))
    out, _ = await run(tool_command("dump-log", ["--files", str(log)], broker.bootstrap))
    assert f"Dumping {log}" in out
    named = tool_command("topics", ["--bootstrap-server=other:1"], broker.bootstrap)
    assert broker.bootstrap not in named


def test_unknown_tool_lists_those_there_are() -> None:
    with pytest.raises(UnknownTool, match=r"choose from acls.*topics"):
        tool_command("topic", [], "127.0.0.1:9")


@pytest.mark.usefixtures("no_network")
def test_cold_cache_without_network_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailable) as error:
        jars.resolve(tmp_path / "cache")
    assert str(error.value) == (
        f"cannot fetch Apache Kafka {jars.KAFKA_VERSION}: no network; "
        "connect once, or name a broker with --broker"
    )


@pytest.mark.usefixtures("no_network")
def test_torn_jar_is_replaced_and_never_used(tmp_path: Path) -> None:
    torn = jars.JARS[0]
    group, artifact, version = torn.coordinate.split(":")
    in_maven = Path(os.environ["M2_REPO"], *group.split("."), artifact, version)
    in_maven.mkdir(parents=True)
    folder = jars.kafka_dir(tmp_path)
    folder.mkdir()
    for path in jars.resolve():
        (folder / path.name).symlink_to(path)
    whole = (folder / torn.name).read_bytes()
    (folder / torn.name).unlink()
    (folder / torn.name).write_bytes(whole[:1000])

    # A torn copy in the user's Maven folder, as an interrupted download leaves it.
    (in_maven / torn.name).write_bytes(whole[:-1] + b"?")
    with pytest.raises(JarsUnavailable):
        jars.resolve(tmp_path)
    shutil.copyfile(jars.kafka_dir() / torn.name, in_maven / torn.name)
    jars.resolve(tmp_path, progress=lambda here, total: None)
    assert (folder / torn.name).read_bytes() == whole


def test_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JarsUnavailable, match="XDG_CACHE_HOME") as error:
        jars.resolve(tmp_path / "file")
    assert str(tmp_path) in str(error.value)


def test_watcher_for_systems_without_prctl_ends_its_command(tmp_path: Path) -> None:
    watcher = "import os, runpy; runpy.run_path(%r)['watch'](os.getppid(), ['sleep', '600'])"
    parent = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {watcher % guard.__file__!r}]);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            between = psutil.Process(int(owner.stdout.readline()))
            while not (below := between.children()):
                assert between.is_running()
        finally:
            owner.kill()
    wait_until(lambda: all(map(is_gone, (*below, between))))
