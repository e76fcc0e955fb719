"""Reals as integers modulo 2^32 or 2^64, and the planner that proves that no sum can wrap.

An ``Encoding`` names consecutive segments of one integer vector, each with its own bound and step. Its
constructor proves ``cohort * largest integer <= limit``, so an encoding whose sum could wrap does not
exist, also when it arrives from the wire. Values are rounded half to even and stored in two's complement.

It does not clip (``weighting`` does, as its own earlier step), hides nothing, and adds no noise. Rounding
is deterministic, which is what makes a protected sum equal the plain one bit for bit.

Source: fixed-point encoding as in Bonawitz et al. 2017, section 1 (inputs in Z_R with R above n times the
largest input), here with R the word size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secagg.errors import InputRefused, ParameterError, UsageError
from secagg.names import IntegerVector, RealVector, WordBits
from secagg.ranges import positive, whole

BLOCK = 1 << 16
"""Entries converted at a time: input, float64 scratch and output of a block stay in a 2 MiB L2 cache."""

SUM_LIMIT: Mapping[int, int] = {32: 2**31 - 1, 64: 2**53}
"""Word bits -> largest magnitude of a sum. For 64 bits every sum is also exactly a float64."""

FRACTION_BITS = range(-512, 513)
"""Steps from 2^512 down to 2^-512: far beyond use, and every scaled value stays a normal float64."""


@dataclass(frozen=True)
class Segment:
    """A named run of entries that share one bound and one step.

    Attributes:
        name: unique inside its encoding.
        length: entries, at least 1.
        bound: largest accepted magnitude, finite and above 0.
        fraction_bits: the step is ``2 ** -fraction_bits``; -512 to 512.

    Raises:
        ParameterError: a field is out of range, or ``bound`` is less than half a step.
    """

    name: str
    length: int
    bound: float
    fraction_bits: int

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and 0 < len(self.name) <= 256):
            raise ParameterError(f"segment {self.name[:32]!r}: a name is 1 to 256 printable characters")
        if self.length < 1:
            raise ParameterError(f"segment {self.name!r}: length is {self.length}, must be at least 1")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ParameterError(f"segment {self.name!r}: bound must be finite and above 0")
        if self.fraction_bits not in FRACTION_BITS:
            raise ParameterError(
                f"segment {self.name!r}: fraction_bits is {self.fraction_bits}, must be "
                f"{FRACTION_BITS.start} to {FRACTION_BITS.stop - 1}"
            )
        if self.largest < 1:
            raise ParameterError(
                f"segment {self.name!r}: bound is below half a step, every value would encode to 0; "
                "raise fraction_bits or bound"
            )

    @property
    def largest(self) -> int:
        """Magnitude of the largest encoded integer: ``bound`` over the step, rounded half to even."""
        return _largest(self.bound, self.fraction_bits)

    @property
    def step(self) -> float:
        """Distance of two neighbouring encodable values."""
        return math.ldexp(1.0, -self.fraction_bits)

    def encode_into(
        self,
        out: IntegerVector,
        values: NDArray[Any],
        *,
        minus: RealVector | None = None,
        factor: float = 1.0,
        mend: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        """Encode this segment's ``values`` into ``out``.

        Args:
            out: shape (length,), uint32 or uint64; its content is undefined after a refusal.
            values: real vector, shape (length,).
            minus: subtracted from ``values`` in float64, shape (length,); None for nothing.
            factor: multiplies every value, 0 to 1.
            mend: gets each block with an entry that would be refused; what it returns, as long, is encoded
                if it is within the bound, and refused if not.

        Raises:
            InputRefused: ``nan``, ``infinite`` or ``bound``.
        """
        signed = out.view(np.int32 if out.itemsize == 4 else np.int64)
        # The power of two is exact, so the float64 product below rounds once, like value * factor alone.
        scale = math.ldexp(factor, self.fraction_bits)
        scratch = np.empty(min(out.size, BLOCK))
        # Block by block, so that every pass after the first, which checks, finds its input in the cache.
        for start in range(0, out.size, BLOCK):
            block = values[start : start + BLOCK]
            if minus is not None:
                block = np.subtract(block, minus[start : start + BLOCK], dtype=np.float64)
            if not self.holds(block):
                block = block if mend is None else mend(block)
                refuse_bad_numbers(self, block, first=start)
            scaled = scratch[: block.size]
            # Widened first, because a product of mixed types goes through smaller blocks, and more slowly.
            np.copyto(scaled, block)
            np.multiply(scaled, scale, out=scaled)
            np.rint(scaled, out=scaled)
            np.copyto(signed[start : start + BLOCK], scaled, casting="unsafe")

    def decode(self, total: IntegerVector, *, divisor: float = 1.0) -> RealVector:
        """Return the sums in ``total``, any part of this segment's, over ``divisor``, as float64.

        Rounded once: without a divisor, or one that is a power of two, it is exact.
        """
        values = total.view(np.int32 if total.itemsize == 4 else np.int64).astype(np.float64)
        values /= divisor / self.step  # A power of two: only the division rounds.
        return values

    def holds(self, block: NDArray[Any]) -> bool:
        """Whether every ``|value| <= bound``."""
        # NaN propagates through min and max and fails every comparison. Python numbers, because they compare
        # exactly with the bound, whether they come from float32 or from int64.
        return bool(-self.bound <= block.min().item() and block.max().item() <= self.bound)


@dataclass(frozen=True)
class Encoding:
    """How reals travel as integers in one sum; part of every round descriptor.

    Attributes:
        word_bits: 32 or 64; the modulus is ``2 ** word_bits``.
        cohort: largest number of silos in one sum (the roster size), at least 1.
        segments: in the order of the vector, at least one.
        weight_cap: unit of the weights (see ``weighting``), finite and above 0; 1 where there are none.

    Raises:
        ParameterError: a field is out of range, two segments share a name, or a sum of ``cohort``
            encoded vectors could leave the range of the word.

    Guarantees:
        - No sum of at most ``cohort`` encoded vectors wraps, and every one decodes to exact float64s.
    """

    word_bits: WordBits
    cohort: int
    segments: tuple[Segment, ...]
    weight_cap: float = 1.0

    def __post_init__(self) -> None:
        if self.word_bits not in SUM_LIMIT:
            raise ParameterError(f"word_bits is {self.word_bits}, must be 32 or 64")
        if self.cohort < 1:
            raise ParameterError(f"cohort is {self.cohort}, must be at least 1")
        if not (math.isfinite(self.weight_cap) and self.weight_cap > 0):
            raise ParameterError("weight_cap must be finite and above 0")
        if not self.segments:
            raise ParameterError("an encoding needs at least one segment")
        if len({segment.name for segment in self.segments}) < len(self.segments):
            raise ParameterError("two segments share one name")
        for segment in self.segments:
            if self.cohort * segment.largest > SUM_LIMIT[self.word_bits]:
                raise ParameterError(
                    f"segment {segment.name!r}: a sum of {self.cohort} silos could wrap {self.word_bits} "
                    "bits; lower its fraction_bits or bound, or the cohort"
                )

    @property
    def length(self) -> int:
        """Entries of the encoded vector."""
        return sum(segment.length for segment in self.segments)

    @property
    def dtype(self) -> type[Any]:  # NumPy's stubs cannot tell arrays of a union of types apart
        """Type of one encoded entry: ``numpy.uint32`` or ``numpy.uint64``."""
        return np.uint32 if self.word_bits == 32 else np.uint64

    @property
    def headroom_bits(self) -> float:
        """Unused room of the tightest segment, in bits; 0 when the largest sum fills the range exactly."""
        return math.log2(SUM_LIMIT[self.word_bits] / (self.cohort * max(s.largest for s in self.segments)))

    def slices(self) -> Iterator[tuple[Segment, slice]]:
        """Yield every segment with its place in the vector, in order."""
        start = 0
        for segment in self.segments:
            yield segment, slice(start, start + segment.length)
            start += segment.length

    def encode(
        self,
        values: Mapping[str, ArrayLike],
        *,
        factors: Mapping[str, float] | None = None,
        out: IntegerVector | None = None,
    ) -> IntegerVector:
        """Encode one vector; the inputs are never written to.

        Args:
            values: segment name -> shape (segment length,), float32, float64 or integers, |value| <= bound.
            factors: segment name -> 0 to 1, multiplies that segment in float64; 1 where absent.
            out: shape (length,), of this encoding's dtype, sharing no memory with the inputs; its content
                is undefined after a refusal. A new vector when None.

        Returns:
            Shape (length,): ``value * factor / step`` rounded half to even, in two's complement.

        Raises:
            InputRefused: ``layout``, ``dtype``, ``shape``, ``nan``, ``infinite``, ``bound`` or ``weight``
                (a factor outside 0 to 1). The text names segment and index, never a value.
            UsageError: ``out`` does not fit.

        Guarantees:
            - Without a factor an entry is off by at most half a step; with one, by at most half a step
              from the float64 product.
        """
        if values.keys() != {segment.name for segment in self.segments}:
            raise InputRefused("layout", f"values must name exactly these segments: {', '.join(self._names)}")
        factors = factors or {}
        if not factors.keys() <= values.keys():
            raise InputRefused("layout", f"factors may name these segments only: {', '.join(self._names)}")
        for name, factor in factors.items():
            if not 0 <= factor <= 1:
                raise InputRefused("weight", f"the factor of segment {name!r} must lie in 0 to 1")
        vectors = {segment.name: real_vector(segment, values[segment.name]) for segment in self.segments}
        out = self.buffer(out, *vectors.values())
        for segment, place in self.slices():
            segment.encode_into(out[place], vectors[segment.name], factor=factors.get(segment.name, 1.0))
        return out

    def decode(self, total: IntegerVector) -> dict[str, RealVector]:
        """Return the sums of the segments.

        Args:
            total: shape (length,), this encoding's dtype, the wrapped sum of at most ``cohort`` vectors.

        Returns:
            Segment name -> float64, shape (segment length,); centred, without any rounding.

        Raises:
            UsageError: wrong shape or dtype.
        """
        return {name: segment.decode(part) for name, (segment, part) in self.split(total).items()}

    def split(self, total: IntegerVector) -> dict[str, tuple[Segment, IntegerVector]]:
        """Return the part of each segment, by name; a view of ``total``, which is as in ``decode``.

        Raises:
            UsageError: wrong shape or dtype.
        """
        if total.shape != (self.length,) or total.dtype != self.dtype:
            raise UsageError(f"the total must be {self.dtype.__name__} of shape ({self.length},)")
        return {segment.name: (segment, total[place]) for segment, place in self.slices()}

    def buffer(self, out: IntegerVector | None, *inputs: NDArray[Any]) -> IntegerVector:
        """Return ``out`` if it may be written to, or a new vector when it is None.

        Raises:
            UsageError: wrong shape or dtype, read-only, or it may overlap an input.
        """
        if out is None:
            return np.empty(self.length, self.dtype)
        if out.shape != (self.length,) or out.dtype != self.dtype or not out.flags.writeable:
            raise UsageError(f"out must be writable {self.dtype.__name__} of shape ({self.length},)")
        if any(np.may_share_memory(out, vector) for vector in inputs):
            raise UsageError("out overlaps an input, which would be overwritten")
        return out

    @property
    def _names(self) -> list[str]:
        return [segment.name for segment in self.segments]


def real_vector(segment: Segment, values: ArrayLike) -> NDArray[Any]:
    """Return ``values`` as a real array of the segment's shape; its numbers are not looked at.

    Raises:
        InputRefused: ``dtype`` (not native float32, float64 or integers) or ``shape``.
    """
    try:
        vector = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a torch tensor that requires grad
        raise InputRefused("dtype", f"{segment.name!r} cannot be read as a real vector") from None
    if vector.dtype not in (np.float32, np.float64) and vector.dtype.kind not in "iu":
        raise InputRefused("dtype", f"{segment.name!r} is {vector.dtype}, not float32, float64 or integer")
    if vector.shape != (segment.length,):
        raise InputRefused("shape", f"{segment.name!r} has shape {vector.shape}, must be ({segment.length},)")
    return vector


def refuse_bad_numbers(segment: Segment, block: NDArray[Any], *, first: int) -> None:
    """Raise ``InputRefused`` (``nan``, ``infinite``, ``bound``) unless every ``|value| <= bound``.

    ``first`` is the index of the block's first entry in the segment, for the text.
    """
    if segment.holds(block):
        return
    for rule, bad, word in (
        ("nan", np.isnan(block), "NaN"),
        ("infinite", np.isinf(block), "infinite"),
        ("bound", np.abs(block.astype(np.float64)) > segment.bound, "beyond the segment's bound"),
    ):
        if bad.any():
            raise InputRefused(rule, f"entry {first + int(bad.argmax())} of {segment.name!r} is {word}")
    # Only an integer that float64 rounds onto the bound comes here.
    raise InputRefused("bound", f"an integer of {segment.name!r} is beyond the segment's bound")


def most_fraction_bits(bound: float, *, cohort: int, word_bits: WordBits) -> int:
    """Return the finest ``fraction_bits`` with which a sum of ``cohort`` values of ``bound`` cannot wrap.

    Raises:
        ParameterError: ``bound`` is not finite and above 0, ``cohort`` is below 1, ``word_bits`` is neither
            32 nor 64, or none fits.
    """
    if word_bits not in SUM_LIMIT:
        raise ParameterError(f"word_bits is {word_bits}, must be 32 or 64")
    if not (math.isfinite(bound) and bound > 0):
        raise ParameterError("clip and bounds must be finite and above 0")
    if cohort < 1:
        raise ParameterError(f"cohort is {cohort}, must be at least 1")
    room = SUM_LIMIT[word_bits] // cohort
    # bound >= 2**(exponent - 1), so one bit more than this start exceeds the room for certain.
    start = min(room.bit_length() - math.frexp(bound)[1], FRACTION_BITS.stop - 1)
    for bits in range(start, FRACTION_BITS.start - 1, -1):
        if 0 < _largest(bound, bits) <= room:
            return bits
    raise ParameterError(
        f"{word_bits} bits cannot hold this bound for {cohort} silos; lower clip or cohort",
        parameter="encoding",
    )


def plan_sum(
    length: int,
    *,
    clip: float,
    cohort: int,
    word_bits: WordBits | None = None,
    fraction_bits: int | None = None,
    precision: float | None = None,
) -> Encoding:
    """Plan a plain sum: one segment named ``"sum"``.

    Args:
        length: entries, at least 1.
        clip: largest magnitude of one silo's entry.
        cohort: largest number of silos in the sum.
        word_bits: 32 or 64; when None, 32 unless ``fraction_bits`` or ``precision`` needs 64.
        fraction_bits: when None, the most that cannot wrap.
        precision: largest allowed error of an entry of the sum, absolute; any when None.

    Raises:
        ParameterError: impossible; the text says what to change.
    """
    clip = positive("clip", clip)
    precision = None if precision is None else positive("precision", precision)
    fraction_bits = None if fraction_bits is None else whole("fraction_bits", fraction_bits)
    words = words_for(word_bits)
    refusal = ""
    for word in words:
        most = most_fraction_bits(clip, cohort=cohort, word_bits=word)
        bits = most if fraction_bits is None else fraction_bits
        if bits > most:
            refusal = f"fraction_bits is {bits}, at most {most} fit: lower it, clip or cohort"
            continue
        encoding = Encoding(word, int(cohort), (Segment("sum", int(length), clip, bits),))
        worst = worst_error_of_sum(encoding)
        if precision is None or worst <= precision:
            return encoding
        change = "lower clip or cohort" if fraction_bits is None else "raise fraction_bits"
        refusal = f"the sum may be off by {worst:.3g}: {change}, or loosen precision {precision:.3g}"
    raise ParameterError(f"with {words[-1]} bits {refusal}", parameter="encoding")


def words_for(word_bits: WordBits | None) -> tuple[WordBits, ...]:
    """Return the words that a planner may try, the shortest first.

    Raises:
        ParameterError: ``word_bits`` is none of 32, 64 and None.
    """
    if word_bits is None:
        return (32, 64)
    match whole("word_bits", word_bits):
        case 32:
            return (32,)
        case 64:
            return (64,)
        case other:
            raise ParameterError(f"word_bits is {other}, must be 32 or 64")


def worst_error_of_sum(encoding: Encoding) -> float:
    """Return the largest possible error of an entry of an unweighted sum: ``cohort`` half steps."""
    return encoding.cohort * max(segment.step for segment in encoding.segments) / 2


def _largest(bound: float, fraction_bits: int) -> int:
    # Exact rationals: a float64 product could overflow, and must not round before the proof does.
    return round(Fraction(bound) * Fraction(2) ** fraction_bits)
