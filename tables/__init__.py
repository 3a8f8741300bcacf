"""What is kept: RocksDB tables with a changelog, one row a candle, written a checkpoint at a time."""
