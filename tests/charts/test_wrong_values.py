"""Wrong values are refused before anything reaches the cluster, in words that name place and cure."""

import pytest

import charts


def stage(kind: str):
    return lambda values: values["spec"][kind][0]


def changed(kind: str, **fields):
    return lambda values: stage(kind)(values).update(fields)


WRONG = [
    (lambda v: v.update(netwrkPolicy={}), "additional properties 'netwrkPolicy' not allowed"),
    (lambda v: v["spec"].update(topic=[]), "additional properties 'topic' not allowed"),
    (lambda v: v.pop("spec"), "missing property 'spec'"),
    (changed("processors", transforms=[{"name": "a", "movingAverage": {"field": "x", "output": "y", "window": 5000}}]),
     "at '/spec/processors/0/transforms/0/movingAverage/window': maximum: got 5,000, want 1,000"),
    (changed("processors", transforms=[{"name": "a"}]), "at '/spec/processors/0/transforms/0': 'oneOf' failed"),
    (changed("producers", source={"simulator": {}, "file": {"path": "x"}}), "at '/spec/producers/0/source': 'oneOf' failed"),
    (lambda v: v.update(images={"pullPolicy": "Sometimes"}), "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    (lambda v: v["spec"].update(producers=[], processors=[], sinks=[]),
     "spec: has no stage: add an entry to producers, processors or sinks"),
    (changed("sinks", **{"from": "enriched"}),
     ('spec.sinks: warehouse: from: topic "enriched" is not declared in spec.topics: declare it there, or use one of '
     "enriched_sensor_events, raw_sensor_events")),
    (changed("producers", to="raw"), 'spec.producers: devices: to: topic "raw" is not declared in spec.topics'),
    (changed("sinks", name="enrich"), 'spec.sinks: enrich: another stage is called "enrich" already: rename one of them'),
    (changed("processors", autoscaling={"minReplicas": 3, "maxReplicas": 2}), "minReplicas 3 is more than maxReplicas 2"),
    (changed("processors", autoscaling={"maxReplicas": 13}), "maxReplicas 13 is more than the 12 partitions of "),
    (changed("sinks", destination={"duckdb": {"table": "t"}}, autoscaling={"maxReplicas": 2}),
     "maxReplicas 2 and destination duckdb exclude each other"),
    (changed("producers", pod={"storage": {"size": "1Gi"}}), "processors and duckdb sinks alone keep something on disk"),
    (changed("producers", pod={"files": {"claimRef": {"name": "x"}}}), "only a producer with a file source reads files"),
    (changed("producers", source={"file": {"path": "x.csv"}}, replicas=2), "2 replicas would each send the whole file"),
    (changed("producers", source={"file": {"path": "../x.csv"}}, pod={"files": {"configMapRef": {"name": "x"}}}),
     'path "../x.csv" lies outside the folder of the Pipeline file'),
    (changed("producers", source={"file": {"path": "/x/y.csv"}}, pod={"files": {"configMapRef": {"name": "x"}}}),
     'path "/x/y.csv" lies outside the folder of the Pipeline file'),
    (changed("producers", source={"file": {"path": "x.csv"}}, pod={"files": {"claimRef": {"name": "x"}}}),
     'path "x.csv" has no folder, as which pod.files.claimRef could be mounted: put one in front, e.g. data/x.csv'),
    (lambda v: v["spec"]["kafka"].update(sasl={"users": "Managed"}), "the operator makes managed users: set pipeline.create"),
    (lambda v: v["spec"]["kafka"].pop("tls"), "sasl without tls would send the password in the clear: add `tls: {}`"),
    (lambda v: v["spec"]["kafka"].pop("sasl"), "a login needs a mechanism: add sasl, or remove adminSecretRef"),
    (lambda v: v["spec"]["topics"][0].pop("partitions"), 'topic "raw_sensor_events" is Managed and has no partitions'),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_a_wrong_value_is_refused_with_a_sentence(values, change, sentence):
    change(values)
    rendered = charts.template(values)

    assert rendered.returncode != 0
    assert sentence in rendered.complaint


def test_all_contradictions_are_told_at_once(values):
    values["spec"]["sinks"][0]["from"] = "enriched"
    values["spec"]["producers"][0]["to"] = "raw"
    complaint = charts.template(values).complaint

    assert "warehouse: from" in complaint
    assert "devices: to" in complaint


@pytest.mark.parametrize("release", ["a.b", "r" * 41])
def test_the_releases_name_must_name_a_pipeline(values, release):
    rendered = charts.template(values, release=release)

    assert rendered.returncode != 0
    assert f'the release\'s name "{release}" names the Pipeline: use at most 40' in rendered.complaint


def test_the_longest_names_fit(values):
    values["spec"]["processors"][0]["name"] = "e" * 40
    values["spec"]["processors"][0]["autoscaling"] = {"maxReplicas": 10}

    complaint = charts.template(values, release="sensors-12").complaint

    assert f'"sensors-12-{"e" * 40}-9" (Pipeline, stage, replica) has 53 characters, Kubernetes takes 52' in complaint
    assert charts.template(values, release="sensors-1").returncode == 0
