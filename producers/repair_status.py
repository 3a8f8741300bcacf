"""How the repairs are set, and what they say of themselves."""

from __future__ import annotations

import msgspec


class RepairSettings(msgspec.Struct, frozen=True):
    """Times in seconds, of a clock that only goes forward."""

    young_s: float = 1.0
    """A gap waits so long for trades that only came out of order."""
    requests_per_s: float = 3.0
    """Coinbase allows 10 a second and address, and others ask from ours as well."""
    concurrency: int = 2
    """Symbols that are asked for at once: one slow answer does not hold up the rest."""
    timeout_s: float = 15.0
    max_body_bytes: int = 16 << 20
    """A page of 1,000 trades has 120 kB."""
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    rest_most_s: float = 600.0
    """A ``Retry-After`` holds for no longer."""
    lacking_first_s: float = 30.0
    """Trades that the exchange did not have are asked for again after so long, then twice so long, ..."""
    lacking_most_s: float = 6 * 3600.0
    """... up to this."""
    again_first_s: float = 600.0
    """A gap whose trades were all delivered, and that is open all the same, is fetched whole again after
    so long, then twice so long, up to ``lacking_most_s``: only a full disk at the producer drops trades."""
    most_trades: int = 1_000_000
    """A larger gap is not fetched: an absurd id is likelier than so many trades that were missed."""
    tick_s: float = 0.1


class RepairStatus(msgspec.Struct, frozen=True):
    """The repairs, at one moment; counts since the start."""

    open: int
    """Gaps that are open now."""
    unavailable: int
    """Of these, gaps of which the exchange does not have every trade, and those too large to fetch."""
    fetched_trades: int
    requests: int
    failures: int
    """Requests without an answer that could be used."""
