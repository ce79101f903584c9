"""The `Pipeline` resource as frozen models: the one source for the CRD, the charts' schema and all code.

Unions are written the Kubernetes way: one optional field per kind, exactly one set (`OneOf`). Every list and string
is bounded, so that the cost of CEL rules stays calculable. Rules across fields live in `rules`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Frozen, camelCase outside, and unknown fields are errors: a typo must not pass silently."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class OneOf(Model):
    """A union: exactly one of the optional fields is set; required fields and those with defaults are common to all."""

    @classmethod
    def members(cls) -> tuple[str, ...]:
        """The Python names of the union's members: the fields whose default is None."""
        return tuple(
            name for name, field in cls.model_fields.items() if not field.is_required() and field.default is None
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        chosen = [name for name in self.members() if getattr(self, name) is not None]
        if len(chosen) != 1:
            kinds = ", ".join(to_camel(name) for name in self.members())
            found = "none is" if not chosen else " and ".join(to_camel(name) for name in chosen) + " are"
            raise ValueError(f"set exactly one of {kinds}; {found} set")
        return self

    @property
    def kind(self) -> str:
        """The alias of the member that is set, e.g. `movingAverage`."""
        return next(to_camel(name) for name in self.members() if getattr(self, name) is not None)


DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
TOPIC_NAME = r"^[a-zA-Z0-9._-]+$"
PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
ADDRESSES = r"^[^\s,/]+:[0-9]{1,5}(,[^\s,/]+:[0-9]{1,5})*$"
ENTRYPOINT = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
IMAGE = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
ROTATION = r"^(Never|[1-9][0-9]{0,3}[dh])$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|m|[kKMGTPE]i?)?$"

IN_WORDS = {
    DNS_LABEL: "lower-case letters, digits and '-', with a letter or digit at both ends",
    OBJECT_NAME: "lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    TOPIC_NAME: "letters, digits, '.', '_' and '-'",
    PRINTABLE: "characters that can be printed, and at least one",
    ADDRESSES: "host:port, several separated by commas, without spaces",
    ENTRYPOINT: "package.module:function",
    IDENTIFIER: "a letter or '_', then letters, digits and '_', 63 at most",
    IMAGE: "an image's name, e.g. registry.example.com/team/app:1.2",
    QUANTITY: 'a quantity as Kubernetes writes it, e.g. "500m", "1", "512Mi"',
    ROTATION: "Never, or a number of days or hours, e.g. 30d or 12h",
    FILE_NAME: "a file's name without folders: letters, digits, '.', '_' and '-'",
}
"""What a text that has to match a pattern consists of, for people."""

DnsLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL, min_length=1, max_length=40)]
"""Names of Pipelines, stages and transforms: no dot, so that a dot separates them in Kafka's names."""

Namespace = Annotated[str, StringConstraints(pattern=DNS_LABEL, min_length=1, max_length=63)]
ObjectName = Annotated[str, StringConstraints(pattern=OBJECT_NAME, min_length=1, max_length=253)]
TopicName = Annotated[str, StringConstraints(pattern=TOPIC_NAME, min_length=1, max_length=200)]
FieldName = Annotated[str, StringConstraints(pattern=PRINTABLE, min_length=1, max_length=128)]
ShortText = Annotated[str, StringConstraints(max_length=1024)]
Identifier = Annotated[str, StringConstraints(pattern=IDENTIFIER, min_length=1, max_length=63)]
Port = Annotated[int, Field(ge=1, le=65535)]
ImageName = Annotated[str, StringConstraints(pattern=IMAGE, min_length=1, max_length=512)]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY, min_length=1, max_length=32)]
KubernetesKey = Annotated[str, StringConstraints(pattern=PRINTABLE, min_length=1, max_length=317)]
"""A key of a label, an annotation or a resource: a prefix of 253 characters, a slash, a name of 63."""

LabelValue = Annotated[str, StringConstraints(max_length=63)]
Opaque = Annotated[dict[str, Any], Field(max_length=64)]
"""Handed to Kubernetes as it stands; Kubernetes judges it."""


class SecretRef(Model):
    """A Secret in the Pipeline's own namespace; another namespace cannot be named."""

    name: ObjectName


class TLS(Model):
    """TLS to the brokers."""

    ca_secret_ref: SecretRef | None = None
    """Secret with key `ca.crt`; without it the system's certificate authorities are trusted."""
    client_certificate_secret_ref: SecretRef | None = None
    """Secret with keys `tls.crt` and `tls.key`, or `user.crt` and `user.key`, for mutual TLS."""


