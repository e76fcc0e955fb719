"""Identifiers as they come out of files, read by one rule into what parties can compare.

What is compared is bytes. Two spellings of one identifier must become the same bytes at all parties, and two
identifiers must not; so the rule is part of what the parties agree on, and the parts of a composite key are
framed and not joined. No identifier is ever shown: errors give rows and counts.

Source: Unicode Standard Annex 15 (NFKC); The Unicode Standard, 3.13, default caseless matching.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.hazmat.content import ContentHash, content_digest
from secagg.hazmat.framing import digest
from secagg.psi.sizes import LARGEST

Case: TypeAlias = Literal["fold", "keep"]
Spaces: TypeAlias = Literal["collapse", "remove", "keep"]
Duplicates: TypeAlias = Literal["refuse", "first", "drop"]
Identifier: TypeAlias = str | int | float | None
Key: TypeAlias = Identifier | tuple[Identifier, ...]

LONGEST = 1024
"""Bytes of one part of an identifier at the most; more is a column that was meant for something else."""
PADDING = b"\xff\xff"
"""How no identifier begins: the length of a part comes first, and is less."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How an identifier is read. All parties use the same, or they compare what cannot be equal.

    Text is always taken in Unicode's form NFKC, in which full-width digits and ligatures are what they stand
    for, and without characters that only format (a byte order mark, a soft hyphen). A whole number is its
    decimal digits, so 7 and "7" are the same and "07" is another.

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
        if text.isascii():
            return self._spaced(text.lower() if self.case == "fold" else text)
        # Each step may undo the form of the one before: folding, or two characters that a space kept apart.
        while (again := self._once(text)) != text:
            text = again
        return text

    def _once(self, text: str) -> str:
        text = "".join(each for each in text if unicodedata.category(each) != "Cf")
        text = unicodedata.normalize("NFKC", text.casefold() if self.case == "fold" else text)
        return self._spaced(text)

    def _spaced(self, text: str) -> str:
        match self.spaces:
            case "collapse":
                return " ".join(text.split())
            case "remove":
                return "".join(text.split())
            case "keep":
                return text


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many rows were read.

    Attributes:
        given: all.
        missing: that have no identifier, or lack a part of it; they are left out.
        repeated: left out because their identifier is that of another row.
    """

    given: int
    missing: int
    repeated: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Identifiers:
    """One party's identifiers, each once.

    Attributes:
        encoded: what is compared; no two are equal.
        rows: int64, shape (len(encoded),): where each stands in what was given.
        counts: of rows.

    Raises:
        ParameterError: more than ``LARGEST``.
    """

    encoded: Sequence[bytes] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    counts: Counts

    def __post_init__(self) -> None:
        if len(self.encoded) > LARGEST:
            raise ParameterError(f"{LARGEST} identifiers are the most that one run takes, and there are more")

    def __len__(self) -> int:
        return len(self.encoded)

    def digest(self, secret: bytes) -> bytes:
        """Return a digest of what is compared and where it stands; without ``secret`` nobody can guess it."""
        content = ContentHash()
        for each in self.encoded:
            content.update(len(each).to_bytes(4, "big") + each)
        rows = content_digest(self.rows.astype("<i8").tobytes())
        return digest("intersection records", secret, content.digest(), rows)


def read_identifiers(
    keys: Iterable[Key], *, rule: Rule | None = None, duplicates: Duplicates = "refuse", name: str = "ids"
) -> Identifiers:
    """Read one party's identifiers.

    Args:
        keys: one a row, in the order of rows: text, a whole number, or a tuple of these for a composite key.
            None, NaN, pandas' NA and what is empty by the rule are no identifier.
        rule: ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows have: ``"refuse"``; ``"first"``: the
            first of these rows is taken; ``"drop"``: none is.
        name: of ``keys``, for errors.

    Raises:
        InputRefused: ``rule`` is ``"identifier"``: not a column; a row holds something else, a part that is
            longer than ``LONGEST`` bytes, or characters that Unicode does not know; rows have different
            numbers of parts; identifiers repeat and are refused.
        ParameterError: ``duplicates`` is a word that there is not, or there are too many.

    Guarantees:
        No error shows an identifier.
        Whether two keys are equal depends on each part and its place, not on how they are joined.
    """
    if duplicates not in get_args(Duplicates):
        words = ", ".join(get_args(Duplicates))
        raise ParameterError(f"duplicates is {duplicates!r}, must be one of {words}")
    table = hasattr(keys, "columns")  # Of pandas and its like, which yield the names of columns.
    if isinstance(keys, str | bytes | Mapping | AbstractSet) or table or not isinstance(keys, Iterable):
        raise InputRefused(
            "identifier",
            f"{name} is {type(keys).__name__}; give one column of identifiers in the order of rows: a list, "
            "an array, a series, or a list of tuples for a composite key",
        )
    encode = _encoder(rule or Rule(), name)
    first: dict[bytes, int] = {}
    repeats: Counter[bytes] = Counter()
    missing, given, parts = 0, 0, 0
    for row, key in enumerate(keys):
        given += 1
        encoded = None
        if isinstance(key, tuple) or not _absent(key):
            whole = key if isinstance(key, tuple) else (key,)
            parts = parts or len(whole)
            if len(whole) != parts:
                raise _refused(name, row, f"has a key of {len(whole)} parts, those before have {parts}")
            encoded = encode(row, whole)
        if encoded is None:
            missing += 1
        elif encoded in first:
            repeats[encoded] += 1
        else:
            first[encoded] = row
            if len(first) > LARGEST:
                break  # There are too many, and memory for more there may not be.
    if repeats and duplicates == "refuse":
        raise InputRefused(
            "identifier",
            f"{name}: {len(repeats)} identifiers come again, in {sum(repeats.values())} more rows (the first "
            f'of them has row {min(first[each] for each in repeats)}); say duplicates="first" to take the '
            'first row of each, or duplicates="drop" to take none of these rows',
        )
    if duplicates == "drop":
        for encoded in repeats:
            del first[encoded]
    return Identifiers(
        encoded=tuple(first),
        rows=np.fromiter(first.values(), np.int64, len(first)),
        counts=Counts(given=given, missing=missing, repeated=given - missing - len(first)),
    )


def _encoder(rule: Rule, name: str) -> Callable[[int, tuple[object, ...]], bytes | None]:
    read = rule.read

    def part(row: int, value: object) -> bytes:
        match value:
            case str():
                text = read(_known(name, row, value))
            case bool():
                raise _refused(name, row, "holds bool, which identifies nobody")
            case int() | Integral():
                if (number := int(value)).bit_length() > 8 * LONGEST:
                    raise _refused(name, row, f"holds a number of more than {8 * LONGEST} bits")
                text = str(number)
            case _ if _absent(value):
                return b""
            case _:
                raise _refused(
                    name,
                    row,
                    f"holds {type(value).__name__}; an identifier is text, a whole number or a tuple of "
                    "these (a column of numbers with gaps is read as float: read it as text)",
                )
        encoded = text.encode()
        if len(encoded) > LONGEST:
            raise _refused(name, row, f"holds {len(encoded)} bytes; a part has {LONGEST} at the most")
        return encoded

    def encode(row: int, key: tuple[object, ...]) -> bytes | None:
        read_parts = [part(row, value) for value in key]
        if not read_parts or not all(read_parts):
            return None
        return b"".join(len(each).to_bytes(2, "big") + each for each in read_parts)

    return encode


def _known(name: str, row: int, text: str) -> str:
    """Refuse what another version of Unicode might read otherwise."""
    if not text.isascii() and any(unicodedata.category(each) in {"Cn", "Cs"} for each in text):
        raise _refused(name, row, "holds a character that Unicode does not assign")
    return text


def _absent(value: object) -> bool:
    """Tell whether nothing is there: None, NaN of any type, and what pandas has for it."""
    if isinstance(value, str | int):
        return False  # Nearly all are, and to look for a ``Real`` takes long.
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, Real) and bool(value != value)  # noqa: PLR0124 - NaN


def _refused(name: str, row: int, text: str) -> InputRefused:
    return InputRefused("identifier", f"{name}: row {row} {text}")
