"""A sum over an intersection of two parties in one process: ``secagg.psi.intersection_sum``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, TypeAlias, get_args

from secagg import wire
from secagg.conversation import together
from secagg.errors import InputRefused, ParameterError
from secagg.names import SiloId
from secagg.paillier.params import DEFAULT_BITS
from secagg.paillier.secret import SecretKey
from secagg.payload import Frame
from secagg.psi.identifiers import Counts, Duplicates, Key, Rule, read_identifiers
from secagg.psi.powers import Powers, Progress
from secagg.psi.terms import SESSION_SIZE
from secagg.ranges import whole
from secagg.shared_sums.holder import holder
from secagg.shared_sums.matcher import matcher
from secagg.shared_sums.terms import LARGEST_VALUE, Learns, SumPolicy, SumTerms

Whom: TypeAlias = Literal["a", "b", "both"]
_LEARNS: dict[str, Learns] = {"a": "matcher", "b": "holder", "both": "both"}


@dataclass(frozen=True, kw_only=True)
class IntersectionSum:
    """What is known of the records that two parties share.

    Attributes:
        count: records that both have; both learn it.
        sums: over them, one for each column of ``values_b``, exact; who learns them was agreed.
        counts_a: how many of ``ids_a`` were given, missing, repeated.
        counts_b: the same of ``ids_b``.
        bytes_a: that a sent.
        bytes_b: that b sent.
    """

    count: int
    sums: tuple[int, ...] = field(repr=False)
    counts_a: Counts
    counts_b: Counts
    bytes_a: int
    bytes_b: int


def intersection_sum(
    ids_a: Iterable[Key],
    ids_b: Iterable[Key],
    values_b: Iterable[object],
    *,
    learns: Whom = "both",
    largest: int = LARGEST_VALUE,
    rule: Rule | None = None,
    duplicates: Duplicates = "refuse",
    policy: SumPolicy | None = None,
    bits: int = DEFAULT_BITS,
    cores: int | None = None,
    progress: Progress | None = None,
) -> IntersectionSum:
    """Add up what b has of the records that a has too, by the protocol that two silos run.

    Args:
        ids_a: identifiers of a, the matcher; see ``read_identifiers``.
        ids_b: identifiers of b, the holder.
        values_b: of each row of ``ids_b``: a whole number from 0 to ``largest``, or several, as many in each
            row. Amounts in cents, say.
        learns: who learns the sums: ``"a"``, ``"b"`` or ``"both"``. Both learn how many records are shared.
        largest: that a value may be; both agree on it, so it is better no value that b has.
        rule: how identifiers are read; ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows of one party have; values of rows that are
            left out are in no sum.
        policy: limits of both; ``SumPolicy()`` if None.
        bits: of the key that b makes for this sum, 2048 to 8192.
        cores: threads to compute with; None for one for each usable core.
        progress: told how many points were computed and records encrypted: three for each record of a, two
            for each of b, with padding.

    Raises:
        InputRefused: an identifier is none, or repeats and is refused; a value is no whole number in range.
        MissingExtra: rbcl or PyNaCl, or gmpy2, is not installed.
        ParameterError: a word that there is not, or a number out of its range.
        PolicyRefused: a set is too large, or fewer are shared than may be added.

    Warns:
        UserWarning: ``bits`` below 3072.

    Guarantees:
        Sums are those of Python's whole numbers over the set intersection of what ``read_identifiers`` gives.
        Every message travels in the bytes of the wire.
    """
    rule, policy = rule or Rule(), policy or SumPolicy()
    if not isinstance(policy, SumPolicy):
        raise ParameterError(f"policy is {type(policy).__name__}, must be a SumPolicy")
    if learns not in get_args(Whom):
        raise ParameterError(f"learns is {learns!r}, must be one of {', '.join(get_args(Whom))}")
    a = read_identifiers(ids_a, rule=rule, duplicates=duplicates, name="ids_a")
    b = read_identifiers(ids_b, rule=rule, duplicates=duplicates, name="ids_b")
    largest = whole("largest", largest, least=1)
    given = read_values(values_b, largest=largest, name="values_b")
    if len(given) != b.counts.given:
        raise InputRefused("shape", f"values_b has {len(given)} rows, ids_b {b.counts.given}; one each")
    terms = SumTerms(
        session=os.urandom(SESSION_SIZE),
        matcher="a",
        holder="b",
        learns=_LEARNS[learns],
        rule=rule,
        columns=len(given[0]) if given else 1,
        largest=largest,
        bits=bits,
    )
    powers = Powers(cores=cores, progress=progress)
    sent = {"a": 0, "b": 0}

    def watch(sender: SiloId, _: SiloId, frame: Frame) -> None:
        sent[sender] += wire.size_of(frame)

    learned = together(
        {
            "a": matcher(terms, a, policy=policy, powers=powers),
            "b": holder(
                terms,
                b,
                [given[row] for row in b.rows.tolist()],
                SecretKey.generate(bits),
                policy=policy,
                powers=powers,
                threads=cores,
                progress=progress,
            ),
        },
        watch=watch,
    )
    sums = learned["b" if learns == "b" else "a"].sums
    return IntersectionSum(
        count=learned["a"].count,
        sums=sums or (),
        counts_a=a.counts,
        counts_b=b.counts,
        bytes_a=sent["a"],
        bytes_b=sent["b"],
    )


def read_values(values: object, *, largest: int, name: str = "values") -> list[tuple[int, ...]]:
    """Read the values of each row.

    Args:
        values: a whole number for each row, or a sequence of as many in each.
        largest: that a value may be.
        name: of ``values``, for errors.

    Raises:
        InputRefused: ``rule`` is ``"shape"``: not rows, or one has none, or another number of them than the
            first; ``"dtype"``: a value is no whole number; ``"bound"``: it is not from 0 to ``largest``.

    Guarantees:
        No error shows a value.
    """
    unordered = isinstance(values, str | bytes | Mapping | AbstractSet) or hasattr(values, "columns")
    if unordered or not isinstance(values, Iterable):
        raise InputRefused(
            "shape",
            f"{name} is {type(values).__name__}; give a list or an array, in the order of identifiers",
        )
    rows: list[tuple[int, ...]] = []
    for at, row in enumerate(values):
        found = tuple(_value(each, at, largest, name) for each in _columns(row))
        if len(found) != len(rows[0] if rows else found) or not found:
            raise InputRefused("shape", f"{name}: row {at} has {len(found)} values; all have as many")
        rows.append(found)
    return rows


def _columns(row: object) -> Sequence[object]:
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        return (row,)
    return tuple(row)


def _value(value: object, row: int, largest: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputRefused("dtype", f"{name}: row {row} holds {type(value).__name__}; give whole numbers")
    number = int(value)
    if not 0 <= number <= largest:
        raise InputRefused("bound", f"{name}: a value of row {row} is not from 0 to {largest}")
    return number
