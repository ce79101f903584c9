"""`forebay explain`: the words for what was decided, from a cluster, a run and a log."""

import json
from dataclasses import replace

import msgspec
import pytest
from scaling_stage import Stage
from typer.testing import CliRunner

from forebay.planning.scaling import History, ScalingPolicy, decided, stored
from forebay_cli import explain
from forebay_cli.main import app

NOW = 1_700_000_000.0
PIPELINE = {
    "apiVersion": "forebay.dev/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "sensors", "namespace": "shop"},
    "spec": {
        "kafka": {"bootstrapServers": "kafka:9092"},
        "topics": [{"name": "raw", "partitions": 4}, {"name": "enriched", "partitions": 4}],
        "processors": [
            {
                "name": "enrich",
                "from": "raw",
                "to": "enriched",
                "transforms": [{"name": "f", "filter": {"where": [{"field": "device_id", "exists": True}]}}],
                "autoscaling": {"maxReplicas": 4, "freshnessSeconds": 20, "scaleToZero": True},
            }
        ],
        "sinks": [{"name": "store", "from": "enriched", "destination": {"stdout": {}}}],
    },
    "status": {
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Running", "message": "fine"},
            {"type": "Scaling", "status": "False", "reason": "AtMaximum", "message": "enrich: 99 s behind"},
        ],
        "stages": [
            {
                "name": "enrich",
                "kind": "processor",
                "replicas": 4,
                "readyReplicas": 3,
                "lag": "1.2k",
                "behind": "99s",
                "rate": "2k/s",
                "reason": "AtMaximum",
                "message": "99 s behind",
                "scaling": {"capacity": 400.0, "changedAt": NOW - 90, "scaleOutSeconds": 7.0, "scaleInSeconds": 3.0},
            },
            {"name": "store", "kind": "sink", "replicas": 1, "readyReplicas": 1, "reason": "Pinned", "message": "one"},
        ],
    },
}


def forebay(*arguments, stdin=None):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], input=stdin)


def log():
    """A load that quadruples, five seconds a look; replicas follow at once."""
    stage, history = Stage(partitions=4, replicas=1), History()
    for load in [200] * 6 + [800] * 20:
        seen = stage.look(after_s=5, arrive=load, per_replica=300)
        history = decided(history, seen, ScalingPolicy(max_replicas=4))
        stage.scale(history.log[-1].verdict.replicas)
    return history.log


def test_a_pipelines_status_in_sentences():
    assert list(explain.of_pipeline(PIPELINE, NOW)) == [
        "sensors: Scaling is False: enrich: 99 s behind",
        "enrich: 3 of 4 replicas are ready (AtMaximum): 99 s behind",
        "  allowed: 1 to 4 replicas, none while idle, 20 s behind at most",
        "  seen: 1.2k records left to read, 99s behind, 2k/s arriving",
        "  known: one replica does 400 records/s; a scale-out takes 7 s, a scale-in 3 s",
        "  replicas were changed last at 2023-11-14 22:11:50 UTC, 90 s ago",
        "store: 1 of 1 replicas are ready (Pinned): one",
    ]


def test_a_pipeline_that_is_new_has_nothing_to_tell():
    assert list(explain.of_pipeline({"kind": "Pipeline", "metadata": {"name": "new"}}, NOW)) == [
        "new: the operator has not looked at it yet"
    ]


@pytest.mark.parametrize("nonsense", ["x", None, {"capacity": "much", "changedAt": 1e300}])
def test_nonsense_in_the_status_is_passed_over(nonsense):
    stage = PIPELINE["status"]["stages"][0] | {"scaling": nonsense}
    lines = list(explain.of_pipeline(PIPELINE | {"status": {"stages": [stage]}}, NOW))

    assert (
        "  known: one replica did up to 0 records/s, and was never busy enough to be measured; a scale-out takes 10 s, "
        "a scale-in 5 s"
    ) in lines


def test_the_cluster_is_asked_through_kubectl(tmp_path, monkeypatch):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\ncat <<'END'\n{json.dumps(PIPELINE)}\nEND\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    result = forebay("sensors", "--namespace", "shop")

    assert result.exit_code == 0
    assert "enrich: 3 of 4 replicas are ready (AtMaximum)" in result.stdout
    asked = (tmp_path / "asked").read_text()
    assert asked == "get pipelines.forebay.dev sensors --output json --namespace shop\n"


def test_what_kubectl_complains_of_is_told(tmp_path, monkeypatch):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'pipelines \"sensors\" not found' >&2\nexit 1\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    result = forebay("sensors")

    assert (result.exit_code, result.stderr) == (1, 'forebay: pipelines "sensors" not found\n')


def test_without_kubectl_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = forebay("sensors")

    assert result.exit_code == 1
    assert "kubectl get pipeline sensors -o json | forebay explain -" in result.stderr


def test_a_pipeline_may_come_by_standard_input():
    assert "enrich: 3 of 4 replicas are ready" in forebay("-", stdin=json.dumps(PIPELINE)).stdout


def test_a_runs_folder_tells_the_last_decision_and_the_changes_before(tmp_path):
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "enrich.jsonl").write_bytes(stored(log()))
    (tmp_path / "decisions" / "store.jsonl").write_bytes(b"")
    result = forebay(tmp_path)
    lines = result.stdout.splitlines()

    assert result.exit_code == 0
    assert lines[0].startswith("enrich: 4 replicas (KeepingUp): ")
    assert "  known: one replica did up to 300 records/s, and was never busy" in result.stdout
    (change,) = [line for line in lines if "->" in line]
    assert "s before: 1 -> 4 replicas (FallingBehind)" in change
    assert "today's rules" not in result.stdout
    assert lines[-1] == "store: nothing has been decided yet"


def test_the_operators_log_tells_the_same_of_each_stage():
    lines = [
        json.dumps({"event": "step", "step": "apply"}),
        "no JSON at all",
        *(
            json.dumps(
                {"event": "decision", "namespace": "shop", "pipeline": "sensors", "stage": "enrich"}
                | {"decision": msgspec.to_builtins(decision)}
            )
            for decision in log()
        ),
        json.dumps({"event": "decision", "decision": {"verdict": 1}}),
    ]
    result = forebay("-", stdin="\n".join(lines))

    assert result.stdout.startswith("shop/sensors enrich: 4 replicas (KeepingUp): ")
    assert result.stdout.count("->") == 1


def test_a_decision_that_todays_rules_would_not_make_is_named(tmp_path):
    *before, last = log()
    other = replace(last, verdict=replace(last.verdict, replicas=2))
    file = tmp_path / "enrich.jsonl"
    file.write_bytes(stored((*before, other)))

    assert "today's rules would have said: 4 replicas (KeepingUp)" in forebay(file).stdout


@pytest.mark.parametrize("text", ["", "nonsense", "[1, 2]", "5", '{"kind": "Deployment"}'])
def test_what_holds_no_decision_is_refused(text):
    result = forebay("-", stdin=text)

    assert (result.exit_code, result.stderr) == (
        1,
        "forebay: standard input holds neither a Pipeline nor a decision on replicas\n",
    )


def test_a_word_that_is_nothing_is_wrong_usage():
    assert forebay("no/such/folder").exit_code == 2
