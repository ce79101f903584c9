"""`forebay run` as a user runs it: the command in a process of its own, services in theirs, a real broker.

Most runs use the session's broker (`--bootstrap`), which is quicker; those that are about the broker start their own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import duckdb
import psutil
import pytest
import topics
from services import until

from forebay_cli.run.samples import parse


class Run:
    """One `forebay run` of a Pipeline with topics of its own: simulator -> raw -> processor -> enriched [-> sink]."""

    def __init__(
        self, folder, *, bootstrap=None, simulator="devices: 20", processor="", producers="", sinks=""
    ) -> None:
        self.name = topics.unique("p")
        self.folder, self.bootstrap = folder, bootstrap
        self.raw, self.enriched = f"{self.name}.raw", f"{self.name}.enriched"
        self.data, self.report_file = folder / "data", folder / "report.json"
        self.output, self.log = folder / "stdout", folder / "stderr"
        self.file = folder / "pipeline.yaml"
        self.file.write_text(f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {self.name}}}
spec:
  kafka: {{bootstrapServers: "nowhere.invalid:9093"}}
  topics:
    - {{name: {self.raw}, partitions: 3}}
    - {{name: {self.enriched}, partitions: 3}}
  producers:
    - {{name: devices, to: {self.raw}, key: {{field: device_id}}, source: {{simulator: {{{simulator}}}}}}}
{producers}
  processors:
    - name: enrich
      from: {self.raw}
      to: {self.enriched}
{processor}
      transforms: [{{name: avg, movingAverage: {{field: temperature_c, window: 10, output: avg_temperature_c}}}}]
{"  sinks:" if sinks else ""}
{sinks.replace("ENRICHED", self.enriched)}
""")
        self.process = None

    def start(self, *options):
        command = [sys.executable, "-m", "forebay_cli.main", "run", str(self.file), "--data", str(self.data)]
        command += ["--report", str(self.report_file), *options]
        command += ["--bootstrap", self.bootstrap] if self.bootstrap else []
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=output, stderr=log, stdin=subprocess.DEVNULL)
        return self

    def wait(self, deadline_s=90):
        return self.process.wait(deadline_s)

    def run(self, *options):
        return self.start(*options).wait()

    @property
    def said(self):
        return self.log.read_text()

    @property
    def report(self):
        return json.loads(self.report_file.read_text())

    def stage(self, name):
        return next(stage for stage in self.report["stages"] if stage["name"] == name)

    def replica(self, stage):
        """The process of a stage, once there is one."""

        def find():
            for child in psutil.Process(self.process.pid).children():
                with_environment = _environment(child)
                if with_environment.get("FOREBAY_STAGE") == stage:
                    return child
            return None

        return until(find, what=f"a process of {stage}")

    def until_said(self, pattern):
        return until(lambda: re.search(pattern, self.said), what=f"{pattern} in {self.log}")

    def until_moving(self, stage="enrich"):
        """Until a stage has processed something."""
        self.until_said(rf"\| {stage} [^|]*in=[1-9]")

    def readings(self, topic):
        return Counter(message.value() for message in topics.read(self.bootstrap, topic))

    def kill_what_is_left(self):
        for process in [*_family(self.process.pid), self.process]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def _environment(process):
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return {}


