"""What one opened sum cost and promised, in words for people.

A report holds figures that every silo and the coordinator may know: sizes, times, opened sums and the
parameters of the round. Nothing in it belongs to one silo but whether it took part. It measures nothing
itself and judges nothing: a risk officer does.

Source: "Round report" and "Adversary" in ``docs/protocol.md``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from secagg.names import SiloId, WordBits
from secagg.privacy.spent import Spent

SchemeName: TypeAlias = Literal["Masking", "Paillier", "ThresholdPaillier", "CKKS", "Plain"]

SHARED_KEY: frozenset[SchemeName] = frozenset({"Paillier", "CKKS"})
"""Schemes of adversary level L0: every silo holds the one key that opens, a single update included."""

NO_DIFFERENTIAL_PRIVACY = "no differential privacy: the sum itself may reveal"

METRIC_DIGITS = 4
"""Digits after the point of a metric, for people, where its error allows them."""

_LABEL = 11  # Characters of the left column, the gap included.


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """Figures of one opened sum.

    Args:
        round: round number, from 1.
        scheme: the protection.
        kind: ``"train"`` for a sum of updates, ``"metrics"`` for the last one, of metrics alone, ``"sum"``
            for a bare sum or mean.
        n: silos in the pinned roster.
        c: silos that may collude with the coordinator; None if the scheme has no such bound.
        t: answers needed to open a sum; None if the scheme opens without any.
        survivors: whose input is in the sum, in roster order.
        dropouts: silo -> where and why it was lost, for example ``"MaskedInput"``.
        attempts: runs of the protocol until the sum was opened, at least 1.
        parameters: entries of the vector that was summed.
        word_bits: bits of one entry in the masked domain.
        headroom_bits: log2 of how many times the largest possible sum fits below a wrap, >= 0.
        worst_error: proven bound on the rounding error of one entry of the mean, in units of the entry.
        metric_error: the same for a metric; None if the sum carries none.
        clipped_share: share of the update entries that met the clip, 0 to 1; None if not counted.
        saturated: metric values beyond their declared range, cut to its end; None if not counted.
        total_weight: sum of the silos' weights, as opened; None if no weight was summed.
        unmet_weight: the total weight for which the precision was planned, where the opened one is below it;
            None where it is not.
        spent: what the run has released so far, this sum included; None without differential privacy.
        bytes_up: phase -> bytes from all silos together to the coordinator.
        bytes_down: phase -> bytes from the coordinator to all silos together.
        seconds: phase -> wall-clock seconds, in the order of the phases; empty if nobody measured.

    Guarantees:
        ``k`` is the number of survivors less ``c``.
        The text says who can read one silo's update, and what differential privacy promises, or that there is
            none.
        Its first line says L0 where one silo's key opens everything.
    """

    round: int
    scheme: SchemeName
    kind: Literal["train", "metrics", "sum"] = "train"
    n: int
    c: int | None
    t: int | None
    survivors: tuple[SiloId, ...]
    dropouts: Mapping[SiloId, str] = field(default_factory=dict)
    attempts: int = 1
    parameters: int
    word_bits: WordBits
    headroom_bits: float
    worst_error: float
    metric_error: float | None = None
    clipped_share: float | None = None
    saturated: int | None = None
    total_weight: float | None = None
    unmet_weight: float | None = None
    spent: Spent | None = None
    bytes_up: Mapping[str, int] = field(default_factory=dict)
    bytes_down: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def k(self) -> int | None:
        """Honest silos in the sum at the least, |S| - c; None where every update is read anyway."""
        return None if self.c is None else len(self.survivors) - self.c

    @property
    def title(self) -> str:
        """``"round 3"``, ``"final metrics"`` after the last round, or ``"sum"``."""
        match self.kind:
            case "train":
                return f"round {self.round}"
            case "metrics":
                return "final metrics"
            case "sum":
                return "sum"

    @property
    def who_can_read(self) -> str:
        """Who can read one silo's update, as one or two sentences."""
        return readers(self.scheme, colluders=plural(self.c or 0, "silo"), honest=f"at least {self.k}")

    def text(self, *, width: int = 80) -> str:
        """Return the report as aligned plain text, at most ``width`` characters a line where words allow."""
        lines = [self.headline()]
        for label, sentence in self.facts():
            lines += hanging(label, sentence, width=width)
        rows = [("all silos together", "up", "down", "seconds" if self.seconds else ""), *self.traffic()]
        # The first column is left-aligned under the labels, the figures are right-aligned.
        table = (
            f"  {phase:<20}{up:>12}{down:>12}{seconds:>12}".rstrip() for phase, up, down, seconds in rows
        )
        lines += ["", *table]
        return "\n".join(lines)

    def headline(self) -> str:
        """Return what was opened, in one line that begins with L0 where silos share one key."""
        opened = f"the sum of {len(self.survivors)} of {self.n} silos was opened"
        return f"{level_mark(self.scheme)}{self.title}: {self.scheme}, {opened}"

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield (label, sentence) pairs."""
        yield f"n = {self.n}", "silos in the pinned roster"
        if self.t is not None:
            yield f"t = {self.t}", answers(self.scheme)
        if self.c is not None:
            yield f"c = {self.c}", colluding(self.scheme)
            yield f"k = {self.k}", "honest silos are in this sum at the least"
        if self.dropouts:
            yield "lost", ", ".join(f"{silo} ({reason})" for silo, reason in self.dropouts.items())
        if self.attempts > 1:
            yield "attempts", f"{self.attempts}, each with new keys"
        yield "who reads", self.who_can_read
        yield "privacy", privacy_sentence(self.spent)
        yield "numbers", self._numbers()
        if self.saturated:
            yield "beware", out_of_range(self.saturated)

    def _numbers(self) -> str:
        what = "sum" if self.kind == "sum" and self.total_weight is None else "mean"
        parts = [
            f"{self.parameters:,} entries of {self.word_bits} bits",
            f"head-room {self.headroom_bits:.1f} bits",
            f"worst error of the {what} {self.worst_error:.1e}",
        ]
        if self.metric_error is not None:
            parts.append(f"of a metric {self.metric_error:.1e}")
        if self.total_weight is not None:
            # Opened from fixed point: the digits after the second are noise of the encoding.
            parts.append(f"total weight {round(self.total_weight, 2):,.10g}")
        if self.unmet_weight is not None:
            planned = f"{self.unmet_weight:,.10g}"
            parts[-1] += f", below the {planned} that precision was planned for: lower least_total_weight"
        if self.clipped_share is not None:
            parts.append(f"{100 * self.clipped_share:.2g} % of the entries clipped")
        return "; ".join(parts)

    def traffic(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield (phase, bytes up, bytes down, seconds), the total last; seconds where they were measured."""
        for phase in dict.fromkeys((*self.seconds, *self.bytes_up, *self.bytes_down)):
            yield (
                phase,
                size(self.bytes_up.get(phase, 0)),
                size(self.bytes_down.get(phase, 0)),
                f"{self.seconds[phase]:.3f}" if phase in self.seconds else "",
            )
        yield (
            "all phases",
            size(sum(self.bytes_up.values())),
            size(sum(self.bytes_down.values())),
            f"{sum(self.seconds.values()):.3f}" if self.seconds else "",
        )


