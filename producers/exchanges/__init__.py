"""The exchanges we speak with: one module each, with a class `Codec`. This folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil

from models.errors import ConfigError
from producers.codec import Codec


def names() -> list[str]:
    """Return the exchanges that have a codec, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def codec_class(exchange: str) -> type[Codec]:
    """Return the codec of an exchange; make one for each connection.

    Raises:
        ConfigError: there is no such exchange.
    """
    known = names()
    if exchange not in known:
        raise ConfigError("exchange", exchange, "one of: " + ", ".join(known))
    found: type[Codec] = importlib.import_module(f"{__name__}.{exchange}").Codec
    return found
