import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Candles with Kafka Streams: one thread, RocksDB window stores with changelogs, everything else as it
 * comes. Money is BigDecimal. Settings and what it prints: bench/peers/programs/telling.py.
 */
public final class Candles {
    private static final Map<String, Duration> SIZES =
            Map.of("1m", Duration.ofMinutes(1), "1h", Duration.ofHours(1), "1d", Duration.ofDays(1));
    private static final Duration GRACE = Duration.ofSeconds(10);
    /** Longer than the log, so that a replay finds every window in the store. */
    private static final Duration RETENTION = Duration.ofDays(2);

    private static final CountDownLatch FOLDED = new CountDownLatch(1);
    private static long updates;
    private static long expected;

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Trade(String symbol, BigDecimal price, BigDecimal size) {}

    record Candle(
            BigDecimal open, BigDecimal high, BigDecimal low, BigDecimal close,
            BigDecimal volume, BigDecimal quoteVolume, long count) {
        Candle add(Trade trade) {
            BigDecimal price = trade.price();
            BigDecimal quote = price.multiply(trade.size());
            return count == 0
                    ? new Candle(price, price, price, price, trade.size(), quote, 1)
                    : new Candle(
                            open, high.max(price), low.min(price), price,
                            volume.add(trade.size()), quoteVolume.add(quote), count + 1);
        }
    }

    private static final Candle EMPTY = new Candle(null, null, null, null, null, null, 0);

    /** Called by the one stream thread alone. */
    private static Candle fold(String key, Trade trade, Candle candle) {
        if (updates++ == 0) {
            System.out.println("reading");
        }
        Candle folded = candle.add(trade);
        if (updates == expected) {
            System.out.println("folded");
            FOLDED.countDown();
        }
        return folded;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> env = System.getenv();
        Map<String, Duration> windows = new LinkedHashMap<>();
        for (String name : env.get("PEER_WINDOWS").split(",")) {
            windows.put(name, SIZES.get(name));
        }
        expected = Long.parseLong(env.get("PEER_TRADES")) * windows.size();

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("PEER_GROUP"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("PEER_BROKER"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, env.get("PEER_STATE"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);

        KafkaStreams streams = new KafkaStreams(topology(windows).build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        FOLDED.await();
        StringWriter rows = new StringWriter();
        print(streams, windows, new PrintWriter(rows));
        // First, so that what is kept is on disk when the race looks.
        streams.close();
        Path result = Path.of(env.get("PEER_RESULT"));
        Path beside = result.resolveSibling(result.getFileName() + ".new");
        Files.writeString(beside, rows.toString());
        Files.move(beside, result);
    }

    private static StreamsBuilder topology(Map<String, Duration> windows) {
        StreamsBuilder builder = new StreamsBuilder();
        KGroupedStream<String, Trade> trades = builder
                .stream("trades", Consumed.with(Serdes.String(), Serdes.serdeFrom(new NoWriter<Trade>(), reader())))
                .groupByKey(Grouped.with(Serdes.String(), Serdes.serdeFrom(new NoWriter<Trade>(), reader())));
        windows.forEach((name, size) -> trades
                .windowedBy(TimeWindows.ofSizeAndGrace(size, GRACE))
                .aggregate(
                        () -> EMPTY,
                        Candles::fold,
                        Materialized.<String, Candle, WindowStore<Bytes, byte[]>>as("candles-" + name)
                                .withKeySerde(Serdes.String())
                                .withValueSerde(candles())
                                .withRetention(RETENTION)));
        return builder;
    }

    /** Ask the stores themselves: they see what the cache still holds. */
    private static void print(KafkaStreams streams, Map<String, Duration> windows, PrintWriter out) {
        for (String name : windows.keySet()) {
            var store = streams.store(StoreQueryParameters.fromNameAndType(
                    "candles-" + name, QueryableStoreTypes.<String, Candle>windowStore()));
            try (var all = store.all()) {
                all.forEachRemaining(row -> {
                    String symbol = row.key.key().substring(row.key.key().indexOf(':') + 1);
                    Candle candle = row.value;
                    out.printf(
                            "[\"%s\",\"%s\",%d,\"%s\",\"%s\",\"%s\",\"%s\",\"%s\",\"%s\",%d]%n",
                            name, symbol, row.key.window().start(),
                            candle.open().toPlainString(), candle.high().toPlainString(),
                            candle.low().toPlainString(), candle.close().toPlainString(),
                            candle.volume().toPlainString(), candle.quoteVolume().toPlainString(),
                            candle.count());
                });
            }
        }
    }

    private static final class NoWriter<T> implements Serializer<T> {
        @Override
        public byte[] serialize(String topic, T value) {
            throw new UnsupportedOperationException();
        }
    }

    private static Deserializer<Trade> reader() {
        ObjectReader json = new ObjectMapper().readerFor(Trade.class);
        return (topic, value) -> {
            try {
                return json.readValue(value);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        };
    }

    /** A count, then six decimals: scale, length, digits. */
    private static Serde<Candle> candles() {
        return Serdes.serdeFrom(
                (topic, candle) -> {
                    if (candle == null) {
                        return null;
                    }
                    ByteBuffer bytes = ByteBuffer.allocate(256).putLong(candle.count());
                    put(bytes, candle.open());
                    put(bytes, candle.high());
                    put(bytes, candle.low());
                    put(bytes, candle.close());
                    put(bytes, candle.volume());
                    put(bytes, candle.quoteVolume());
                    byte[] written = new byte[bytes.flip().remaining()];
                    bytes.get(written);
                    return written;
                },
                (topic, value) -> {
                    if (value == null) {
                        return null;
                    }
                    ByteBuffer bytes = ByteBuffer.wrap(value);
                    long count = bytes.getLong();
                    return new Candle(take(bytes), take(bytes), take(bytes), take(bytes), take(bytes), take(bytes), count);
                });
    }

    private static void put(ByteBuffer bytes, BigDecimal decimal) {
        byte[] digits = decimal.unscaledValue().toByteArray();
        bytes.put((byte) decimal.scale()).put((byte) digits.length).put(digits);
    }

    private static BigDecimal take(ByteBuffer bytes) {
        int scale = bytes.get();
        byte[] digits = new byte[bytes.get()];
        bytes.get(digits);
        return new BigDecimal(new BigInteger(digits), scale);
    }

    private Candles() {}
}
