"""From a Pipeline file to a Pipeline, or to all of its problems at once, each with its line.

The models judge what `document` read, the rules judge what the models accept. Parts that the models refuse are set aside
for the rules, so that a misspelt field does not hide a contradiction elsewhere.
"""

import copy
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from forebay.errors import InvalidPipeline
from forebay.pipeline import document, rules, wording
from forebay.pipeline.document import Node
from forebay.pipeline.problems import Path, Problem, spelled
from forebay.pipeline.spec import Pipeline

MAX_PROBLEMS = 200
"""More are counted, not listed."""


def load_file(path: FilePath) -> Pipeline:
    """The Pipeline in a file; InvalidPipeline names everything that is wrong with it."""
    try:
        with path.open("rb") as file:
            content = file.read(document.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidPipeline((f"{path}: cannot be read: {reason}: check the path and its permissions",)) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidPipeline((f"{path}:{line}: not UTF-8 text: save the file as UTF-8",)) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Pipeline:
    """The Pipeline in a text; InvalidPipeline names everything that is wrong, each as `source:line: path: problem`."""
    read = document.read(text)
    found = [(located.line, located.problem) for located in read.problems]
    pipeline: Pipeline | None = None
    root = _the_pipeline(read.documents)
    if root is None and not found:
        found.append((1, Problem((), "the file is empty: write a Pipeline (kind: Pipeline)")))
    stray = Problem((), "another document: keep one Pipeline in a file, and move others to files of their own")
    found += [(other.line, stray) for other in read.documents if other is not root]
    if root is not None:
        known = tuple(located.problem.path for located in read.problems if located.problem.path)
        pipeline, problems = _judge(root.plain())
        new = (problem for problem in problems if not any(_covers(path, problem.path) for path in known))
        found += [(root.line_of(problem.path), problem) for problem in new]
    if found or pipeline is None:
        raise InvalidPipeline(_lines(found, source))
    return pipeline


def load_object(plain: Any) -> Pipeline:
    """The Pipeline in an object as Kubernetes has it; InvalidPipeline names everything that is wrong, by path."""
    pipeline, problems = _judge(plain)
    if problems or pipeline is None:
        lines = dict.fromkeys(_printable(f"{spelled(problem.path)}: {problem.message}") for problem in problems)
        raise InvalidPipeline(tuple(lines)[:MAX_PROBLEMS])
    return pipeline


def _the_pipeline(documents: tuple[Node, ...]) -> Node | None:
    """The document to judge: the first that calls itself a Pipeline, else the first."""
    for root in documents:
        kind = root.child("kind")
        if kind is not None and kind.value == "Pipeline":
            return root
    return documents[0] if documents else None


def _covers(path: Path, other: Path) -> bool:
    return other[: len(path)] == path


def _lines(found: list[tuple[int, Problem]], source: str) -> tuple[str, ...]:
    lines: dict[str, None] = {}  # an ordered set: two rules may find the same fault
    for line, problem in sorted(found, key=lambda item: item[0]):
        where = f"{spelled(problem.path)}: " if problem.path else ""
        lines[_printable(f"{source}:{line}: {where}{problem.message}")] = None
    listed = tuple(lines)
    if len(listed) > MAX_PROBLEMS:
        return (*listed[:MAX_PROBLEMS], f"{source}: and {len(listed) - MAX_PROBLEMS} more problems")
    return listed


def _printable(line: str) -> str:
    """One line that a terminal shows as it is, whatever the file holds."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _judge(plain: Any) -> tuple[Pipeline | None, list[Problem]]:
    problems: list[Problem] = []
    if isinstance(plain, dict):
        for name, value in (("apiVersion", "forebay.dev/v1alpha1"), ("kind", "Pipeline")):
            if name not in plain:
                problems.append(Problem((name,), f"is missing: add `{name}: {value}`"))
    pipeline, errors = _validate(plain)
    problems += [Problem(_path(error), wording.sentence(error)) for error in errors]
    if pipeline is not None:
        return pipeline, problems + list(rules.check(pipeline))
    return None, problems + list(_contradictions(plain, errors))


def _validate(plain: Any) -> tuple[Pipeline | None, list[ErrorDetails]]:
    """Strictly typed as Kubernetes does it: JSON's types, no conversions, names as in the file."""
    try:
        return Pipeline.model_validate_json(json.dumps(plain), strict=True, by_alias=True, by_name=False), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    # a list without its wrong entries counts as too short: what lies below says why
    above = {found["loc"][:end] for found in errors for end in range(len(found["loc"]))}
    return None, [found for found in errors if found["type"] != "too_short" or found["loc"] not in above]


def _path(error: ErrorDetails) -> Path:
    loc = error["loc"]
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


def _contradictions(plain: Any, errors: list[ErrorDetails]) -> Iterator[Problem]:
    """What the rules say about the parts that the models accept."""
    rest = copy.deepcopy(plain)
    _drop_unknown(rest, errors)
    left_out = _set_aside(rest, _validate(rest)[1])
    pipeline, _ = _validate(rest)
    if pipeline is None:
        return
    for problem in rules.check(pipeline):
        match problem.path:
            case ("spec",):  # says that something is missing, which may be what was set aside
                continue
            case ("spec", str(kind), int(index), *below) if kind in left_out:
                yield Problem(("spec", kind, _original(index, left_out[kind]), *below), problem.message)
            case _:
                yield problem


def _drop_unknown(plain: Any, errors: list[ErrorDetails]) -> None:
    for error in errors:
        if error["type"] == "extra_forbidden":
            *above, name = error["loc"]
            holder = plain
            for step in above:
                holder = holder[step]
            del holder[name]


def _set_aside(plain: Any, errors: list[ErrorDetails]) -> dict[str, set[int]]:
    """Replaces what the models refuse by stand-ins of which the rules ask nothing.

    A topic in error is taken as somebody else's. A stage for whose part there is no stand-in is left out; returns the
    indexes of those, by kind.
    """
    left_out: dict[str, set[int]] = {kind: set() for kind in ("producers", "processors", "sinks")}
    for error in errors:
        match error["loc"]:
            case ("spec", "kafka", *_):
                plain["spec"]["kafka"] = {"bootstrapServers": "unknown:1"}
            case ("spec", "topics", int(index), *below):
                topics = plain["spec"]["topics"]
                named = isinstance(topics[index], dict) and below != ["name"]
                name = topics[index].get("name") if named else None
                topics[index] = {"name": name or f"unnamed.{index}", "management": "External"}
            case ("spec", str(kind), int(index), "transforms", int(step), *_):
                plain["spec"][kind][index]["transforms"][step] = {"name": f"unnamed-{step}", **_ANY_TRANSFORM}
            case ("spec", str(kind), int(index), str(part), *_) if part in _STAND_INS:
                plain["spec"][kind][index] |= _STAND_INS[part]
            case ("spec", str(kind), int(index), *_) if kind in left_out:
                left_out[kind].add(index)
            case ("metadata", *_):
                plain["metadata"] = {"name": "unknown"}
            case ("kind" | "apiVersion" as name,):
                del plain[name]
    for kind in filter(left_out.get, left_out):
        stages = plain["spec"][kind]
        plain["spec"][kind] = [stage for index, stage in enumerate(stages) if index not in left_out[kind]]
    return left_out


_ANY_TRANSFORM = {"python": {"entrypoint": "unknown:unknown"}}
_STAND_INS: dict[str, dict[str, Any]] = {
    "source": {"source": {"file": {"path": "unknown"}}, "replicas": 1},
    "replicas": {"replicas": 1},
    "destination": {"destination": {"stdout": {}}},
    "autoscaling": {"autoscaling": {}},
    "batch": {"batch": {}},
    "pod": {"pod": {}},
    "delivery": {"delivery": {}},
    "kafkaProperties": {"kafkaProperties": {}},
    "rateLimit": {"rateLimit": 1},
    "startFrom": {"startFrom": "Earliest"},
    "onOffsetLost": {"onOffsetLost": "Stop"},
}
"""What replaces a part of a stage that the models refuse."""


def _original(index: int, gone: set[int]) -> int:
    """The index in the file of what has this index among those that remain."""
    return next(islice((original for original in count() if original not in gone), index, None))
