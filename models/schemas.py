"""What the header ``schema`` says of a producer's records: the kind of the value, and its version."""

from __future__ import annotations

import msgspec

from models.book import BookDelta, BookKeyframe, BookLost, BookSnapshot
from models.dead_letter import DeadLetter
from models.producer_status import ProducerStatus
from models.trade import Heartbeat, Trade

SCHEMAS: dict[type[msgspec.Struct], bytes] = {
    Trade: b"trade/1",
    Heartbeat: b"heartbeat/1",
    BookSnapshot: b"book-snapshot/1",
    BookKeyframe: b"book-keyframe/1",
    BookDelta: b"book-delta/1",
    BookLost: b"book-lost/1",
    DeadLetter: b"dead-letter/1",
    ProducerStatus: b"feed/1",
}
