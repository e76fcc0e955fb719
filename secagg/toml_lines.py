"""On which line each key of a TOML document stands.

``tomllib`` gives values without places, and a person who is told of a wrong value wants the line. This
reads only what ``tomllib`` has already accepted, so it checks nothing: it finds tables, keys and the
elements of lists, and steps over everything else.

Source: TOML 1.0, sections Keys, Table, Array of Tables, Inline Table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from itertools import count
from typing import TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""The way from the top of the document to a value: keys, and positions in lists from 0."""

_BASIC, _LITERAL = r'"(?:[^"\\\n]|\\.)*"', r"'[^'\n]*'"
_PART = rf"(?:[A-Za-z0-9_-]+|{_BASIC}|{_LITERAL})"
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_GAP = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")  # Between elements.
# Up to two quotes may stand inside, just before the three that close.
_TEXT = re.compile(rf'"""(?:[^\\]|\\.)*?"""(?!")|\'\'\'.*?\'\'\'(?!\')|{_BASIC}|{_LITERAL}', re.DOTALL)
_BARE = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> Mapping[Place, int]:
    """Return the line, from 1, of every table, key and list element of ``text``, a valid document.

    Guarantees:
        Every place that ``tomllib.loads(text)`` has a value at has a line.
    """
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = 0  # How far lines were counted, and how many there were.
        self._line = 1
        self._last: dict[Place, int] = {}  # Of each array of tables, the position of its last element.
        self.lines: dict[Place, int] = {}

    def document(self) -> None:
        table: Place = ()
        self._match(_SPACE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._match(_SPACE)

    def _header(self) -> Place:
        repeated = self._text.startswith("[[", self._at)
        self._at += 2 if repeated else 1
        self._match(_SPACE)
        keys = self._key()
        place: Place = ()
        for depth, key in enumerate(keys, start=1):
            place = self._note((*place, key))
            if repeated and depth == len(keys):
                self._last[place] = self._last.get(place, -1) + 1
            if place in self._last:
                place = self._note((*place, self._last[place]))
        self._match(_SPACE)
        self._at += 2 if repeated else 1
        return place

    def _pair(self, table: Place) -> None:
        place = table
        for key in self._key():
            place = self._note((*place, key))
        self._match(_SPACE)
        self._at += 1  # The equals sign.
        self._match(_SPACE)
        self._value(place)

    def _value(self, place: Place) -> None:
        match self._text[self._at]:
            case "[":
                self._at += 1
                for position in count():
                    if self._closes("]"):
                        break
                    self._value(self._note((*place, position)))
            case "{":
                self._at += 1
                while not self._closes("}"):
                    self._pair(place)
            case '"' | "'":
                self._match(_TEXT)
            case _:
                self._match(_BARE)

    def _closes(self, bracket: str) -> bool:
        """Step to the next element; where there is none, over the bracket."""
        self._match(_GAP)
        if self._text[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _key(self) -> tuple[str, ...]:
        level: object = tomllib.loads(f"{self._match(_KEY)} = 0")
        keys: list[str] = []
        while isinstance(level, dict):
            (key,) = level
            keys.append(key)
            level = level[key]
        return tuple(keys)

    def _note(self, place: Place) -> Place:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self.lines.setdefault(place, self._line)
        return place

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]
