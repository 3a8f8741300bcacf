"""For tests of modules that read from the app: it is built at their import, and not started."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def of_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Import a module; the app that it reads from is built in a folder of its own, with default settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDLEWICK_BROKER", "127.0.0.1:1")
        patch.setenv("CANDLEWICK_DATA_DIR", str(tmp_path_factory.mktemp("app")))
        app = importlib.import_module("candlewick.app").app
    Path(app.conf.tabledir).mkdir(parents=True, exist_ok=True)
    return importlib.import_module
