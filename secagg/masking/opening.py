"""From t answers to the streams that still lie on the sum, or to the proof that a dealer cheated.

The seed of a survivor gives its self mask; the mask key of a dropout gives what its peers added towards it.
Which of the two is recovered is decided by the survivor set alone.

Source: Bonawitz et al., CCS 2017, figure 4, round 4; "Blame" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.shamir import lagrange
from secagg.masking import transcript
from secagg.masking.checks import recover
from secagg.messages import DealerEvidence, Opening, ShareSet
from secagg.names import SiloId
from secagg.roster import Roster


@dataclass(frozen=True, repr=False)
class Streams:
    """Stream keys to add to and to subtract from the masked sum."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]


def kind_of(dealer: SiloId, survivors: tuple[SiloId, ...]) -> transcript.Kind:
    """Return which secret of ``dealer`` is recovered: the seed of a survivor, the mask key of a dropout."""
    return "seed" if dealer in survivors else "mask"


def remaining_streams(
    *,
    roster: Roster,
    session: bytes,
    round_id: bytes,
    share_sets: Mapping[SiloId, ShareSet],
    survivors: tuple[SiloId, ...],
    answers: Mapping[SiloId, Mapping[SiloId, Opening]],
) -> Streams | tuple[DealerEvidence, ...]:
    """Return the streams that lie on the sum of ``survivors``, or the evidence against every bad dealer.

    Args:
        roster: gives slots, and with them signs and share indices.
        session: of the attempt.
        round_id: of the attempt.
        share_sets: of U2.
        survivors: whose inputs are in the sum, in roster order.
        answers: exactly t silos -> dealer -> opening that matches its commitment.
    """
    weights = lagrange([roster.slot(silo) + 1 for silo in answers])
    plus: list[bytes] = []
    minus: list[bytes] = []
    evidence: list[DealerEvidence] = []
    for dealer, share_set in share_sets.items():
        kind = kind_of(dealer, survivors)
        openings = {silo: answer[dealer] for silo, answer in answers.items()}
        shares = [opening.share for opening in openings.values()]
        secret = recover(session, dealer, share_set, kind, weights, shares)
        if secret is None:
            evidence.append(DealerEvidence(dealer, session, share_set, kind, tuple(openings.items())))
        elif kind == "seed":
            minus.append(transcript.self_stream(secret, round_id, dealer))
        else:
            key = AgreementKey.from_private_bytes(secret)
            for stream, added in _towards(dealer, key, roster, round_id, share_sets, survivors):
                (minus if added else plus).append(stream)
    return tuple(evidence) if evidence else Streams(tuple(plus), tuple(minus))


def _towards(
    dropped: SiloId,
    key: AgreementKey,
    roster: Roster,
    round_id: bytes,
    share_sets: Mapping[SiloId, ShareSet],
    survivors: tuple[SiloId, ...],
) -> Iterator[tuple[bytes, bool]]:
    """Yield each survivor's stream towards a dropout, and whether the survivor added it."""
    for peer in survivors:
        adds = roster.slot(peer) < roster.slot(dropped)
        lower, higher = (peer, dropped) if adds else (dropped, peer)
        yield transcript.pair_stream(key, share_sets[peer].mask, round_id, lower=lower, higher=higher), adds
