"""Keeps raw frames as they come: a codec around the real one, and a file for each product.

What is kept is what the exchange sent, before anyone judged it, so a recording also holds the
frames that are refused.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from producers.codec import Codec, Event
from producers.recording import RecordingWriter, product_of

GENERAL = "GENERAL"
"""Folder of the frames that name no product: subscriptions, errors."""
FLUSH_EVERY = 1000


class Recorder:
    """Writes frames of one exchange below a folder."""

    def __init__(self, directory: Path, exchange: str) -> None:
        self._directory = directory
        self._exchange = exchange
        self._writers: dict[str, RecordingWriter] = {}
        self.frames = 0

    def around(self, codec: Codec) -> Codec:
        """Return a codec that keeps each frame, and then does what the given one does."""
        return cast("Codec", Recorded(codec, self))

    def keep(self, frame: str | bytes, received_time_us: int) -> None:
        """Write one frame."""
        text = frame if isinstance(frame, str) else frame.decode(errors="replace")
        product = product_of(text) or GENERAL
        writer = self._writers.get(product)
        if writer is None:
            started_us = time.time_ns() // 1000
            writer = self._writers[product] = RecordingWriter(
                self._directory, self._exchange, product, started_us
            )
        writer.write(text, received_time_us)
        self.frames += 1
        if self.frames % FLUSH_EVERY == 0:
            for other in self._writers.values():
                other.flush()

    def close(self) -> None:
        """End all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class Recorded:
    """A codec whose frames are kept; all else is the inner one's."""

    def __init__(self, codec: Codec, recorder: Recorder) -> None:
        self._codec = codec
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def receive(self, frame: str | bytes, received_time_us: int) -> list[Event]:
        """Keep the frame, then see `Codec.receive`."""
        self._recorder.keep(frame, received_time_us)
        return self._codec.receive(frame, received_time_us)
