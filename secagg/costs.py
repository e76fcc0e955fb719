"""What one scheme makes a silo and the coordinator send, compute and hold, by formula.

Bytes follow from the code that enforces them, and are bounds: of messages around the vectors only the largest
possible size is known. Seconds are recorded figures (``measured``) times what the protocol does with these
numbers. Memory is what is held at the same time, above an idle process. All of it is for rounds in which
nobody is lost. Nothing is measured or computed here, and no key is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from secagg import measured
from secagg.ckks.limbs import plan_limbs
from secagg.ckks.params import CKKS
from secagg.errors import ParameterError
from secagg.masking.params import Masking
from secagg.measured import Figure
from secagg.names import WordBits
from secagg.packing import Packing
from secagg.paillier.params import (
    MOST_PARTIES,
    Paillier,
    ThresholdPaillier,
    ciphertext_size,
    knowledge_size,
    plaintext_bits,
)
from secagg.plain import Plain
from secagg.report import SHARED_KEY, SchemeName
from secagg.scheme import Scheme
from secagg.schemes import BYTES_A_SILO

BYTES_TO_A_SILO = 1400
"""What a silo receives in an attempt besides vectors stays below this, times the silos of the roster ..."""
BYTES_A_PAIR = 300
"""... and, under Masking, this for each pair of silos: everybody reads the share sets of everybody."""

_NUMBER = 64  # Bytes that a large number takes beside its digits, and its place in a list.
_EXPONENT = 16  # Bytes that the proof of an upload raises each of its ciphertexts to.

Steps: TypeAlias = tuple[tuple[Figure, float], ...]
"""(recorded step, how often its unit is done)."""


@dataclass(frozen=True, kw_only=True)
class Party:
    """What one party has to do with all rounds.

    Attributes:
        sent: bytes that leave it, at the most.
        received: bytes that reach it, at the most.
        memory: bytes that it holds at the same time, at the most, above an idle process.
        steps: what it computes.
    """

    sent: int
    received: int
    memory: int
    steps: Steps

    @property
    def seconds(self) -> float:
        """CPU time of one core of ``measured.MACHINE``."""
        return sum(figure.seconds * times for figure, times in self.steps)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one scheme costs.

    Attributes:
        scheme: with all that can be chosen.
        silo: one of the silos.
        coordinator: it receives what all silos send, and sends what all of them receive.
        together: bytes that all parties hold where one process runs them, one after the other; that process
            included.
        longest: entries of the longest payload, which ``wire`` limits.
    """

    scheme: Scheme
    silo: Party
    coordinator: Party
    together: int
    longest: int

    @property
    def name(self) -> SchemeName:
        """Of the scheme."""
        return name_of(self.scheme)


def cost_of(scheme: Scheme, *, parameters: int, silos: int, word_bits: WordBits, rounds: int = 1) -> Cost:
    """Return what ``rounds`` sums of vectors with ``parameters`` entries cost.

    Raises:
        ParameterError: ``scheme`` is not for so many silos.
    """
    length = parameters + 1  # The count entry.
    match scheme:
        case Plain():
            return _plain(scheme, length, silos, word_bits, rounds)
        case Masking():
            scheme.cohort(silos)
            return _masking(scheme, length, silos, word_bits, rounds)
        case Paillier():
            scheme.cohort(silos)
            return _paillier(scheme, length, silos, word_bits, rounds)
        case ThresholdPaillier():
            scheme.cohort(silos)
            if not has_shares(silos):
                raise ParameterError(
                    f"a threshold key has {MOST_PARTIES} shares at most: too few for {silos} silos"
                )
            return _paillier(scheme, length, silos, word_bits, rounds)
        case CKKS():
            scheme.cohort(silos)
            return _ckks(scheme, length, silos, word_bits, rounds)
        case never:
            assert_never(never)


def has_shares(silos: int) -> bool:
    """Whether a threshold key can be dealt to so many."""
    return silos <= MOST_PARTIES


