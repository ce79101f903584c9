"""What must hold between the fields of a Pipeline: a list of named rules, each a pure function.

A rule yields a problem for every place that breaks it. Its message names both sides of the conflict and the cure; the
path says where to look. The CRD says the same in CEL wherever CEL can (`schema`).
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forebay.pipeline import fields, names, properties
from forebay.pipeline.problems import Path, Problem
from forebay.pipeline.spec import (
    Condition,
    ConsumingStage,
    DuckDB,
    FieldMapping,
    FieldType,
    FileSource,
    Management,
    MappedType,
    Pipeline,
    PipelineSpec,
    Processor,
    Producer,
    SaslMechanism,
    Sink,
    Topic,
    Transform,
)

Rule = Callable[[Pipeline], Iterator[Problem]]

STATEFUL_SET_NAME = 52
"""Kubernetes appends a hash of 11 characters and wants 63 at most."""


def check(pipeline: Pipeline) -> Iterator[Problem]:
    """Everything that contradicts itself, rule by rule."""
    for rule in RULES:
        yield from rule(pipeline)


def has_a_stage(pipeline: Pipeline) -> Iterator[Problem]:
    """Topics alone move nothing."""
    if not pipeline.spec.stages:
        yield Problem(("spec",), "has no stage: add an entry to producers, processors or sinks")


def names_are_unique(pipeline: Pipeline) -> Iterator[Problem]:
    """Names identify: topics, stages of all kinds together, transforms of a processor, fields of a record."""
    spec = pipeline.spec
    yield from _repeated("topic", ((("spec", "topics", i, "name"), t.name) for i, t in enumerate(spec.topics)))
    yield from _repeated("stage", (((*path, "name"), stage.name) for path, stage in _stages(spec)))
    for path, processor in _processors(spec):
        placed = ((*path, "transforms", i, "name") for i in range(len(processor.transforms)))
        yield from _repeated("transform", zip(placed, (t.name for t in processor.transforms), strict=True))
    for i, topic in enumerate(spec.topics):
        at: Path = ("spec", "topics", i, "fields")
        yield from _repeated("field", (((*at, j, "name"), field.name) for j, field in enumerate(topic.fields)))
    for path, file in _files(spec):
        placed_fields = (((*path, "fields", j, "name"), field.name) for j, field in enumerate(file.fields))
        yield from _repeated("field", placed_fields)


def _repeated(what: str, named: Iterable[tuple[Path, str]]) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, name in named:
        if name in seen:
            yield Problem(path, f"another {what} is called {name!r} already: rename one of them")
        seen.add(name)


def stage_names_fit_kubernetes(pipeline: Pipeline) -> Iterator[Problem]:
    """A stage becomes a StatefulSet; its name and a replica's number share 52 characters."""
    for path, stage in _stages(pipeline.spec):
        replicas = stage.replicas if isinstance(stage, Producer) else stage.autoscaling.max_replicas
        name = f"{pipeline.metadata.name}-{names.replica(stage, replicas - 1)}"
        if len(name) > STATEFUL_SET_NAME:
            yield Problem(
                (*path, "name"),
                f"{name!r} (Pipeline, stage, replica) has {len(name)} characters, Kubernetes takes {STATEFUL_SET_NAME}: "
                f"shorten the name of the stage or of the Pipeline",
            )


def topics_are_declared(pipeline: Pipeline) -> Iterator[Problem]:
    """Every `from` and `to` names an entry of spec.topics."""
    declared = list(dict.fromkeys(topic.name for topic in pipeline.spec.topics))
    for path, end, name in _ends(pipeline.spec):
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            cure = f"did you mean {close[0]!r}?" if close else f"declare it there, or use one of {', '.join(declared)}"
            yield Problem((*path, end), f"topic {name!r} is not declared in spec.topics: {cure}")


