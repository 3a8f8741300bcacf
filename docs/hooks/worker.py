"""The worker's modules, loaded without a worker: what they declare is what the reference describes."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile


def load() -> None:
    """Import agents and views. Nothing is connected; no setting of the caller's is read."""
    for name in [name for name in os.environ if name.startswith("CANDLEWICK_")]:
        del os.environ[name]
    folder = tempfile.mkdtemp(prefix="candlewick-docs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # The app wants a broker's address and a data directory to be made, and asks neither for anything.
    os.environ |= {"CANDLEWICK_BROKER": "127.0.0.1:1", "CANDLEWICK_DATA_DIR": folder}
    for module in importlib.import_module("candlewick.app").AUTODISCOVER:
        importlib.import_module(module)