def name_of(scheme: Scheme) -> SchemeName:
    """Return the name of ``scheme``."""
    match scheme:
        case Masking():
            return "Masking"
        case Paillier():
            return "Paillier"
        case ThresholdPaillier():
            return "ThresholdPaillier"
        case CKKS():
            return "CKKS"
        case Plain():
            return "Plain"
        case never:
            assert_never(never)


def level_of(scheme: SchemeName) -> Literal["L0", "L1", ""]:
    """Return the adversary level of ``scheme``; none where nothing is protected."""
    if scheme == "Plain":
        return ""
    return "L0" if scheme in SHARED_KEY else "L1"


# --- what each scheme does ---------------------------------------------------------------------------------


def _masking(scheme: Masking, length: int, n: int, word_bits: WordBits, rounds: int) -> Cost:
    vector, values = _vector(length, word_bits), length * word_bits / 32
    return _both(
        scheme,
        n,
        rounds,
        sent=vector + n * BYTES_A_SILO,
        received=vector + n * BYTES_TO_A_SILO + n * n * BYTES_A_PAIR,
        kept=_kept(length, word_bits),
        working=_opened(length, word_bits),
        silo=(
            (measured.QUANTISE, values),
            (measured.COPY, values),
            (measured.SILO_STREAM, n * values),
            (measured.SILO_HANDSHAKE, n),
        ),
        total=vector,
        longest=length,
        coordinator=(
            (measured.ADD, n * values),
            (measured.COORDINATOR_STREAM, n * values),
            (measured.DECODE, values),
            (measured.COORDINATOR_HANDSHAKE, n),
        ),
    )


def _plain(scheme: Plain, length: int, n: int, word_bits: WordBits, rounds: int) -> Cost:
    vector, values = _vector(length, word_bits), length * word_bits / 32
    return _both(
        scheme,
        n,
        rounds,
        sent=vector + BYTES_A_SILO,
        received=vector + n * BYTES_TO_A_SILO,
        kept=_kept(length, word_bits),
        working=_opened(length, word_bits),
        silo=((measured.QUANTISE, values),),
        total=vector,
        longest=length,
        coordinator=((measured.ADD, n * values), (measured.DECODE, values)),
    )


def _paillier(
    scheme: Paillier | ThresholdPaillier, length: int, n: int, word_bits: WordBits, rounds: int
) -> Cost:
    packing = Packing(word_bits, n, plaintext_bits(scheme.bits))
    each, rows = ciphertext_size(scheme.bits), packing.rows(length)
    upload, number = rows * each, each + _NUMBER
    # A product of numbers takes the square of their length, a power of full length its cube.
    product = (scheme.bits / measured.PAILLIER_BITS) ** 2
    power = (scheme.bits / measured.PAILLIER_BITS) ** 3
    steps: Steps = (
        (measured.QUANTISE, length * word_bits / 32),
        (measured.ENCRYPT, rows * power),
    )
    known: Steps = ()
    total, longest = rows * number, upload
    if isinstance(scheme, ThresholdPaillier):
        known = ((measured.KNOWN, n * rows * product),)
        part = upload + 3 * each  # Its proof is shorter.
        upload += knowledge_size(scheme.bits)
        longest = n * max(upload, part)
        sent, received = upload + part, n * (upload + part)
        steps += (
            (measured.CHECK_AND_ADD, n * rows * product),
            *known,
            (measured.PARTIAL, rows * power),
            (measured.PROVE, power),
            (measured.BATCH, n * rows * product),  # Its own proof, and those of the others.
            (measured.CHECK_PROOF, (n - 1) * power),
            (measured.COMBINE, scheme.cohort(n).t * rows * product),
        )
        # The sum, its blinding and the partial decryptions as numbers; the parts of all, also as they came.
        working = upload + 5 * rows * number + n * (part + rows * number)
        # The coordinator adds nothing: it has the exponents of one proof, and copies of what is left of them.
        total = 3 * rows * _EXPONENT
    else:
        sent, received = upload, upload
        steps += ((measured.OPEN, rows * power),)
        working = upload + 2 * rows * number
    table = scheme.bits // 16 * 256 * number
    return _both(
        scheme,
        n,
        rounds,
        sent=sent + n * BYTES_A_SILO,
        received=received + n * BYTES_TO_A_SILO,
        kept=_kept(length, word_bits) + sent,
        working=_opened(length, word_bits) + 8 * length + table + working,
        silo=steps,
        once=((measured.TABLE, power),),
        total=total,
        longest=longest,
        coordinator=((measured.CHECK_AND_ADD, n * rows * product), *known),
    )


