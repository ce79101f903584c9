import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The same work as its users write it: text keys, readings as objects bound by Jackson, the window as an array of doubles. */
final class TypedAverages {
    private static final String STORE = "avg";
    private static final ObjectMapper JSON = new ObjectMapper();

    record Reading(
            @JsonProperty("device_id") String deviceId,
            @JsonProperty("timestamp") long timestamp,
            @JsonProperty("temperature_c") double temperature,
            @JsonProperty("humidity_pct") double humidity) {}

    record Averaged(
            @JsonProperty("device_id") String deviceId,
            @JsonProperty("timestamp") long timestamp,
            @JsonProperty("temperature_c") double temperature,
            @JsonProperty("humidity_pct") double humidity,
            @JsonProperty("avg_temperature_c") double average) {}

    static void build(StreamsBuilder builder, String input, String output, int window) {
        builder.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.String(), doubles())
                        .withCachingEnabled());
        builder.stream(input, Consumed.with(Serdes.String(), json(Reading.class)))
                .processValues(() -> new MovingAverage(window), STORE)
                .to(output, Produced.with(Serdes.String(), json(Averaged.class)));
    }

    private static <T> Serde<T> json(Class<T> type) {
        ObjectReader reader = JSON.readerFor(type);
        ObjectWriter writer = JSON.writerFor(type);
        return Serdes.serdeFrom(
                (topic, value) -> {
                    try {
                        return writer.writeValueAsBytes(value);
                    } catch (IOException error) {
                        throw new UncheckedIOException(error);
                    }
                },
                (topic, data) -> {
                    try {
                        return reader.readValue(data);
                    } catch (IOException error) {
                        throw new UncheckedIOException(error);
                    }
                });
    }

    private static Serde<double[]> doubles() {
        return Serdes.serdeFrom(
                (topic, values) -> {
                    ByteBuffer buffer = ByteBuffer.allocate(values.length * Double.BYTES);
                    buffer.asDoubleBuffer().put(values);
                    return buffer.array();
                },
                (topic, data) -> {
                    double[] values = new double[data.length / Double.BYTES];
                    ByteBuffer.wrap(data).asDoubleBuffer().get(values);
                    return values;
                });
    }

    private static final class MovingAverage implements FixedKeyProcessor<String, Reading, Averaged> {
        private final int window;
        private FixedKeyProcessorContext<String, Averaged> context;
        private KeyValueStore<String, double[]> store;

        MovingAverage(int window) {
            this.window = window;
        }

        @Override
        public void init(FixedKeyProcessorContext<String, Averaged> context) {
            this.context = context;
            this.store = context.getStateStore(STORE);
        }

        @Override
        public void process(FixedKeyRecord<String, Reading> record) {
            Reading reading = record.value();
            double[] before = store.get(record.key());
            double[] values = with(before == null ? new double[0] : before, reading.temperature());
            store.put(record.key(), values);
            double average = Arrays.stream(values).sum() / values.length;
            context.forward(
                    record.withValue(
                            new Averaged(
                                    reading.deviceId(),
                                    reading.timestamp(),
                                    reading.temperature(),
                                    reading.humidity(),
                                    average)));
        }

        private double[] with(double[] before, double value) {
            int kept = Math.min(before.length, window - 1);
            double[] values = Arrays.copyOfRange(before, before.length - kept, before.length + 1);
            values[kept] = value;
            return values;
        }
    }

    private TypedAverages() {}
}
