"""A worker's web views, asked by a command: where they are, and what they answer.

Standard library only: the commands must be there at once.

Errors, all of them exit code 2:
    Unasked              no answer that can be used
    +-- NoWorker         nobody answers at the address
    +-- Stranger         somebody answers, who is no worker
    +-- Refused          the worker says why not
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from types import TracebackType
from typing import NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from candlewick.config import Settings, env_name
from models.answers import ProblemBody
from models.errors import CandlewickError

TIMEOUT_S = 10.0
MOST_WAIT_S = 5.0
"""Seconds that are waited at most where a worker says when to ask again."""

Shape = TypeVar("Shape")


class Unasked(CandlewickError):
    """No answer that can be used."""


class NoWorker(Unasked):
    """Nobody answers at the address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"no worker answers at {self.url} ({self.reason}): start `candlewick up`, or give --url"


class Stranger(Unasked):
    """Somebody answers who is no worker."""

    def __init__(self, url: str, told: str) -> None:
        super().__init__(url, told)
        self.url = url
        self.told = told

    def __str__(self) -> str:
        return f"what answers at {self.url} is no worker ({self.told}): give a worker's address with --url"


class Refused(Unasked):
    """The worker says why it does not answer what was asked."""

    def __init__(self, url: str, problem: ProblemBody, with_token: bool) -> None:
        super().__init__(url, problem, with_token)
        self.url = url
        self.problem = problem
        self.with_token = with_token

    @property
    def kind(self) -> str:
        """The last part of the problem's type, such as ``no-data``."""
        return self.problem.type.rpartition("/")[2]

    def __str__(self) -> str:
        if self.kind == "unauthorised":
            which = f"another token than the one in {env_name('token')}" if self.with_token else "a token"
            return f"{self.url} wants {which}: set {env_name('token')} to the worker's own"
        remedy = REMEDIES.get(self.kind, "")
        return f"{self.problem.title.lower()}: {self.problem.detail}{remedy}"


REMEDIES = {"unknown-product": "; `candlewick status` lists those that there are"}
"""What to do next, where the problem does not say."""


class Where(NamedTuple):
    """A worker's address, and what each request carries."""

    url: str
    """Without a slash at its end."""
    headers: dict[str, str]

    @property
    def has_token(self) -> bool:
        """Say whether a token is sent."""
        return "Authorization" in self.headers


def where(settings: Settings) -> Where:
    """Return the worker that the settings name."""
    there = own(settings)
    return there._replace(url=settings.url) if settings.url else there


def own(settings: Settings) -> Where:
    """Return the worker that these settings start."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    token = settings.token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Where(f"http://{host}:{settings.port}", headers)


class Answer(NamedTuple):
    """What came back, good or not."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Views:
    """Asks one worker, over one connection."""

    def __init__(self, there: Where) -> None:
        self.where = there
        parts = urlsplit(there.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=TIMEOUT_S)
        self._folder = parts.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def read(self, target: str, shape: type[Shape], tries: int = 1) -> Shape:
        """Ask for a path with its query; return the answer as its type.

        Where the worker is busy, or recovers, it is asked again when it says so, ``tries`` times in all.

        Raises:
            Unasked: there is no such answer.
        """
        answer = self.look(target)
        while answer.status in (429, 503) and tries > 1:
            tries -= 1
            time.sleep(min(MOST_WAIT_S, seconds_of(answer.headers.get("Retry-After"))))
            answer = self.look(target)
        if answer.status != 200:
            raise refusal(self.where, answer.status, answer.body)
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except msgspec.DecodeError as error:
            raise Stranger(self.where.url, f"it answered {target.partition('?')[0]} with {error}") from None

    def look(self, target: str) -> Answer:
        """Ask for a path with its query; return what comes back.

        Raises:
            NoWorker: nothing does.
        """
        try:
            try:
                return self._get(target)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                return self._get(target)  # the connection was open for long: once more, over a new one
        except (OSError, http.client.HTTPException) as error:
            raise NoWorker(self.where.url, words_of(error)) from None

    def _get(self, target: str) -> Answer:
        try:
            self._connection.request("GET", self._folder + target, headers=self.where.headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()  # or its next answer could be the one to this question
            raise


def refusal(there: Where, status: int, body: bytes) -> Unasked:
    """Return the error that an answer other than 200 stands for."""
    try:
        problem = msgspec.json.decode(body, type=ProblemBody)
    except msgspec.DecodeError:
        return Stranger(there.url, f"it answered {status}")
    return Refused(there.url, problem, there.has_token)


def seconds_of(retry_after: str | None) -> float:
    """Return how long a worker wants us to wait."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 1.0


def words_of(error: BaseException) -> str:
    """Return why a connection failed, in a few words."""
    error = getattr(error, "os_error", error)  # aiohttp's own words name the address once more
    if isinstance(error, TimeoutError):
        return "it says nothing"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message.lower()}"
    if isinstance(error, ssl.SSLError):  # its number is OpenSSL's
        return f"it does not speak TLS as we do: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, OSError) and error.errno:
        return (os.strerror(error.errno) if error.errno > 0 else str(error.strerror)).lower()
    return str(error).lower()[:100] or type(error).__name__
