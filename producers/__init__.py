"""Exchanges into Kafka: frame, codec, feed, sink."""
