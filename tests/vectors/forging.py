"""What a party that leaves the protocol would send, well signed, in the attempt of ``world``."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from secagg.hazmat.agreement import AgreementKey
from secagg.masking import transcript
from secagg.masking.dealing import Dealt, deal
from secagg.messages import (
    KeyBundle,
    KeysAnnounced,
    ShareKeys,
    SharesAnnounced,
    ShareSet,
    SumOpened,
    SurvivorsAnnounced,
    UnmaskingRequested,
)
from secagg.names import RandomSource, SiloId
from tests.vectors import world
from tests.vectors.notation import Replay, fixed
from tests.vectors.world import COHORT, HONEST, IDENTITIES, ROSTER, TRAINING

DESCRIPTOR = transcript.descriptor_digest(TRAINING, world.ATTEMPT, world.SECONDS)
LOW_ORDER = (1).to_bytes(32, "little")


def signed_bundle(silo: SiloId, bundle: KeyBundle, *, descriptor: bytes = DESCRIPTOR) -> KeyBundle:
    """Return ``bundle`` signed by ``silo``, whatever is in it."""
    fields = transcript.bundle_fields(descriptor, silo, bundle)
    return replace(bundle, signature=IDENTITIES[silo].sign(transcript.ADVERTISE, *fields))


def signed_share_set(session: bytes, dealer: SiloId, share_set: ShareSet) -> ShareSet:
    """Return ``share_set`` signed by ``dealer``, whatever is in it."""
    fields = transcript.share_set_fields(session, dealer, share_set)
    return replace(share_set, signature=IDENTITIES[dealer].sign(transcript.SHARE, *fields))


def keys_of(silo: SiloId) -> tuple[AgreementKey, AgreementKey, bytes, RandomSource]:
    """Return the box key, mask key and seed that ``silo`` drew, and what it drew for its shares."""
    drawn = HONEST.random[silo].drawn
    box, mask = (AgreementKey.from_private_bytes(drawn[at : at + 32]) for at in (0, 32))
    return box, mask, drawn[96:128], Replay(drawn[128:])


def redealt(dealer: SiloId, session: bytes, **changes: Any) -> Dealt:
    """Return what ``dealer`` deals to the silos of the honest attempt, but for ``changes``."""
    box, mask, seed, random = keys_of(dealer)
    given: dict[str, Any] = {"mask": mask, "seed": seed, "random": random} | changes
    peers = {silo: bundle.box for silo, bundle in ANNOUNCED.bundles}
    return deal(
        session=session,
        dealer=dealer,
        identity=IDENTITIES[dealer],
        box=box,
        peers=peers,
        roster=ROSTER,
        threshold=COHORT.t,
        **given,
    )


def bad_dealing(dealer: SiloId) -> ShareKeys:
    """Return shares that open their commitments and are not shares of the advertised mask key."""
    dealt = redealt(dealer, SESSION, mask=AgreementKey.from_private_bytes(fixed("another mask key")))
    share_set = replace(dealt.share_set, mask=dict(ANNOUNCED.bundles)[dealer].mask)
    return ShareKeys(signed_share_set(SESSION, dealer, share_set), dealt.boxes)


def received(silo: SiloId, kind: type[Any]) -> Any:
    """Return the message of ``kind`` that ``silo`` was sent."""
    return next(message for message in HONEST.received[silo] if isinstance(message, kind))


ANNOUNCED: KeysAnnounced = received("b", KeysAnnounced)
SHARES: SharesAnnounced = received("b", SharesAnnounced)
SURVIVORS: SurvivorsAnnounced = received("b", SurvivorsAnnounced)
REQUESTED: UnmaskingRequested = received("b", UnmaskingRequested)
SUM: SumOpened = received("b", SumOpened)
SESSION = transcript.session_id(DESCRIPTOR, ANNOUNCED.bundles)
ROUND = SURVIVORS.round_id
