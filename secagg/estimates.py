"""What a run will cost before it is run: a table of all schemes, one configuration in words, and a refusal.

What is estimated, and from what, stands in ``costs``. Not in it: training, the network, a base model that a
silo fetches, and keys, which are made once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from secagg import measured
from secagg.ckks.params import CKKS
from secagg.cohort import MIN_SILOS
from secagg.costs import Cost, cost_of, has_shares, level_of, name_of
from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.fixedpoint import words_for
from secagg.masking.params import Masking
from secagg.names import WordBits
from secagg.packing import Packing
from secagg.paillier.params import Paillier, ThresholdPaillier, plaintext_bits
from secagg.plain import Plain
from secagg.ranges import whole
from secagg.report import (
    NO_DIFFERENTIAL_PRIVACY,
    SHARED_KEY,
    SchemeName,
    answers,
    colluding,
    hanging,
    level_mark,
    plural,
    readers,
    size,
)
from secagg.scheme import Scheme, check_scheme
from secagg.schemes import TAGS
from secagg.terms import Terms, is_encrypted, scheme_tag
from secagg.wire import MAX_LENGTH

SHOWN_PARAMETERS = 1_000_000
"""For which a configuration is explained when nobody says how many there are."""

BY_DEFAULT: tuple[Scheme, ...] = (Masking(), Paillier(), ThresholdPaillier(), CKKS(), Plain())
"""Every scheme as it is when nothing is chosen."""

_Holder: TypeAlias = Literal["in one process", "at the coordinator", "at each silo"]

_UNITS = (
    ("ms", 1e-3, 999.5),
    ("s", 1.0, 119.5),
    ("min", 60.0, 119.5),
    ("h", 3600.0, 71.5),
    ("d", 86_400.0, 999.5),
)
"""Name, seconds, and up to how many of them it is used."""

_CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""What a container may hold, in bytes, or "max"."""

_LEAST = 1e-4
"""Seconds; what takes less is not worth a figure."""

