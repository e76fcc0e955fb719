"""What each scheme promises and costs, as the table that ``secagg explain masking`` prints.

Numbers and defaults come from the code that enforces them. What a page like this cannot say is in
``docs/protocol.md`` and ``docs/threat-model.md``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import assert_never, get_args

from secagg.cohort import MIN_HONEST, MIN_SILOS
from secagg.masking.params import Masking
from secagg.messages import PlainInput, PlainSum, SumOpened
from secagg.names import WordBits
from secagg.report import NO_DIFFERENTIAL_PRIVACY, SchemeName, hanging, readers, size
from secagg.rounds.driver import PHASES

SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)

BYTES_A_SILO = 1000
"""What a silo sends in an attempt besides its vector stays below this, times the silos of the roster."""

_SIZES = (3, 5, 10)  # Rosters for which the defaults are written out.
_ENTRY = " or ".join(str(bits // 8) for bits in get_args(WordBits))
_NETWORK = "who took part, when, and how many bytes each sent"


def table(scheme: SchemeName, *, width: int = 80) -> str:
    """Return what is to be known of ``scheme``, at most ``width`` characters a line where words allow."""
    match scheme:
        case "Masking":
            heading = "Masking: pairwise masks that vanish in the sum alone; the default"
            rows = [*_masking()]
        case "Plain":
            heading = "Plain: no protection; the baseline that Masking must equal, bit for bit"
            rows = [*_plain()]
        case never:
            assert_never(never)
    lines = textwrap.wrap(heading, width=width, subsequent_indent="  ")
    for label, sentence in rows:
        lines += hanging(label, sentence, width=width)
    if scheme == "Masking":
        lines += ["", *_defaults()]
    return "\n".join(lines)


def _masking() -> Iterator[tuple[str, str]]:
    yield "who reads", readers("Masking", colluders="c silos", honest="at least k")
    yield "learned by", f"the coordinator: opened sums, and {_NETWORK}"
    yield "lost", "up to n - max(t, k_min + c) silos, at any phase; the sum is that of the survivors"
    yield "sent", f"{_ENTRY} bytes a parameter, and below {size(BYTES_A_SILO)} for each silo of the roster"
    yield "phases", ", ".join((*PHASES, SumOpened.__name__))
    yield "n", f"silos in the roster that each silo pinned; {MIN_SILOS} at the least"
    yield (
        "c",
        "silos that may collude with the coordinator: 1 to n - 2, max(1, floor((n - 1) / 3)) by default",
    )
    yield "t", "answers that open a sum: floor((n + c) / 2) + 1 to n, the least by default; so 2t > n + c"
    yield "k_min", f"least k that is accepted: {MIN_HONEST} to n - c, {Masking().min_honest} by default"
    yield "k", "honest silos in a sum at the least: its silos less c"
    yield "privacy", NO_DIFFERENTIAL_PRIVACY


def _plain() -> Iterator[tuple[str, str]]:
    yield "who reads", readers("Plain", colluders="", honest="")
    yield "learned by", f"the coordinator: everything that arrives, and {_NETWORK}"
    yield "lost", "any number of silos while one input arrives; the sum is that of the survivors"
    yield "sent", f"{_ENTRY} bytes a parameter"
    yield "phases", ", ".join((PHASES[0], PlainInput.__name__, PlainSum.__name__))
    yield "n, c, t, k", "no bounds: there is nothing to protect"
    yield "allowed", "only where a silo's own policy names the scheme; it is never implied"
    yield "privacy", NO_DIFFERENTIAL_PRIVACY


def _defaults() -> Iterator[str]:
    """Yield the defaults for a few sizes; k is that of the smallest sum that may be opened."""
    row = "  {:<10}{:>5}{:>5}{:>5}{:>5}{:>15}".format
    yield row("by default", *"nctk", "may be lost")
    for n in _SIZES:
        cohort = Masking().parameters(n).cohort
        yield row("", n, cohort.c, cohort.t, cohort.min_survivors - cohort.c, cohort.max_dropouts)
