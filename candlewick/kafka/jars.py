"""The class path of Apache Kafka: pinned jars from Maven Central, kept in a cache.

`resolve()` is what the embedded broker and Kafka's own tools start from. The set of
jars is a lock file in this module: every jar with its size and SHA-256, so no POM is
read, nothing drifts, and a torn or altered file is never used. A jar reaches the cache
by a rename after its checksum was seen right; so a full cache is told by names and
sizes alone, without network and without importing the downloader.

Errors:
    BrokerError               whatever keeps a broker or a Kafka tool from running
    +-- JarsUnavailable       the jars are not in the cache and cannot be brought there
    +-- (the others are in candlewick.kafka.broker)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import CandlewickError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.3.1"

Progress = Callable[[int, int], None]
"""Called with (files here, files in all) while jars come down."""

_DOWNLOADS = 8
_TRIES = 2
_TIMEOUT_S = 15

_LOCK = """
at.yawk.lz4:lz4-java:1.10.2 1002267
  252dabd586d22149a31661a8afc1a50747714eb1a298bd4a6e780c8c91a13866
com.dynatrace.hash4j:hash4j:0.22.0 316573
  23028a3fd006e530bf495f551083208187cafd8f80624d048eba56442f16a50e
com.fasterxml.jackson.core:jackson-annotations:2.21 82104
  53ca085f4a150f703f49e1aabd935bd03b43e1ea3d55d135438292af22cef56b
com.fasterxml.jackson.core:jackson-core:2.21.2 595531
  12e8655b100267b44d0f14d01b1f5082a5105e616174dc4307be1a761e92407b
com.fasterxml.jackson.core:jackson-databind:2.21.2 1701926
  8c982f01f148d805f0aaac2339011244757e0df7c6ff8951f2fa3f433b8ed849
com.fasterxml.jackson.dataformat:jackson-dataformat-csv:2.21.2 107830
  682f8c7977e02a42748426bf54946e32e52e2f80b84b6642801ab12bd541368a
com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.21.2 60604
  d25551812fa0c14f37cabaa9401e63eadcea42ce36311183af5622d5bc8a1bc7
com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.21.2 36037
  e581bbf3fc5622d16b57366dd41e10fc56921fb202879de2ef487f87dd9b30e7
com.github.ben-manes.caffeine:caffeine:3.2.0 906581
  ec411dfdf0c03f25218648ce89861630b71680e5858a9a7278ebac8e55cab3d7
com.github.luben:zstd-jni:1.5.6-10 7305999
  b6c3237e24b8252a5a9c3a0e1ae30ef8f323412e74bd358548b7a9e527d676df
com.google.re2j:re2j:1.8 114335
  7b52c72156dd7f98b3237a5b35c1d34fba381b21048c89208913ad80a45dfbd7
com.typesafe.scala-logging:scala-logging_2.13:3.9.6 61614
  0ad0c3f4d89d538b3b6c300158555e266aa69cf1b5f6522aba8b5bad238eb994
com.yammer.metrics:metrics-core:2.2.0 82123
  6b7a14a6f34c10f8683f7b5e2f39df0f07b58c7dff0e468ebbc713905c46979c
commons-beanutils:commons-beanutils:1.11.0 246806
  9e44ba68ec9a3f21286fa2a8bbb003b735c0f69101bb43144b79f4f8aaa74709
commons-collections:commons-collections:3.2.2 588337
  eeeae917917144a68a741d4c0dff66aa5c5c5fd85593ff217bced3fc8ca783b8
commons-digester:commons-digester:2.1 196768
  e0b2b980a84fc6533c5ce291f1917b32c507f62bcad64198fff44368c2196a3d
commons-logging:commons-logging:1.3.5 73737
  6d7a744e4027649fbb50895df9497d109f98c766a637062fe8d2eabbb3140ba4
commons-validator:commons-validator:1.10.1 203132
  ed74711a78d793ca37f6075e4a1e93d107233dfd20d0bb17e32bad88d38e56aa
net.sf.jopt-simple:jopt-simple:5.0.4 78146
  df26cc58f235f477db07f753ba5a3ab243ebe5789d9f89ecf68dd62ea9a66c28
net.sourceforge.argparse4j:argparse4j:0.7.0 90347
  65ceb669d88f63306c680f8088bbf765bbca72d288a61a03703000076c3d3f56
org.apache.kafka:kafka-clients:4.3.1 10204032
  52501b7b47510c66f898871adaf6d2968ab7246561d44ced43643a8a587f0b36
org.apache.kafka:kafka-coordinator-common:4.3.1 125277
  66a86b8c89718216ffa72fe4e44b9d1bdf3472e4cb9200c36a0742a25febbdba
org.apache.kafka:kafka-group-coordinator-api:4.3.1 11807
  d81bc1a3739ff6c9b21815baae00022306342a16d3d94e6a2621201b9980a30d
org.apache.kafka:kafka-group-coordinator:4.3.1 976899
  4ab56d002e1624185c874199e9e0ffb243dbeb9f68b4d0cadf48ce2f617a1126
