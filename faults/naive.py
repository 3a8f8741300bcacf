"""A worker as a tutorial has it: ``table[key] += n``, no offsets, no ids. It must come out wrong.

It shows that the rig's kills land where they hurt: scenario F0 fails when this one is exact.
Run as ``python -m faults.naive worker``; settings come from NAIVE_BROKER and NAIVE_DATA_DIR.
"""

from __future__ import annotations

import os

import faust
import orjson

APP_ID = "naive"
TABLE = "counts"
CHANGELOG = f"{APP_ID}-{TABLE}-changelog"

app = faust.App(
    APP_ID,
    broker=f"aiokafka://{os.environ.get('NAIVE_BROKER', '')}",
    datadir=os.environ.get("NAIVE_DATA_DIR", "naive-data"),
    store="rocksdb://?driver=rocksdict",
    topic_partitions=4,
    topic_allow_declare=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    broker_session_timeout=6,
    broker_heartbeat_interval=1.5,
    consumer_group_instance_id=APP_ID,
    web_enabled=False,
)
trades = app.topic("trades", key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
counts = app.Table(TABLE, default=int, key_type=str, value_type=int, partitions=4)


@app.agent(trades)  # type: ignore[untyped-decorator]
async def count(stream: faust.Stream[bytes]) -> None:
    """Count the trades of each symbol and minute."""
    async for value in stream:
        trade = orjson.loads(value)
        if "trade_id" in trade:
            counts[f"{trade['symbol']}:1m:{trade['event_time_us'] // 60_000_000 * 60}"] += 1


if __name__ == "__main__":
    app.main()