def topic_names_are_legal(pipeline: Pipeline) -> Iterator[Problem]:
    """Kafka refuses `.` and `..`, keeps `__` for itself, and takes `.` and `_` for the same in the names of metrics."""
    seen: dict[str, str] = {}
    for i, topic in enumerate(pipeline.spec.topics):
        path: Path = ("spec", "topics", i, "name")
        if topic.name in {".", ".."}:
            yield Problem(path, f"Kafka allows no topic called {topic.name!r}: choose another name")
        if topic.name.startswith("__") and topic.management is Management.MANAGED:
            yield Problem(path, f"{topic.name!r} begins with `__`, as Kafka's own topics do: choose another name")
        other = seen.setdefault(topic.name.replace(".", "_"), topic.name)
        if other != topic.name:
            yield Problem(
                path, f"{topic.name!r} and {other!r} differ only in `.` and `_`, which Kafka refuses: rename one"
            )


def managed_topics_have_partitions(pipeline: Pipeline) -> Iterator[Problem]:
    """Forebay creates Managed topics and must know how large."""
    for i, topic in enumerate(pipeline.spec.topics):
        if topic.management is Management.MANAGED and topic.partitions is None:
            yield Problem(
                ("spec", "topics", i, "partitions"),
                f"topic {topic.name!r} is Managed and has no partitions: add `partitions:`, or `management: External` "
                "if somebody else creates it",
            )


def topic_configs_keep_records(pipeline: Pipeline) -> Iterator[Problem]:
    """Settings that lose or refuse records of the topics that Forebay manages."""
    for i, topic in enumerate(pipeline.spec.topics):
        if topic.management is Management.MANAGED:
            at: Path = ("spec", "topics", i, "config")
            for name, message in _config_problems(pipeline.spec, topic):
                yield Problem((*at, name), message)


def _config_problems(spec: PipelineSpec, topic: Topic) -> Iterator[tuple[str, str]]:
    policy = topic.config.get("cleanup.policy", "")
    keyless = next((p.name for p in spec.producers if p.to == topic.name and p.key is None), None)
    if "compact" in policy and keyless is not None:
        message = f"{policy!r} keeps the last record of each key, and producer {keyless!r} sends none"
        yield "cleanup.policy", f"{message}: give the producer a `key:`, or use delete"
    in_sync, factor = topic.config.get("min.insync.replicas", ""), topic.replication_factor
    if _within(in_sync, properties.Bounds(factor + 1, 2**31)):
        message = f"{in_sync} is more than replicationFactor {factor}, so that every write would fail"
        yield "min.insync.replicas", f"{message}: lower it, or raise replicationFactor"
    if topic.config.get("unclean.leader.election.enable", "").lower() == "true":
        message = "true loses committed records when a broker fails, and with them exactly-once: remove it"
        yield "unclean.leader.election.enable", message


def stages_do_not_feed_themselves(pipeline: Pipeline) -> Iterator[Problem]:
    """Topics and stages make a graph without a cycle; in one, records would go round for ever.

    Dead letters count: a stage that feeds them back to where they failed repeats a poisoned record endlessly.
    """
    edges = list(_edges(pipeline.spec))
    onward = {(source, target) for _, source, target in edges if source != target}
    reported: set[frozenset[str]] = set()
    for path, source, target in edges:
        if source == target:
            yield Problem(path, f"{target!r} is the input of the same stage: name another topic")
            continue
        way = _way(target, source, onward)
        if way and frozenset(way) not in reported:
            reported.add(frozenset(way))
            circle = " -> ".join((source, *way))
            yield Problem(path, f"is part of a circle, in which records would go round for ever: {circle}: cut it")


def _edges(spec: PipelineSpec) -> Iterator[tuple[Path, str, str]]:
    """Every way from one topic to another, with the place in the file that makes it."""
    for path, processor in _processors(spec):
        yield (*path, "to"), processor.from_, processor.to
    for path, stage in _consumers(spec):
        yield _dead_letters_path(path, stage), stage.from_, names.dead_letter_topic(stage)


def _dead_letters_path(path: Path, stage: Processor | Sink) -> Path:
    return (*path, "deadLetters", "topic") if stage.dead_letters else (*path, "from")


