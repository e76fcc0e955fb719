"""``secure_sum`` and ``secure_mean``: only the sum, over the real protocol, in one process.

Every call makes fresh identities and a fresh base, so no call meets another call's lock. Nothing here
trains; ``secagg.learning`` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from secagg.errors import FaultyCoordinator, InputRefused, ParameterError, SecaggError
from secagg.estimates import check_memory
from secagg.explanation import annotate, explain, explained
from secagg.fixedpoint import Encoding, plan_sum, worst_error_of_sum
from secagg.hazmat.identity import IdentityKey
from secagg.local_keys import make_keys, policy_of
from secagg.masking.params import Masking
from secagg.messages import Opened
from secagg.names import IntegerVector, RealVector, SiloId, WordBits
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.ranges import check_callable, check_mapping
from secagg.records import SiloRecord
from secagg.report import RoundReport
from secagg.roster import Roster, check_silo
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import Traffic
from secagg.rounds.reporting import describe_round, reasons_of
from secagg.rounds.silo import Participant
from secagg.scheme import Scheme, check_scheme
from secagg.session import Aggregate
from secagg.simulation import Dropouts, SimulatedSilo, run_round
from secagg.terms import PlainParameters, SchemeParameters, Terms, scheme_tag, training_digest
from secagg.weighting import decode_mean, encode_mean, plan_mean, surely_below


@dataclass(frozen=True, eq=False)
class SumResult:
    """An opened sum.

    Attributes:
        total: float64, shape (length,): the sum of the vectors of ``survivors``.
        survivors: whose vectors are in it, in the order they were handed in.
        report: who could read what, bytes, seconds, head-room, worst error.
    """

    total: RealVector
    survivors: tuple[SiloId, ...]
    report: RoundReport


@dataclass(frozen=True, eq=False)
class MeanResult:
    """An opened weighted mean.

    Attributes:
        mean: float64, shape (length,).
        weight: total weight of ``survivors``, as opened.
        survivors: whose vectors are in it, in the order they were handed in.
        report: as of ``SumResult``.
    """

    mean: RealVector
    weight: float
    survivors: tuple[SiloId, ...]
    report: RoundReport


@explained()
def secure_sum(
    vectors: Mapping[SiloId, ArrayLike],
    *,
    scheme: Scheme | None = None,
    clip: float,
    dropouts: Dropouts | None = None,
    word_bits: WordBits | None = None,
    fraction_bits: int | None = None,
    precision: float | None = None,
    memory_limit: int | None = None,
    timer: Callable[[], float] | None = None,
) -> SumResult:
    """Sum one vector of every silo so that nobody sees a single one.

    Args:
        vectors: silo -> real vector, all of one length; every entry within ``clip``.
        scheme: the protection; None for ``Masking()``.
        clip: bound of one entry, > 0; larger values are refused, never cut.
        dropouts: silo -> phase in which it is lost; see ``simulation.PHASES``.
        word_bits: 32 or 64; None for 32 unless ``precision`` needs 64.
        fraction_bits: the step is 2**-fraction_bits; None for the finest that cannot wrap.
        precision: worst error of an entry of the sum that is accepted; None for any.
        memory_limit: bytes that all parties, which are in this process, may hold together; None for what the
            machine has.
        timer: measures the phases for the report, for example ``time.perf_counter``.

    Raises:
        ParameterError: fewer than 3 silos, unsafe c or t, no encoding that fits, or it would take more than
            ``memory_limit``; then the text names what fits.
        InputRefused: NaN, Inf, out of bound, wrong shape or dtype; before anything is sent.
        TooFewSilos: more silos were lost than the threshold allows; nothing was revealed.

    Guarantees:
        ``total`` is the exact sum of the encoded vectors; each entry was rounded by half a step at most.
    """
    scheme = Masking() if scheme is None else scheme
    check_parties("vectors", vectors, scheme)  # Refuse an unsafe cohort before a vector is looked at.
    _check_timer(timer)
    encoding = plan_sum(
        _common_length(vectors),
        clip=clip,
        cohort=len(vectors),
        word_bits=word_bits,
        fraction_bits=fraction_bits,
        precision=precision,
    )
    check_memory(scheme, encoding.length, len(vectors), memory_limit, word_bits=encoding.word_bits)

    def encode(silo: SiloId) -> IntegerVector:
        return encoding.encode({"sum": vectors[silo]})

    encoded = _encode_each(vectors, encode)
    run = _run(encoded, encoding, scheme, dropouts, timer)
    report = run.report(worst_error=worst_error_of_sum(encoding))
    return SumResult(encoding.decode(run.aggregate.total)["sum"], run.aggregate.survivors, report)


@explained()
def secure_mean(
    vectors: Mapping[SiloId, ArrayLike],
    *,
    weights: Mapping[SiloId, float],
    scheme: Scheme | None = None,
    clip: float,
    weight_cap: float = float(1 << 20),
    least_total_weight: float = 1.0,
    precision: float = 1e-6,
    dropouts: Dropouts | None = None,
    word_bits: WordBits | None = None,
    memory_limit: int | None = None,
    timer: Callable[[], float] | None = None,
) -> MeanResult:
    """Average one vector of every silo, weighted, so that nobody sees a vector or a weight.

    Args:
        vectors: as ``secure_sum``.
        clip: bound of one entry; entries beyond it are clipped, and their share is in the report.
        scheme: as ``secure_sum``.
        weights: silo -> weight, 0 to ``weight_cap``; opened only as their sum.
        weight_cap: the largest weight that any silo may have; public.
        least_total_weight: the smallest total weight to be planned for; public. Raising it, or lowering the
            cap, lets the planner use 4 bytes an entry instead of 8.
        precision: worst error of an entry of the mean that is accepted.
        dropouts: as ``secure_sum``.
        word_bits: as ``secure_sum``.
        memory_limit: as ``secure_sum``.
        timer: as ``secure_sum``.

    Raises:
        ParameterError: as ``secure_sum``, or ``weights`` names other silos.
        TooFewSilos: as ``secure_sum``.
        InputRefused: as ``secure_sum``, and for a weight outside its range.
        RoundAborted: the total weight is zero.
    """
    scheme = Masking() if scheme is None else scheme
    check_parties("vectors", vectors, scheme)
    _check_timer(timer)
    check_mapping("weights", weights, "silo name -> weight")
    if weights.keys() != vectors.keys():
        raise ParameterError("weights must name the same silos as vectors")
    encoding = plan_mean(
        _common_length(vectors),
        clip=clip,
        cohort=len(vectors),
        weight_cap=weight_cap,
        least_total_weight=least_total_weight,
        precision=precision,
        word_bits=word_bits,
    )
    check_memory(scheme, encoding.length, len(vectors), memory_limit, word_bits=encoding.word_bits)

    def encode(silo: SiloId) -> IntegerVector:
        update = np.asarray(vectors[silo])
        return encode_mean(
            encoding, update=update, weight=weights[silo], metrics={}, evaluation_weight=weights[silo]
        )

    encoded = _encode_each(vectors, encode)
    run = _run(encoded, encoding, scheme, dropouts, timer)
    mean = decode_mean(encoding, run.aggregate.total, silos=len(run.aggregate.survivors))
    report = run.report(
        worst_error=mean.worst_error,
        clipped=mean.clipped,
        weight=mean.weight,
        unmet=least_total_weight if surely_below(encoding, mean.weight, least_total_weight) else None,
    )
    return MeanResult(np.asarray(mean.values), mean.weight, run.aggregate.survivors, report)


def check_parties(name: str, silos: Mapping[SiloId, object], scheme: Scheme) -> None:
    """Check who takes part, and that ``scheme`` protects so many.

    Args:
        name: of the parameter ``silos``, for the text.
        silos: a mapping by silo names, as the user hands it in.
        scheme: as the user hands it in.

    Raises:
        ParameterError: another type, a name that no roster takes, or too few silos for the scheme.
    """
    check_mapping(name, silos, "one entry for each silo, by its name")
    for silo in silos:
        check_silo(silo)
    check_scheme(scheme)
    if not isinstance(scheme, Plain):
        scheme.cohort(len(silos))


def _check_timer(timer: object) -> None:
    if timer is not None:
        check_callable("timer", timer, "a function () -> seconds, for example time.perf_counter")


def _common_length(vectors: Mapping[SiloId, ArrayLike]) -> int:
    if not vectors:
        raise ParameterError("a sum needs at least one silo", parameter="n")
    lengths: set[int] = set()
    for silo, vector in vectors.items():
        try:
            shape = np.shape(vector)
        except ValueError:  # Rows of different lengths.
            shape = ()
        lengths.add(shape[0] if len(shape) == 1 else 0)
        if lengths == {0} or len(lengths) > 1:
            found = f"shape {shape}" if shape else "no shape"
            refused = InputRefused("shape", f"{silo}: the vector has {found}; all need one 1-D shape")
            annotate(refused, explain(refused, silo=silo, started=False))
            raise refused
    return lengths.pop()


def _encode_each(
    silos: Iterable[SiloId], encode: Callable[[SiloId], IntegerVector]
) -> dict[SiloId, IntegerVector]:
    encoded = {}
    for silo in silos:
        try:
            encoded[silo] = encode(silo)
        except InputRefused as error:
            refused = InputRefused(error.rule, f"{silo}: {error}")
            annotate(refused, explain(refused, silo=silo, started=False))
            raise refused from None  # The same, with its silo.
    return encoded


class _VectorHeld:
    """The workload of a bare sum: the vector is there already, and no model comes of it."""

    def __init__(self, vector: IntegerVector, base: bytes) -> None:
        self._vector = vector
        self._base = base

    def accept(self, terms: Terms) -> None:
        """Nothing to check: the caller made the terms."""

    def holds(self, terms: Terms) -> bytes | None:
        return self._base

    def base_size(self, terms: Terms) -> int:
        return 0

    def base(self, terms: Terms) -> Payload | None:
        return None

    def adopt(self, terms: Terms, base: Payload) -> None:
        raise FaultyCoordinator("a bare sum starts from no model")

    def confirm(self, terms: Terms) -> None:
        pass

    def vector(self, terms: Terms) -> IntegerVector:
        return self._vector

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        return Opened(training_digest(terms), self._base, aggregate.survivors, faulty)

    def said(self, terms: Terms) -> Opened | None:
        return None  # A bare sum moves nothing, and can be opened again.


@dataclass(frozen=True, eq=False)
class _Run:
    aggregate: Aggregate
    coordinator: RoundCoordinator
    terms: Terms
    traffic: Traffic

    def report(
        self,
        *,
        worst_error: float,
        clipped: float | None = None,
        weight: float | None = None,
        unmet: float | None = None,
    ) -> RoundReport:
        return describe_round(
            self.terms,
            self.aggregate.survivors,
            self.coordinator,
            self.traffic,
            worst_error=worst_error,
            clipped_share=clipped,
            total_weight=weight,
            unmet_weight=unmet,
        )


def _run(
    encoded: Mapping[SiloId, IntegerVector],
    encoding: Encoding,
    scheme: Scheme,
    dropouts: Dropouts | None,
    timer: Callable[[], float] | None,
) -> _Run:
    identities = {silo: IdentityKey.generate() for silo in encoded}
    roster = Roster.of({silo: identity.public for silo, identity in identities.items()})
    base = os.urandom(32)  # A lock holds per base, and every call is a release of its own.
    local = make_keys(scheme, roster, identities)
    terms = Terms(
        federation="local",
        job="sum",
        round=1,
        kind="sum",
        release=1,
        roster=roster.digest,
        base=base,
        scheme=local.parameters,
        encoding=encoding,
    )

    def silo_builder(silo: SiloId) -> Callable[[Iterable[SiloRecord]], Participant]:
        return lambda records: Participant(
            silo,
            identity=identities[silo],
            roster=roster,
            policy=policy_for(local.parameters),
            workload=_VectorHeld(encoded[silo], base),
            keys=local.keys.get(silo),
            records=records,
        )

    silos = {silo: SimulatedSilo(silo_builder(silo)) for silo in roster.silos}
    adder = None if local.adders is None else local.adders(encoding)
    coordinator = RoundCoordinator(roster, terms=terms, adder=adder, desk=local.desk(roster))
    try:
        aggregate, traffic = run_round(coordinator, silos, dropouts=dropouts, timer=timer)
    except SecaggError as error:
        protected = not isinstance(scheme, Plain)
        annotate(error, explain(error, reasons=reasons_of(coordinator), protected=protected))
        raise
    return _Run(aggregate, coordinator, terms, traffic)


def policy_for(parameters: SchemeParameters) -> Policy:
    """Return the policy of a simulated silo: what the caller chose is what its silos agree to."""
    cohort = None if isinstance(parameters, PlainParameters) else parameters.cohort
    return policy_of(scheme_tag(parameters), cohort)
