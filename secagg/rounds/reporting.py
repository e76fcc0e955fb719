"""What a round says of itself when it is over: the report of an opened sum, or why silos were missing."""

from __future__ import annotations

from collections.abc import Mapping

from secagg.names import SiloId
from secagg.privacy.spent import Spent
from secagg.report import RoundReport, SchemeName
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import Traffic
from secagg.terms import PlainParameters, SchemeParameters, SchemeTag, Terms, scheme_tag

_NAMES: Mapping[SchemeTag, SchemeName] = {
    "masking": "Masking",
    "paillier": "Paillier",
    "threshold-paillier": "ThresholdPaillier",
    "ckks": "CKKS",
    "plain": "Plain",
}


def reasons_of(coordinator: RoundCoordinator) -> dict[SiloId, str]:
    """Return silo -> why it is missing, for people, in roster order: where it was lost, or what is known."""
    losses = coordinator.losses
    return {
        silo: losses[silo] if ":" in losses[silo] else f"lost in {losses[silo]}"
        for silo in coordinator.roster.silos
        if silo in losses  # a bare phase, or "refused: ...", "faulty: ..."
    }


def scheme_name(parameters: SchemeParameters) -> SchemeName:
    """Return the name of a scheme as reports have it."""
    return _NAMES[scheme_tag(parameters)]


def describe_round(
    terms: Terms,
    survivors: tuple[SiloId, ...],
    coordinator: RoundCoordinator,
    traffic: Traffic,
    *,
    worst_error: float,
    metric_error: float | None = None,
    clipped_share: float | None = None,
    saturated: int | None = None,
    total_weight: float | None = None,
    unmet_weight: float | None = None,
    spent: Spent | None = None,
) -> RoundReport:
    """Return the report of a round that was opened."""
    losses = {**traffic.lost, **coordinator.losses}
    for silo in coordinator.roster.silos:
        if silo not in survivors:
            losses.setdefault(silo, "not in the set of an earlier attempt")
    cohort = None if isinstance(terms.scheme, PlainParameters) else terms.scheme.cohort
    return RoundReport(
        round=terms.round,
        scheme=scheme_name(terms.scheme),
        kind=terms.kind,
        n=terms.encoding.cohort,
        c=None if cohort is None else cohort.c,
        t=None if cohort is None else cohort.t,
        survivors=survivors,
        dropouts={silo: losses[silo] for silo in coordinator.roster.silos if silo in losses},
        attempts=coordinator.attempt,
        parameters=terms.encoding.length,
        word_bits=terms.encoding.word_bits,
        headroom_bits=terms.encoding.headroom_bits,
        worst_error=worst_error,
        metric_error=metric_error,
        clipped_share=clipped_share,
        saturated=saturated,
        total_weight=total_weight,
        unmet_weight=unmet_weight,
        spent=spent,
        bytes_up=dict(traffic.bytes_up),  # The driver goes on counting while the sum is handed out.
        bytes_down=dict(traffic.bytes_down),
        seconds=dict(traffic.seconds),
    )
