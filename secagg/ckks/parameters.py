"""Sum-only CKKS parameters: the rings, the planner that takes the largest scale that cannot wrap, the errors.

A sum needs one ciphertext modulus. SEAL encrypts symmetrically at the first data level, whose modulus is the
product of all primes but the last; with two primes that is the first alone, **q**, and it alone bounds what
decrypts. The last, special prime takes part in key switching only, which a sum does not need: it lies in no
ciphertext and adds no head-room, but it counts for the security estimate, because the secret key has an
image modulo both.

Nothing here imports SEAL, holds a key, or decides who may decrypt.

Source: Cheon, Kim, Kim, Song 2017, *Homomorphic Encryption for Arithmetic of Approximate Numbers*. Security:
Albrecht et al. 2018, *Homomorphic Encryption Security Standard*, homomorphicencryption.org, table 1 (ternary
secrets, classical attacks, 128 bits). Noise of published sums: Li, Micciancio, Schultz, Sorrell 2022,
*Securing Approximate Homomorphic Encryption Using Differential Privacy*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from secagg.errors import ParameterError
from secagg.fixedpoint import Segment
from secagg.hazmat.framing import digest
from secagg.ranges import positive, whole

CHECK_SLOTS = 2
"""Last slots of every chunk, which hold what the silo knows beforehand instead of data."""

SEED_SIZE = 64
"""Bytes of the seed that stands for the second polynomial of a fresh ciphertext."""

NOISE_LIMIT = 21
"""Largest coefficient of the noise of one fresh encryption: SEAL subtracts two sums of 21 fair bits."""

NOISE_VARIANCE = NOISE_LIMIT / 2
"""Variance of such a coefficient, and its sub-Gaussian variance proxy: 42 centred bits of 1/4 each."""

FAILURE_BITS = 64
"""An error bound holds but for a probability of 2**-64 over the noise of the encryptions."""

STATISTICAL_BITS = 40
"""kappa: what a published sum tells beyond the exact one is worth 2**-kappa; see ``publishing_sigma``."""

MOST_SCALE_BITS = 58
"""SEAL's encoder takes scales below 2**(bits of q - 1), and coefficients below 2**58."""

_ROUNDOFF = 2.0**-53
# Bounds the constants of second order in the products of (1 + roundoff), and the arithmetic of this module.
_SLACK = 1 + 2.0**-20
# The encoder's roundoff, relative to bound * scale: 108 roundoffs (see SumParameters), below 2**-46.
_ENCODER_ROUNDOFF = Fraction(1, 2**45)


@dataclass(frozen=True)
class Ring:
    """Where ciphertexts live: polynomials modulo ``X**degree + 1`` and q.

    Attributes:
        degree: N, a power of two; a chunk has N / 2 slots.
        modulus: q, of the ciphertexts.
        special: the prime that SEAL keeps for key switching.
        most_modulus_bits: of ``modulus * special``, for 128 bits against classical attacks, by the standard.
    """

    degree: int
    modulus: int
    special: int
    most_modulus_bits: int

    @property
    def modulus_bits(self) -> int:
        """Bits of ``modulus * special``, which must not exceed ``most_modulus_bits``."""
        return (self.modulus * self.special).bit_length()

    @property
    def entries(self) -> int:
        """Entries of a vector in one chunk: slots without those that check."""
        return self.degree // 2 - CHECK_SLOTS

    @property
    def fresh_size(self) -> int:
        """Bytes of one chunk of an upload: a seed, and a polynomial of words of 8 bytes."""
        return SEED_SIZE + 8 * self.degree

    @property
    def sum_size(self) -> int:
        """Bytes of one chunk of a sum, which no seed stands for: two polynomials."""
        return 16 * self.degree


RINGS: Mapping[int, Ring] = {
    ring.degree: ring
    for ring in (
        # 60 + 60 bits. The standard allows 218: far more than 128 bits of security.
        Ring(8192, 1152921504606748673, 1152921504606830593, most_modulus_bits=218),
        # 60 + 46 bits. The standard allows 109: 128 bits of security, none to spare.
        Ring(4096, 1152921504606830593, 70368743669761, most_modulus_bits=109),
    )
}
"""Degree -> ring. The primes are the largest of 60 and 46 bits that are 1 modulo 2N, as SEAL finds them."""

DEFAULT_DEGREE = 8192


