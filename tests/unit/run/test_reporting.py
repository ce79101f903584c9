from math import inf

from forebay_cli.run.samples import Histogram, Sample
from forebay_cli.run.snapshots import Outcome, Snapshot, StageState, report
from forebay_cli.run.view import plain_line


def stage(name, kind, **changes):
    state = {
        "name": name,
        "kind": kind,
        "replicas": 1,
        "ready": 1,
        "done": 0,
        "counted": Sample(),
        "rate": 0.0,
        "average": 0.0,
        "lag": 0,
        "restarts": 0,
        "output": "out",
        "dead_letter_topic": "in.dlq",
        "failure": None,
    }
    return StageState(**{**state, **changes})


def snapshot(*stages, expected=None):
    return Snapshot(
        pipeline="sensors",
        phase="running",
        seconds=12.5,
        bootstrap="127.0.0.1:9092",
        folder="/run",
        stages=stages,
        expected=expected,
    )


SOURCE = stage(
    "gateway", "producer", counted=Sample(records_in=10, records_out=10), rate=5.0, average=4.04, output="raw"
)
SINK = stage(
    "warehouse",
    "sink",
    counted=Sample(records_in=9, records_out=8, dead_letters=1, latency=Histogram((0.1, 0.2, inf), (0, 100, 100))),
    restarts=2,
    lag=1,
    output="/run/warehouse-0/pipeline.duckdb",
)


def test_the_report_has_the_promised_shape():
    expected = {
        "ok": True,
        "seconds": 12.5,
        "latency_ms": {"p50": 150.0, "p99": 199.0},
        "stages": [
            {
                "name": "gateway",
                "kind": "producer",
                "records_in": 10,
                "records_out": 10,
                "dead_letters": 0,
                "errors": 0,
                "restarts": 0,
                "records_per_second": 4.0,
                "output": "raw",
            },
            {
                "name": "warehouse",
                "kind": "sink",
                "records_in": 9,
                "records_out": 8,
                "dead_letters": 1,
                "errors": 0,
                "restarts": 2,
                "records_per_second": 0.0,
                "output": "/run/warehouse-0/pipeline.duckdb",
            },
        ],
    }
    assert expected == report(Outcome(ok=True), snapshot(SOURCE, SINK))


def test_latency_is_null_where_nothing_was_sampled():
    assert report(Outcome(ok=True), snapshot(SOURCE))["latency_ms"] == {"p50": None, "p99": None}


def test_a_run_that_never_started_reports_why():
    expected = {
        "ok": False,
        "seconds": 0.0,
        "latency_ms": {"p50": None, "p99": None},
        "stages": [],
        "reason": "no room",
    }
    assert expected == report(Outcome(ok=False, reason="no room"), None)


def test_latency_is_that_of_the_sinks_alone():
    processor = stage("enrich", "processor", counted=Sample(latency=Histogram((0.1, 0.2, inf), (100, 100, 100))))

    assert snapshot(processor, SINK).latency == SINK.counted.latency


def test_the_plain_line_can_be_searched_for():
    expected = (
        "running elapsed=12s produced=10/20"
        " | gateway ready=1/1 out=10 rate=5/s dead=0 restarts=0"
        " | warehouse ready=1/1 in=9 out=8 rate=0/s lag=1 dead=1 restarts=2 p99=199ms"
    )
    assert expected == plain_line(snapshot(SOURCE, SINK, expected=20))


def test_a_lag_that_is_not_known_is_not_zero():
    assert "lag=?" in plain_line(snapshot(stage("enrich", "processor", lag=None)))
