"""What the models complain about, in plain words: what was expected, what was found, and what to do."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from forebay.pipeline.document import resolved
from forebay.pipeline.problems import Path
from forebay.pipeline.spec import IN_WORDS, Pipeline

_LONGEST_QUOTE = 60
"""Characters of the file's own text that a message repeats: it stays one line."""

_LONGEST_WORD = 64
"""Longer ones are not compared with names: no name is so long, and comparing is quadratic."""


def sentence(error: ErrorDetails) -> str:
    """One of pydantic's errors as a sentence for the author of the file."""
    if (tell := _SENTENCES.get(error["type"])) is not None:
        return tell(error)
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, found {_found(error['input'])}"


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The name that was probably meant; case, `_` and `-` count as no difference."""
    folded = {_folded(candidate): candidate for candidate in candidates}
    matches = difflib.get_close_matches(_folded(word), folded, n=1) if len(word) <= _LONGEST_WORD else []
    return folded[matches[0]] if matches else None


def _folded(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _expected(what: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"expected {what}, found {_found(error['input'])}{_quoting(error['input'])}"


def _text_expected(error: ErrorDetails) -> str:
    cure = ": put it in quotes" if isinstance(error["input"], bool | int | float) else ""
    return f"expected a text, found {_found(error['input'])}{cure}"


def _limit(words: str, name: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"must be {words} {_number(error['ctx'][name])}, found {_found(error['input'])}"


def _pattern(error: ErrorDetails) -> str:
    pattern = error["ctx"]["pattern"]
    return f"{_quoted(error['input'])} is not allowed: expected {IN_WORDS.get(pattern, pattern)}"


def _too_long(error: ErrorDetails) -> str:
    return f"has {len(error['input'])} characters: shorten it to {error['ctx']['max_length']} at most"


def _too_many(error: ErrorDetails) -> str:
    return f"has {len(error['input'])} entries: remove some, {error['ctx']['max_length']} at most are allowed"


def _choice(error: ErrorDetails) -> str:
    """Pydantic gives the choices as text: 'A', 'B' or 'C'."""
    words = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
    close = closest(error["input"], words) if isinstance(error["input"], str) else None
    choices = words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    return f"expected {choices}, found {_found(error['input'])}" + (f": did you mean {close}?" if close else "")


def _unknown_field(error: ErrorDetails) -> str:
    *above, name = error["loc"]
    known = _fields_at(tuple(above))
    close = closest(str(name), known)
    return (
        f"no such field: did you mean `{close}`?"
        if close
        else f"no such field: remove it; there are {', '.join(known)}"
    )


_SENTENCES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda error: f"is missing: add `{error['loc'][-1]}:`",
    "extra_forbidden": _unknown_field,
    "string_type": _text_expected,
    "int_type": _expected("a whole number"),
    "int_from_float": _expected("a whole number"),
    "int_parsing": _expected("a whole number"),
    "float_type": _expected("a number"),
    "finite_number": lambda _: "expected a number, found infinity or NaN: write it in digits",
    "bool_type": _expected("true or false"),
    "model_type": _expected("fields (`name: value`)"),
    "model_attributes_type": _expected("fields (`name: value`)"),
    "dict_type": _expected("fields (`name: value`)"),
    "tuple_type": _expected("a list (entries that begin with `- `)"),
    "enum": _choice,
    "literal_error": _choice,
    "string_pattern_mismatch": _pattern,
    "string_too_short": lambda _: "is empty: give it a value",
    "string_too_long": _too_long,
    "greater_than_equal": _limit("at least", "ge"),
    "greater_than": _limit("greater than", "gt"),
    "less_than_equal": _limit("at most", "le"),
    "too_short": lambda error: f"needs at least {error['ctx']['min_length']} entry: add one",
    "too_long": _too_many,
    "value_error": lambda error: str(error["ctx"]["error"]),
}
"""By pydantic's own name of the error."""


def _found(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {_quoted(value)}"
        case int() | float():
            return f"the number {_number(value)}"
        case list():
            return "a list"
        case _:
            return "fields" if value else "nothing"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def _number(value: float) -> str:
    return f"{value:.15g}"


def _quoting(value: Any) -> str:
    """The cure where the text in quotes would be right without them."""
    quoted = isinstance(value, str) and isinstance(resolved(value), bool | int | float)
    return ": remove the quotes" if quoted else ""


def _fields_at(path: Path) -> list[str]:
    """The fields that belong at this place of a Pipeline, as they are written in a file."""
    model: type[BaseModel] = Pipeline
    for step in path:
        inner = {name: _model_in(annotation) for name, annotation in _annotations(model).items()}
        model = inner.get(str(step)) or model  # an index leaves the model as it is
    return list(_annotations(model))


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside of `Model | None`, `tuple[Model, ...]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
