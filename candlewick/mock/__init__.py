"""A mock exchange: Coinbase Exchange's protocol over a simulated market or a recording.

`MockExchange` is the server, `Simulation` describes a simulated market, `Faults` what goes wrong.
The parts, from the inside out: `matching` and `market` (pure), `simulated` and `player` (sources),
`requests` and `faults` (pure), `connection`, `hub`, `rest`, `server`.
"""

from candlewick.mock.faults import Faults
from candlewick.mock.server import MockExchange
from candlewick.mock.simulated import Simulation

__all__ = ["Faults", "MockExchange", "Simulation"]
