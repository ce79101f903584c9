"""From text to a Pipeline, or to every problem with its line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import InvalidPipeline
from forebay.pipeline import document, load

VALID = """\
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {name: sensors}
spec:
  kafka: {bootstrapServers: "kafka:9092"}
  topics:
    - {name: raw, partitions: 4}
    - {name: enriched, partitions: 4}
  producers:
    - name: devices
      to: raw
      key: {field: device_id}
      source: {simulator: {}}
  processors:
    - name: enrich
      from: raw
      to: enriched
      transforms:
        - name: average
          movingAverage:
            field: temperature_c
            output: avg
  sinks:
    - name: store
      from: enriched
      destination: {stdout: {}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidPipeline) as caught:
        load.parse(text, "p.yaml")

    return list(caught.value.problems)


def problem(old: str, new: str) -> str:
    """The one problem of the valid text with a part replaced."""
    assert VALID.count(old) == 1
    (found,) = problems(VALID.replace(old, new))
    return found


def test_a_valid_text_becomes_a_pipeline():
    pipeline = load.parse(VALID, "p.yaml")

    assert pipeline.metadata.name == "sensors"
    assert [stage.name for stage in pipeline.spec.stages] == ["devices", "enrich", "store"]
    assert pipeline.spec.processors[0].transforms[0].kind == "movingAverage"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("output: avg", "output: avg\n            windw: 3",
         "p.yaml:23: spec.processors[0].transforms[0].movingAverage.windw: no such field: did you mean `window`?"),
        ("            output: avg\n", "",
         "p.yaml:20: spec.processors[0].transforms[0].movingAverage.output: is missing: add `output:`"),
        ("output: avg", "output: avg\n            window: ten",
         ("p.yaml:23: spec.processors[0].transforms[0].movingAverage.window: expected a whole number, "
         "found the text 'ten'")),
        ("raw, partitions: 4", 'raw, partitions: "4"',
         "p.yaml:7: spec.topics[0].partitions: expected a whole number, found the text '4': remove the quotes"),
        ("raw, partitions: 4", "raw, partitions: 4, config: {retention.ms: 1}",
         "p.yaml:7: spec.topics[0].config.retention.ms: expected a text, found the number 1: put it in quotes"),
        ("raw, partitions: 4", "raw, partitions: yes",
         "p.yaml:7: spec.topics[0].partitions: expected a whole number, found true"),
        ("raw, partitions: 4", "raw, partitions: 0",
         "p.yaml:7: spec.topics[0].partitions: must be at least 1, found the number 0"),
        ("raw, partitions: 4", "raw, partitions: 4, replication_factor: 1",
         "p.yaml:7: spec.topics[0].replication_factor: no such field: did you mean `replicationFactor`?"),
        ("raw, partitions: 4", "raw, partitions: 4, management: external",
         ("p.yaml:7: spec.topics[0].management: expected one of Managed, External, found the text 'external': "
         "did you mean External?")),
        ("raw, partitions: 4", "raw, partitions: 4, partitions: 5",
         "p.yaml:7: spec.topics[0].partitions: stands here a second time (first in line 7): keep one"),
        ("{name: sensors}", "{name: Sensors}",
         ("p.yaml:3: metadata.name: 'Sensors' is not allowed: expected lower-case letters, digits and '-', "
         "with a letter or digit at both ends")),
        ("{name: sensors}", "sensors", "p.yaml:3: metadata: expected fields (`name: value`), found the text 'sensors'"),
        ("{simulator: {}}", "{}", "p.yaml:13: spec.producers[0].source: set exactly one of simulator, file; none is set"),
        ("{simulator: {}}", "{simulator: {}, file: {path: x}}",
         "p.yaml:13: spec.producers[0].source: set exactly one of simulator, file; simulator and file are set"),
        ("{stdout: {}}", "{stdout: }",
         "p.yaml:26: spec.sinks[0].destination.stdout: has no value: give it one, write {} for all defaults, or remove it"),
        ('"kafka:9092"}', '"kafka:9092", tls: }',
         "p.yaml:5: spec.kafka.tls: has no value: give it one, write {} for all defaults, or remove it"),
        ('"kafka:9092"', "kafka",
         ("p.yaml:5: spec.kafka.bootstrapServers: 'kafka' is not allowed: expected host:port, several separated by "
         "commas, without spaces")),
        ("simulator: {}", "simulator: {eventsPerSecond: .inf}",
         ("p.yaml:13: spec.producers[0].source.simulator.eventsPerSecond: expected a number, found infinity or NaN: "
         "write it in digits")),
        ("to: raw\n", "to: *raw\n",
         "p.yaml:11: spec.producers[0].to: anchors and aliases (*raw) are not read: write the value out"),
        ("to: raw\n", "to: !!python/name:os.system raw\n",
         ("p.yaml:11: spec.producers[0].to: tags (tag:yaml.org,2002:python/name:os.system) are not read: remove it, "
         "and quote a text")),
        ("kind: Pipeline\n", "", "p.yaml:1: kind: is missing: add `kind: Pipeline`"),
        ("from: enriched", "from: enrichd", ("p.yaml:25: spec.sinks[0].from: topic 'enrichd' is not declared in "
         "spec.topics: did you mean 'enriched'?")),
    ],
)  # fmt: skip
def test_a_problem_names_line_path_and_cure(old, new, expected):
    assert expected == problem(old, new)


