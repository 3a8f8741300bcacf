"""Who may ask, and how often: names of this host, origins, a bearer token, a rate for each address.

Bound to loopback, the views need no token. But a page from anywhere may ask loopback by a name of its own
that points there, and its browser takes that for the page's own server; so without a token only names
count that nobody else can have. Bound elsewhere, the views do not start without a token.

Open to all are health and readiness, so that whatever watches over the process needs no secret, and pages
and documents that hold nothing of the market: what they show they ask for with the token.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

from candlewick.config import Settings, is_loopback
from candlewick.web.problems import Problem

OPEN = frozenset({"/", "/docs", "/openapi.json", "/asyncapi.json", "/healthz", "/readyz"})
OPEN_FOLDERS = ("/static/",)
MOST_ADDRESSES = 10_000
ONE_HOP = "X-Candlewick-Forwarded"
"""Header of a request that another worker has passed on."""


class Rate:
    """A token bucket for each address; times are monotonic seconds."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address, what is left and since when; the one that asked last is the last."""

    def wait_s(self, address: str, now: float) -> float:
        """Take one; return 0, or how long to wait where nothing is left."""
        left, then = self._left.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_s)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self._per_s


class Access:
    """What some settings let pass."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.token.get_secret_value().encode()
        self._origins = frozenset(map(str.lower, settings.cors_origins))  # as browsers write them
        named = (settings.host, settings.advertised_host, *map(_authority_of, self._origins))
        self._hosts = frozenset(map(_host_of, named)) - {""}
        self._per_s = settings.rate_per_s
        self._rate = Rate(self._per_s, 2 * self._per_s)

    def origin(self, headers: Mapping[str, str]) -> str:
        """Return the origin of the page that asks, "" where it is no page of another origin.

        Raises:
            Problem: it may not ask, or it asks for a host that is not this one.
        """
        host = headers.get("Host", "")
        if host and not self._token and not self._is_ours(_host_of(host)):
            told = f"{_shown(host)} is no name of this worker; CANDLEWICK_ADVERTISED_HOST makes it one"
            raise Problem(403, "forbidden-host", "Forbidden host", told)
        origin = headers.get("Origin", "")
        if origin and origin not in self._origins and _authority_of(origin) != host:
            told = f"{_shown(origin)} is not among CANDLEWICK_CORS_ORIGINS"
            raise Problem(403, "forbidden-origin", "Forbidden origin", told)
        return origin

    def check(self, path: str, headers: Mapping[str, str], address: str, now: float) -> None:
        """Let a request pass.

        Raises:
            Problem: it has no right to, or there are too many from its address.
        """
        is_known = self._is_known(headers)
        # What another worker passes on has been counted there, for whoever asked.
        if self._per_s and not (is_known and ONE_HOP in headers):
            wait_s = self._rate.wait_s(address, now)
            if wait_s:
                told = f"more than {self._per_s:g} requests a second from one address"
                raise Problem(429, "rate-limited", "Too many requests", told, math.ceil(wait_s))
        if not (is_known or path in OPEN or path.startswith(OPEN_FOLDERS)):
            told = "send the header Authorization: Bearer and the token"
            raise Problem(401, "unauthorised", "Unauthorised", told, challenge="Bearer")

    def _is_ours(self, host: str) -> bool:
        return host in self._hosts or is_loopback(host)

    def _is_known(self, headers: Mapping[str, str]) -> bool:
        if not self._token:
            return True
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        # Bytes that are not UTF-8 come as surrogates.
        is_right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token)
        return is_right and scheme.lower() == "bearer"


def _authority_of(origin: str) -> str:
    return origin.partition("://")[2]


def _host_of(authority: str) -> str:
    """Return the host of ``host:port`` in small letters, without the brackets of IPv6; "" if it has none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _shown(text: str) -> str:
    return ascii(text[:100])