def _family(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def make_run(kafka, tmp_path):
    runs = []

    def make(*, embedded=False, **parts):
        runs.append(Run(tmp_path, bootstrap=None if embedded else kafka.bootstrap_servers, **parts))
        return runs[-1]

    yield make
    for run in runs:
        if run.process is not None:
            run.kill_what_is_left()


STDOUT = "    - {name: shown, from: ENRICHED, destination: {stdout: {}}}"
SINK = "    - {name: warehouse, from: ENRICHED, destination: {duckdb: {table: readings}}}"


def test_a_counted_run_ends_by_itself_and_its_report_holds_the_truth(make_run):
    run = make_run()

    assert run.run("--records", "20000") == 0, run.said
    produced, processed = run.stage("devices"), run.stage("enrich")
    raw, enriched = run.readings(run.raw), run.readings(run.enriched)

    assert run.report["ok"] is True
    assert (produced["records_in"], produced["records_out"], raw.total()) == (20000, 20000, 20000)
    assert (processed["records_in"], processed["records_out"], enriched.total()) == (20000, 20000, 20000)
    assert (run.raw, run.enriched) == (produced["output"], processed["output"])
    assert produced["restarts"] == processed["restarts"] == produced["errors"] == processed["errors"] == 0
    assert processed["records_per_second"] > 100
    assert set(run.report) == {"ok", "seconds", "latency_ms", "stages"}


def test_results_are_stored_once_and_the_summary_says_where(make_run):
    run = make_run(sinks=SINK)

    assert run.run("--records", "5000") == 0, run.said
    stored = run.stage("warehouse")

    assert (stored["records_in"], stored["records_out"]) == (5000, 5000)
    assert stored["output"] == str(run.data / "warehouse-0" / "pipeline.duckdb")
    assert rows(run) == 5000
    assert run.report["latency_ms"]["p50"] <= run.report["latency_ms"]["p99"]
    assert stored["output"] in run.output.read_text()
    example = run.output.read_text().split("look at them with\n")[1].splitlines()[0]
    assert (
        "avg_temperature_c" in subprocess.run(example, shell=True, check=False, capture_output=True, text=True).stdout
    )


def rows(run):
    with duckdb.connect(run.stage("warehouse")["output"], read_only=True) as database:
        return database.sql("SELECT count(*) FROM readings").fetchall()[0][0]


def test_a_stdout_sinks_lines_reach_standard_output_whole(make_run):
    run = make_run(sinks=STDOUT)

    assert run.run("--records", "3000") == 0, run.said
    lines = [json.loads(line) for line in run.output.read_text().splitlines() if line.startswith("{")]

    assert len(lines) == 3000
    assert run.stage("shown")["output"] == "stdout"


def test_a_run_whose_output_nobody_reads_any_more_stops(make_run):
    run = make_run(
        simulator="devices: 20, eventsPerSecond: 500",
        sinks=STDOUT,
    )
    command = (
        f"{sys.executable} -m forebay_cli.main run {run.file} --bootstrap {run.bootstrap} --data {run.data} | head -n 5"
    )
    finished = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True, timeout=90
    )

    assert len(finished.stdout.splitlines()) == 5
    assert "nobody reads standard output any more" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_several_replicas_share_the_records(make_run):
    more = "    - {name: others, to: RAW, replicas: 2, key: {field: device_id}, source: {simulator: {devices: 5, seed: 2}}}"
    run = make_run(processor="      autoscaling: {minReplicas: 2, maxReplicas: 3}")
    run.file.write_text(run.file.read_text().replace("  processors:", more.replace("RAW", run.raw) + "\n  processors:"))

    assert run.run("--records", "10000") == 0, run.said

    assert (run.stage("devices")["records_out"], run.stage("others")["records_out"]) == (3334, 6666)
    assert run.stage("enrich")["records_out"] == run.readings(run.enriched).total() == 10000
    assert (run.data / "logs" / "enrich-1.log").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_everything_in_flight(make_run, number):
    run = make_run(simulator="devices: 20, eventsPerSecond: 2000").start()
    run.until_moving()
    run.process.send_signal(number)

    assert run.wait() == 0, run.said
    assert run.readings(run.raw).total() == run.readings(run.enriched).total() > 0
    assert run.stage("devices")["records_out"] == run.readings(run.raw).total()
    assert run.stage("enrich")["records_out"] == run.readings(run.enriched).total()
    assert not _family(run.process.pid)