def _way(start: str, goal: str, edges: set[tuple[str, str]]) -> tuple[str, ...]:
    """A shortest way along the edges, both ends included; empty where there is none."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for way in ways:  # grows while it is walked: breadth first
        if way[-1] == goal:
            return way
        reached = sorted(target for source, target in edges if source == way[-1] and target not in seen)
        seen.update(reached)
        ways += [(*way, target) for target in reached]
    return ()


def dead_letters_go_elsewhere(pipeline: Pipeline) -> Iterator[Problem]:
    """Dead letters mix neither with a stage's results nor with state."""
    derived = dict(_derived(pipeline))
    for path, stage in _consumers(pipeline.spec):
        at, topic = _dead_letters_path(path, stage), names.dead_letter_topic(stage)
        if isinstance(stage, Processor) and topic == stage.to:
            yield Problem(at, f"dead letters and results would both go to {topic!r}: name another topic in deadLetters")
        if topic in derived:
            yield Problem(at, f"{topic!r} is the name of the topic for {derived[topic]}: name another one")


def derived_topics_are_free(pipeline: Pipeline) -> Iterator[Problem]:
    """Names that Forebay derives for positions and changelogs are not taken by declared topics."""
    derived = dict(_derived(pipeline))
    for i, topic in enumerate(pipeline.spec.topics):
        if topic.name in derived:
            yield Problem(
                ("spec", "topics", i, "name"),
                f"{topic.name!r} is the name of the topic for {derived[topic.name]}: choose another name",
            )