class SaslMechanism(StrEnum):
    """SASL mechanisms, spelled as Kafka spells them."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class Users(StrEnum):
    """Who makes the users that stages log in as: Managed is the operator, one for each stage."""

    MANAGED = "Managed"


class Sasl(OneOf):
    """SASL login, always inside TLS."""

    mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    rotate_every: Annotated[str, StringConstraints(pattern=ROTATION, min_length=2, max_length=6)] = "Never"
    """How long a managed user is used, e.g. 30d or 12h; then the next takes its place while the stage runs on."""
    users: Users | None = None
    """Managed: a SCRAM user for each stage, which may do what the stage does and nothing else."""
    secret_ref: SecretRef | None = None
    """Secret with key `password`, and `username` where the user is not called like the Secret."""


class Kafka(Model):
    """Where Kafka is, and how to log in. `forebay run` replaces it by the embedded broker or `--bootstrap`."""

    bootstrap_servers: Annotated[str, StringConstraints(pattern=ADDRESSES, min_length=1, max_length=2048)]
    """host:port, several separated by commas."""
    tls: TLS | None = None
    sasl: Sasl | None = None
    admin_secret_ref: SecretRef | None = None
    """Secret with the administrator's login, keys as in `sasl`; default: that of `sasl`. Managed users are made with it."""


class FieldType(StrEnum):
    """What a field of a record holds."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    JSON = "json"


class RecordField(Model):
    """A field of a topic's records; sinks make columns of them."""

    name: FieldName
    type: FieldType


class Management(StrEnum):
    """Who owns a topic: Managed is created and altered by Forebay, External is checked only."""

    MANAGED = "Managed"
    EXTERNAL = "External"


class Topic(Model):
    """A Kafka topic, an edge of the Pipeline."""

    name: TopicName
    management: Management = Management.MANAGED
    partitions: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Required when Managed; for External the least number accepted. It can grow, never shrink."""
    replication_factor: Annotated[int, Field(ge=1, le=15)] = 3
    """Set at creation; capped at the number of brokers by `forebay run`."""
    config: Annotated[dict[Annotated[str, StringConstraints(max_length=128)], ShortText], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Kafka topic configuration, as text, e.g. `retention.ms: "604800000"`."""
    fields: Annotated[tuple[RecordField, ...], Field(max_length=256)] = ()
    """The fields of its JSON records, where they cannot be derived from the stages that write it."""


class Key(Model):
    """The field whose value becomes the Kafka key, and so decides partition and order."""

    field: FieldName


class Simulator(Model):
    """Devices that send `{device_id, timestamp, temperature_c, humidity_pct}`."""

    devices: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    events_per_second: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    """Over all replicas; left out: as fast as Kafka takes them."""
    records: Annotated[int, Field(ge=0)] | None = None
    """Stop after this many events; left out: endless."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """Equal seeds give equal readings."""
    malformed_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of events that no processor can read: broken JSON, missing or wrongly typed fields."""


class FileFormat(StrEnum):
    """How a file is read: one JSON object a line, or CSV with a header line."""

    NDJSON = "Ndjson"
    CSV = "Csv"


class MappedType(StrEnum):
    """What a text of the file becomes; Timestamp becomes epoch milliseconds."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"


class FieldMapping(Model):
    """One field of the record, made from a column (or JSON field) or a constant."""

    name: FieldName
    column: FieldName | None = None
    """Where the value comes from; default: the column called like the field."""
    constant: ShortText | None = None
    """The same value in every record, instead of a column."""
    type: MappedType = MappedType.STRING
    format: Annotated[str, StringConstraints(max_length=64)] | None = None
    """strptime format of a timestamp; default: ISO 8601 or a number of epoch milliseconds. Without an offset: UTC."""


class Pace(Model):
    """Send records with the time between them that the data shows."""

    field: FieldName
    """The record's field with epoch milliseconds."""
    speedup: Annotated[float, Field(gt=0, le=1_000_000_000)] = 1.0
    """1 = as recorded, 60 = an hour a minute."""


class FileSource(Model):
    """Records from a file, once, from the first line to the last."""

    path: Annotated[str, StringConstraints(pattern=PRINTABLE, min_length=1, max_length=1024)]
    """Relative paths start at the Pipeline file's folder."""
    format: FileFormat = FileFormat.NDJSON
    fields: Annotated[tuple[FieldMapping, ...], Field(max_length=256)] = ()
    """Fields of the record; left out: every column as it stands."""
    pace: Pace | None = None
    """Left out: as fast as Kafka takes them."""


class Source(OneOf):
    """Where a producer's records come from."""

    simulator: Simulator | None = None
    file: FileSource | None = None


class Compression(StrEnum):
    """Compression of record batches."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Delivery(Model):
    """How records are handed to Kafka."""

    linger_ms: Annotated[int, Field(ge=0, le=10_000)] = 20
    batch_bytes: Annotated[int, Field(ge=1_024, le=16_777_216)] = 1_000_000
    compression: Compression = Compression.LZ4
    timeout_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 10_000
    """A record not acknowledged by then fails its transaction, which is tried again."""


class Batch(Model):
    """How much is handled at once: one transaction of a stage."""

    max_records: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Records taken from Kafka at a time, at most."""
    max_wait_ms: Annotated[int, Field(ge=10, le=60_000)] = 200
    """A transaction is committed this often; one of Kafka at least every 5 seconds."""


