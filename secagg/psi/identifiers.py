"""Identifiers as they come out of files, read by one rule into what two parties can compare.

What is compared is bytes. Two spellings of one identifier must become the same bytes at both parties, and two
identifiers must not; so the rule is part of what the parties agree on, and the parts of a composite key are
framed and not joined. No identifier is ever shown: errors give rows and counts.

Source: Unicode Standard Annex 15 (NFKC); The Unicode Standard, 3.13, default caseless matching.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError

Case: TypeAlias = Literal["fold", "keep"]
Spaces: TypeAlias = Literal["collapse", "remove", "keep"]
Duplicates: TypeAlias = Literal["refuse", "first", "drop"]
Identifier: TypeAlias = str | int | float | None
Key: TypeAlias = Identifier | tuple[Identifier, ...]

LONGEST = 1024
"""Bytes of one part of an identifier at the most; more is a column that was meant for something else."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How an identifier is read. Both parties use the same, or they compare what cannot be equal.

    Text is always taken in Unicode's form NFKC, in which full-width digits and ligatures are what they stand
    for. A whole number is its decimal digits, so 7 and "7" are the same and "07" is another.

    Attributes:
        case: ``"fold"``: upper and lower case are the same; ``"keep"``: they are not.
        spaces: ``"collapse"``: none at the ends, one wherever there are some; ``"remove"``: none at all;
            ``"keep"``: as they are.

    Raises:
        ParameterError: a word that there is not.

    Guarantees:
        Reading what was read changes nothing.
    """

    case: Case = "fold"
    spaces: Spaces = "collapse"

    def __post_init__(self) -> None:
        for name, value, words in (
            ("case", self.case, get_args(Case)),
            ("spaces", self.spaces, get_args(Spaces)),
        ):
            if value not in words:
                raise ParameterError(f"{name} is {value!r}, must be one of {', '.join(words)}")

    def read(self, text: str) -> str:
        """Return ``text`` as it is compared."""
        text = unicodedata.normalize("NFKC", text)
        if self.case == "fold":
            # Folding leaves the form, and the form may bring back what folds: twice is enough.
            for _ in range(2):
                text = unicodedata.normalize("NFKC", text.casefold())
        match self.spaces:
            case "collapse":
                return " ".join(text.split())
            case "remove":
                return "".join(text.split())
            case "keep":
                return text


@dataclass(frozen=True, kw_only=True)
class Identifiers:
    """One party's identifiers, each once.

    Attributes:
        encoded: what is compared; no two are equal.
        rows: int64, shape (len(encoded),): where each stands in what was given.
        given: rows that were given.
        missing: rows that have no identifier, or lack a part of it; they are left out.
        repeated: rows left out because their identifier is that of another row.
    """

    encoded: Sequence[bytes] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    given: int
    missing: int
    repeated: int

    def __len__(self) -> int:
        return len(self.encoded)


def read_identifiers(
    keys: Iterable[Key], *, rule: Rule | None = None, duplicates: Duplicates = "refuse"
) -> Identifiers:
    """Read one party's identifiers.

    Args:
        keys: one a row: text, a whole number, or a tuple of these for a composite key. None, NaN and what
            is empty by the rule are no identifier.
        rule: ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows have: ``"refuse"``; ``"first"``: the
            first of these rows is taken; ``"drop"``: none is.

    Raises:
        InputRefused: ``rule`` is ``"identifier"``: a row holds something else, a part is longer than
            ``LONGEST`` bytes, rows have different numbers of parts, or identifiers repeat and are refused.
        ParameterError: ``duplicates`` is a word that there is not.

    Guarantees:
        No error shows an identifier.
        Whether two keys are equal depends on each part and its place, not on how they are joined.
    """
    if duplicates not in get_args(Duplicates):
        raise ParameterError(
            f"duplicates is {duplicates!r}, must be one of {', '.join(get_args(Duplicates))}"
        )
    encode = _encoder(rule or Rule())
    first: dict[bytes, int] = {}
    repeats: Counter[bytes] = Counter()
    missing, row, parts = 0, -1, 0
    for row, key in enumerate(keys):
        whole = key if isinstance(key, tuple) else (key,)
        parts = parts or len(whole)
        if len(whole) != parts:
            raise _refused(f"row {row} has a key of {len(whole)} parts, those before have {parts}")
        encoded = encode(row, whole)
        if encoded is None:
            missing += 1
        elif encoded in first:
            repeats[encoded] += 1
        else:
            first[encoded] = row
    if repeats and duplicates == "refuse":
        again = sum(repeats.values())
        raise _refused(
            f"{len(repeats)} identifiers come again, in {again} more rows (the first of them has row "
            f'{min(first[each] for each in repeats)}); say duplicates="first" to take the first row of '
            'each, or duplicates="drop" to take none of these rows'
        )
    if duplicates == "drop":
        for encoded in repeats:
            del first[encoded]
    return Identifiers(
        encoded=tuple(first),
        rows=np.fromiter(first.values(), np.int64, len(first)),
        given=row + 1,
        missing=missing,
        repeated=row + 1 - missing - len(first),
    )


def _encoder(rule: Rule) -> Callable[[int, tuple[object, ...]], bytes | None]:
    read = rule.read

    def part(row: int, value: object) -> bytes:
        match value:
            case str():
                text = read(value)
            case bool():
                raise _refused(f"row {row} holds {type(value).__name__}, which identifies nobody")
            case int() | Integral():
                text = str(int(value))
            case None:
                return b""
            case float() if value != value:  # noqa: PLR0124 - NaN is how pandas says that nothing is there
                return b""
            case _:
                raise _refused(
                    f"row {row} holds {type(value).__name__}; an identifier is text, a whole number or a "
                    "tuple of these (a column of numbers with gaps is read as float: read it as text)"
                )
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise _refused(f"row {row} holds text with a lone surrogate, which is no text") from None
        if len(encoded) > LONGEST:
            raise _refused(f"row {row} holds {len(encoded)} bytes; a part has {LONGEST} at the most")
        return encoded

    def encode(row: int, key: tuple[object, ...]) -> bytes | None:
        read_parts = [part(row, value) for value in key]
        if not read_parts or not all(read_parts):
            return None
        return b"".join(len(each).to_bytes(2, "big") + each for each in read_parts)

    return encode


def _refused(text: str) -> InputRefused:
    return InputRefused("identifier", text)
