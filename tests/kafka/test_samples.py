"""The samples, run as a user runs them, against SQL over their own source files."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"


def run(sample: str | Path, folder: Path, bootstrap: str, *arguments: str) -> dict:
    """The report of `forebay run`, which must succeed."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "forebay_cli.main", "run", str(sample), "--bootstrap", bootstrap]
    command += ["--data", str(folder / "data"), "--report", str(report), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())


def database(report: dict) -> duckdb.DuckDBPyConnection:
    (file,) = (stage["output"] for stage in report["stages"] if stage["kind"] == "sink")
    return duckdb.connect(file, read_only=True)


def test_weather_averages_equal_sql_window_functions_over_the_source_files(kafka, tmp_path):
    report = run(SAMPLES / "02-weather" / "pipeline.yaml", tmp_path, kafka.bootstrap_servers)

    by_name = {stage["name"]: stage for stage in report["stages"]}
    assert report["ok"]
    assert by_name["seattle"]["records_out"] + by_name["san-francisco"]["records_out"] == 17_518
    assert by_name["enrich"]["records_in"] == by_name["enrich"]["records_out"] == 17_518
    assert by_name["warehouse"]["records_out"] == 17_518
    data = SAMPLES / "02-weather" / "data"
    source = " UNION ALL ".join(
        f"SELECT '{station}' AS station, epoch_ms(strptime(date, '{form}')) AS timestamp, temp::DOUBLE AS temperature_f "
        f"FROM read_csv('{data / file}', header = true, all_varchar = true)"
        for station, file, form in (
            ("seattle", "seattle-temps.csv", "%Y/%m/%d %H:%M"),
            ("san-francisco", "sf-temps.csv", "%Y/%m/%d %H:%M:%S"),
        )
    )
    with database(report) as stored:
        assert stored.execute(f"SELECT count(*) FROM ({source})").fetchone() == (17_518,)
        rows, matched, difference = stored.execute(
            f"""
            WITH expected AS (
                SELECT *, avg(temperature_f) OVER (
                    PARTITION BY station ORDER BY timestamp ROWS BETWEEN 23 PRECEDING AND CURRENT ROW) AS mean
                FROM ({source}))
            SELECT (SELECT count(*) FROM weather), count(*), max(abs(avg_temperature_f - mean))
            FROM expected JOIN weather USING (station, timestamp, temperature_f)
            """
        ).fetchone()

    assert (rows, matched) == (17_518, 17_518)
    assert difference < 1e-9


def test_sensors_with_malformed_events_are_stored_or_dead_letters_each_once(kafka, tmp_path):
    text = (SAMPLES / "01-sensors" / "pipeline.yaml").read_text()
    sample = tmp_path / "pipeline.yaml"
    sample.write_text(text.replace("devices: 100, eventsPerSecond: 200", "devices: 500, malformedShare: 0.01"))
    report = run(sample, tmp_path, kafka.bootstrap_servers, "--records", "50000")

    by_name = {stage["name"]: stage for stage in report["stages"]}
    dead = by_name["enrich"]["dead_letters"]
    assert 350 < dead < 650
    assert by_name["devices"]["records_out"] == by_name["enrich"]["records_in"] == 50_000
    assert by_name["enrich"]["records_out"] == by_name["warehouse"]["records_out"] == 50_000 - dead
    with database(report) as stored:
        stored_rows, readings, difference = stored.execute(
            """
            WITH expected AS (
                SELECT *, avg(temperature_c) OVER (
                    PARTITION BY device_id ORDER BY timestamp ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS mean
                FROM readings)
            SELECT count(*), count(DISTINCT (device_id, timestamp)), max(abs(avg_temperature_c - mean)) FROM expected
            """
        ).fetchone()
    assert stored_rows == readings == 50_000 - dead
    assert difference < 1e-9
    assert report["latency_ms"]["p99"] >= report["latency_ms"]["p50"] > 0


def test_a_python_transform_beside_the_pipeline_file_is_found(kafka, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def fahrenheit(record):\n    return {**record.value, 'temperature_f': record.value['temperature_c'] * 1.8 + 32}\n"
    )
    text = (SAMPLES / "01-sensors" / "pipeline.yaml").read_text()
    text = text.replace("sensor_events", "python_events").replace("name: sensors", "name: python")
    start = text.index("        - name: average")
    end = text.index("  sinks:")
    text = (
        text[:start]
        + "        - {name: convert, python: {entrypoint: 'mine:fahrenheit'}}\n\n"
        + text[end:].replace("table: readings", "table: readings")
    )
    text = text.replace("devices: 100, eventsPerSecond: 200", "devices: 10")
    sample = tmp_path / "pipeline.yaml"
    sample.write_text(text)
    report = run(sample, tmp_path, kafka.bootstrap_servers, "--records", "1000")

    with database(report) as stored:
        columns = [name for name, *_ in stored.execute("DESCRIBE readings").fetchall()]
        assert columns == ["key", "value"]
        (wrong,) = stored.execute(
            "SELECT count(*) FROM readings WHERE "
            "abs((value->>'temperature_f')::DOUBLE - ((value->>'temperature_c')::DOUBLE * 1.8 + 32)) > 1e-9"
        ).fetchone()
    assert wrong == 0


@pytest.mark.parametrize("kind", ["pipeline", "cluster"])
def test_sample_files_are_valid(kind):
    for file in SAMPLES.glob(f"*/{kind}.yaml"):
        command = [sys.executable, "-m", "forebay_cli.main", "validate", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