def _ckks(scheme: CKKS, length: int, n: int, word_bits: WordBits, rounds: int) -> Cost:
    limbs = plan_limbs(length, word_bits=word_bits, cohort=n, degree=scheme.degree)
    ring, chunks = limbs.parameters.ring, limbs.parameters.chunks
    upload, total = chunks * ring.fresh_size, chunks * ring.sum_size
    steps = chunks * scheme.degree / measured.CKKS_DEGREE
    return _both(
        scheme,
        n,
        rounds,
        sent=upload + n * BYTES_A_SILO,
        received=total + n * BYTES_TO_A_SILO,
        kept=_kept(length, word_bits) + upload,
        working=_opened(length, word_bits) + 8 * length * limbs.count + total,
        silo=(
            (measured.QUANTISE, length * word_bits / 32),
            (measured.CKKS_ENCRYPT, steps),
            (measured.CKKS_OPEN, steps),
        ),
        total=total,
        longest=total // 8,
        coordinator=(
            (measured.CKKS_CHECK, n * steps),
            (measured.CKKS_ADD, n * steps),
            (measured.CKKS_SERIALISE, (1 + n) * steps),  # For its digest, and as each silo takes it.
        ),
    )


def _both(
    scheme: Scheme,
    n: int,
    rounds: int,
    *,
    sent: int,
    received: int,
    kept: int,
    working: int,
    silo: Steps,
    total: int,
    longest: int,
    coordinator: Steps,
    once: Steps = (),
) -> Cost:
    """Return the cost of both parties from that of one silo in one round.

    Args:
        scheme: the protection.
        n: silos.
        rounds: how many.
        sent: by one silo in one round.
        received: by it.
        kept: bytes that one silo holds all the time.
        working: bytes that it holds besides while it computes, at the most.
        silo: its steps in one round.
        total: bytes of the running sum, or of what the coordinator holds where silos add.
        longest: entries of the longest payload.
        coordinator: its steps in one round.
        once: steps of a silo in all rounds together.
    """
    one = Party(
        sent=rounds * sent,
        received=rounds * received,
        memory=kept + working,
        steps=(*_times(silo, rounds), *once),
    )
    # Everything but the sum is streamed, in pieces for each silo; so is the sum, from where it lies.
    held = total + measured.COORDINATOR_BASE + n * measured.COORDINATOR_A_SILO
    other = Party(
        sent=n * one.received, received=n * one.sent, memory=held, steps=_times(coordinator, rounds)
    )
    together = measured.IDLE + n * kept + working + held
    return Cost(scheme=scheme, silo=one, coordinator=other, together=together, longest=longest)


def _times(steps: Steps, rounds: int) -> Steps:
    return tuple((figure, times * rounds) for figure, times in steps)


def _vector(length: int, word_bits: WordBits) -> int:
    return length * word_bits // 8


def _kept(length: int, word_bits: WordBits) -> int:
    """Return the bytes of a vector as it was handed in, in float64, and of the same encoded."""
    return 8 * length + _vector(length, word_bits)


def _opened(length: int, word_bits: WordBits) -> int:
    """Return the bytes of a sum as it was opened, and of the same in float64."""
    return 8 * length + _vector(length, word_bits)