class Behaviour(Model):
    """How long evidence has to last before replicas are taken away."""

    scale_in_after_seconds: Annotated[int, Field(ge=10, le=3_600)] = 90
    """So long fewer replicas must have been enough; longer where a rebalance is costly."""
    to_zero_after_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """So long nothing may have arrived before the last replica goes."""


class Autoscaling(Model):
    """Bounds for the number of replicas; equal bounds pin it, unless the stage may scale to zero."""

    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    freshness_seconds: Annotated[int, Field(ge=1, le=86_400)] = 10
    """How far behind its input a stage may be."""
    scale_to_zero: bool = False
    """No replica at all while there is nothing to read; the first record wakes the stage."""
    behaviour: Behaviour = Behaviour()

    @property
    def is_pinned(self) -> bool:
        """Whether there is nothing to decide: the number of replicas is always the same."""
        return self.min_replicas == self.max_replicas and not self.scale_to_zero


class StartFrom(StrEnum):
    """Where a group without committed offsets starts."""

    EARLIEST = "Earliest"
    LATEST = "Latest"


class OnOffsetLost(StrEnum):
    """What to do when records were deleted before they were read, alone or with their topic."""

    STOP = "Stop"
    EARLIEST = "Earliest"


class Resources(Model):
    """Compute resources of a container, as Kubernetes means them."""

    requests: Annotated[dict[KubernetesKey, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    limits: Annotated[dict[KubernetesKey, Quantity], Field(max_length=16)] = Field(default_factory=dict)


class Toleration(Model):
    """A taint that the pods put up with."""

    key: KubernetesKey | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=2**53)] | None = None


class Affinity(Model):
    """Where the pods prefer or have to run, as Kubernetes spells it."""

    node_affinity: Opaque | None = None
    pod_affinity: Opaque | None = None
    pod_anti_affinity: Opaque | None = None


class Storage(Model):
    """A volume of each replica's own for its local state or database; without it that lives and dies with the pod."""

    size: Quantity
    storage_class_name: ObjectName | None = None
    """Default: the cluster's default class."""


class ConfigMapRef(Model):
    """A ConfigMap in the Pipeline's own namespace."""

    name: ObjectName


class ClaimRef(Model):
    """A PersistentVolumeClaim in the Pipeline's own namespace."""

    name: ObjectName


class Files(OneOf):
    """What brings a file source's file into its pod, to the place that `path` names."""

    config_map_ref: ConfigMapRef | None = None
    """Its key is the last part of `path`; a ConfigMap holds 1 MiB."""
    claim_ref: ClaimRef | None = None
    """The root of the volume is mounted, read-only, as the folder of `path`."""


class Pod(Model):
    """How the replicas of a stage run in a cluster; `forebay run` ignores it."""

    image: ImageName | None = None
    """Instead of the service's own: an image made FROM it, with the code of `python` transforms."""
    resources: Resources | None = None
    """What is named here replaces the default of that name."""
    node_selector: Annotated[dict[KubernetesKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    affinity: Affinity | None = None
    storage: Storage | None = None
    """For processors and duckdb sinks."""
    files: Files | None = None
    """For file sources."""


class Stage(Model):
    """What producers, processors and sinks have in common."""

    name: DnsLabel
    batch: Batch = Batch()
    rate_limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Records per second and replica."""
    kafka_properties: Annotated[
        dict[Annotated[str, StringConstraints(max_length=128)], ShortText], Field(max_length=32)
    ] = Field(default_factory=dict)
    """librdkafka properties from the allow-list."""
    pod: Pod | None = None


class Producer(Stage):
    """A source and the topic that it writes."""

    to: TopicName
    key: Key | None = None
    """Left out: records carry no key and are spread over the partitions."""
    source: Source
    replicas: Annotated[int, Field(ge=1, le=1_000)] = 1
    delivery: Delivery = Delivery()


class DeadLetters(Model):
    """Where records go that cannot be processed."""

    topic: TopicName
    """Default: the input topic's name with `.dlq`."""


class ConsumingStage(Stage):
    """What processors and sinks have in common."""

    from_: TopicName = Field(alias="from")
    start_from: StartFrom = StartFrom.EARLIEST
    on_offset_lost: OnOffsetLost = OnOffsetLost.STOP
    dead_letters: DeadLetters | None = None
    autoscaling: Autoscaling = Autoscaling()


class MovingAverage(Model):
    """The mean of a key's last values of a field. A shorter history gives the mean of what there is."""

    field: FieldName
    window: Annotated[int, Field(ge=1, le=1_000)] = 10
    """How many values; the cost of a record grows with it."""
    output: FieldName
    """The field that the mean is added as."""


class Condition(Model):
    """A test of one field; everything that is set must hold."""

    field: FieldName
    exists: bool | None = None
    min: float | None = None
    max: float | None = None
    one_of: Annotated[tuple[ShortText, ...], Field(max_length=256)] | None = None
    """Texts, one of which the field equals."""


class Filter(Model):
    """Keeps the records for which every condition holds; the others are dropped."""

    where: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=16)]


