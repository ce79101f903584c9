"""`forebay run` gives a stage the replicas that the scaling decision asks for, on a real broker, with real processes."""

import json
import re
import subprocess
import sys

import pytest
import topics
from services import until

pytestmark = pytest.mark.timeout(300)
FOLLOWED = "autoscaling: {minReplicas: 1, maxReplicas: 4, freshnessSeconds: 5}"
TO_ZERO = "autoscaling: {scaleToZero: true, behaviour: {toZeroAfterSeconds: 10}}"
SLOW = """
import time


def slow(record):
    time.sleep(0.0025)  # about 400 records per second and replica
    return record.value
"""


def producers(name: str) -> str:
    return f"""
  producers:
    - name: devices
      to: {name}.raw
      key: {{field: device_id}}
      source: {{simulator: {{devices: 200, eventsPerSecond: 800}}}}
"""


@pytest.fixture
def run(kafka, tmp_path, request):
    """A run of 40 000 records at 800 a second; or one without producers, that is told to stop by the test."""
    is_fed, autoscaling = getattr(request, "param", (True, FOLLOWED))
    name = topics.unique("p")
    (tmp_path / "slowly.py").write_text(SLOW)
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  kafka: {{bootstrapServers: "nowhere.invalid:9093"}}
  topics:
    - {{name: {name}.raw, partitions: 4}}
    - {{name: {name}.enriched, partitions: 4}}
{producers(name) if is_fed else ""}
  processors:
    - name: enrich
      from: {name}.raw
      to: {name}.enriched
      {autoscaling}
      transforms: [{{name: slow, python: {{entrypoint: "slowly:slow"}}}}]
""")
    report, log = tmp_path / "report.json", tmp_path / "stderr"
    command = [sys.executable, "-m", "forebay_cli.main", "run", str(file), "--bootstrap", kafka.bootstrap_servers]
    command += ["--data", str(tmp_path / "data"), "--report", str(report)]
    command += ["--records", "40000"] if is_fed else []
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, stdin=subprocess.DEVNULL)
    yield (
        process,
        log,
        lambda: json.loads(report.read_text()),
        lambda: topics.read(kafka.bootstrap_servers, f"{name}.enriched"),
        lambda records: topics.write(kafka.bootstrap_servers, f"{name}.raw", records),
    )
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def test_a_stage_that_falls_behind_gets_replicas_and_loses_nothing(run):
    process, log, report, enriched, _ = run

    until(
        lambda: re.search(r"enrich: 1 -> [234] replicas \(FallingBehind\)", log.read_text()),
        what="more replicas",
        deadline_s=90,
    )
    until(lambda: re.search(r"enrich ready=([234])/\1", log.read_text()), what="that they are ready", deadline_s=90)
    assert process.wait(200) == 0, log.read_text()

    stages = {stage["name"]: stage for stage in report()["stages"]}
    assert stages["enrich"]["records_in"] == stages["enrich"]["records_out"] == 40_000
    assert sum(1 for _ in enriched()) == 40_000


@pytest.mark.parametrize("run", [(False, TO_ZERO)], indirect=True)
def test_an_idle_stage_goes_to_zero_and_is_woken_by_the_first_record(run, tmp_path):
    process, log, report, enriched, write = run

    until(lambda: "enrich: 1 -> 0 replicas (WentIdle)" in log.read_text(), what="the stage sleeps", deadline_s=90)
    write([("device-1", b'{"device_id": "device-1", "timestamp": 1}')])
    until(lambda: "enrich: 0 -> 1 replicas (WokenUp)" in log.read_text(), what="the stage wakes", deadline_s=30)
    until(lambda: sum(1 for _ in enriched()) == 1, what="the record is processed", deadline_s=60)
    until(
        lambda: log.read_text().count("enrich: 1 -> 0 replicas (WentIdle)") == 2,
        what="the stage sleeps again",
        deadline_s=90,
    )
    process.terminate()
    assert process.wait(60) == 0, log.read_text()

    (stage,) = report()["stages"]
    assert (stage["records_in"], stage["records_out"]) == (1, 1)
    decisions = (tmp_path / "data" / "decisions" / "enrich.jsonl").read_text()
    assert [word for word in ("WentIdle", "WokenUp") if word not in decisions] == []
