"""The command: usage, report, pictures, and what is said when something is missing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.planning.scaling import read, replayed
from forebay_cli.main import app
from forebay_cli.simulate import command
from forebay_cli.simulate.comparison import FIGURES
from forebay_cli.simulate.policies import POLICIES

TRACES = Path(__file__).parents[3] / "benchmarks" / "traces"
RUNNER = CliRunner()


@pytest.fixture
def short(tmp_path):
    file = tmp_path / "short.csv"
    file.write_text("seconds,records_per_second\n0,1000\n60,5000\n150,5000\n180,5000\n")
    return file


def simulate(*arguments):
    return RUNNER.invoke(app, ["simulate", *map(str, arguments), "--seeds", "2", "--jobs", "1"])


def test_a_report_holds_the_medians_of_every_policy(short, tmp_path):
    report = tmp_path / "out.json"
    done = simulate("--trace", short, "--policy", "all", "--report", report)

    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())
    assert list(found) == ["short"]
    assert set(found["short"]) == set(POLICIES)
    assert all(set(figures) == set(FIGURES) for figures in found["short"].values())
    assert found["short"]["maximum"]["replica_hours"] > found["short"]["oracle"]["replica_hours"]
    assert "seconds over" in done.output


def test_several_traces_with_a_table_of_sums_and_names_of_their_own(short, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "short.csv").write_text("0,100\n30,100\n")
    report = tmp_path / "out.json"
    done = simulate("--trace", short, "--trace", other / "short.csv", "--policy", "fixed", "--report", report)

    assert done.exit_code == 0, done.output
    assert len(json.loads(report.read_text())) == 2
    assert "sum of 2 traces" in done.output


def test_pictures_and_decisions(short, tmp_path):
    done = simulate(
        "--trace", short, "--policy", "forebay,fixed", "--plot", tmp_path / "p", "--decisions", tmp_path / "d"
    )

    assert done.exit_code == 0, done.output
    assert (tmp_path / "p" / "short.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "p" / "short.svg").read_text()
    log = read((tmp_path / "d" / "short.jsonl").read_bytes())
    assert any(decision.verdict.is_change for decision in log)
    assert [replayed(decision) for decision in log] == [decision.verdict for decision in log]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "kedaa"], "kedaa"),
        (["--min-replicas", "13"], "13 is more than the 12"),
        (["--report", "/nowhere/out.json"], "/nowhere"),
        (["--trace", "/nowhere/t.csv"], "No such file"),
    ],
)
def test_wrong_usage_is_a_sentence(short, arguments, words):
    done = simulate("--trace", short, *arguments)

    assert done.exit_code != 0
    assert words in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


def test_missing_packages_are_named_with_the_cure(short, monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("numpy", "no_such_package"))
    done = simulate("--trace", short)

    assert done.exit_code == 1
    assert "no_such_package" in done.output
    assert "forebay-cli[simulate]" in done.output


def test_the_traces_of_the_repository_are_those_that_the_script_writes(tmp_path):
    import runpy
    import sys

    script = Path(__file__).parents[3] / "hack" / "load_traces.py"
    before, sys.argv = sys.argv, [str(script), "--out", str(tmp_path)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before

    kept = {file.name: file.read_text() for file in TRACES.glob("*.csv")}
    assert {file.name: file.read_text() for file in tmp_path.glob("*.csv")} == kept
    assert len(kept) == 9
