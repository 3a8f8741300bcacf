"""Values of the market, and the pure rules that change them: no clock, no network, no Kafka."""
