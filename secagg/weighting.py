"""Weighted mean and metrics as one plain sum, so that no divisor, count or loss is ever sent in clear.

A silo's vector is ``w*x, w, clipped share, v, v*metric..., saturated``, with w the weight of its update and
v that of its evaluation, both in units of the weight cap. The sum is opened as a whole; means are quotients
of its entries. The count entry of a round is not part of it: each scheme appends its own.

It does not hide that a sum of few silos says much about each, and a silo may lie about its weight, up to
the cap.

Source: federated averaging, McMahan et al. 2017, algorithm 1 (the mean weighted by sample counts), with the
clear-text counts moved into the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError, RoundAborted, UsageError
from secagg.fixedpoint import BLOCK, Encoding, Segment, most_fraction_bits, real_vector, words_for
from secagg.names import IntegerVector, RealVector, WordBits
from secagg.ranges import positive

UPDATE, WEIGHT, CLIPPED = "update", "weight", "clipped"
EVALUATION_WEIGHT, SATURATED, METRIC = "evaluation_weight", "saturated", "metric:"

_ROUNDOFF = 2.0**-53  # of one float64 operation, relative


@dataclass(frozen=True, eq=False)
class MeanUpdate:
    """The weighted mean of the (clipped) updates, computed where it is read.

    Attributes:
        total: the opened numerators, uint32 or uint64, shape (length,).
        segment: how they are encoded.
        divisor: total weight in units of the weight cap, above 0.

    Guarantees:
        The same total gives the same bits everywhere, however it is read: one float64 division an entry.
    """

    total: IntegerVector = field(repr=False)
    segment: Segment
    divisor: float

    def __getitem__(self, part: slice) -> RealVector:
        return self.segment.decode(self.total[part], divisor=self.divisor)


@dataclass(frozen=True, eq=False)
class Mean:
    """What one opened weighted sum says.

    Attributes:
        update: weighted mean of the updates; None in a metrics-only sum.
        weight: total weight of the updates.
        metrics: name -> mean weighted by evaluation weight; NaN where the total evaluation weight is zero.
        evaluation_weight: total weight of the evaluations.
        clipped: mean over the silos of the share of entries that a silo clipped, 0 to 1.
        saturated: metrics, over all silos, that lay outside the declared range.
        worst_error: proven bound on the error of an entry of ``update`` (of a metric in a metrics-only sum)
            that fixed point and float64 cause; clipping and saturation come on top.
        metric_error: the same for a metric, in either kind of sum.
    """

    update: MeanUpdate | None
    weight: float
    metrics: Mapping[str, float]
    evaluation_weight: float
    clipped: float
    saturated: int
    worst_error: float
    metric_error: float

    @cached_property
    def values(self) -> RealVector | None:
        """All of ``update``, float64, shape (length,)."""
        return None if self.update is None else self.update[:]


def plan_mean(
    length: int,
    *,
    clip: float,
    cohort: int,
    weight_cap: float,
    least_total_weight: float,
    metrics: tuple[str, ...] = (),
    metric_bound: float = 100.0,
    precision: float = 1e-4,
    word_bits: WordBits | None = None,
) -> Encoding:
    """Plan a weighted mean with metrics; every segment takes the finest step that cannot wrap.

    Args:
        length: entries of the update; 0 for a metrics-only sum, which has no ``"update"`` segment.
        clip: largest magnitude of an entry of an update.
        cohort: largest number of silos in the sum (the roster size).
        weight_cap: largest weight of one silo, the unit of the encoded weights.
        least_total_weight: smallest total weight (of the evaluations, in a metrics-only sum) for which
            ``precision`` must hold; above 0, at most ``cohort * weight_cap``.
        metrics: names, unique.
        metric_bound: metrics saturate to this magnitude.
        precision: largest allowed error of an entry of the mean, absolute.
        word_bits: 32 or 64; when None, 32 unless ``precision`` needs 64.

    Raises:
        ParameterError: impossible; the text says what to change.
    """
    if length < 0 or (length == 0 and not metrics):
        raise ParameterError(f"length is {length}: a mean needs an update of at least 1 entry, or a metric")
    clip = positive("clip", clip)
    weight_cap = positive("weight_cap", weight_cap)
    metric_bound = positive("metric_bound", metric_bound)
    precision = positive("precision", precision)
    least_total_weight = positive("least_total_weight", least_total_weight)
    if least_total_weight > cohort * weight_cap:
        raise ParameterError("least_total_weight must be at most cohort * weight_cap")
    bounds = {UPDATE: clip, SATURATED: max(1.0, float(len(metrics)))}
    bounds |= {METRIC + name: metric_bound for name in metrics}
    words = words_for(word_bits)
    worst = math.inf
    for word in words:
        segments = tuple(
            Segment(name, size, bound, most_fraction_bits(bound, cohort=cohort, word_bits=word))
            for name, size in _layout(int(length), metrics)
            for bound in (bounds.get(name, 1.0),)
        )
        encoding = Encoding(word, int(cohort), segments, weight_cap)
        worst = worst_error_of_mean(encoding, least_total_weight)
        if worst <= precision:
            return encoding
    raise ParameterError(
        f"with {words[-1]} bits the mean may be off by {worst:.3g}: raise least_total_weight, lower "
        f"{'clip' if length else 'metric_bound'} or weight_cap, or loosen precision {precision:.3g}",
        parameter="encoding",
    )


def _layout(length: int, metrics: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    return (
        *(((UPDATE, length),) if length else ()),
        (WEIGHT, 1),
        (CLIPPED, 1),
        (EVALUATION_WEIGHT, 1),
        *((METRIC + name, 1) for name in metrics),
        (SATURATED, 1),
    )


def is_mean(encoding: Encoding, length: int) -> bool:
    """Tell whether ``encoding`` is laid out as ``plan_mean(length, ...)`` does; 0 for metrics alone."""
    segments = tuple((segment.name, segment.length) for segment in encoding.segments)
    return segments == _layout(length, metric_names(encoding))


def metric_names(encoding: Encoding) -> tuple[str, ...]:
    """Return the names of the metrics that ``encoding`` was planned for, in the order of the vector."""
    names = (segment.name for segment in encoding.segments)
    return tuple(name.removeprefix(METRIC) for name in names if name.startswith(METRIC))


def worst_error_of_mean(encoding: Encoding, total_weight: float) -> float:
    """Return a proven bound on the error of an entry of the mean, infinite when nothing can be promised.

    With A the true total weight in units of the cap, D = A + d the decoded one, and N = A*m + e the decoded
    numerator of the true mean m: ``N/D - m = (e - m*d) / D``, and |m| <= bound. Both e and d are at most the
    cohort's half steps plus the float64 roundoff of its products. So the bound holds whether
    ``total_weight`` is the true total or the opened one.

    Args:
        encoding: from ``plan_mean``.
        total_weight: of the updates; in a metrics-only sum of the evaluations, for its metrics.

    Guarantees:
        - ``|decoded mean - exact mean of the clipped updates|`` never exceeds it.
    """
    segments = {segment.name: segment for segment in encoding.segments}
    if UPDATE not in segments:
        return worst_error_of_metrics(encoding, total_weight)
    return _worst_error(encoding, [segments[UPDATE]], segments[WEIGHT], total_weight)


def worst_error_of_metrics(encoding: Encoding, total_weight: float) -> float:
    """Return the bound of ``worst_error_of_mean`` for a metric, in either kind of sum; 0 without metrics.

    Args:
        encoding: from ``plan_mean``.
        total_weight: of the evaluations.

    Guarantees:
        - ``|decoded metric - exact mean of the saturated metrics|`` never exceeds it.
    """
    segments = {segment.name: segment for segment in encoding.segments}
    metrics = [segment for name, segment in segments.items() if name.startswith(METRIC)]
    return _worst_error(encoding, metrics, segments[EVALUATION_WEIGHT], total_weight) if metrics else 0.0


def surely_below(encoding: Encoding, total_weight: float, least: float) -> bool:
    """Return whether the true total weight is below ``least``, for an opened one of ``total_weight``.

    Args:
        encoding: from ``plan_mean``.
        total_weight: as opened; fixed point lets it be off by half a step for each silo.
        least: as of ``plan_mean``.
    """
    step = next(segment.step for segment in encoding.segments if segment.name == WEIGHT)
    return total_weight + encoding.cohort * step * encoding.weight_cap < least


def _worst_error(
    encoding: Encoding, numerators: Iterable[Segment], divisor: Segment, total_weight: float
) -> float:
    # One roundoff each for weight / cap, its product and the total, and as much again as slack for the
    # arithmetic of this function.
    divisor_error = encoding.cohort * (divisor.step / 2 + 8 * _ROUNDOFF)
    least_divisor = total_weight / encoding.weight_cap - divisor_error
    if not least_divisor > 0:
        return math.inf
    worst = 0.0
    for segment in numerators:
        numerator_error = encoding.cohort * (segment.step / 2 + 8 * _ROUNDOFF * segment.bound)
        quotient = (numerator_error + segment.bound * divisor_error) / least_divisor
        worst = max(worst, quotient + 8 * _ROUNDOFF * (segment.bound + quotient))  # the division rounds too
    return worst


def encode_mean(
    encoding: Encoding,
    *,
    update: NDArray[Any] | None,
    weight: float,
    metrics: Mapping[str, float],
    evaluation_weight: float,
    base: RealVector | None = None,
    out: IntegerVector | None = None,
) -> IntegerVector:
    """Encode what one silo adds to a weighted mean; the inputs are never written to.

    Args:
        encoding: from ``plan_mean``.
        update: float32, float64 or integers, shape of the update; entries beyond the clip are clipped and
            counted. None in a metrics-only sum.
        weight: of the update, 0 to the cap.
        metrics: every planned name -> value; values beyond the metric bound, infinite ones too, saturate and
            are counted. May be empty when ``evaluation_weight`` is 0.
        evaluation_weight: of the metrics, 0 to the cap.
        base: ``update`` less this vector is encoded, float64, of the same shape; None to encode it as it is.
        out: as in ``Encoding.encode``.

    Returns:
        Shape (encoding.length,), the encoding's dtype.

    Raises:
        InputRefused: ``weight``, ``metric`` (other names, NaN, or not a number), ``layout``, and for the
            update ``dtype``, ``shape``, ``nan`` or ``infinite``. No text holds a value.
        UsageError: ``out`` or ``base`` does not fit.
    """
    segments = {segment.name: segment for segment in encoding.segments}
    names = metric_names(encoding)
    factor = scaled_weight("weight", weight, cap=encoding.weight_cap)
    evaluation_factor = scaled_weight("evaluation_weight", evaluation_weight, cap=encoding.weight_cap)
    if evaluation_factor == 0 and not metrics:
        metrics = dict.fromkeys(names, 0.0)
    if metrics.keys() != set(names):
        raise InputRefused("metric", f"metrics must name exactly: {', '.join(names) or 'nothing'}")
    if (update is None) == (UPDATE in segments):
        raise InputRefused("layout", "an update is handed in exactly when the encoding has one")

    scalars = {WEIGHT: (1.0, factor), EVALUATION_WEIGHT: (1.0, evaluation_factor)}
    saturated = 0
    for name in names:
        value, outside = saturate(name, metrics[name], bound=segments[METRIC + name].bound)
        scalars[METRIC + name] = value, evaluation_factor
        saturated += outside
    scalars[SATURATED] = float(saturated), 1.0

    vector = None if update is None else real_vector(segments[UPDATE], update)
    if base is not None and (vector is None or base.shape != vector.shape or base.dtype != np.float64):
        raise UsageError("base is a float64 vector of the update's shape")
    out = encoding.buffer(out, *(inputs for inputs in (vector, base) if inputs is not None))
    for segment, place in encoding.slices():
        if segment.name == UPDATE and vector is not None:
            # The update comes before the entry that counts what was clipped of it.
            clipping = _Clipping(segment.bound)
            segment.encode_into(out[place], vector, minus=base, factor=factor, mend=clipping)
            scalars[CLIPPED] = clipping.entries / segment.length, 1.0
        else:
            value, scale = scalars.get(segment.name, (0.0, 1.0))
            segment.encode_into(out[place], np.array([value]), factor=scale)
    return out


def decode_mean(encoding: Encoding, total: IntegerVector, *, silos: int) -> Mean:
    """Return the weighted means of an opened sum.

    Args:
        encoding: from ``plan_mean``.
        total: the wrapped sum of ``silos`` vectors of ``encode_mean``, shape (encoding.length,).
        silos: how many are in the sum, 1 to the cohort.

    Raises:
        RoundAborted: the total weight of the updates is zero, so there is no mean.
        UsageError: wrong shape, dtype or number of silos.

    """
    if not 1 <= silos <= encoding.cohort:
        raise UsageError(f"silos is {silos}, must be 1 to the cohort {encoding.cohort}")
    parts = encoding.split(total)
    segment, numerators = parts.pop(UPDATE, (None, total))
    sums = {name: float(entry.decode(part)[0]) for name, (entry, part) in parts.items()}
    weight, evaluation_weight = sums[WEIGHT], sums[EVALUATION_WEIGHT]
    update = None
    if segment is not None:
        if weight <= 0:
            raise RoundAborted("the total weight is zero: no silo in the sum trained on a single example")
        update = MeanUpdate(numerators, segment, weight)
    metrics = {
        name.removeprefix(METRIC): entry / evaluation_weight if evaluation_weight > 0 else math.nan
        for name, entry in sums.items()
        if name.startswith(METRIC)
    }
    cap = encoding.weight_cap
    return Mean(
        update=update,
        weight=weight * cap,
        metrics=metrics,
        evaluation_weight=evaluation_weight * cap,
        clipped=sums[CLIPPED] / silos,
        saturated=round(sums[SATURATED]),
        worst_error=worst_error_of_mean(encoding, (evaluation_weight if update is None else weight) * cap),
        metric_error=worst_error_of_metrics(encoding, evaluation_weight * cap),
    )


def scaled_weight(name: str, weight: float, *, cap: float) -> float:
    """Return ``weight / cap``, which lies in 0 to 1.

    Raises:
        InputRefused: ``weight``: not a number, negative, NaN or over the cap.
    """
    try:
        number = float(weight)
    except (TypeError, ValueError):
        raise InputRefused("weight", f"{name} is not a number") from None
    if not 0 <= number <= cap:
        raise InputRefused("weight", f"{name} must lie in 0 to the weight cap {cap:g}")
    return number / cap


def saturate(name: str, value: float, *, bound: float) -> tuple[float, bool]:
    """Return a metric limited to ``bound``, and whether it lay outside.

    Raises:
        InputRefused: ``metric``: NaN or not a number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputRefused("metric", f"metric {name!r} is not a number") from None
    if math.isnan(number):
        raise InputRefused("metric", f"metric {name!r} is NaN")
    return max(-bound, min(number, bound)), abs(number) > bound


class _Clipping:
    """Clips a block that reaches beyond a bound, and counts the entries."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._wide = np.empty(BLOCK)
        self.entries = 0

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        if not np.isfinite(block).all():
            return block  # NaN and infinity are not clipped: the encoder refuses them.
        wide = self._wide[: block.size]
        np.copyto(wide, block)  # In float64, because the bound may fall between two float32s.
        self.entries += int(np.count_nonzero(wide < -self._bound) + np.count_nonzero(wide > self._bound))
        return np.clip(wide, -self._bound, self._bound, out=wide)
