import pytest

from forebay.pipeline.load import parse
from forebay_cli.run import launches, sources

PIPELINE = """
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: p}}
spec:
  kafka: {{bootstrapServers: "kafka:9092"}}
  topics: [{{name: a, partitions: 4}}]
  producers:
{producers}
"""
SIMULATED = "    - {{name: s{number}, to: a, replicas: 2, source: {{simulator: {{{records}}}}}}}\n"
FILE = "    - {name: f, to: a, source: {file: {path: data.csv, format: Csv}}}\n"


def expected(folder, producers, records=None):
    pipeline = parse(PIPELINE.format(producers=producers), "p.yaml")
    return sources.expected_records(launches.launches(pipeline, records), folder)


def simulated(number, records):
    return SIMULATED.format(number=number, records="" if records is None else f"records: {records}")


def test_bounded_sources_add_up(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n3,4\n5,6")

    assert expected(tmp_path, simulated(1, 100) + FILE) == 103


def test_one_endless_source_makes_the_whole_endless(tmp_path):
    assert expected(tmp_path, simulated(1, 100) + simulated(2, None)) is None


@pytest.mark.parametrize(("records", "sent"), [(50, 50), (1000, 100)])
def test_whichever_bound_comes_first_counts(tmp_path, records, sent):
    assert expected(tmp_path, simulated(1, 100), records) == sent


def test_a_large_file_is_estimated_by_its_beginning(tmp_path):
    (tmp_path / "data.csv").write_text("aaaa,bbbb\n" * 1_000_000)

    assert expected(tmp_path, FILE) == pytest.approx(1_000_000, rel=0.001)


def test_a_file_that_cannot_be_read_has_no_known_length(tmp_path):
    assert expected(tmp_path, FILE) is None