def _derived(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    for producer in pipeline.spec.producers:
        yield names.positions_topic(pipeline, producer), f"the positions of producer {producer.name!r}"
    for processor in pipeline.spec.processors:
        for transform in processor.transforms:
            if transform.is_stateful:
                name = names.changelog_topic(pipeline, processor, transform)
                yield name, f"the state of transform {transform.name!r} of {processor.name!r}"


def replicas_fit_partitions(pipeline: Pipeline) -> Iterator[Problem]:
    """A replica without a partition idles: min <= max <= partitions of the input."""
    partitions = {topic.name: topic.partitions for topic in pipeline.spec.topics}
    for path, stage in _consumers(pipeline.spec):
        low, high = stage.autoscaling.min_replicas, stage.autoscaling.max_replicas
        if low > high:
            yield Problem(
                (*path, "autoscaling", "minReplicas"),
                f"minReplicas {low} is more than maxReplicas {high}: raise maxReplicas or lower minReplicas",
            )
        available = partitions.get(stage.from_)
        if available is not None and high > available:
            yield Problem(
                (*path, "autoscaling", "maxReplicas"),
                f"maxReplicas {high} is more than the {available} partitions of {stage.from_!r}, and a replica without a "
                f"partition idles: lower it to {available}, or give the topic more partitions",
            )


def duckdb_has_one_replica(pipeline: Pipeline) -> Iterator[Problem]:
    """One process at a time can open a DuckDB file for writing."""
    for path, stage in _sinks(pipeline.spec):
        if isinstance(stage.destination.duckdb, DuckDB) and stage.autoscaling.max_replicas > 1:
            yield Problem(
                (*path, "autoscaling", "maxReplicas"),
                f"maxReplicas {stage.autoscaling.max_replicas} and destination duckdb exclude each other, for one process "
                "alone can write the file: set maxReplicas to 1, or use postgres",
            )


def files_have_one_reader(pipeline: Pipeline) -> Iterator[Problem]:
    """Two replicas would read the same file twice."""
    for path, producer in _producers(pipeline.spec):
        if producer.source.file is not None and producer.replicas > 1:
            yield Problem(
                (*path, "replicas"),
                f"{producer.replicas} replicas would each send the whole file: set replicas to 1",
            )


def pods_use_their_volumes(pipeline: Pipeline) -> Iterator[Problem]:
    """A volume that nothing is written to, or read from, is a misunderstanding."""
    for path, stage in _stages(pipeline.spec):
        if stage.pod is None:
            continue
        is_kept = isinstance(stage, Processor) or (isinstance(stage, Sink) and stage.destination.duckdb is not None)
        if stage.pod.storage is not None and not is_kept:
            yield Problem(
                (*path, "pod", "storage"), "processors and duckdb sinks alone keep something on disk: remove it"
            )
        if stage.pod.files is not None and not (isinstance(stage, Producer) and stage.source.file is not None):
            yield Problem((*path, "pod", "files"), "only a producer with a file source reads files: remove it")


def delivery_outlasts_linger(pipeline: Pipeline) -> Iterator[Problem]:
    """A record must not time out while it waits for its batch."""
    writers: list[tuple[Path, Producer | Processor]] = [*_producers(pipeline.spec), *_processors(pipeline.spec)]
    for path, stage in writers:
        delivery = stage.delivery
        if delivery.linger_ms >= delivery.timeout_ms:
            yield Problem(
                (*path, "delivery", "lingerMs"),
                f"lingerMs {delivery.linger_ms} must be less than timeoutMs {delivery.timeout_ms}: lower lingerMs",
            )


def mappings_have_one_origin(pipeline: Pipeline) -> Iterator[Problem]:
    """A field of a file source comes from a column or is a constant of its type; only timestamps have a format."""
    for path, file in _files(pipeline.spec):
        for i, mapping in enumerate(file.fields):
            at: Path = (*path, "fields", i)
            if mapping.column is not None and mapping.constant is not None:
                yield Problem(at, f"field {mapping.name!r} has both column and constant: remove one of them")
            if mapping.format is not None and mapping.type is not MappedType.TIMESTAMP:
                message = (
                    f"a format is for type timestamp, and the type is {mapping.type}: remove format, or change type"
                )
                yield Problem((*at, "format"), message)
            if mapping.constant is not None and not _constant_fits(mapping):
                message = f"{mapping.constant!r} is no {mapping.type}: correct the constant, or change type"
                yield Problem((*at, "constant"), message)


def _constant_fits(mapping: FieldMapping) -> bool:
    text = mapping.constant or ""
    try:
        match mapping.type:
            case MappedType.INTEGER:
                int(text)
            case MappedType.NUMBER:
                float(text)
            case MappedType.BOOLEAN:
                return text.lower() in {"true", "false"}
    except ValueError:
        return False
    return True


def fields_exist(pipeline: Pipeline) -> Iterator[Problem]:
    """Where the fields of a topic are known, stages name those: as key, for the pace, in transforms."""
    for path, producer in _producers(pipeline.spec):
        known = fields.source_fields(producer.source)
        if producer.key is not None:
            yield from _exists((*path, "key", "field"), producer.key.field, known, "the source")
        if producer.source.file is not None and producer.source.file.pace is not None:
            yield from _pace((*path, "source", "file", "pace", "field"), producer.source.file.pace.field, known)
    for path, processor in _processors(pipeline.spec):
        known = fields.fields_of(pipeline.spec, processor.from_)
        for i, transform in enumerate(processor.transforms):
            yield from _transform_fields((*path, "transforms", i), transform, known, processor.from_)
            known = fields.after(known, transform)


def _pace(path: Path, name: str, known: fields.Fields | None) -> Iterator[Problem]:
    yield from _exists(path, name, known, "the source")
    kind = next((field.type for field in known or () if field.name == name), FieldType.INTEGER)
    if kind not in {FieldType.INTEGER, FieldType.NUMBER}:
        yield Problem(path, f"pace needs epoch milliseconds, and {name!r} is a {kind}: map it with type timestamp")


def _transform_fields(path: Path, transform: Transform, known: fields.Fields | None, topic: str) -> Iterator[Problem]:
    if transform.moving_average is not None:
        average = transform.moving_average
        at = (*path, "movingAverage", "field")
        yield from _exists(at, average.field, known, f"topic {topic!r}")
        kind = next((field.type for field in known or () if field.name == average.field), FieldType.NUMBER)
        if kind not in {FieldType.INTEGER, FieldType.NUMBER}:
            yield Problem(at, f"an average needs numbers, and {average.field!r} is a {kind}: name a number field")
    if transform.filter is not None:
        for i, condition in enumerate(transform.filter.where):
            if condition.exists is None:
                at = (*path, "filter", "where", i, "field")
                yield from _exists(at, condition.field, known, f"topic {topic!r}")


def _exists(path: Path, name: str, known: fields.Fields | None, where: str) -> Iterator[Problem]:
    available = [field.name for field in known or ()]
    if known is not None and name not in available:
        close = difflib.get_close_matches(name, available, n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(available)}"
        yield Problem(path, f"the records of {where} have no field {name!r}: {cure}")


def outputs_are_new(pipeline: Pipeline) -> Iterator[Problem]:
    """A computed field does not overwrite what is there."""
    for path, processor in _processors(pipeline.spec):
        taken = {field.name: "a field of the input" for field in fields.fields_of(pipeline.spec, processor.from_) or ()}
        for i, transform in enumerate(processor.transforms):
            average = transform.moving_average
            if average is None:
                continue
            at: Path = (*path, "transforms", i, "movingAverage", "output")
            if average.output == average.field:
                yield Problem(at, f"would overwrite its own input field {average.field!r}: choose another name")
            elif average.output in taken:
                yield Problem(at, f"{average.output!r} is {taken[average.output]} already: choose another name")
            taken[average.output] = f"the output of transform {transform.name!r}"


def conditions_can_hold(pipeline: Pipeline) -> Iterator[Problem]:
    """A condition tests something, and something can pass it."""
    for path, processor in _processors(pipeline.spec):
        for i, transform in enumerate(processor.transforms):
            for j, condition in enumerate(transform.filter.where if transform.filter else ()):
                for message in _condition_problems(condition):
                    yield Problem((*path, "transforms", i, "filter", "where", j), message)


def _condition_problems(condition: Condition) -> Iterator[str]:
    comparisons = (condition.min, condition.max, condition.one_of)
    if condition.exists is None and all(test is None for test in comparisons):
        yield f"tests nothing of field {condition.field!r}: set exists, min, max or oneOf"
    if condition.exists is False and any(test is not None for test in comparisons):
        yield "exists: false and a test of the value cannot both hold: remove one of them"
    if condition.min is not None and condition.max is not None and condition.min > condition.max:
        yield f"min {condition.min:g} is more than max {condition.max:g}, so that nothing passes: exchange them"
    if condition.one_of == ():
        yield "oneOf is empty, so that nothing passes: add a text, or remove it"
    if condition.one_of and (condition.min is not None or condition.max is not None):
        yield "oneOf compares texts, min and max compare numbers; no value passes both: remove one of them"


def state_has_keys(pipeline: Pipeline) -> Iterator[Problem]:
    """State belongs to a key: what reaches a stateful transform through Managed topics must carry one."""
    for path, processor in _processors(pipeline.spec):
        stateful = next((transform.name for transform in processor.transforms if transform.is_stateful), None)
        if stateful is None:
            continue
        for producer in _keyless_origins(pipeline.spec, processor.from_):
            yield Problem(
                (*path, "from"),
                f"transform {stateful!r} keeps state per key, and producer {producer!r} sends records without a key to "
                f"{processor.from_!r}: give the producer a `key: {{field: ...}}`",
            )


def _keyless_origins(spec: PipelineSpec, topic: str) -> Iterator[str]:
    """Producers whose records reach the topic, directly or through processors, which keep keys as they are."""
    managed = {topic.name for topic in spec.topics if topic.management is Management.MANAGED}
    edges = {(processor.from_, processor.to) for processor in spec.processors}
    for producer in spec.producers:
        way = _way(producer.to, topic, edges)
        if producer.key is None and way and managed.issuperset(way):
            yield producer.name


def sasl_runs_inside_tls(pipeline: Pipeline) -> Iterator[Problem]:
    """A password is never sent over a plain connection."""
    kafka = pipeline.spec.kafka
    if kafka.sasl is not None and kafka.tls is None:
        yield Problem(
            ("spec", "kafka", "sasl"),
            "sasl without tls would send the password in the clear: add `tls: {}` (or tls with a caSecretRef)",
        )
    if kafka.admin_secret_ref is not None and kafka.sasl is None:
        yield Problem(
            ("spec", "kafka", "adminSecretRef"), "a login needs a mechanism: add `sasl:`, or remove adminSecretRef"
        )


def users_can_be_managed(pipeline: Pipeline) -> Iterator[Problem]:
    """Kafka itself keeps SCRAM users alone, and somebody with the rights has to change them."""
    kafka = pipeline.spec.kafka
    sasl = kafka.sasl
    if sasl is None:
        return
    at: Path = ("spec", "kafka", "sasl")
    if sasl.users is None and sasl.rotate_every != "Never":
        yield Problem(
            (*at, "rotateEvery"),
            "a user of a Secret is changed by whoever writes the Secret: remove rotateEvery, or use users: Managed",
        )
    if sasl.users is not None and sasl.mechanism is SaslMechanism.PLAIN:
        yield Problem((*at, "mechanism"), "Kafka has no way to make users for PLAIN: use SCRAM-SHA-512")
    if sasl.users is not None and kafka.admin_secret_ref is None:
        yield Problem(
            (*at, "users"), "managed users are made by an administrator: add adminSecretRef, with a user that may do so"
        )


def kafka_properties_are_allowed(pipeline: Pipeline) -> Iterator[Problem]:
    """librdkafka properties come from the allow-list of the stage's kind and lie in their bounds."""
    for path, stage in _stages(pipeline.spec):
        allowed = properties.allowed(stage)
        for name, value in stage.kafka_properties.items():
            at: Path = (*path, "kafkaProperties", name)
            if name not in allowed:
                yield Problem(at, _not_allowed(name, allowed))
            elif not _within(value, allowed[name]):
                bounds = allowed[name]
                yield Problem(at, f"{value!r} is not a whole number from {bounds.low} to {bounds.high}: correct it")


def _not_allowed(name: str, allowed: dict[str, Any]) -> str:
    if name in properties.INSTEAD:
        return f"has a field of its own: set {properties.INSTEAD[name]} instead"
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.8)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"is not allowed, for Forebay sets it or it does not exist: {hint}allowed are {', '.join(sorted(allowed))}"


