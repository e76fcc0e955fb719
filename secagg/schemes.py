"""What each scheme promises and costs, as the table that ``secagg explain masking`` prints.

Numbers and defaults come from the code that enforces them. What a page like this cannot say is in
``docs/protocol.md`` and ``docs/threat-model.md``; what one configuration costs, in ``estimates``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias, assert_never, get_args

from secagg.ckks.limbs import plan_limbs
from secagg.ckks.parameters import DEFAULT_DEGREE, RINGS
from secagg.cohort import MIN_HONEST, MIN_SILOS
from secagg.messages import (
    PlainSum,
    SumOpened,
)
from secagg.names import WordBits
from secagg.packing import Packing
from secagg.paillier.params import (
    DEFAULT_BITS,
    LEAST_BITS,
    MOST_BITS,
    MOST_PARTIES,
    ciphertext_size,
    plaintext_bits,
)
from secagg.protection import Protection
from secagg.report import (
    NO_DIFFERENTIAL_PRIVACY,
    SHARED_KEY,
    SchemeName,
    hanging,
    readers,
    size,
)
from secagg.rounds.driver import phases_of
from secagg.terms import SchemeTag

Protected: TypeAlias = Literal["Masking", "Paillier", "ThresholdPaillier", "CKKS"]

SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)
TAGS: Mapping[SchemeName, SchemeTag] = dict(zip(SCHEMES, get_args(SchemeTag), strict=True))
"""Each scheme's name as files and commands spell it."""

BYTES_A_SILO = 1000
"""What a silo sends in an attempt besides its vector stays below this, times the silos of the roster."""