org.apache.kafka:kafka-metadata:4.3.1 877009
  4d73a96c6474a4ebdd67a1cee14da1a94cfd6bb9e6e252685ba5667d8ab7f898
org.apache.kafka:kafka-raft:4.3.1 333497
  46abbf89806dd22d848e997cdfb1431524cab4ec88e38a7d2806e20b24a70609
org.apache.kafka:kafka-server-common:4.3.1 389964
  d7c719f749579a399011f0df7414de8a78f10f074a6122caa550fdb141351575
org.apache.kafka:kafka-server:4.3.1 385290
  01d736599ec3b0cdbb0480c15219170b28cdae189785e7f0c6f1f26e528eaebc
org.apache.kafka:kafka-share-coordinator:4.3.1 113510
  8ceeed7346127e652ea5c650b217890aaff14919f967d27fadce420745bd3066
org.apache.kafka:kafka-storage-api:4.3.1 28500
  bc2b22639fa554494461d101d599e01bae840d97c4f46e18fdf3d2fe41a47098
org.apache.kafka:kafka-storage:4.3.1 610223
  97e3facddd2914a58f28ec91ef35f8da69963eab3651196e97f487924f6dac98
org.apache.kafka:kafka-tools-api:4.3.1 9072
  dcf6785742e0c8ab11a0fc09c62f1192e11e997dc629669a8db82aa40d933c31
org.apache.kafka:kafka-tools:4.3.1 698668
  62f3c5dd7aa3442d4c5bc6a95f86e2502178ea09de8e27f74d9563bf955e253c
org.apache.kafka:kafka-transaction-coordinator:4.3.1 68622
  c64aaa2a88d8fd382c4800204872917686e542043c7916c9e8797d939d8eb313
org.apache.kafka:kafka_2.13:4.3.1 1621852
  b098abef5ff878e76f60cd6c559b9baa5663ccb1b55f2837558b22c329d32423
org.apache.logging.log4j:log4j-api:2.25.4 351127
  c4b642a7f047275215de117e0e3847eb2c7711d84a0aa7433e7b3c096daf341d
org.apache.logging.log4j:log4j-core:2.25.4 2023860
  10fee2c0485d54fa44ee75d314f6295508f7b932281873db61a91b88073200e6
org.apache.logging.log4j:log4j-slf4j-impl:2.25.4 25388
  7ac68a0afcc83d54f48d116d79370a43f0a2a6b71b5c1d6dda943bb6a95ddbaa
org.bitbucket.b_c:jose4j:0.9.6 299502
  7314af50cde9c99e8eaf43eee617a23edcc6bb43036221064355094999d837ef
org.hdrhistogram:HdrHistogram:2.2.2 177206
  22d1d4316c4ec13a68b559e98c8256d69071593731da96136640f864fa14fad8
org.pcollections:pcollections:4.0.2 73718
  2bbeef5797a241300c4f7513cd546239629ed7deda4fc0c31df90bb95f5f13ef
org.scala-lang:scala-library:2.13.18 5940741
  4e85d96ff7bc7dc627985523c3541b9917aaa08e956391380c42db21a2c4e5a0
org.slf4j:slf4j-api:1.7.36 41125
  d3ef575e3e4979678dc01bf1dcce51021493b4d11fb7f1be8ad982877c16a1c0
org.xerial.snappy:snappy-java:1.1.10.7 2338496
  4c766cb3f855415ee734b2392949a0b6f12a60879334a74518deaf6270d32e36
org.yaml:snakeyaml:2.5 340015
  e6682acf1ace77508ef13649cbf4f8d09d2cf5457bdb61d25ffb6ac0233d78dd
"""
"""What `org.apache.kafka:kafka_2.13` and `:kafka-tools` need at run time, by the
classes that really refer to one another: Kafka Connect's half (`connect-runtime` and
its web server, for the one tool connect-plugin-path) is left out. The log4j binding is
the one Kafka's own distribution ships. Made by: resolve the two with jgo, drop what
nothing refers to, take size and SHA-256 of files whose published SHA-1 agrees."""


class BrokerError(CandlewickError):
    """A broker, or a tool of Kafka, cannot run; the text says what to do."""


class JarsUnavailable(BrokerError):
    """Kafka's jars are not in the cache, and cannot be fetched: `reason` says why."""

    def __init__(self, reason: str, cache_dir: Path) -> None:
        super().__init__(reason, cache_dir)
        self.reason = reason
        self.cache_dir = cache_dir

    def __str__(self) -> str:
        return f"cannot fetch Apache Kafka {KAFKA_VERSION}: {self.reason}"


@dataclass(frozen=True)
class Jar:
    """One pinned file: `group:artifact:version`, size in bytes, SHA-256 in hex."""

    coordinate: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"

    def is_in(self, folder: Path) -> bool:
        """Say whether the file is there, by its size: its content was checked on arrival."""
        try:
            return (folder / self.name).stat().st_size == self.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_at(self, path: Path) -> bool:
        """Say whether this very file, byte for byte, is at `path`."""
        if path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def _parse(lock: str) -> tuple[Jar, ...]:
    words = lock.split()
    return tuple(
        Jar(coordinate, int(size), sha256)
        for coordinate, size, sha256 in zip(words[::3], words[1::3], words[2::3], strict=True)
    )