def privacy_sentence(spent: Spent | None) -> str:
    """Return what is promised beyond the protection of the sum."""
    return NO_DIFFERENTIAL_PRIVACY if spent is None else spent.sentence()


def level_mark(scheme: SchemeName) -> str:
    """Return what a first line begins with: ``"L0: "`` where silos share one key, else nothing."""
    return "L0: " if scheme in SHARED_KEY else ""


def readers(scheme: SchemeName, *, colluders: str, honest: str) -> str:
    """Return who can read one silo's update.

    Args:
        scheme: the protection.
        colluders: how many may collude with the coordinator, ``"1 silo"``.
        honest: how many honest silos are in every sum, ``"at least 4"``.
    """
    match scheme:
        case "Plain":
            return (
                "The coordinator reads every update, sample count and metric of every silo. "
                "There is no protection."
            )
        case "Masking":
            return (
                f"Nobody. The coordinator together with up to {colluders} learns nothing beyond sums over "
                f"{honest} honest silos, also if it lies. Each silo learns the sum."
            )
        case "Paillier" | "CKKS":
            return (
                "L0: any one silo that holds the key, together with the coordinator, could read every "
                "single update. The coordinator alone, if it follows the protocol, learns nothing, not even "
                "the sum. Each silo learns the sum."
            )
        case "ThresholdPaillier":
            return (
                f"Nobody. The coordinator together with up to {colluders} learns nothing but sums over "
                f"{honest} honest silos, also if it lies; alone it does not even learn the sum. Each silo "
                "learns the sum. The dealer silo, or its backups, could read everything; erasure cannot be "
                "proved."
            )
        case never:
            assert_never(never)


def answers(scheme: SchemeName) -> str:
    """Return what ``t`` silos of a protected ``scheme`` do together."""
    if scheme in SHARED_KEY:
        return "silos must sign who is in a sum before an honest one opens it"
    return "silos must answer to open a sum"


def colluding(scheme: SchemeName) -> str:
    """Return what ``c`` silos of a protected ``scheme`` may do without learning more than is said."""
    if scheme in SHARED_KEY:
        return "silos at most may take their own inputs off the sum together, without the coordinator"
    return "silos at most may collude with the coordinator"


def metric_text(value: float, error: float | None) -> str:
    """Return a metric with the digits that are certain, four after the point at the most.

    Args:
        value: as opened.
        error: proven bound on its error, as ``RoundReport.metric_error``; None if there is none.

    Guarantees:
        What is shown differs from the true metric by at most one of its last digit.
        A metric below 0.001 shows two digits that are not leading zeros, if as many are certain.
    """
    if math.isnan(value):
        return "nan"
    if not math.isfinite(value) or error == math.inf:
        return "unknown"
    leading_zeros = 0 if value == 0 else -math.floor(math.log10(abs(value))) - 1
    digits = max(METRIC_DIGITS, leading_zeros + 2)
    if error:
        # Half of the last digit for the error, the other half for rounding to it.
        digits = min(digits, math.floor(-math.log10(2 * error)))
    # Adding zero takes the sign off -0.0. Below one digit after the point, tens and hundreds are rounded.
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}"


def hanging(label: str, sentence: str, *, width: int) -> Iterable[str]:
    """Return ``sentence`` wrapped beside ``label``, as the lines of one entry of a report."""
    return textwrap.wrap(
        sentence,
        width=width,
        initial_indent=f"  {label:<{_LABEL - 1}} ",
        subsequent_indent=" " * (_LABEL + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def out_of_range(count: int) -> str:
    """Return what is said of ``count`` metric values that were cut: their mean is not the true one."""
    return f"{plural(count, 'metric value')} out of range: raise metric_bound"


def size(count: int) -> str:
    """Return ``count`` bytes in decimal units, three digits: ``"48.2 MB"``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        # 999.5 would print as 1000 of this unit, which is 1.00 of the next.
        if value < 999.5:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} EB"


def plural(count: int, noun: str) -> str:
    """Return ``"1 silo"``, ``"2 silos"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