def test_a_second_ctrl_c_ends_at_once(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 2000").start()
    run.until_moving()
    os.kill(run.replica("enrich").pid, signal.SIGSTOP)  # so that no drain can come to its end
    children = _family(run.process.pid)
    run.process.send_signal(signal.SIGINT)
    run.until_said("once more ends at once")
    asked = time.monotonic()
    run.process.send_signal(signal.SIGINT)

    assert run.wait() == 130
    assert time.monotonic() - asked < 5
    assert not any(child.is_running() for child in children)
    assert run.report["ok"] is False
    assert "at once" in run.report["reason"]


def test_a_drain_that_cannot_end_is_given_up_and_says_what_is_left(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 2000").start("--drain-timeout", "3s")
    run.until_moving()
    os.kill(run.replica("enrich").pid, signal.SIGSTOP)
    time.sleep(1)  # lets the stopped stage fall behind
    run.process.send_signal(signal.SIGINT)

    assert run.wait() == 1
    # frozen between its offsets and their commit, or on a machine that is too busy to be asked, how many is unknown
    assert re.search(r"enrich still had (about \d+|an unknown number of) records to process", run.report["reason"])


@pytest.mark.parametrize("victim", ["devices", "enrich"])
def test_a_killed_service_comes_back_and_every_event_is_processed_once(make_run, victim):
    run = make_run(simulator="devices: 20, eventsPerSecond: 2000").start("--records", "12000")
    run.until_moving()
    run.replica(victim).kill()

    assert run.wait() == 0, run.said
    raw, enriched = run.readings(run.raw), run.readings(run.enriched)

    assert f"{victim}-0 ended: killed by SIGKILL; starting it again in" in run.said
    assert run.stage(victim)["restarts"] == 1
    assert 12000 == raw.total() == enriched.total()
    assert max(enriched.values()) == max(raw.values())


def test_a_killed_sink_comes_back_and_every_event_is_stored_once(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 2000", sinks=SINK).start("--records", "12000")
    run.until_moving("warehouse")
    run.replica("warehouse").kill()

    assert run.wait() == 0, run.said
    assert rows(run) == 12000


def test_a_killed_command_leaves_no_process(make_run):
    run = make_run(embedded=True, simulator="devices: 20, eventsPerSecond: 2000").start()
    run.until_moving()
    children = _family(run.process.pid)
    run.process.kill()
    run.wait()

    assert len(children) >= 4  # two services, Kafka's guard, Java
    until(lambda: not any(child.is_running() for child in children), what="all processes gone", deadline_s=30)


@pytest.mark.timeout(240)
def test_a_killed_broker_is_started_again(make_run):
    run = make_run(embedded=True, simulator="devices: 20, eventsPerSecond: 2000").start("--records", "16000")
    run.until_moving()
    java = next(child for child in _family(run.process.pid) if "kafka.Kafka" in child.cmdline())
    java.kill()

    assert run.wait(150) == 0, run.said
    assert "Kafka ended" in run.said
    assert run.stage("enrich")["records_out"] == 16000


def test_data_are_continued_by_the_next_run(make_run):
    run = make_run(embedded=True, simulator="devices: 20, records: 1000")
    assert run.run() == 0, run.said
    first = run.stage("enrich")["records_out"]
    run.file.write_text(run.file.read_text().replace("records: 1000", "records: 1500"))
    assert run.run() == 0, run.said

    assert (first, run.stage("enrich")["records_out"]) == (1000, 500)


def test_a_folder_serves_one_run_at_a_time(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 100").start()
    run.until_said("topics")
    command = [sys.executable, "-m", "forebay_cli.main", "run", str(run.file), "--data", str(run.data)]
    second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert second.returncode == 1
    assert f"{run.data} is in use by another run" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_fresh_run_names_its_folder_and_keeps_results_but_not_kafka(make_run, tmp_path):
    run = make_run(embedded=True, simulator="devices: 20, records: 500")
    command = [sys.executable, "-m", "forebay_cli.main", "run", str(run.file)]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, env=environment)
    (folder,) = (tmp_path / "state" / "forebay").iterdir()

    assert finished.returncode == 0, finished.stderr
    assert str(folder) in finished.stdout
    assert (folder / "logs" / "enrich-0.log").exists()
    assert not (folder / "kafka").exists()


def test_for_ends_a_run_of_an_endless_source(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 1000")

    assert run.run("--for", "3s") == 0, run.said
    assert run.stage("enrich")["records_out"] == run.stage("devices")["records_out"] > 500


def test_a_stage_that_is_refused_fails_the_run_by_name(make_run):
    run = make_run(
        simulator="devices: 20, eventsPerSecond: 1000",
        producers="    - {name: missing, to: RAW, key: {field: device_id}, source: {file: {path: not-there.ndjson}}}",
    )
    run.file.write_text(run.file.read_text().replace("to: RAW", f"to: {run.raw}"))

    assert run.run() == 1
    assert run.report["ok"] is False
    assert "missing failed for good: " in run.report["reason"]
    assert "not-there.ndjson" in run.report["reason"]
    assert "Traceback" not in run.said
    assert run.stage("enrich")["records_out"] == run.stage("devices")["records_out"]


def test_replicas_are_scraped_where_they_say(make_run):
    run = make_run(simulator="devices: 20, eventsPerSecond: 1000").start()
    run.until_moving()
    log = (run.data / "logs" / "enrich-0.log").read_text().splitlines()
    port = next(json.loads(line)["http_port"] for line in log if '"started"' in line)
    fetched = subprocess.run(
        ["curl", "-s", f"http://127.0.0.1:{port}/metrics"], check=False, capture_output=True, text=True
    )

    assert parse(fetched.stdout).records_in > 0


USAGE = {
    "no file": (["no-such.yaml"], "cannot be read"),
    "a bad duration": (["FILE", "--for", "soon"], "'soon' is no duration"),
    "a bad address": (["FILE", "--bootstrap", "kafka"], "'kafka' is not HOST:PORT"),
    "no records": (["FILE", "--records", "0"], "--records"),
    "no place for the report": (["FILE", "--report", "/no/such/folder/r.json"], "does not exist"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_told_before_anything_starts(make_run, case):
    run = make_run()
    arguments, expected = USAGE[case]
    command = [sys.executable, "-m", "forebay_cli.main", "run", *arguments]
    command = [str(run.file) if word == "FILE" else word for word in command]
    finished = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"}
    )

    assert finished.returncode == 2
    assert expected in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_invalid_file_is_told_with_all_its_problems_and_reported(make_run):
    run = make_run(simulator="devices: none", processor="      autoscaling: {minReplicas: 3, maxReplicas: 2}")

    assert run.run() == 2
    assert "devices" in run.said
    assert "minReplicas" in run.said
    assert run.report["ok"] is False


def test_records_without_producers_is_wrong_usage(make_run):
    run = make_run()
    text = run.file.read_text()
    run.file.write_text(text[: text.index("  producers:")] + text[text.index("  processors:") :])

    assert run.run("--records", "5") == 2
    assert "no producers" in run.said


def test_a_missing_secret_names_the_option(make_run):
    postgres = "    - {name: db, from: ENRICHED, destination: {postgres: {secretRef: {name: db-login}, table: t}}}"
    run = make_run(sinks=postgres)

    assert run.run() == 2
    assert "--secrets" in run.said
    assert "db-login" in run.said


def test_a_broker_that_is_not_there_is_one_sentence(make_run):
    run = make_run()
    run.bootstrap = "127.0.0.1:1"

    assert run.run() == 1
    assert "cannot reach Kafka at 127.0.0.1:1" in run.said
    assert "Traceback" not in run.said