JARS = _parse(_LOCK)


def default_cache_dir() -> Path:
    """Return the user's cache folder for Candlewick (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
        base = os.path.join(home, ".cache")
    return Path(base) / "candlewick"


def kafka_dir(cache_dir: Path | None = None) -> Path:
    """Return the folder of the cache that holds this version's files."""
    return (cache_dir or default_cache_dir()) / f"kafka-{KAFKA_VERSION}"


def resolve(cache_dir: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """Return Kafka's class path, fetching into the cache what is not there yet.

    Some milliseconds when all is there; else some seconds and 42 MB from Maven
    Central (or from the user's Maven repository, for jars it holds). Blocks: a program
    that wants Ctrl-C to work at once calls it before its event loop starts.
    `progress` replaces the report on stderr.

    Raises:
        JarsUnavailable: no network, a refusal from the other side, or a cache
            folder that cannot be written.
    """
    folder = kafka_dir(cache_dir)
    try:
        if not all(jar.is_in(folder) for jar in JARS):
            folder.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder):
                _fetch(folder, progress)
    except OSError as error:
        reason = (
            f"the cache folder {folder} cannot be used ({error.strerror or error}); "
            "point XDG_CACHE_HOME at one that can be written"
        )
        raise JarsUnavailable(reason, folder) from error
    return [folder / jar.name for jar in JARS]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep a second process from fetching the same files: it waits, then finds them."""
    with (folder / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, progress: Progress | None) -> None:
    """Bring every missing jar into `folder`. The caller holds the lock."""
    # Imported here: half a second that a warm start must not pay.
    import requests
    from jgo.config import GlobalSettings
    from jgo.constants import default_maven_repo
    from jgo.maven import MavenContext
    from jgo.maven._core import DEFAULT_REMOTE_REPOS

    missing = [jar for jar in JARS if not jar.is_in(folder)]
    arriving = folder / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    context = MavenContext(
        repo_cache=arriving,
        local_repos=[default_maven_repo()],
        # A user's jgo settings may name a mirror of Maven Central.
        remote_repos=DEFAULT_REMOTE_REPOS | GlobalSettings.load().repositories,
        timeout=_TIMEOUT_S,
    )
    pool = ThreadPoolExecutor(_DOWNLOADS)
    try:
        with _reporting(progress) as report:
            report(len(JARS) - len(missing), len(JARS))
            waiting = [pool.submit(_bring, jar, context, folder) for jar in missing]
            for count, done in enumerate(as_completed(waiting), 1):
                done.result()
                report(len(JARS) - len(missing) + count, len(JARS))
    except requests.RequestException as error:
        reason = "no network; connect once, or name a broker with --broker"
        raise JarsUnavailable(reason, folder) from error
    except RuntimeError as error:
        # jgo's answer to any HTTP status but 200: its text holds the whole set-up.
        reason = "Maven Central refused a file; try again, or name a broker with --broker"
        raise JarsUnavailable(reason, folder) from error
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(arriving, ignore_errors=True)


def _bring(jar: Jar, context: MavenContext, folder: Path) -> None:
    """Put one jar into `folder`, whole or not at all.

    Raises:
        JarsUnavailable: what came down is not the pinned file.
        requests.RequestException, RuntimeError: from the download.
    """
    import requests

    artifact = context.create_dependency(jar.coordinate).artifact
    part = context.repo_cache / f"{jar.name}.part"
    found = next((p for p in _local_copies(jar, context) if jar.is_at(p)), None)
    if found is not None:
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, part)
        part.replace(folder / jar.name)
        return
    for attempt in range(1, _TRIES + 1):
        try:
            path = context.resolver.download(artifact)
        except requests.RequestException:
            if attempt == _TRIES:
                raise
            path = None
        if path is not None and jar.is_at(path):
            path.replace(folder / jar.name)
            return
        # The downloader wants no file in its place.
        if artifact.cached_path is not None:
            artifact.cached_path.unlink(missing_ok=True)
    reason = f"what came as {jar.name} is not that file (SHA-256); try again"
    raise JarsUnavailable(reason, folder)


def _local_copies(jar: Jar, context: MavenContext) -> list[Path]:
    """Return where the user's own Maven repositories hold the jar, if they do."""
    group, artifact, version = jar.coordinate.split(":")
    inside = Path(*group.split("."), artifact, version, jar.name)
    return [repo / inside for repo in context.local_repos if (repo / inside).is_file()]


@contextmanager
def _reporting(progress: Progress | None) -> Iterator[Progress]:
    """Give what to call with the state: a bar on a terminal, else some plain lines."""
    title = f"fetching Apache Kafka {KAFKA_VERSION}"
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title)
            yield lambda here, total: bar.update(task, completed=here, total=total)
    else:

        def print_line(here: int, total: int) -> None:
            if here % 10 == 0 or here == total:
                print(f"{title}: {here} of {total} files", file=sys.stderr, flush=True)

        yield print_line
