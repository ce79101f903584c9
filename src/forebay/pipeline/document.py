"""Hostile YAML to plain values with line numbers.

Values are read as kubectl reads them: booleans, numbers and null the way of YAML 1.1, without dates and base 60. Size,
depth and number of values are bounded; anchors, aliases and tags are refused, because a small file can mean a huge one
with them. A field without a value is refused as well: `tls:` looks like TLS, and would mean none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from forebay.pipeline.problems import Path, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 50_000

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line that it stands in; for a mapping's value, the line of its key."""

    line: int
    value: "Scalar | dict[str, Node] | list[Node]"

    def plain(self) -> Any:
        """The value as JSON would hold it. A missing value reads as an empty mapping: it has been reported already."""
        match self.value:
            case dict(entries):
                return {key: entry.plain() for key, entry in entries.items()}
            case list(items):
                return [item.plain() for item in items]
            case None:
                return {}
            case scalar:
                return scalar

    def at(self, path: Path) -> "Node | None":
        """The value at the end of the path, or None where the document has no such value."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node else None
        return node

    def child(self, step: str | int) -> "Node | None":
        """The value one step down."""
        match self.value, step:
            case dict(entries), str(key):
                return entries.get(key)
            case list(items), int(index) if index < len(items):
                return items[index]
            case _:
                return None

    def line_of(self, path: Path) -> int:
        """The line of the value at the end of the path; where it is missing, the line of what should hold it."""
        for end in range(len(path), 0, -1):
            if node := self.at(path[:end]):
                return node.line
        return self.line


@dataclass(frozen=True, slots=True)
class Located:
    """A problem of the text itself, which knows its line."""

    line: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Text:
    """What a text holds: its documents as far as it could be read, and what is wrong with it."""

    documents: tuple[Node, ...]
    problems: tuple[Located, ...]


class _Stop(Exception):  # noqa: N818 - control flow
    """The rest of the text is not worth reading."""


def read(text: str) -> Text:
    """All documents of a YAML text. Never raises, whatever the text holds."""
    if (size := len(text.encode(errors="surrogatepass"))) > MAX_BYTES:
        message = f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read: split the Pipeline"
        return Text((), (Located(1, Problem((), message)),))
    if (bad := _SURROGATE.search(text)) is not None:
        message = f"character {bad.start() + 1} is half a character: save the file as UTF-8"
        return Text((), (Located(1, Problem((), message)),))
    reader = _Reader(text)
    try:
        reader.read()
    except _Stop:
        pass
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reader.report(line, (), f"a character that YAML does not allow ({error.reason}): remove it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        message = f"not valid YAML: {error.problem}{context}: check indentation, colons, quotes and brackets here"
        reader.report(mark.line + 1 if mark else 1, (), message)
    return Text(tuple(reader.documents), tuple(reader.problems))


class _Reader:
    """Builds nodes from the parser's events, so that bounds apply before anything is built."""

    def __init__(self, text: str) -> None:
        self.documents: list[Node] = []
        self.problems: list[Located] = []
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._values = 0

    def report(self, line: int, path: Path, message: str) -> None:
        self.problems.append(Located(line, Problem(path, message)))

    def read(self) -> None:
        for event in self._events:
            if not isinstance(event, yaml.NodeEvent):
                continue
            node = self._node(event, (), _line(event))
            if node.value is not None:  # an empty document, as a trailing `---` makes it
                self.documents.append(node)

    def _node(self, event: yaml.NodeEvent, path: Path, line: int) -> Node:
        self._check(event, path, line)
        match event:
            case yaml.MappingStartEvent():
                return Node(line, self._entries(path))
            case yaml.SequenceStartEvent():
                return Node(line, self._items(path))
            case yaml.ScalarEvent():
                return Node(line, self._scalar(event, path, line))
            case _:
                return Node(line, None)

    def _check(self, event: yaml.NodeEvent, path: Path, line: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            self.report(line, (), f"more than {MAX_VALUES:,} values: split the Pipeline")
            raise _Stop
        if len(path) > MAX_DEPTH:
            self.report(line, path[:4], f"nested more than {MAX_DEPTH} levels deep: no part of a Pipeline is")
            raise _Stop
        if event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self.report(
                line, path, f"anchors and aliases ({sign}{event.anchor[:40]}) are not read: write the value out"
            )
        if getattr(event, "tag", None) is not None:
            self.report(line, path, f"tags ({event.tag[:60]}) are not read: remove it, and quote a text")  # type: ignore[attr-defined]  # scalars and collections have one

    def _entries(self, path: Path) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path, line)
            node = self._node(_as_node(next(self._events)), (*path, key), line)
            if key in entries:
                self.report(line, (*path, key), f"stands here a second time (first in line {lines[key]}): keep one")
                continue
            entries[key], lines[key] = node, line
            if node.value is None and path[:1] != ("metadata",) and not _alias_reported(self.problems, (*path, key)):
                self.report(line, (*path, key), "has no value: give it one, write {} for all defaults, or remove it")
        return entries

    def _key(self, event: yaml.Event, path: Path, line: int) -> str:
        if isinstance(event, yaml.ScalarEvent):
            self._check(event, path, line)
            if len(event.value) <= _MAX_KEY:
                return str(event.value)
        self.report(line, path, f"a field's name must be a text of at most {_MAX_KEY} characters")
        raise _Stop

    def _items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(items))
            node = self._node(_as_node(event), here, _line(event))
            if node.value is None and not _alias_reported(self.problems, here):
                self.report(node.line, here, "an entry without a value: give it one, or remove the line")
            items.append(node)
        return items

    def _scalar(self, event: yaml.ScalarEvent, path: Path, line: int) -> Scalar:
        text = str(event.value)
        if _SURROGATE.search(text):
            self.report(line, path, "holds half a character: write it out in UTF-8, or as one \\U escape")
            return ""
        return resolved(text) if event.implicit[0] else text


def _as_node(event: yaml.Event) -> yaml.NodeEvent:
    if not isinstance(event, yaml.NodeEvent):  # the parser's grammar allows nothing else here
        raise _Stop
    return event


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _alias_reported(problems: list[Located], path: Path) -> bool:
    return bool(problems) and problems[-1].problem.path == path


def resolved(text: str) -> Scalar:
    """What a plain (unquoted) scalar means."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> int | float | None:
    digits = text.replace("_", "")
    try:
        if _INTEGER.fullmatch(text) and len(text) <= _MAX_INTEGER:
            sign, size = (-1, digits[1:]) if digits[0] == "-" else (1, digits.removeprefix("+"))
            octal = size[0] == "0" and size.isdecimal()
            return sign * int(size, 8 if octal else 0)
        if _FLOAT.fullmatch(text):
            return float(digits)
    except ValueError:
        return None
    return _SPECIAL.get(text.lower())


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where the wheel carries it: a file at the size limit takes a second instead of twenty."""

_MAX_KEY = 1_024
_MAX_INTEGER = 25
"""Longer than any 64-bit number; longer ones become floats, which no whole-number field accepts."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    form: value
    for words, value in ((("true", "yes", "on", "y"), True), (("false", "no", "off", "n"), False))
    for word in words
    for form in (word, word.title(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7_]+|0[0-7_]*|[1-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