@dataclass(frozen=True, kw_only=True)
class SumParameters:
    r"""How one kind of sum is encrypted; all silos and the coordinator have the same.

    **No sum wraps.** A silo's values, at most ``bound`` in magnitude in every slot, are encoded as a
    polynomial whose coefficients are means of them times the scale: at most ``bound * scale``, one rounding,
    and the encoder's roundoff. An encryption adds at most ``NOISE_LIMIT``. The constructor proves with
    integers that ``cohort`` times that is at most (q - 1) / 2, the largest magnitude that decrypts to itself.

    **The error of an opened sum** of n silos has three parts, of which the first two are divided by the
    scale. With N the degree, a slot is the real part of ``sum_k c_k w**k`` for a root w of order 2N:

    - *Rounding* to integers moves each of N coefficients by 1/2 at most. The absolute cosines of a slot's
      powers add up to cot(pi / 2N) < 2N / pi: at most ``n N / pi`` in an entry. In the Euclidean norm of a
      chunk, at most ``sqrt(N / 2) * n sqrt(N) / 2``, because the N embeddings of a real polynomial come in
      pairs and their norm is sqrt(N) times that of the coefficients.
    - *Encryption noise*: independent coefficients, sub-Gaussian with variance proxy v = 10.5 n. The squared
      cosines add up to N / 2, so an entry exceeds ``sqrt(v N ln 2**65)`` with probability 2**-64. The squared
      norm of the coefficients exceeds ``v (N + 2 sqrt(N x) + 2 x)`` with probability exp(-x).
    - *Floating point*, which does not depend on the scale: SEAL's transforms work in float64, in log2 N
      stages. One multiplies by a root that is off by at most 4 roundoffs and adds: 8 roundoffs of the
      vector's norm with the product and the sum. Conversion and scale cost 4 more. A transform is unitary but
      for its factor, so its error is at most ``(8 log2 N + 4) 2**-53`` of the norm, which ``sqrt(N) * bound``
      bounds for one silo. n encoders and the decoder of the sum: twice ``n sqrt(N) bound`` times that.

    Attributes:
        degree: of the ring, a key of ``RINGS``.
        cohort: largest number of silos in one sum, at least 2.
        length: entries of a vector, at least 1.
        bound: largest magnitude of one silo's entry, finite and above 0.
        scale_bits: the scale is ``2 ** scale_bits``; 0 to 58.
        releases: tau, sums that may be published under one key, at least 1.

    Raises:
        ParameterError: a field is out of range, or a sum could wrap; the text says what to change.

    Guarantees:
        - No sum of at most ``cohort`` encrypted vectors wraps.
        - An entry of an opened sum of n silos is off by at most ``error_bound(n)``.
        - The errors of a chunk of it have a Euclidean norm of at most ``chunk_error_bound(n)``.

    Source: Higham 2002, *Accuracy and Stability of Numerical Algorithms*, theorem 24.2 (transforms); Hsu,
        Kakade, Zhang 2012, *A tail inequality for quadratic forms of subgaussian random vectors*, theorem
        2.1.
    """

    degree: int = DEFAULT_DEGREE
    cohort: int
    length: int
    bound: float
    scale_bits: int
    releases: int = 1

    def __post_init__(self) -> None:
        if self.degree not in RINGS:
            raise ParameterError(f"degree is {self.degree}, must be one of {', '.join(map(str, RINGS))}")
        if self.cohort < 2:
            raise ParameterError(f"cohort is {self.cohort}, must be at least 2: one silo's sum is its vector")
        if self.releases < 1:
            raise ParameterError(f"releases is {self.releases}, must be at least 1")
        if not 0 <= self.scale_bits <= MOST_SCALE_BITS:
            raise ParameterError(f"scale_bits is {self.scale_bits}, must be 0 to {MOST_SCALE_BITS}")
        segment = self.segment  # Whose constructor checks length and bound.
        if not holds(self.ring, cohort=self.cohort, bound=segment.bound, scale_bits=self.scale_bits):
            raise ParameterError(
                f"a sum of {self.cohort} silos within {self.bound:g} could wrap at scale "
                f"2^{self.scale_bits}: lower scale_bits, bound or cohort",
                parameter="encoding",
            )

    @property
    def ring(self) -> Ring:
        """Where the ciphertexts live."""
        return RINGS[self.degree]

    @property
    def segment(self) -> Segment:
        """The vector as fixed point knows it, for the checks of what a silo hands in."""
        return Segment("sum", self.length, self.bound, self.scale_bits)

    @property
    def scale(self) -> float:
        """What values are multiplied by; a power of two."""
        return math.ldexp(1.0, self.scale_bits)

    @property
    def chunks(self) -> int:
        """Ciphertexts of one vector."""
        return -(-self.length // self.ring.entries)

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for all of this, in signatures and key ids."""
        ring = self.ring
        fields = ring.degree, ring.modulus, ring.special, self.cohort, self.length, float(self.bound)
        return digest("ckks parameters", *fields, self.scale_bits, self.releases)

    def error_bound(self, silos: int | None = None) -> float:
        """Return the proven bound on the error of one entry of an opened sum.

        Args:
            silos: n, how many are in the sum; None for the whole cohort.
        """
        n, degree = self.cohort if silos is None else silos, self.degree
        rounding = n * degree / math.pi
        noise = math.sqrt(NOISE_VARIANCE * n * degree * (FAILURE_BITS + 1) * math.log(2))
        return (self._float_error(n) + (rounding + noise) / self.scale) * _SLACK

    def chunk_error_bound(self, silos: int | None = None) -> float:
        """Return the proven bound on the Euclidean norm of the errors of one chunk of an opened sum."""
        n, degree = self.cohort if silos is None else silos, self.degree
        x = FAILURE_BITS * math.log(2)
        squared = NOISE_VARIANCE * n * (degree + 2 * math.sqrt(degree * x) + 2 * x)
        coefficients = n * math.sqrt(degree) / 2 + math.sqrt(squared)
        return (self._float_error(n) + math.sqrt(degree / 2) * coefficients / self.scale) * _SLACK

    @property
    def publishing_sigma(self) -> float:
        """Standard deviation of the noise that every entry of a published sum gets.

        ``sqrt(12 tau) * 2 ** (kappa / 2) * t``, where tau counts decryptions under the key, of which a sum
        makes one for each chunk, and t is ``chunk_error_bound``: the divergence of Gaussian noise grows with
        the squared Euclidean norm of what it hides, so a bound on single entries would not do. What all
        published sums of a key tell beyond exact ones has then a Kullback-Leibler divergence of at most ``2
        ** -kappa / 24``.
        """
        decryptions = self.releases * self.chunks
        return math.sqrt(12 * decryptions) * 2 ** (STATISTICAL_BITS / 2) * self.chunk_error_bound()

    @property
    def publishing_grid(self) -> float:
        """What published entries are multiples of: the largest power of two up to sigma / 8."""
        return math.ldexp(1.0, math.frexp(self.publishing_sigma / 8)[1] - 1)

    def _float_error(self, n: int) -> float:
        transform = (8 * math.log2(self.degree) + 4) * _ROUNDOFF
        return 2 * transform * n * math.sqrt(self.degree) * self.bound


def holds(ring: Ring, *, cohort: int, bound: float, scale_bits: int) -> bool:
    """Tell whether no sum of ``cohort`` vectors within ``bound`` wraps modulo q; exact."""
    value = Fraction(bound) * 2**scale_bits
    # Rounded to an integer, half a unit up at the most, after the roundoff of the encoder.
    coefficient = math.ceil(value * (1 + _ENCODER_ROUNDOFF)) + 1 + NOISE_LIMIT
    return bool(cohort * coefficient <= (ring.modulus - 1) // 2)


def plan(
    length: int,
    *,
    bound: float,
    cohort: int,
    degree: int = DEFAULT_DEGREE,
    releases: int = 1,
    precision: float | None = None,
) -> SumParameters:
    """Return the parameters with the largest scale that cannot wrap.

    Args:
        length: entries of a vector, at least 1.
        bound: largest magnitude of one silo's entry.
        cohort: largest number of silos in one sum, at least 2.
        degree: of the ring, a key of ``RINGS``.
        releases: tau, sums that may be published under one key.
        precision: largest allowed error of an entry of an opened sum, absolute; any when None.

    Raises:
        ParameterError: impossible; the text says what to change.

    Guarantees:
        - One bit more of scale would be refused.
    """
    bound, cohort = positive("bound", bound), whole("cohort", cohort, least=2)
    if degree not in RINGS:
        raise ParameterError(f"degree is {degree}, must be one of {', '.join(map(str, RINGS))}")
    fitting = (
        bits
        for bits in range(MOST_SCALE_BITS, -1, -1)
        if holds(RINGS[degree], cohort=cohort, bound=bound, scale_bits=bits)
    )
    scale_bits = next(fitting, None)
    if scale_bits is None:
        raise ParameterError(
            f"no scale lets {cohort} silos within {bound:g} stay below q / 2: lower bound or cohort",
            parameter="encoding",
        )
    parameters = SumParameters(
        degree=degree,
        cohort=cohort,
        length=whole("length", length, least=1),
        bound=bound,
        scale_bits=scale_bits,
        releases=whole("releases", releases, least=1),
    )
    worst = parameters.error_bound()
    if precision is not None and worst > positive("precision", precision):
        raise ParameterError(
            f"an entry of the sum may be off by {worst:.3g}: lower bound or cohort, or loosen precision "
            f"{precision:.3g}",
            parameter="encoding",
        )
    return parameters
