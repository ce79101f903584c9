"""What the operator does to Kafka and Kubernetes: it runs here, against the cluster of KUBECONFIG and an embedded Kafka.

No pod has to run for these, so an API server is enough of a cluster.
"""

import json
import time
from dataclasses import replace

import pytest
import topics
from confluent_kafka.admin import AdminClient, NewTopic
from operated import SPEC, Operated, quiet
from services import until

from forebay_cli.embedded_kafka import EmbeddedKafka

pytestmark = [pytest.mark.long, pytest.mark.timeout(400), pytest.mark.usefixtures("definition")]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    with EmbeddedKafka.start(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def operated(kafka, tmp_path):
    with Operated(kafka.bootstrap_servers, tmp_path) as place:
        yield place


@pytest.fixture
def running(operated):
    """With one operator, and the sensors Pipeline deployed."""
    operated.start()
    operated.apply()
    operated.until_deployed()
    return operated


def test_apply_makes_topics_and_workloads_and_tells_so(running):
    assert running.kafka_topics() == {
        *(running.topic(name) for name in ("raw", "raw.dlq", "enriched", "enriched.dlq")),
        *(f"{running.namespace}.sensors.{name}" for name in ("devices.positions", "enrich.average.v1.changelog")),
    }
    assert running.names("statefulset,deployment") == {
        "statefulset.apps/sensors-devices",
        "statefulset.apps/sensors-enrich",
        "deployment.apps/sensors-store",
    }
    owners = running.get("configmap", "sensors")["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == [running.pipeline()["metadata"]["uid"]]
    assert len(running.events("TopicCreated")) == 6
    assert running.pipeline()["status"]["topics"] == "6/6"


def test_a_pipeline_without_outside_work_has_no_finalizer(running):
    metadata = running.pipeline()["metadata"]

    assert metadata.get("finalizers", []) == []
    assert not any("kopf" in name or "last-handled" in name for name in metadata.get("annotations", {}))


def test_a_change_is_acted_on_within_five_seconds(running):
    changed = json.loads(json.dumps(SPEC["topics"]))
    changed[0]["config"] = {"retention.ms": "3600000"}
    started = time.monotonic()
    running.apply(topics=changed)
    raw = running.topic("raw")
    until(lambda: running.admin.observe([raw])[raw].config["retention.ms"] == "3600000", what="retention is set",
          deadline_s=30, every_s=0.2)  # fmt: skip

    assert time.monotonic() - started < 5


def test_drift_of_a_topic_is_corrected(running):
    raw = running.topic("raw")
    changed = json.loads(json.dumps(SPEC["topics"]))
    changed[0]["config"] = {"retention.ms": "3600000"}
    running.apply(topics=changed)
    until(lambda: running.admin.observe([raw])[raw].config["retention.ms"] == "3600000", what="retention is set")
    topics.configure(running.bootstrap, raw, "retention.ms", "1000")
    running.kubectl("annotate", "pipeline", "sensors", "look=again")

    until(lambda: running.admin.observe([raw])[raw].config["retention.ms"] == "3600000", what="retention is set back",
          deadline_s=90)  # fmt: skip


def test_drift_of_objects_is_corrected(running):
    running.kubectl("delete", "service", "sensors-enrich")
    running.kubectl(
        "patch", "configmap", "sensors", "--type=merge", "-p", '{"data": {"pipeline.yaml": "kind: Nonsense"}}'
    )
    patch = '{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}'
    running.kubectl("patch", "statefulset", "sensors-enrich", "-p", patch)

    until(lambda: "service/sensors-enrich" in running.names("service"), what="the Service is back")
    until(
        lambda: "kind: Pipeline" in running.get("configmap", "sensors")["data"]["pipeline.yaml"],
        what="the file is back",
    )
    grace = ("spec", "template", "spec", "terminationGracePeriodSeconds")

    def value():
        found = running.get("statefulset", "sensors-enrich")
        for step in grace:
            found = found[step]
        return found

    until(lambda: value() == 75, what="the template is back")


def test_replicas_are_never_reset(running):
    """Autoscaling off, on, off at 4 replicas; a person's scaling is put right only within the bounds."""

    def spec(low, high):
        processor = SPEC["processors"][0] | {"autoscaling": {"minReplicas": low, "maxReplicas": high}}
        wide = [topic | {"partitions": 4} for topic in SPEC["topics"]]
        return {"processors": [processor], "topics": wide}

    name = "wide"
    running.apply(name, **spec(4, 4))
    running.until_deployed(name)
    seen = []

    def replicas():
        seen.append(running.get("statefulset", "wide-enrich")["spec"]["replicas"])
        return seen[-1]

    until(lambda: replicas() == 4, what="4 replicas")
    seen.clear()
    for low in (1, 4, 2):
        running.apply(name, **spec(low, 4))
        generation = running.pipeline(name)["metadata"]["generation"]
        until(lambda g=generation: running.pipeline(name)["status"]["observedGeneration"] == g, what="it was seen")
        quiet(3, replicas)

    assert set(seen) == {4}


def test_a_stage_that_is_gone_is_removed(running):
    running.apply(sinks=[])

    until(lambda: "deployment.apps/sensors-store" not in running.names("deployment"), what="the sink is gone")
    assert running.names("statefulset") == {"statefulset.apps/sensors-devices", "statefulset.apps/sensors-enrich"}


def test_the_newer_of_two_pipelines_is_told_and_takes_over_when_the_older_goes(running):
    time.sleep(1.1)  # ages have seconds
    running.apply("other", spec=running.spec("sensors"))
    told = running.until_condition("TopicsReady", "Conflict", "other")

    assert f"is managed by the older Pipeline {running.namespace}/sensors" in told["message"]
    assert running.names("statefulset", "other") == set()
    assert running.condition("TopicsReady", "sensors")["reason"] == "AsWanted"
    running.kubectl("delete", "pipeline", "sensors", "--wait=false")
    running.until_condition("TopicsReady", "AsWanted", "other")


def test_topics_of_others_are_checked_and_never_touched(operated):
    raw = operated.topic("raw")
    operated.start()
    external = [{"name": "raw", "management": "External", "partitions": 3}, SPEC["topics"][1]]
    operated.apply(topics=external)
    told = operated.until_condition("TopicsReady", "TopicsDiffer")
    assert f"topic {raw} is External and does not exist" in told["message"]

    topics.create(operated.bootstrap, raw, partitions=2)
    until(lambda: "has 2 partitions" in operated.condition("TopicsReady")["message"], what="it says how many there are",
          deadline_s=90)  # fmt: skip
    assert operated.admin.observe([raw])[raw].partitions == 2
    external[0]["partitions"] = 2
    operated.apply(topics=external)
    operated.until_deployed()


def test_a_topic_that_was_there_is_adopted_only_as_it_is(operated):
    raw = operated.topic("raw")
    topics.create(operated.bootstrap, raw, partitions=1)
    operated.start()
    operated.apply()
    told = operated.until_condition("TopicsReady", "TopicsDiffer")

    assert f"topic {raw}" in told["message"]
    assert operated.admin.observe([raw])[raw].partitions == 1


def test_paused_changes_nothing_until_it_is_resumed(running):
    running.kubectl("annotate", "pipeline", "sensors", "forebay.dev/paused=true")
    running.until_condition("Ready", "Paused")
    before = len(running.steps())
    running.kubectl("delete", "service", "sensors-enrich")
    running.apply(sinks=[])
    quiet(6, list)

    assert len(running.steps()) == before
    running.kubectl("annotate", "pipeline", "sensors", "forebay.dev/paused-")
    until(lambda: "service/sensors-enrich" in running.names("service"), what="the Service is back")
    until(lambda: "deployment.apps/sensors-store" not in running.names("deployment"), what="the sink is gone")


def test_a_missing_secret_is_named_with_its_keys_and_noticed_when_it_comes(running):
    sink = SPEC["sinks"][0] | {"destination": {"postgres": {"secretRef": {"name": "db"}, "table": "readings"}}}
    running.apply(sinks=[sink])
    told = running.until_condition("CredentialsReady", "SecretsIncomplete")
    assert told["message"].startswith("Secret db does not exist: create it, with uri or")

    running.kubectl("create", "secret", "generic", "db", "--from-literal=url=x")
    until(lambda: running.condition("CredentialsReady")["message"] == "Secret db lacks uri: add what is missing",
          what="it says what lacks")  # fmt: skip
    running.kubectl("patch", "secret", "db", "-p", '{"stringData": {"uri": "postgresql://forebay:hunter2@db/x"}}')
    running.until_condition("CredentialsReady", "Complete")
    everything = running.kubectl("get", "pipelines,configmaps,statefulsets,deployments,events", "-o", "yaml")
    assert "hunter2" not in everything + json.dumps(running.log())


def test_a_spec_that_only_the_library_can_judge_becomes_a_condition(running):
    spec = running.spec()
    spec["processors"][0]["transforms"][0]["movingAverage"]["output"] = "humidity_pct"
    running.apply(spec=spec)
    told = running.until_condition("Ready", "Invalid")

    place = "spec.processors[0].transforms[0].movingAverage.output"
    assert told["message"] == f"{place}: 'humidity_pct' is a field of the input already: choose another name"
    assert len(running.names("statefulset,deployment")) == 3


def test_deletion_keeps_topics_by_default(running):
    before = running.kafka_topics()
    running.kubectl("delete", "pipeline", "sensors")

    assert quiet(2, running.kafka_topics) == before


def test_deletion_removes_stages_and_topics_on_request(running):
    running.apply(deletionPolicy="Delete")
    until(lambda: running.pipeline()["metadata"].get("finalizers") == ["forebay.dev/outside"], what="it is held")
    # a pod whose process does not run yet when it is deleted is killed at the end of its grace period, 75 s
    running.kubectl("delete", "pipeline", "sensors", "--timeout=90s")

    assert running.kafka_topics() == set()
    assert running.names("statefulset,deployment,service,configmap") == set()


def test_deletion_is_released_by_an_annotation_though_kafka_is_away(operated):
    operated.start()
    spec = operated.spec(deletionPolicy="Delete") | {"kafka": {"bootstrapServers": "127.0.0.1:1"}}
    operated.apply(spec=spec)
    operated.until_condition("Ready", "KafkaUnreachable")
    operated.kubectl("delete", "pipeline", "sensors", "--wait=false")
    told = operated.until_condition("Ready", "Deleting")
    assert "cannot reach Kafka at 127.0.0.1:1" in told["message"]

    operated.kubectl("annotate", "pipeline", "sensors", "forebay.dev/release=true")
    operated.kubectl("wait", "--for=delete", "pipeline/sensors", "--timeout=40s")


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 13, 16])
def test_an_operator_killed_after_any_step_leaves_a_world_that_the_next_one_finishes(operated, steps):
    first = operated.start()
    operated.until_leading()
    operated.apply()
    until(lambda: len(operated.steps()) >= steps, what=f"{steps} steps were taken", every_s=0.01)
    operated.kill(first)
    operated.start()
    operated.until_deployed()

    assert len(operated.kafka_topics()) == 6
    assert operated.pipeline()["status"]["topics"] == "6/6"
    until(lambda: len(operated.pipeline()["status"].get("managedTopics", ())) == 6, what="the ledger is whole")


