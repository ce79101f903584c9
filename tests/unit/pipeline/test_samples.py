"""The samples are what the README promises."""

from pathlib import Path

import yaml

SENSORS = Path(__file__).parents[3] / "manifests/samples/01-sensors"


def test_laptop_and_cluster_differ_in_kafka_its_copies_and_destination_alone():
    laptop, cluster = (yaml.safe_load((SENSORS / name).read_text()) for name in ("pipeline.yaml", "cluster.yaml"))

    assert {"duckdb"} == set(laptop["spec"]["sinks"][0].pop("destination"))
    assert {"postgres"} == set(cluster["spec"]["sinks"][0].pop("destination"))
    assert [{3}, {1}] == [
        {topic.pop("replicationFactor") for topic in each["spec"]["topics"]} for each in (laptop, cluster)
    ]
    assert laptop["spec"].pop("kafka") != cluster["spec"].pop("kafka")
    assert laptop == cluster