_SIZES = (3, 5, 10)  # Rosters for which the defaults are written out.
_LENGTH = 1_000_000  # Parameters for which bytes of ciphertexts are written out; few fill them badly.
_WORDS: tuple[WordBits, ...] = get_args(WordBits)
_ENTRY = " or ".join(str(bits // 8) for bits in _WORDS)
_NETWORK = "who took part, when, and how many bytes each sent"


def table(scheme: SchemeName, *, width: int = 80) -> str:
    """Return what is to be known of ``scheme``, at most ``width`` characters a line where words allow."""
    match scheme:
        case "Masking":
            heading = "pairwise masks that vanish in the sum alone; the default"
            rows = [*_masking(), *_bounds(scheme)]
        case "Paillier":
            heading = "L0, encrypted sums under one key that every silo holds"
            rows = [*_encrypted(scheme), *_bounds(scheme)]
        case "ThresholdPaillier":
            heading = "encrypted sums that t silos open together, each with its share of the key"
            rows = [*_encrypted(scheme), *_bounds(scheme)]
        case "CKKS":
            heading = "L0, encrypted sums under one key that every silo holds; large vectors"
            rows = [*_encrypted(scheme), *_bounds(scheme)]
        case "Plain":
            heading = "no protection; the baseline that every scheme must equal, bit for bit"
            rows = [*_plain()]
        case never:
            assert_never(never)
    lines = textwrap.wrap(f"{scheme}: {heading}", width=width, subsequent_indent="  ")
    for label, sentence in (*rows, ("privacy", NO_DIFFERENTIAL_PRIVACY)):
        lines += hanging(label, sentence, width=width)
    if scheme != "Plain":
        lines += ["", *_defaults()]
    return "\n".join(lines)


def _masking() -> Iterator[tuple[str, str]]:
    yield "who reads", readers("Masking", colluders="c silos", honest="at least k")
    yield "learned by", f"the coordinator: opened sums, and {_NETWORK}"
    yield "lost", "up to n - max(t, k_min + c) silos, at any phase; the sum is that of the survivors"
    yield "sent", f"{_ENTRY} bytes a parameter, and below {size(BYTES_A_SILO)} for each silo of the roster"
    yield "phases", ", ".join((*phases_of("masking"), SumOpened.__name__))


def _encrypted(scheme: Literal["Paillier", "ThresholdPaillier", "CKKS"]) -> Iterator[tuple[str, str]]:
    yield "who reads", readers(scheme, colluders="c silos", honest="at least k")
    yield "learned by", f"the silos: opened sums; the coordinator: {_NETWORK}"
    lost = "any before upload, down to max(t, k_min + c) silos; the sum is that of the survivors"
    yield "lost", f"{lost}; n - t at opening" if scheme == "ThresholdPaillier" else lost
    yield "sent", _sent(scheme)
    yield "phases", ", ".join(phases_of(TAGS[scheme]))
    if scheme == "CKKS":
        yield "arithmetic", "exact: limbs of words have a proven error below a quarter, and sums are rounded"
        degrees = " or ".join(map(str, RINGS))
        yield "key", f"degree {degrees}, {DEFAULT_DEGREE} by default; one silo makes it, all hold it"
        return
    yield "arithmetic", "exact"
    held = "one silo makes it, all hold it"
    if scheme == "ThresholdPaillier":
        held = f"one silo deals it, each of at most {MOST_PARTIES} holds a share"
    yield "key", f"{LEAST_BITS} to {MOST_BITS} bits, {DEFAULT_BITS} by default; {held}"


def _sent(scheme: Literal["Paillier", "ThresholdPaillier", "CKKS"]) -> str:
    bytes_each = []
    for word_bits in _WORDS:
        if scheme == "CKKS":
            limbs = plan_limbs(_LENGTH, word_bits=word_bits, cohort=_SIZES[-1], degree=DEFAULT_DEGREE)
            total = limbs.parameters.chunks * limbs.parameters.ring.fresh_size
        else:
            packing = Packing(word_bits, _SIZES[-1], plaintext_bits(DEFAULT_BITS))
            total = packing.rows(_LENGTH) * ciphertext_size(DEFAULT_BITS)
        bytes_each.append(f"{total / _LENGTH:.4g}")
    text = f"{' or '.join(bytes_each)} bytes a parameter, and below {size(BYTES_A_SILO)} for each silo"
    if scheme == "ThresholdPaillier":
        return f"{text}; then partial decryptions, as many; received, both from every silo"
    return text


def _bounds(scheme: Protected) -> Iterator[tuple[str, str]]:
    shared = scheme in SHARED_KEY
    yield "n", f"silos in the roster that each silo pinned; {MIN_SILOS} at the least"
    does = "take their inputs off a sum" if shared else "collude with the coordinator"
    yield "c", f"silos that may {does}: 1 to n - 2, max(1, floor((n - 1) / 3)) by default"
    does = "signatures before an honest silo opens" if shared else "answers that open a sum"
    yield "t", f"{does}: floor((n + c) / 2) + 1 to n, the least by default; so 2t > n + c"
    yield "k_min", f"least k that is accepted: {MIN_HONEST} to n - c, {Protection().min_honest} by default"
    yield "k", "honest silos in a sum at the least: its silos less c"


def _plain() -> Iterator[tuple[str, str]]:
    yield "who reads", readers("Plain", colluders="", honest="")
    yield "learned by", f"the coordinator: everything that arrives, and {_NETWORK}"
    yield "lost", "any number of silos while one input arrives; the sum is that of the survivors"
    yield "sent", f"{_ENTRY} bytes a parameter"
    yield "phases", ", ".join((*phases_of("plain"), PlainSum.__name__))
    yield "n, c, t, k", "no bounds: there is nothing to protect"
    yield "allowed", "only where a silo's own policy names the scheme; it is never implied"


def _defaults() -> Iterator[str]:
    """Yield the defaults for a few sizes; k is that of the smallest sum that may be opened."""
    row = "  {:<10}{:>5}{:>5}{:>5}{:>5}{:>15}".format
    yield row("by default", *"nctk", "may be lost")
    for n in _SIZES:
        cohort = Protection().cohort(n)
        yield row("", n, cohort.c, cohort.t, cohort.min_survivors - cohort.c, cohort.max_dropouts)