class PythonMode(StrEnum):
    """How a Python transform is called."""

    RECORD = "Record"
    BATCH = "Batch"


class PythonTransform(Model):
    """A function of the user's: `def f(record: forebay.messages.Record) -> dict | list[dict] | None`."""

    entrypoint: Annotated[str, StringConstraints(pattern=ENTRYPOINT, min_length=3, max_length=256)]
    """`package.module:name`"""
    mode: PythonMode = PythonMode.RECORD
    """Batch: the function takes a list of records and returns a list of as many results."""
    stateful: bool = False
    """Gives every key a durable `record.state`."""


class Transform(OneOf):
    """One step of a processor."""

    name: DnsLabel
    """Names the state and the changelog of a stateful transform; keep it."""
    state_version: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Raise it to start with empty state after an incompatible change."""
    moving_average: MovingAverage | None = None
    filter: Filter | None = None
    python: PythonTransform | None = None

    @property
    def is_stateful(self) -> bool:
        """Whether it keeps something per key, and so has a changelog."""
        return self.moving_average is not None or (self.python is not None and self.python.stateful)


class Processor(ConsumingStage):
    """Transforms between two topics, exactly once."""

    to: TopicName
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1, max_length=16)]
    delivery: Delivery = Delivery()
    state_cache_mebibytes: Annotated[int, Field(ge=8, le=1_048_576)] = 256
    """Bound of the values that each replica holds in memory, per stateful transform, when it owns every partition."""


class DuckDB(Model):
    """An embedded analytics database: one file, one replica."""

    file: Annotated[str, StringConstraints(pattern=FILE_NAME, min_length=1, max_length=128)] = "pipeline.duckdb"
    """Lies in the stage's data folder."""
    table: Identifier
    memory_limit_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 512
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class Postgres(Model):
    """A PostgreSQL table."""

    secret_ref: SecretRef
    """Secret with key `uri`, or `host`, `port`, `dbname`, `user`, `password`, optionally `sslmode` and `ca.crt`."""
    table: Identifier
    db_schema: Identifier = Field(default="public", alias="schema")


class Stdout(Model):
    """One JSON line per record on standard output; at least once."""


class Destination(OneOf):
    """Where a sink writes."""

    duckdb: DuckDB | None = None
    postgres: Postgres | None = None
    stdout: Stdout | None = None


class Sink(ConsumingStage):
    """A topic and the destination that it is stored in."""

    destination: Destination


class Workloads(StrEnum):
    """Who deploys the stages: Managed is the operator, External is somebody else, e.g. Helm with charts/pipeline."""

    MANAGED = "Managed"
    EXTERNAL = "External"


class DeletionPolicy(StrEnum):
    """What becomes of the Managed topics and of their records when the Pipeline is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class PipelineSpec(Model):
    """Topics are the edges, stages the nodes."""

    kafka: Kafka
    workloads: Workloads = Workloads.MANAGED
    topics: Annotated[tuple[Topic, ...], Field(min_length=1, max_length=64)]
    producers: Annotated[tuple[Producer, ...], Field(max_length=32)] = ()
    processors: Annotated[tuple[Processor, ...], Field(max_length=32)] = ()
    sinks: Annotated[tuple[Sink, ...], Field(max_length=32)] = ()
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN

    @property
    def stages(self) -> tuple[Producer | Processor | Sink, ...]:
        """All stages: producers, processors, sinks, each in the order of the file."""
        return (*self.producers, *self.processors, *self.sinks)

    @property
    def consuming_stages(self) -> tuple[Processor | Sink, ...]:
        """The stages that read a topic, in the same order."""
        return (*self.processors, *self.sinks)

    def topic(self, name: str) -> Topic:
        """The declared topic of that name; KeyError when there is none."""
        for topic in self.topics:
            if topic.name == name:
                return topic
        raise KeyError(name)


class Metadata(BaseModel):
    """The object's identity; what else Kubernetes keeps there is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: DnsLabel
    namespace: Namespace = "default"


class Pipeline(Model):
    """One event pipeline."""

    api_version: Literal["forebay.dev/v1alpha1"] = "forebay.dev/v1alpha1"
    kind: Literal["Pipeline"] = "Pipeline"
    metadata: Metadata
    spec: PipelineSpec