def _within(text: str, bounds: properties.Bounds) -> bool:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10):  # noqa: PLR2004 - no bound has more digits
        return False
    return bounds.low <= int(text) <= bounds.high


RULES: tuple[Rule, ...] = (
    has_a_stage,
    names_are_unique,
    stage_names_fit_kubernetes,
    topics_are_declared,
    topic_names_are_legal,
    managed_topics_have_partitions,
    topic_configs_keep_records,
    derived_topics_are_free,
    stages_do_not_feed_themselves,
    dead_letters_go_elsewhere,
    replicas_fit_partitions,
    duckdb_has_one_replica,
    files_have_one_reader,
    mappings_have_one_origin,
    fields_exist,
    outputs_are_new,
    conditions_can_hold,
    state_has_keys,
    pods_use_their_volumes,
    delivery_outlasts_linger,
    sasl_runs_inside_tls,
    users_can_be_managed,
    kafka_properties_are_allowed,
)
"""From the simplest to the most particular; the order decides only which of two problems of a line comes first."""


def _producers(spec: PipelineSpec) -> Iterator[tuple[Path, Producer]]:
    for i, producer in enumerate(spec.producers):
        yield ("spec", "producers", i), producer


def _processors(spec: PipelineSpec) -> Iterator[tuple[Path, Processor]]:
    for i, processor in enumerate(spec.processors):
        yield ("spec", "processors", i), processor


def _sinks(spec: PipelineSpec) -> Iterator[tuple[Path, Sink]]:
    for i, sink in enumerate(spec.sinks):
        yield ("spec", "sinks", i), sink


def _consumers(spec: PipelineSpec) -> Iterator[tuple[Path, Processor | Sink]]:
    yield from _processors(spec)
    yield from _sinks(spec)


def _stages(spec: PipelineSpec) -> Iterator[tuple[Path, Producer | Processor | Sink]]:
    yield from _producers(spec)
    yield from _consumers(spec)


def _files(spec: PipelineSpec) -> Iterator[tuple[Path, FileSource]]:
    for path, producer in _producers(spec):
        if producer.source.file is not None:
            yield (*path, "source", "file"), producer.source.file


def _ends(spec: PipelineSpec) -> Iterator[tuple[Path, str, str]]:
    """Every place that names a topic to read or write: the stage's path, `from` or `to`, the topic."""
    for path, stage in _stages(spec):
        if isinstance(stage, ConsumingStage):
            yield path, "from", stage.from_
        if isinstance(stage, Producer | Processor):
            yield path, "to", stage.to