def test_all_problems_are_reported_at_once_in_the_order_of_the_file():
    text = VALID.replace("raw, partitions: 4", "raw, partitons: 4").replace("to: enriched", "to: enrichd")
    text = text.replace("output: avg", "output: [avg]").replace("stdout: {}", "duckdb: {}")

    assert [line.split(" ")[:2] for line in problems(text)] == [
        ["p.yaml:7:", "spec.topics[0].partitons:"],
        ["p.yaml:7:", "spec.topics[0].partitions:"],
        ["p.yaml:17:", "spec.processors[0].to:"],
        ["p.yaml:22:", "spec.processors[0].transforms[0].movingAverage.output:"],
        ["p.yaml:26:", "spec.sinks[0].destination.duckdb.table:"],
    ]


def test_a_broken_part_hides_no_contradiction_elsewhere():
    text = VALID.replace("partitions: 4}\n    - {name: enriched", 'partitions: "4"}\n    - {name: enriched')
    text = text.replace("source: {simulator: {}}", "source: {simulator: {devices: none}}\n      replicas: 2")
    text = text.replace("from: enriched", "from: nowhere").replace("to: raw\n", "to: elsewhere\n")

    assert [line.split(" ")[1] for line in problems(text)] == [
        "spec.topics[0].partitions:",
        "spec.producers[0].to:",
        "spec.producers[0].source.simulator.devices:",
        "spec.sinks[0].from:",
    ]


def test_paths_keep_their_indexes_when_an_earlier_stage_is_broken_beyond_use():
    text = VALID.replace("  sinks:\n", "  sinks:\n    - 7\n").replace("from: enriched", "from: nowhere")

    assert [line.split(" ")[1] for line in problems(text)] == ["spec.sinks[0]:", "spec.sinks[1].from:"]


def test_what_kubernetes_adds_to_metadata_is_accepted():
    added = "{name: sensors, namespace: a, creationTimestamp: , labels: {a: b}, uid: x}"

    assert load.parse(VALID.replace("{name: sensors}", added), "p").metadata.namespace == "a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1: the file is empty: write a Pipeline (kind: Pipeline)"),
        ("# nothing\n---\n", "p.yaml:1: the file is empty: write a Pipeline (kind: Pipeline)"),
        ("spec:\n  a: 'b", ("p.yaml:2: not valid YAML: found unexpected end of stream while scanning a quoted scalar: "
         "check indentation, colons, quotes and brackets here")),
        ("a: \x00", "p.yaml:1: a character that YAML does not allow (control characters are not allowed): remove it"),
        ("a: '\ud800'", "p.yaml:1: character 5 is half a character: save the file as UTF-8"),
        ("? [a]\n: b", "p.yaml:1: a field's name must be a text of at most 1024 characters"),
        ("[" * 100_000, "p.yaml:1: [0][0][0][0]: nested more than 32 levels deep: no part of a Pipeline is"),
        ("a: " + "x" * (1 << 20), "p.yaml:1: the file has 1,048,579 bytes; at most 1,048,576 are read: split the Pipeline"),
        ("- a\n" * 60_000, "p.yaml:50000: more than 50,000 values: split the Pipeline"),
    ],
)  # fmt: skip
def test_hostile_text_is_one_line(text, expected):
    assert expected in problems(text)


