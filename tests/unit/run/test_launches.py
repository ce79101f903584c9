from pathlib import Path

import pytest

from forebay.pipeline.load import parse
from forebay_cli.run import launches
from forebay_cli.run.launches import Surroundings

AROUND = Surroundings(
    pipeline_file=Path("/files/p.yaml"), bootstrap="127.0.0.1:9092", secrets=None, folder=Path("/run"), parent_pid=7
)

CHAIN = """
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {name: chain}
spec:
  kafka: {bootstrapServers: "kafka:9092"}
  topics:
    - {name: a, partitions: 4}
    - {name: b, partitions: 4}
    - {name: c, partitions: 4}
    - {name: a.dlq, partitions: 4}
  producers:
    - {name: one, to: a, replicas: 2, source: {simulator: {}}}
    - {name: two, to: a, source: {simulator: {records: 50}}}
  processors:
    - {name: late, from: b, to: c, transforms: [{name: f, filter: {where: [{field: device_id, exists: true}]}}]}
    - name: early
      from: a
      to: b
      autoscaling: {minReplicas: 3, maxReplicas: 4}
      transforms: [{name: f, filter: {where: [{field: device_id, exists: true}]}}]
  sinks:
    - {name: morgue, from: a.dlq, destination: {stdout: {}}}
    - {name: shown, from: c, destination: {stdout: {}}}
"""


def planned(text=CHAIN, records=None):
    pipeline = parse(text, "p.yaml")
    return pipeline, launches.launches(pipeline, records)


def names_of(planned):
    return [launch.name for launch in planned]


@pytest.mark.parametrize(
    ("total", "parts", "shares"), [(10, 3, (4, 3, 3)), (2, 3, (1, 1, 0)), (9, 3, (3, 3, 3)), (0, 2, (0, 0))]
)
def test_records_are_split_into_whole_shares_that_add_up(total, parts, shares):
    assert shares == launches.shares(total, parts)


def test_readers_start_before_writers_with_the_least_replicas():
    _, all_of_them = planned()
    names = names_of(all_of_them)

    assert names[-3:] == ["one-0", "one-1", "two-0"]
    assert {"early-0", "early-1", "early-2", "late-0", "shown-0", "morgue-0"} == set(names[:-3])
    assert names.index("shown-0") < names.index("late-0") < names.index("early-0")


def test_the_records_option_is_split_over_all_replicas_of_all_producers():
    _, all_of_them = planned(records=100)

    assert [launch.records for launch in all_of_them[-3:]] == [34, 33, 33]
    assert {None} == {launch.records for launch in all_of_them[:-3]}


def test_flow_order_puts_a_reader_of_dead_letters_behind_who_writes_them():
    pipeline, _ = planned()
    order = [stage.name for stage in launches.in_flow_order(pipeline)]

    assert order.index("early") < order.index("late") < order.index("shown")
    assert order.index("early") < order.index("morgue")


def test_a_run_ends_by_itself_only_if_every_source_does():
    pipeline, all_of_them = planned()
    _, counted = planned(records=100)

    assert not launches.ends_by_itself(pipeline, all_of_them)
    assert launches.ends_by_itself(pipeline, counted)


def test_a_run_does_not_end_by_itself_while_others_write_what_it_reads():
    outside = CHAIN.replace("{name: shown, from: c", "{name: shown, from: d").replace(
        "    - {name: c, partitions: 4}", "    - {name: c, partitions: 4}\n    - {name: d, management: External}"
    )
    pipeline, counted = planned(outside, records=10)

    assert not launches.ends_by_itself(pipeline, counted)


def test_the_environment_is_built_from_nothing():
    _, all_of_them = planned(records=100)
    inherited = {"PATH": "/bin", "PYTHONPATH": "/lib", "AWS_SECRET_ACCESS_KEY": "hush", "FOREBAY_STAGE": "other"}

    environment = launches.environment(all_of_them[-1], AROUND, inherited, http_fd=5)

    expected = {
        "PATH": "/bin",
        "PYTHONPATH": "/files:/lib",
        "FOREBAY_PIPELINE": "/files/p.yaml",
        "FOREBAY_STAGE": "two",
        "FOREBAY_ORDINAL": "0",
        "FOREBAY_BOOTSTRAP": "127.0.0.1:9092",
        "FOREBAY_DATA": "/run/two-0",
        "FOREBAY_HTTP_FD": "5",
        "FOREBAY_PARENT_PID": "7",
        "FOREBAY_EXIT_WHEN_DONE": "true",
        "FOREBAY_LOG_FORMAT": "json",
        "FOREBAY_LAST_METRICS": "/run/logs/two-0.prom",
        "FOREBAY_RECORDS": "33",
    }
    assert expected == environment
