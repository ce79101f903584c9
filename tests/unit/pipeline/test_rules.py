"""Each rule: a Pipeline that breaks it and nothing else, where the problem is put, and the words."""

import copy

import pytest

from forebay.pipeline import fields, names, properties, rules
from forebay.pipeline.problems import spelled
from forebay.pipeline.spec import Pipeline

RAW = {"name": "raw", "partitions": 4, "replicationFactor": 3}
ENRICHED = {"name": "enriched", "partitions": 4}
DEVICES = {"name": "devices", "to": "raw", "key": {"field": "device_id"}, "source": {"simulator": {}}}
AVERAGE = {"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}}
ENRICH = {"name": "enrich", "from": "raw", "to": "enriched", "transforms": [AVERAGE]}
STORE = {"name": "store", "from": "enriched", "destination": {"duckdb": {"table": "readings"}}}
FILE = {"name": "devices", "to": "raw", "key": {"field": "id"}, "source": {"file": {"path": "x.csv"}}}


def pipeline(**changes) -> Pipeline:
    """The reference Pipeline with parts of its spec replaced."""
    spec = {
        "kafka": {"bootstrapServers": "kafka:9092"},
        "topics": [RAW, ENRICHED],
        "producers": [DEVICES],
        "processors": [ENRICH],
        "sinks": [STORE],
    }
    return Pipeline.model_validate({"metadata": {"name": "sensors"}, "spec": copy.deepcopy(spec | changes)})


def producers(**changes) -> dict:
    return {"producers": [DEVICES | changes]}


def processors(**changes) -> dict:
    return {"processors": [ENRICH | changes]}


def sinks(**changes) -> dict:
    return {"sinks": [STORE | changes]}


def raw(**changes) -> dict:
    return {"topics": [RAW | changes, ENRICHED]}


def mapped(mapping, **changes) -> dict:
    source = {
        "file": {"path": "x.csv", "fields": [{"name": "id"}, {"name": "temperature_c", "type": "number"}, mapping]}
    }
    return {"producers": [FILE | {"source": source} | changes]}


def login(sasl, **kafka) -> dict:
    return {"kafka": {"bootstrapServers": "k:1", "tls": {}, "sasl": sasl, **kafka}}


def transforms(*added) -> dict:
    return processors(transforms=[AVERAGE, *added])


def where(**condition) -> dict:
    return transforms({"name": "some", "filter": {"where": [{"field": "humidity_pct", **condition}]}})


BROKEN = [
    (rules.has_a_stage, {"producers": [], "processors": [], "sinks": []},
     "spec", "has no stage: add an entry to producers, processors or sinks"),
    (rules.names_are_unique, {"topics": [RAW, ENRICHED, RAW]},
     "spec.topics[2].name", "another topic is called 'raw' already: rename one of them"),
    (rules.names_are_unique, sinks(name="enrich"),
     "spec.sinks[0].name", "another stage is called 'enrich' already: rename one of them"),
    (rules.names_are_unique, transforms(AVERAGE | {"movingAverage": {"field": "humidity_pct", "output": "h"}}),
     "spec.processors[0].transforms[1].name", "another transform is called 'average' already: rename one of them"),
    (rules.names_are_unique, mapped({"name": "id"}),
     "spec.producers[0].source.file.fields[2].name", "another field is called 'id' already: rename one of them"),
    (rules.topics_are_declared, sinks(**{"from": "enrichd"}),
     "spec.sinks[0].from", "topic 'enrichd' is not declared in spec.topics: did you mean 'enriched'?"),
    (rules.topics_are_declared, producers(to="nowhere") | {"processors": [], "sinks": []},
     "spec.producers[0].to",
     "topic 'nowhere' is not declared in spec.topics: declare it there, or use one of raw, enriched"),
    (rules.topic_names_are_legal, {"topics": [RAW, ENRICHED, {"name": "..", "partitions": 1}]},
     "spec.topics[2].name", "Kafka allows no topic called '..': choose another name"),
    (rules.topic_names_are_legal, {"topics": [RAW, ENRICHED, {"name": "__x", "partitions": 1}]},
     "spec.topics[2].name", "'__x' begins with `__`, as Kafka's own topics do: choose another name"),
    (rules.topic_names_are_legal, {"topics": [RAW, ENRICHED, RAW | {"name": "a.b"}, RAW | {"name": "a_b"}]},
     "spec.topics[3].name", "'a_b' and 'a.b' differ only in `.` and `_`, which Kafka refuses: rename one"),
    (rules.managed_topics_have_partitions, raw(partitions=None),
     "spec.topics[0].partitions",
     ("topic 'raw' is Managed and has no partitions: add `partitions:`, or `management: External` if somebody else "
     "creates it")),
    (rules.topic_configs_keep_records,
     raw(config={"cleanup.policy": "compact"}) | producers(key=None) | {"processors": []},
     "spec.topics[0].config.cleanup.policy",
     ("'compact' keeps the last record of each key, and producer 'devices' sends none: give the producer a `key:`, or "
     "use delete")),
    (rules.topic_configs_keep_records, raw(config={"min.insync.replicas": "4"}),
     "spec.topics[0].config.min.insync.replicas",
     "4 is more than replicationFactor 3, so that every write would fail: lower it, or raise replicationFactor"),
    (rules.topic_configs_keep_records, raw(config={"unclean.leader.election.enable": "true"}),
     "spec.topics[0].config.unclean.leader.election.enable",
     "true loses committed records when a broker fails, and with them exactly-once: remove it"),
    (rules.derived_topics_are_free, {"topics": [RAW, ENRICHED, RAW | {"name": "default.sensors.devices.positions"}]},
     "spec.topics[2].name",
     ("'default.sensors.devices.positions' is the name of the topic for the positions of producer 'devices': choose "
     "another name")),
    (rules.stages_do_not_feed_themselves, processors(to="raw"),
     "spec.processors[0].to", "'raw' is the input of the same stage: name another topic"),
    (rules.stages_do_not_feed_themselves, sinks(deadLetters={"topic": "enriched"}),
     "spec.sinks[0].deadLetters.topic", "'enriched' is the input of the same stage: name another topic"),
    (rules.stages_do_not_feed_themselves, sinks(deadLetters={"topic": "raw"}),
     "spec.processors[0].to",
     "is part of a circle, in which records would go round for ever: raw -> enriched -> raw: cut it"),
    (rules.dead_letters_go_elsewhere, processors(deadLetters={"topic": "enriched"}),
     "spec.processors[0].deadLetters.topic",
     "dead letters and results would both go to 'enriched': name another topic in deadLetters"),
    (rules.dead_letters_go_elsewhere, sinks(deadLetters={"topic": "default.sensors.enrich.average.v1.changelog"}),
     "spec.sinks[0].deadLetters.topic",
     ("'default.sensors.enrich.average.v1.changelog' is the name of the topic for the state of transform 'average' of "
     "'enrich': name another one")),
    (rules.replicas_fit_partitions, processors(autoscaling={"minReplicas": 3, "maxReplicas": 2}),
     "spec.processors[0].autoscaling.minReplicas",
     "minReplicas 3 is more than maxReplicas 2: raise maxReplicas or lower minReplicas"),
    (rules.replicas_fit_partitions, processors(autoscaling={"maxReplicas": 5}),
     "spec.processors[0].autoscaling.maxReplicas",
     ("maxReplicas 5 is more than the 4 partitions of 'raw', and a replica without a partition idles: lower it to 4, or "
     "give the topic more partitions")),
    (rules.duckdb_has_one_replica, sinks(autoscaling={"maxReplicas": 2}),
     "spec.sinks[0].autoscaling.maxReplicas",
     ("maxReplicas 2 and destination duckdb exclude each other, for one process alone can write the file: set "
     "maxReplicas to 1, or use postgres")),
    (rules.files_have_one_reader, {"producers": [FILE | {"replicas": 2}]},
     "spec.producers[0].replicas", "2 replicas would each send the whole file: set replicas to 1"),
    (rules.mappings_have_one_origin, mapped({"name": "a", "column": "b", "constant": "c"}),
     "spec.producers[0].source.file.fields[2]", "field 'a' has both column and constant: remove one of them"),
    (rules.mappings_have_one_origin, mapped({"name": "a", "format": "%Y"}),
     "spec.producers[0].source.file.fields[2].format",
     "a format is for type timestamp, and the type is string: remove format, or change type"),
    (rules.mappings_have_one_origin, mapped({"name": "a", "constant": "x", "type": "integer"}),
     "spec.producers[0].source.file.fields[2].constant", "'x' is no integer: correct the constant, or change type"),
    (rules.fields_exist, producers(key={"field": "device"}),
     "spec.producers[0].key.field", "the records of the source have no field 'device': did you mean 'device_id'?"),
    (rules.fields_exist, mapped({"name": "t", "type": "timestamp"},
                                source={"file": {"path": "x", "fields": [{"name": "id"},
                                        {"name": "temperature_c", "type": "number"}], "pace": {"field": "id"}}}),
     "spec.producers[0].source.file.pace.field",
     "pace needs epoch milliseconds, and 'id' is a string: map it with type timestamp"),
    (rules.fields_exist, processors(transforms=[{"name": "a", "movingAverage": {"field": "device_id", "output": "x"}}]),
     "spec.processors[0].transforms[0].movingAverage.field",
     "an average needs numbers, and 'device_id' is a string: name a number field"),
    (rules.fields_exist, transforms({"name": "b", "movingAverage": {"field": "pressure", "output": "x"}}),
     "spec.processors[0].transforms[1].movingAverage.field",
     ("the records of topic 'raw' have no field 'pressure': there are device_id, timestamp, temperature_c, "
     "humidity_pct, avg")),
    (rules.outputs_are_new, processors(transforms=[{"name": "a", "movingAverage": {"field": "humidity_pct",
                                                                                   "output": "humidity_pct"}}]),
     "spec.processors[0].transforms[0].movingAverage.output",
     "would overwrite its own input field 'humidity_pct': choose another name"),
    (rules.outputs_are_new, transforms({"name": "b", "movingAverage": {"field": "humidity_pct", "output": "avg"}}),
     "spec.processors[0].transforms[1].movingAverage.output",
     "'avg' is the output of transform 'average' already: choose another name"),
    (rules.outputs_are_new, transforms({"name": "b", "movingAverage": {"field": "avg", "output": "timestamp"}}),
     "spec.processors[0].transforms[1].movingAverage.output",
     "'timestamp' is a field of the input already: choose another name"),
    (rules.conditions_can_hold, where(),
     "spec.processors[0].transforms[1].filter.where[0]",
     "tests nothing of field 'humidity_pct': set exists, min, max or oneOf"),
    (rules.conditions_can_hold, where(min=2, max=1),
     "spec.processors[0].transforms[1].filter.where[0]",
     "min 2 is more than max 1, so that nothing passes: exchange them"),
    (rules.conditions_can_hold, where(exists=False, min=1),
     "spec.processors[0].transforms[1].filter.where[0]",
     "exists: false and a test of the value cannot both hold: remove one of them"),
    (rules.state_has_keys, producers(key=None),
     "spec.processors[0].from",
     ("transform 'average' keeps state per key, and producer 'devices' sends records without a key to 'raw': give the "
     "producer a `key: {field: ...}`")),
    (rules.pods_use_their_volumes, producers(pod={"storage": {"size": "1Gi"}}),
     "spec.producers[0].pod.storage", "processors and duckdb sinks alone keep something on disk: remove it"),
    (rules.pods_use_their_volumes, processors(pod={"files": {"configMapRef": {"name": "data"}}}),
     "spec.processors[0].pod.files", "only a producer with a file source reads files: remove it"),
    (rules.delivery_outlasts_linger, producers(delivery={"lingerMs": 5000, "timeoutMs": 5000}),
     "spec.producers[0].delivery.lingerMs", "lingerMs 5000 must be less than timeoutMs 5000: lower lingerMs"),
    (rules.sasl_runs_inside_tls, {"kafka": {"bootstrapServers": "k:1", "sasl": {"secretRef": {"name": "s"}}}},
     "spec.kafka.sasl",
     "sasl without tls would send the password in the clear: add `tls: {}` (or tls with a caSecretRef)"),
    (rules.users_can_be_managed, login({"secretRef": {"name": "s"}, "rotateEvery": "30d"}),
     "spec.kafka.sasl.rotateEvery",
     "a user of a Secret is changed by whoever writes the Secret: remove rotateEvery, or use users: Managed"),
    (rules.users_can_be_managed, login({"users": "Managed", "mechanism": "PLAIN"}, adminSecretRef={"name": "s"}),
     "spec.kafka.sasl.mechanism", "Kafka has no way to make users for PLAIN: use SCRAM-SHA-512"),
    (rules.users_can_be_managed, login({"users": "Managed"}),
     "spec.kafka.sasl.users",
     "managed users are made by an administrator: add adminSecretRef, with a user that may do so"),
    (rules.kafka_properties_are_allowed, sinks(kafkaProperties={"linger.ms": "1"}),
     "spec.sinks[0].kafkaProperties.linger.ms", "has a field of its own: set delivery.lingerMs instead"),
    (rules.kafka_properties_are_allowed, sinks(kafkaProperties={"fetch.min.bytes": "many"}),
     "spec.sinks[0].kafkaProperties.fetch.min.bytes", "'many' is not a whole number from 1 to 100000000: correct it"),
]  # fmt: skip


def test_the_reference_pipeline_breaks_no_rule():
    assert list(rules.check(pipeline())) == []


@pytest.mark.parametrize(("rule", "changes", "path", "message"), BROKEN)
def test_a_broken_rule_says_where_and_what_to_do(rule, changes, path, message):
    (found,) = rules.check(pipeline(**changes))

    assert (path, message) == (spelled(found.path), found.message)
    assert list(rule(pipeline(**changes))) == [found]


def test_every_rule_is_tested():
    at_the_limit = {rules.stage_names_fit_kubernetes}  # below

    assert {rule for rule, *_ in BROKEN} | at_the_limit == set(rules.RULES)


@pytest.mark.parametrize("key", ["acks", "transactional.id", "enable.idempotence", "group.id", "isolation.level",
                                 "ssl.ca.location", "sasl.password", "partitioner", "client.id", "enable.auto.commit",
                                 "max.in.flight", "transaction.timeout.ms", "debug", "plugin.library.paths"])  # fmt: skip
def test_what_exactly_once_security_and_identity_rest_on_is_not_allowed(key):
    for changes in (producers, processors, sinks):
        (found,) = rules.check(pipeline(**changes(kafkaProperties={key: "1"})))

        assert "is not allowed" in found.message
        assert "socket.timeout.ms" in found.message


@pytest.mark.parametrize("side", ["consumer", "producer"])
def test_librdkafka_takes_every_allowed_property_at_both_bounds(side):
    from confluent_kafka import Consumer, Producer

    bounds = properties.CLIENT | (properties.CONSUMER if side == "consumer" else properties.PRODUCER)
    for name, limits in bounds.items():
        if name == "compression.level":
            continue  # its bounds depend on the codec
        for value in (limits.low, limits.high):
            chosen = {name: str(value), **fitting(name, value)}
            client = Consumer({"group.id": "g", **chosen}) if side == "consumer" else Producer(chosen)
            if side == "consumer":
                client.close()


def fitting(name: str, value: int) -> dict[str, str]:
    """What librdkafka wants beside a value at its bound."""
    partners = {
        "max.poll.interval.ms": {"session.timeout.ms": "10000"},
        "receive.message.max.bytes": {"fetch.max.bytes": "1024", "message.max.bytes": "1000"} if value < 2**30 else {},
        "fetch.max.bytes": {"message.max.bytes": "1000"},
        "reconnect.backoff.ms": {"reconnect.backoff.max.ms": "3600000"},
        "reconnect.backoff.max.ms": {"reconnect.backoff.ms": "0"},
        "retry.backoff.ms": {"retry.backoff.max.ms": "300000"},
        "retry.backoff.max.ms": {"retry.backoff.ms": "1"},
        "queued.max.messages.kbytes": {},
    }
    return partners.get(name, {})


def test_no_request_is_repeated_while_its_transaction_may_still_be_open():
    from forebay.kafka import settings

    assert properties.CLIENT["socket.timeout.ms"].low > settings.TRANSACTION_TIMEOUT_MS


def test_properties_reach_the_client_that_understands_them():
    chosen = {"fetch.min.bytes": "1", "message.max.bytes": "2000", "socket.timeout.ms": "30000"}

    assert properties.for_consumer(chosen) == {"fetch.min.bytes": "1", "socket.timeout.ms": "30000"}
    assert properties.for_producer(chosen) == {"message.max.bytes": "2000", "socket.timeout.ms": "30000"}


@pytest.mark.parametrize(("length", "fits"), [(35, True), (36, False)])
def test_pipeline_stage_and_replica_share_52_characters(length, fits):
    changed = pipeline(**sinks(name="s" * length)).model_copy(update={"metadata": pipeline().metadata})
    renamed = changed.model_copy(update={"metadata": changed.metadata.model_copy(update={"name": "p" * 14})})

    assert (not list(rules.check(renamed))) is fits


def test_long_circles_and_circles_through_dead_letters_are_found():
    topics = [RAW, ENRICHED, RAW | {"name": "raw.dlq"}]
    back = {
        "name": "again",
        "from": "raw.dlq",
        "to": "raw",
        "transforms": [{"name": "f", "python": {"entrypoint": "a:b"}}],
    }

    (found,) = rules.check(pipeline(topics=topics, processors=[ENRICH, back]))

    assert spelled(found.path) == "spec.processors[1].to"
    assert "round for ever: raw.dlq -> raw -> raw.dlq: cut it" in found.message


def test_a_declared_topic_may_take_dead_letters():
    topics = [RAW, ENRICHED, RAW | {"name": "failed"}]

    assert not list(rules.check(pipeline(topics=topics, **processors(deadLetters={"topic": "failed"}))))


def test_keys_are_traced_through_processors():
    middle = {
        "name": "pass",
        "from": "raw",
        "to": "middle",
        "transforms": [{"name": "f", "python": {"entrypoint": "a:b"}}],
    }
    topics = [RAW, ENRICHED, RAW | {"name": "middle"}]
    changed = pipeline(topics=topics, processors=[middle, ENRICH | {"from": "middle"}], **producers(key=None))

    assert [spelled(problem.path) for problem in rules.check(changed)] == ["spec.processors[1].from"]


def test_keys_of_external_topics_are_their_owners_business():
    external = {"name": "raw", "management": "External"}

    assert not list(rules.check(pipeline(topics=[external, ENRICHED], **producers(key=None))))


def test_names_at_their_limits_fit_kafka():
    longest = "n" * 40
    wide = pipeline(
        producers=[DEVICES | {"name": longest}],
        processors=[ENRICH | {"name": longest, "transforms": [AVERAGE | {"name": longest, "stateVersion": 1_000_000}]}],
    )
    metadata = wide.metadata.model_copy(update={"name": longest, "namespace": "n" * 63})
    wide = wide.model_copy(update={"metadata": metadata})
    (producer,), (processor,) = wide.spec.producers, wide.spec.processors

    assert len(names.positions_topic(wide, producer)) <= 249
    assert len(names.changelog_topic(wide, processor, processor.transforms[0])) <= 249
    assert len(f"{'t' * 200}.dlq") <= 249


def named(found) -> list[tuple[str, str]] | None:
    return None if found is None else [(field.name, field.type.value) for field in found]


SIMULATED = [("device_id", "string"), ("timestamp", "integer"), ("temperature_c", "number"), ("humidity_pct", "number")]


def test_fields_are_derived_through_the_stages_that_write_a_topic():
    spec = pipeline(**where(min=1)).spec

    assert named(fields.fields_of(spec, "raw")) == SIMULATED
    assert [*SIMULATED, ("avg", "number")] == named(fields.fields_of(spec, "enriched"))


def test_declared_fields_come_before_derived_ones():
    declared = [{"name": "temperature_c", "type": "integer"}]

    assert named(fields.fields_of(pipeline(**raw(fields=declared)).spec, "raw")) == [("temperature_c", "integer")]


def test_mappings_give_fields_and_timestamps_are_integers():
    spec = pipeline(**mapped({"name": "t", "type": "timestamp"})).spec

    assert named(fields.fields_of(spec, "raw")) == [("id", "string"), ("temperature_c", "number"), ("t", "integer")]


@pytest.mark.parametrize(
    "changes",
    [
        {"producers": [FILE]},
        {"producers": []},
        {"producers": [DEVICES, FILE | {"name": "other"}]},
        processors(transforms=[{"name": "p", "python": {"entrypoint": "a:b"}}]) | {"producers": [FILE]},
        processors(to="raw") | {"producers": []},
    ],
)
def test_fields_that_nobody_can_know_are_unknown(changes):
    assert fields.fields_of(pipeline(**changes).spec, "raw") is None


def test_a_python_transform_makes_fields_unknown():
    spec = pipeline(**transforms({"name": "p", "python": {"entrypoint": "a:b"}})).spec

    assert fields.fields_of(spec, "enriched") is None