def test_of_two_operators_one_works_and_the_other_takes_over(operated):
    first, second = operated.start(), operated.start()
    until(lambda: any(line["event"] == "leading" for n in (0, 1) for line in operated.log(n)), what="one leads")
    leader = 0 if any(line["event"] == "leading" for line in operated.log(0)) else 1
    operated.apply()
    operated.until_deployed()
    assert operated.steps(1 - leader) == []

    processes = (first, second)
    operated.kill(processes[leader])
    operated.apply(sinks=[])
    operated.until_leading(1 - leader)
    until(lambda: "deployment.apps/sensors-store" not in operated.names("deployment"), what="the other one works",
          deadline_s=60)  # fmt: skip
    assert operated.stop(processes[1 - leader]) == 0


def test_even_load_writes_nothing(running):
    """After it has come to rest: no write of any kind, whatever is looked at."""
    (process,) = running.processes
    quiet(45, list)  # the first rate is known and written

    def writes() -> float:
        verbs = ("PATCH", "POST", "PUT", "DELETE")
        total = sum(running.metric(process, "forebay_operator_api_calls_total", verb=verb) for verb in verbs)
        lease = running.metric(process, "forebay_operator_api_calls_total", kind="Lease", verb="PUT")
        canary = running.metric(process, "forebay_operator_api_calls_total", kind="ConfigMap", verb="PATCH")
        return total - lease - canary

    before, rounds = writes(), running.metric(process, "forebay_operator_reconciles_total")
    quiet(60, list)

    assert writes() == before
    assert running.metric(process, "forebay_operator_reconciles_total") - rounds > 8