_LEVELS = {
    "L0": "L0: protects while the coordinator follows the protocol, and no silo gives it the key",
    "L1": "L1: protects also from a coordinator that lies, to anyone",
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What schemes cost for one size of a run.

    Attributes:
        parameters: entries of a vector.
        silos: n, of the roster.
        word_bits: of one encoded entry.
        rounds: how many sums are opened.
        costs: of each scheme that so many silos can use.
    """

    parameters: int
    silos: int
    word_bits: WordBits
    rounds: int
    costs: tuple[Cost, ...]

    def __getitem__(self, scheme: SchemeName) -> Cost:
        """Return the cost of one scheme.

        Raises:
            KeyError: it is not among them.
        """
        for cost in self.costs:
            if cost.name == scheme:
                return cost
        raise KeyError(scheme)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, width: int = 80) -> str:
        """Return the estimate as aligned plain text, at most ``width`` (72 or more) characters a line."""
        row = "  {:<24}{:>11}{:>11}{:>11}{:>11}".format
        lines = [
            f"{self.parameters:,} parameters of {self.word_bits} bits, {plural(self.silos, 'silo')}, "
            + plural(self.rounds, "round")
        ]
        for label, parties in (
            ("one silo", [cost.silo for cost in self.costs]),
            ("coordinator", [cost.coordinator for cost in self.costs]),
        ):
            lines += ["", row(label, "sends", "receives", "CPU", "memory")]
            for cost, party in zip(self.costs, parties, strict=True):
                name = f"{cost.name} {level_of(cost.name)}"
                figures = size(party.sent), size(party.received), duration(party.seconds), size(party.memory)
                lines.append(row(name, *figures))
        lines.append("")
        for label, sentence in self._notes():
            lines += hanging(label, sentence, width=width)
        return "\n".join(lines)

    def _notes(self) -> Iterator[tuple[str, str]]:
        names = {cost.name for cost in self.costs}
        if names & SHARED_KEY:
            yield "L0", "any one silo, together with the coordinator, could read every single update"
        yield "bytes", "at the most, if nobody is lost; a base model that a silo lacks comes on top"
        if names & {"Paillier", "ThresholdPaillier", "CKKS"}:
            yield "keys", "are made once, before the first round, and are not in it"
        records = ", ".join(self._records())
        yield "CPU", f"of one core of {measured.MACHINE}, from {records}; elsewhere half as much or twice"
        if "ThresholdPaillier" in names:
            yield "opening", f"ThresholdPaillier: {_partial_rate()}"
        long = [cost.name for cost in self.costs if cost.longest > MAX_LENGTH]
        if long:
            yield "too long", f"for one message under {', '.join(long)}: such a run is refused"
        if names & {"Paillier", "ThresholdPaillier"}:
            yield "ahead", "most of Paillier's encryption can be computed while a silo trains"
        yield "memory", f"at the same time, above an idle process of {size(measured.IDLE)}; training on top"

    def _records(self) -> list[str]:
        steps = [step for cost in self.costs for step in (*cost.silo.steps, *cost.coordinator.steps)]
        return list(dict.fromkeys(figure.record for figure, _ in steps))


@explained()
def estimate(
    parameters: int,
    silos: int,
    *,
    scheme: Scheme | None = None,
    word_bits: WordBits = 32,
    rounds: int = 1,
) -> Estimate:
    """Return what a run will cost, before it is run.

    Args:
        parameters: entries of a vector, at least 1.
        silos: n, of the roster; at least 3, but under Plain.
        scheme: the protection; None for all that so many silos can use, as they are by default.
        word_bits: of one encoded entry, 32 or 64.
        rounds: how many sums are opened, at least 1.

    Returns:
        Bytes, CPU seconds and memory of one silo and of the coordinator; printed, it is a table.

    Raises:
        ParameterError: a number is out of its range, or ``scheme`` is none, or not for so many silos.

    Guarantees:
        - No round in which nobody is lost sends more bytes.
        - No extra is needed, also for schemes that need one to run.
    """
    parameters = whole("parameters", parameters, least=1)
    silos = whole("silos", silos, least=1, parameter="n")
    rounds = whole("rounds", rounds, least=1)
    (word_bits,) = words_for(word_bits)
    if scheme is not None:
        check_scheme(scheme)
    asked = _usable(silos) if scheme is None else [scheme]
    costs = tuple(
        cost_of(one, parameters=parameters, silos=silos, word_bits=word_bits, rounds=rounds) for one in asked
    )
    return Estimate(parameters=parameters, silos=silos, word_bits=word_bits, rounds=rounds, costs=costs)


@explained()
def explain(
    scheme: Scheme, *, n: int, c: int | None = None, parameters: int | None = None, width: int = 80
) -> str:
    """Return what one configuration promises and costs, in words for whoever has to approve it.

    Args:
        scheme: the protection.
        n: silos in the roster, at least 3.
        c: silos that may collude with the coordinator; None for what ``scheme`` says.
        parameters: entries of a vector; None for a million.
        width: characters a line at most, where words allow.

    Raises:
        ParameterError: the numbers contradict each other; the text says which may be chosen.
    """
    check_scheme(scheme)
    if c is not None:
        if isinstance(scheme, Plain):
            raise ParameterError("Plain has no c: the coordinator reads everything alone", parameter="c")
        scheme = replace(scheme, colluders=c)
    parameters = SHOWN_PARAMETERS if parameters is None else parameters
    (cost,) = estimate(parameters, n, scheme=scheme).costs
    lines = [f"{level_mark(cost.name)}{cost.name}, {plural(n, 'silo')}, {parameters:,} parameters"]
    for label, sentence in (*_promises(scheme, n), *_costs(cost, n), ("privacy", NO_DIFFERENTIAL_PRIVACY)):
        lines += hanging(label, sentence, width=width)
    return "\n".join(lines)


@explained()
def check_memory(
    scheme: Scheme,
    parameters: int,
    silos: int,
    limit: int | None = None,
    *,
    word_bits: WordBits = 32,
    holder: _Holder = "in one process",
) -> None:
    """Refuse a run whose parties would hold more memory than they may.

    Args:
        scheme: the protection.
        parameters: entries of a vector, at least 1.
        silos: n, of the roster.
        limit: bytes; None for what the machine has.
        word_bits: of one encoded entry.
        holder: whose process is meant: that of all parties, of the coordinator alone, or of one silo.

    Raises:
        ParameterError: ``memory``: it would; the text names what it needs, the limit, and what fits. Or a
            number is out of its range.
    """
    allowed = machine_memory() if limit is None else whole("memory_limit", limit, least=1)
    (cost,) = estimate(parameters, silos, scheme=scheme, word_bits=word_bits).costs
    held = _held(cost, holder)
    if held <= allowed:
        return
    raise ParameterError(
        f"{cost.name} with {parameters:,} parameters and {plural(silos, 'silo')} needs about "
        f"{size(held)} {holder}, memory_limit is {size(allowed)}; "
        + _what_fits(scheme, parameters, silos, word_bits, allowed, holder),
        parameter="memory",
    )


def check_round_memory(
    terms: Terms, limit: int | None, *, holder: Literal["at the coordinator", "at each silo"]
) -> None:
    """Refuse a round in which one party's process would hold more memory than it may.

    Args:
        terms: of the round. A key of another length than by default changes little of what is held.
        limit: bytes, at least 1; None for what the machine has.
        holder: whose process is meant.

    Raises:
        ParameterError: ``memory``: as ``check_memory``.
    """
    encoding = terms.encoding
    check_memory(
        _scheme_of(terms),
        encoding.length,
        encoding.cohort,
        limit,
        word_bits=encoding.word_bits,
        holder=holder,
    )


def computing_seconds(terms: Terms) -> float:
    """Return for how long a silo may say nothing in a round because it encrypts or opens.

    Twice the estimate for one core, which is what slower machines take; 0 where nothing is encrypted.
    """
    encoding = terms.encoding
    if not is_encrypted(terms.scheme):
        return 0.0
    cost = cost_of(
        _scheme_of(terms), parameters=encoding.length, silos=encoding.cohort, word_bits=encoding.word_bits
    )
    return 2 * cost.silo.seconds


def _scheme_of(terms: Terms) -> Scheme:
    """Return the scheme as it is by default."""
    tag = scheme_tag(terms.scheme)
    return next(one for one in BY_DEFAULT if TAGS[name_of(one)] == tag)


def _held(cost: Cost, holder: _Holder) -> int:
    match holder:
        case "in one process":
            return cost.together
        case "at the coordinator":
            return measured.IDLE + cost.coordinator.memory
        case "at each silo":
            return measured.IDLE + cost.silo.memory


def machine_memory() -> int:
    """Return the bytes of memory that this machine, or this container, has, whoever uses them."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        allowed = _CONTAINER.read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return physical if allowed == "max" else min(physical, int(allowed))


def duration(seconds: float) -> str:
    """Return ``seconds`` for people: ``"9.4 ms"``, ``"510 ms"``, ``"1.2 s"``, ``"19 min"``, ``"2.3 h"``."""
    if seconds < _LEAST:
        return f"< {1000 * _LEAST:.1f} ms"
    for unit, length, most in _UNITS:
        value = seconds / length
        if value < most:
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{seconds / 31_557_600:.3g} y"


def _usable(silos: int) -> list[Scheme]:
    return [one for one in BY_DEFAULT if not isinstance(one, ThresholdPaillier) or has_shares(silos)]


# --- in words ------------------------------------------------------------------------------------------


def _promises(scheme: Scheme, n: int) -> Iterator[tuple[str, str]]:
    name = name_of(scheme)
    if isinstance(scheme, Plain):
        yield "who reads", readers(name, colluders="", honest="")
        yield "lost", "any number of silos while one input arrives; the sum is that of the others"
        return
    cohort = scheme.cohort(n)
    least = cohort.min_survivors - cohort.c
    yield "level", _LEVELS[level_of(name)]
    yield "who reads", readers(name, colluders=plural(cohort.c, "silo"), honest=f"at least {least}")
    yield f"n = {n}", "silos in the roster that each silo pinned"
    yield f"t = {cohort.t}", answers(name)
    yield f"c = {cohort.c}", colluding(name)
    yield f"k = {least}", "honest silos are in a sum at the least"
    when = ", at any phase" if name == "Masking" else " before upload"
    if name == "ThresholdPaillier":
        when += f", {_at_most(n - cohort.t)} at opening"
    yield "lost", f"{_at_most(cohort.max_dropouts)}{when}; the sum is that of the others"


def _at_most(count: int) -> str:
    return f"up to {plural(count, 'silo')}" if count else "no silo"


def _costs(cost: Cost, n: int) -> Iterator[tuple[str, str]]:
    silo, coordinator = cost.silo, cost.coordinator
    yield "sent", f"{size(silo.sent)} by each silo in a round, {size(coordinator.received)} by all {n}"
    yield "received", f"{size(silo.received)} by each silo, {size(coordinator.sent)} by all {n}"
    took = f"{duration(silo.seconds)} at each silo, {duration(coordinator.seconds)} at the coordinator"
    yield "computed", f"{took}, on one core of {measured.MACHINE}"
    if cost.name == "ThresholdPaillier":
        yield "opening", _partial_rate()
    held = f"{size(silo.memory)} at each silo, {size(coordinator.memory)} at the coordinator"
    yield "memory", f"{held}, above an idle process of {size(measured.IDLE)}"


def _partial_rate() -> str:
    entries = Packing(32, MIN_SILOS, plaintext_bits(measured.PAILLIER_BITS)).entries
    rate = round(entries / measured.PARTIAL.seconds, -2)
    return f"each silo opens its part of {rate:,.0f} values a second and core, on all its cores"


# --- memory ------------------------------------------------------------------------------------------------


def _what_fits(
    scheme: Scheme, parameters: int, silos: int, word_bits: WordBits, allowed: int, holder: _Holder
) -> str:
    """Return which schemes, and how many parameters, stay within ``allowed`` bytes.

    Plain is no alternative to a protection.
    """
    protected = [one for one in _usable(silos) if silos >= MIN_SILOS and not isinstance(one, Plain)]
    costs = [
        cost_of(one, parameters=parameters, silos=silos, word_bits=word_bits)
        for one in protected
        if name_of(one) != name_of(scheme)
    ]

    def fits(cost: Cost) -> bool:
        return _held(cost, holder) <= allowed and cost.longest <= MAX_LENGTH

    fitting = [
        f"{cost.name} ({level_of(cost.name)}, {size(_held(cost, holder))})" for cost in costs if fits(cost)
    ]
    low, high = 0, parameters  # So many fit, if it is any; so many do not.
    while high - low > 1:
        middle = (low + high) // 2
        cost = cost_of(scheme, parameters=middle, silos=silos, word_bits=word_bits)
        low, high = (middle, high) if fits(cost) else (low, middle)
    low -= low % 10 ** max(0, len(str(low)) - 3)  # Three digits say it.
    if low:
        fitting.append(f"at most {low:,} parameters")
    return f"what fits: {', or '.join(fitting)}" if fitting else "nothing fits: raise it"
