import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams as a peer: the mean of each device's last values, added to the reading.
 *
 * <p>The first argument is a properties file: {@code input}, {@code output}, {@code window} and Kafka Streams' own. The second one
 * says how it is written: {@code typed} as its users do ({@link TypedAverages}), {@code bytes} tuned by hand: keys and values stay
 * bytes, a streaming parser decodes one field of the text, the mean is written behind the text as it came, and the window is a
 * byte array that the store keeps as it is.
 */
public final class Averages {
    private static final String STORE = "avg";

    public static void main(String[] arguments) throws IOException {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(arguments[0]))) {
            properties.load(reader);
        }
        String input = properties.getProperty("input");
        String output = properties.getProperty("output");
        int window = Integer.parseInt(properties.getProperty("window"));
        StreamsBuilder builder = new StreamsBuilder();
        if (arguments[1].equals("typed")) {
            TypedAverages.build(builder, input, output, window);
        } else {
            build(builder, input, output, window);
        }
        run(builder, properties);
    }

    private static void build(StreamsBuilder builder, String input, String output, int window) {
        builder.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray())
                        .withCachingEnabled());
        builder.stream(input, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .processValues(() -> new MovingAverage(window), STORE)
                .to(output, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    }

    private static void run(StreamsBuilder builder, Properties properties) {
        KafkaStreams streams = new KafkaStreams(builder.build(), properties);
        streams.setUncaughtExceptionHandler(
                error -> {
                    error.printStackTrace();
                    Runtime.getRuntime().halt(1);
                    return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(20))));
        streams.start();
    }

    /** State: the place of the oldest value, then the values, as a ring. */
    private static final class MovingAverage implements FixedKeyProcessor<byte[], byte[], byte[]> {
        private static final byte[] FIELD = ",\"avg_temperature_c\":".getBytes(StandardCharsets.US_ASCII);
        private static final JsonFactory JSON =
                JsonFactory.builder().enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER).build();

        private final int window;
        private FixedKeyProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> store;

        MovingAverage(int window) {
            this.window = window;
        }

        @Override
        public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.store = context.getStateStore(STORE);
        }

        @Override
        public void process(FixedKeyRecord<byte[], byte[]> record) {
            byte[] state = with(store.get(record.key()), temperature(record.value()));
            store.put(record.key(), state);
            context.forward(record.withValue(withMean(record.value(), mean(state))));
        }

        private static double temperature(byte[] text) {
            double temperature = Double.NaN;
            try (JsonParser parser = JSON.createParser(text)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    boolean found = parser.currentName().equals("temperature_c");
                    parser.nextToken();
                    if (found) {
                        temperature = parser.getDoubleValue();
                    } else {
                        parser.skipChildren();
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return temperature;
        }

        private byte[] with(byte[] before, double value) {
            int count = before == null ? 0 : (before.length - Integer.BYTES) / Double.BYTES;
            if (count < window) {
                byte[] longer = before == null ? new byte[Integer.BYTES + Double.BYTES] : Arrays.copyOf(before, before.length + Double.BYTES);
                ByteBuffer.wrap(longer).putDouble(longer.length - Double.BYTES, value);
                return longer;
            }
            byte[] state = before.clone();
            ByteBuffer ring = ByteBuffer.wrap(state);
            int oldest = ring.getInt(0);
            ring.putDouble(Integer.BYTES + oldest * Double.BYTES, value);
            ring.putInt(0, oldest + 1 == window ? 0 : oldest + 1);
            return state;
        }

        private static double mean(byte[] state) {
            ByteBuffer ring = ByteBuffer.wrap(state);
            double sum = 0;
            for (int place = Integer.BYTES; place < state.length; place += Double.BYTES) {
                sum += ring.getDouble(place);
            }
            return sum / ((state.length - Integer.BYTES) / Double.BYTES);
        }

        @SuppressWarnings("deprecation") // the quickest way from an ASCII string to bytes
        private static byte[] withMean(byte[] text, double mean) {
            String number = Double.toString(mean);
            byte[] longer = Arrays.copyOf(text, text.length + FIELD.length + number.length());
            System.arraycopy(FIELD, 0, longer, text.length - 1, FIELD.length);
            number.getBytes(0, number.length(), longer, text.length - 1 + FIELD.length);
            longer[longer.length - 1] = '}';
            return longer;
        }
    }
}
