"""`forebay run` gives a stage the replicas that the scaling decision asks for, on a real broker, with real processes."""

import json
import re
import subprocess
import sys

import pytest
import topics
from services import until

pytestmark = pytest.mark.timeout(300)
SLOW = """
import time


def slow(record):
    time.sleep(0.0025)  # about 400 records per second and replica
    return record.value
"""


@pytest.fixture
def run(kafka, tmp_path):
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
  producers:
    - name: devices
      to: {name}.raw
      key: {{field: device_id}}
      source: {{simulator: {{devices: 200, eventsPerSecond: 800}}}}
  processors:
    - name: enrich
      from: {name}.raw
      to: {name}.enriched
      autoscaling: {{minReplicas: 1, maxReplicas: 4, freshnessSeconds: 5}}
      transforms: [{{name: slow, python: {{entrypoint: "slowly:slow"}}}}]
""")
    report, log = tmp_path / "report.json", tmp_path / "stderr"
    command = [sys.executable, "-m", "forebay_cli.main", "run", str(file), "--bootstrap", kafka.bootstrap_servers]
    command += ["--data", str(tmp_path / "data"), "--records", "40000", "--report", str(report)]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, stdin=subprocess.DEVNULL)
    yield (
        process,
        log,
        lambda: json.loads(report.read_text()),
        lambda: topics.read(kafka.bootstrap_servers, f"{name}.enriched"),
    )
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def test_a_stage_that_falls_behind_gets_replicas_and_loses_nothing(run):
    process, log, report, enriched = run

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