def test_a_listing_tells_nothing_new(operated):
    """What was listed is compared with what was applied, like what watches tell."""
    process = operated.start(RELIST_S="5")
    operated.apply()
    operated.until_deployed()
    quiet(20, list)
    before, lists = operated.steps(), operated.metric(process, "forebay_operator_api_calls_total", kind="StatefulSet")

    assert quiet(15, lambda: operated.steps()[len(before) :]) == []
    assert operated.metric(process, "forebay_operator_api_calls_total", kind="StatefulSet") > lists


def test_a_new_version_of_a_topic_with_the_same_name_is_not_ours(running):
    raw = running.topic("raw")
    admin = AdminClient({"bootstrap.servers": running.bootstrap})
    admin.delete_topics([raw])[raw].result(20)
    until(lambda: raw not in running.kafka_topics(), what="the topic is gone")
    admin.create_topics([NewTopic(raw, 2, 1, config={"retention.ms": "1234"})])[raw].result(20)
    changed = [topic | {"config": {"retention.ms": "99999"}} for topic in SPEC["topics"]]
    running.apply(topics=changed)
    told = running.until_condition("TopicsReady", "TopicsDiffer")

    assert f"topic {raw} existed before this Pipeline and differs" in told["message"]
    found = running.admin.observe([raw])[raw]
    assert replace(found, config={"retention.ms": found.config["retention.ms"]}).config == {"retention.ms": "1234"}
