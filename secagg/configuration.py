"""The text of a configuration file as a checked model, or every problem in it at once.

A problem names the line, the key and what is expected. Of the file's values only numbers are repeated: a
text in the wrong place may be a key or a token. It opens no file, and what a file holds is said by the
processes, in pydantic models that forbid extra keys; importing this loads no pydantic.

Source: TOML 1.0; https://docs.pydantic.dev, error types of version 2.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from secagg.errors import ParameterError
from secagg.ranges import shown
from secagg.toml_lines import Place, lines_of

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

PARAMETER = "configuration"
"""What ``ParameterError.parameter`` says where a file, and no argument, is wrong."""
LONGEST_KEY = 40
"""A key is repeated up to this length: beyond it, it may be a secret that lost its quotes."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def parse(text: str, kind: type[M], *, source: str) -> M:
    """Return the TOML document ``text`` as ``kind``.

    Args:
        text: the whole file.
        kind: what it must hold; its tables are models too.
        source: name of the file, for the text of an error.

    Raises:
        ParameterError: naming every problem with its line.

    Guarantees:
        No text of the file is repeated but the names of keys, and of these no long one.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - loaded by whoever made ``kind``

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"{source}, {_syntax(str(error), text)}", parameter=PARAMETER) from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        lines = lines_of(text)
        problems = sorted({_problem(fault, kind, lines) for fault in error.errors(include_url=False)})
        told = ";\n".join(f"{source}, line {line}: {words}" for line, words in problems)
        raise ParameterError(
            told, parameter=PARAMETER
        ) from None  # The model's own text quotes what it found.


def rebased(model: M, folder: PurePath) -> M:
    """Return ``model`` with its relative paths, also those of its tables, taken from ``folder``."""
    from pydantic import BaseModel  # noqa: PLC0415 - as above

    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        match getattr(model, name):
            case PurePath() as path:
                changes[name] = folder / path
            case BaseModel() as table:
                changes[name] = rebased(table, folder)
    return model.model_copy(update=changes)


# --- what is no TOML ----------------------------------------------------------------------------------------

_WHERE = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)$")
_SYNTAX = (
    ("Invalid value", "this is no value; a text stands in quotes"),
    ("Expected newline", "something follows the value; each line holds one key = value"),
    ("Expected '='", "a key is followed by ="),
    ("Expected ']", "the name of a table ends with ]"),
    ("Unclosed array", "a list is not closed with ]"),
    ("Unclosed inline table", "a table is not closed with }"),
    ("Unterminated string", "quotes are not closed"),
    ("Illegal character '\\n'", "quotes are not closed on this line"),
    ("Unescaped '\\'", "in double quotes \\ begins an escape; single quotes take it as it stands"),
    ("Invalid initial character", "a name of letters, digits, _ and - is expected, or one in quotes"),
    ("Invalid statement", "a key or a [table] is expected"),
    ("Cannot overwrite", "this was given before"),
    ("Cannot declare", "this table was given before"),
    ("Cannot mutate", "this table was given before"),
    ("Duplicate inline table key", "this was given before"),
)


def _syntax(told: str, text: str) -> str:
    """Return place and cause in our words: those of ``tomllib`` may quote what they found."""
    words = next((ours for theirs, ours in _SYNTAX if told.startswith(theirs)), "this is not TOML")
    found = _WHERE.search(told)
    if found is None or found[1] is None:
        return f"line {text.rstrip().count(chr(10)) + 1}, at its end: {words}"
    return f"line {found[1]}, column {found[2]}: {words}"


# --- what is not what the model says ------------------------------------------------------------------------

_TYPES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be a text in quotes",
    "path": "must be a text in quotes: the path of a file or folder",
    "bool": "must be true or false",
    "tuple": "must be a list: [...]",
    "list": "must be a list: [...]",
    "set": "must be a list: [...]",
    "frozen_set": "must be a list: [...]",
    "dict": "must be a table of key = value",
    "model": "must be a table of key = value",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}
_SIZES = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}


def _problem(fault: Any, kind: type[BaseModel], lines: Mapping[Place, int]) -> tuple[int, str]:
    place: Place = fault["loc"]
    if place and place[-1] == "[key]":  # A key of a free table; the step before is its name.
        place = place[:-1]
    # A missing key has no line: its table's stands for it, and the document's is the first.
    line = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 1)
    if fault["type"] == "extra_forbidden":
        return line, _unknown(place, kind)
    name = _named(place)
    if fault["type"] == "value_error":  # A check of our own, whose text follows our rules.
        return line, ": ".join(filter(None, (name, str(fault["ctx"]["error"]))))
    return line, f"{name} {_wanted(fault)}"


def _wanted(fault: Any) -> str:
    """Return what is expected in the place of what was found."""
    what, context = fault["type"], fault.get("ctx", {})
    if what == "missing":
        return "is missing"
    if what in _BOUNDS:
        words, bound = _BOUNDS[what]
        return f"is {shown(fault['input'])}, must be {words} {context[bound]:.15g}"
    if what in _SIZES:
        words, bound = _SIZES[what]
        return f"has {context['actual_length']} entries, must have {words} {context[bound]}"
    if what == "finite_number":
        return "must be finite"
    if what == "literal_error":
        expected = [choice.strip("'") for choice in re.split(", | or ", context["expected"])]
        return f"must be one of {', '.join(expected)}{_meant(str(fault['input']), expected)}"
    # "int_type", "int_from_float" and "int_parsing" all say that it is no int.
    words = next((_TYPES[start] for start in _starts(what) if start in _TYPES), "is not valid")
    found = fault["input"]
    if isinstance(found, bool):
        return f"is {str(found).lower()}, {words}"
    return f"is {shown(found)}, {words}" if isinstance(found, int | float) else words


def _starts(what: str) -> Iterator[str]:
    """Yield ``a_b``, ``a`` of ``a_b_c``."""
    parts = what.split("_")
    return ("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))


def _unknown(place: Place, kind: type[BaseModel]) -> str:
    key = str(place[-1])
    where = f"[{_named(place[:-1])}]" if len(place) > 1 else "this file"
    table = _model_at(kind, place[:-1])
    known = [*table.model_fields] if table else []
    words = f"{_key(key)} is no key of {where}"
    spelt = key.lower().replace("-", "_")
    if hint := _meant(spelt, known):
        return words + hint
    elsewhere = [f"[{_named(home)}]" for home, keys in _tables(kind) if home and spelt in keys]
    if elsewhere:
        return f"{words}; it belongs in {' or '.join(elsewhere)}"
    return f"{words}; known are {', '.join(known)}"


def _meant(given: str, known: Sequence[str]) -> str:
    near = get_close_matches(given.lower(), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _named(place: Place) -> str:
    """Return ``policy.apps`` or ``silo 2.key``: positions in lists count from 1, as people do."""
    name = ""
    for step in place:
        name += f" {step + 1}" if isinstance(step, int) else f".{_key(step)}" if name else _key(step)
    return name


def _key(key: str) -> str:
    if len(key) > LONGEST_KEY:
        return f"(a key of {len(key)} characters)"
    return key if _BARE_KEY.match(key) else repr(key)


def _model_at(kind: type[BaseModel], place: Place) -> type[BaseModel] | None:
    found: type[BaseModel] | None = kind
    for step in place:
        if isinstance(step, str) and found is not None:
            field = found.model_fields.get(step)
            found = None if field is None else _model_in(field.annotation)
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that ``annotation`` is, or holds: ``tuple[Model, ...]``, ``Model | None``."""
    from pydantic import BaseModel  # noqa: PLC0415 - as above

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _tables(kind: type[BaseModel], home: Place = ()) -> Iterator[tuple[Place, Sequence[str]]]:
    yield home, [*kind.model_fields]
    for name, field in kind.model_fields.items():
        if table := _model_in(field.annotation):
            yield from _tables(table, (*home, name))
