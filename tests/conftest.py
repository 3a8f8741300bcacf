"""What all tests share: how Hypothesis draws, and where the recordings are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"
"""Real messages, beside the repository and never in it: see design.md."""

# No deadline: on a busy machine it fails tests that are right. In continuous integration the
# examples are the same each time; HYPOTHESIS_PROFILE=dev there draws new ones.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
# A Kafka of the tests lives for seconds: what the JVM's second compiler does for it is never earned back.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real recordings; without it the test is skipped, and says what is missing."""
    if not RECORDINGS.is_dir():
        pytest.skip("no recordings: there is no ../shared/data beside the repository")
    return RECORDINGS