def test_aliases_cannot_multiply():
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )

    assert all(len(line) < 400 for line in problems(laughs))


def test_one_file_holds_one_pipeline():
    found = problems(f"kind: ConfigMap\n---\n{VALID}---\n{VALID}")

    stray = "another document: keep one Pipeline in a file, and move others to files of their own"
    assert [f"p.yaml:1: {stray}", f"p.yaml:30: {stray}"] == found


def test_a_trailing_separator_is_no_second_document():
    assert load.parse(f"---\n{VALID}---\n", "p")


def test_long_reports_are_cut():
    found = problems(VALID + "".join(f"x{i}: 1\n" for i in range(1000)))

    assert len(found) == load.MAX_PROBLEMS + 1
    assert found[-1] == "p.yaml: and 800 more problems"


def test_control_characters_of_the_file_do_not_reach_the_terminal():
    (found,) = problems(VALID.replace("{stdout: {}}", '{stdout: {}, "\\e[31mred\\n": 1}'))

    assert found.isprintable()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff\xfe", "not UTF-8 text"), (b"a: 1\nb: \xe9\n", "not UTF-8 text")]
)
def test_other_encodings_are_refused(tmp_path, content, reason):
    file = tmp_path / "p.yaml"
    file.write_bytes(content)

    with pytest.raises(InvalidPipeline, match=reason):
        load.load_file(file)


def test_a_byte_order_mark_is_accepted(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + VALID.encode())

    assert load.load_file(file).metadata.name == "sensors"


@pytest.mark.parametrize("path", ["missing.yaml", ".", "nul\0byte"])
def test_what_cannot_be_read_is_said(tmp_path, path):
    with pytest.raises(InvalidPipeline, match="cannot be read"):
        load.load_file(tmp_path / path)


def test_numbers_and_booleans_are_read_as_kubectl_reads_them():
    (root,) = document.read("[1_000, 0x1F, 010, 0b11, 1e3, -2, +3, 12:30, 2020-01-01, yes, Off, 1.5]").documents

    assert root.plain() == [1000, 31, 8, 3, 1000.0, -2, 3, "12:30", "2020-01-01", True, False, 1.5]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "p.yaml"
    file.write_bytes(content)

    with pytest.raises(InvalidPipeline) as caught:
        load.load_file(file)

    assert all(line.isprintable() and str(file) in line for line in caught.value.problems)


def problems_of(text: str) -> tuple[str, ...]:
    try:
        load.parse(text, "p.yaml")
    except InvalidPipeline as invalid:
        return invalid.problems
    return ()


def places(value, path=()):
    """Every place in nested lists and mappings."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in inner:
        yield from places(child, (*path, step))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_at_any_place_is_a_pipeline_or_a_list_of_problems(data):
    plain = yaml.safe_load(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(places(plain), key=str)))
        value = data.draw(json_values)
        holder = plain
        for step in path[:-1]:
            holder = holder[step]
        if path:
            holder[path[-1]] = value

    assert all(line.startswith("p.yaml") and line.isprintable() for line in problems_of(json.dumps(plain)))


def test_the_samples_are_valid():
    samples = Path(__file__).parents[3] / "manifests/samples"
    files = [file for file in samples.glob("*/*.yaml") if file.name != "values.yaml"]  # those are the chart's

    assert files
    assert all(load.load_file(file) for file in files)
