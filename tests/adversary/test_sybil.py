"""Attack ``sybil``: put keys of the coordinator's own in the place of silos'.

A coordinator that is everybody else holds every share that the victim deals and every mask key that it
masks towards. It also adds a silo, swaps keys between silos, between attempts and between roles, and shows
different rosters to different silos. Every key is signed by an identity that the victim pinned; the silo
whose key is not is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from secagg.errors import (
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    PolicyRefused,
    UnexpectedMessage,
)
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.masking import transcript
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.dealing import Dealt, deal
from secagg.messages import AdvertiseKeys, KeyBundle, KeysAnnounced, MaskedInput, SharesAnnounced
from secagg.names import SiloId
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from tests.adversary.harness import Attempt, Federation, Liar

VICTIM = "c"


@dataclass(frozen=True)
class Impostor:
    """The coordinator under another name."""

    silo: SiloId
    identity: IdentityKey
    box: AgreementKey
    mask: AgreementKey
    bundle: KeyBundle

    @classmethod
    def of(cls, silo: SiloId, descriptor: bytes) -> Impostor:
        identity = IdentityKey.generate()
        box, mask = AgreementKey.generate(), AgreementKey.generate()
        unsigned = KeyBundle(box.public, mask.public, bytes(32), b"")
        signature = identity.sign(transcript.ADVERTISE, *transcript.bundle_fields(descriptor, silo, unsigned))
        return cls(silo, identity, box, mask, KeyBundle(box.public, mask.public, bytes(32), signature))

    def deals(self, session: bytes, bundles: dict[SiloId, KeyBundle], federation: Federation) -> Dealt:
        return deal(
            session=session,
            dealer=self.silo,
            identity=self.identity,
            box=self.box,
            mask=self.mask,
            seed=bytes(32),
            peers={silo: bundle.box for silo, bundle in bundles.items()},
            roster=federation.roster,
            threshold=federation.cohort.t,
            random=federation.random,
        )


def attack(federation: Federation) -> None:
    """Be everybody else."""
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.advertise([VICTIM])
    impostors = {
        silo: Impostor.of(silo, attempt.descriptor) for silo in federation.roster.silos if silo != VICTIM
    }
    for impostor in impostors.values():
        federation.knowledge.learn(impostor.box, impostor.mask)
        attempt.bundles[impostor.silo] = impostor.bundle
    bundles = {silo: attempt.bundles[silo] for silo in federation.roster.silos}
    if not attempt.announce_keys(to=[VICTIM]):
        return
    dealt = {silo: i.deals(attempt.session, bundles, federation) for silo, i in impostors.items()}
    share_sets = {silo: d.share_set for silo, d in dealt.items()}
    share_sets[VICTIM] = attempt.dealt[VICTIM].share_set
    boxes = tuple(box for silo in dealt for box in sealed_to(VICTIM, silo, dealt[silo]))
    announced = tuple((silo, share_sets[silo]) for silo in federation.roster.silos)
    liar.ask([VICTIM], SharesAnnounced(announced, boxes), MaskedInput)


def sealed_to(recipient: SiloId, dealer: SiloId, dealt: Dealt) -> list[tuple[SiloId, bytes, bytes]]:
    return [(dealer, seed, mask) for silo, seed, mask in dealt.boxes if silo == recipient]


def check(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    assert not federation.knowledge.double_reveals(federation.cohort.t), "shares are sealed to a stranger"
    assert not federation.knowledge.uploads
    [error] = federation.silos[VICTIM].errors
    assert isinstance(error, FaultySiloOrCoordinator)
    assert error.silo == "a"  # The first in the roster's order whose key is not its own.


def test_sybil() -> None:
    federation = Federation(5)
    attack(federation)
    check(federation)


BUNDLES = ("secagg.masking.silo.bundle_fault", lambda *_: None)
SHARE_SETS = ("secagg.masking.silo.share_set_fault", lambda *_: None)


@pytest.mark.parametrize(
    ("mutants", "succeeds"),
    [
        ([BUNDLES], "shares are sealed to a stranger"),
        # The second signature alone would still keep the vector in.
        ([BUNDLES, SHARE_SETS], "the victim's vector"),
    ],
)
def test_sybil_mutant(
    monkeypatch: pytest.MonkeyPatch, mutants: list[tuple[str, Callable[..., None]]], succeeds: str
) -> None:
    for defence, mutant in mutants:
        monkeypatch.setattr(defence, mutant)
    federation = Federation(5)
    attack(federation)
    with pytest.raises(AssertionError, match=succeeds):
        check(federation)


# --- one key at a time -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A federation whose keys of two attempts are known, before the second are announced."""

    federation: Federation
    liar: Liar
    before: Attempt
    now: Attempt

    @classmethod
    def set(cls) -> Stage:
        federation = Federation(5)
        liar, terms = Liar(federation), federation.terms()
        liar.train(terms)
        before, now = Attempt(liar, terms, 1), Attempt(liar, terms, 2)
        before.advertise()
        before.announce_keys()
        now.advertise()
        return cls(federation, liar, before, now)


Tampering = Callable[[Stage], dict[SiloId, KeyBundle]]


def signed_by_another(stage: Stage) -> dict[SiloId, KeyBundle]:
    return stage.now.bundles | {"d": Impostor.of("d", stage.now.descriptor).bundle}


def swapped_between_silos(stage: Stage) -> dict[SiloId, KeyBundle]:
    bundles = stage.now.bundles
    return bundles | {"d": bundles["e"], "e": bundles["d"]}


def replayed(stage: Stage) -> dict[SiloId, KeyBundle]:
    return stage.now.bundles | {"d": stage.before.bundles["d"]}


def swapped_between_roles(stage: Stage) -> dict[SiloId, KeyBundle]:
    d = stage.now.bundles["d"]
    return stage.now.bundles | {"d": KeyBundle(d.mask, d.box, d.nonce, d.signature)}


def with_one_key_replaced(stage: Stage) -> dict[SiloId, KeyBundle]:
    d = stage.now.bundles["d"]
    return stage.now.bundles | {"d": KeyBundle(AgreementKey.generate().public, d.mask, d.nonce, d.signature)}


def with_another_nonce(stage: Stage) -> dict[SiloId, KeyBundle]:
    d = stage.now.bundles["d"]
    return stage.now.bundles | {"d": KeyBundle(d.box, d.mask, bytes(32), d.signature)}


@pytest.mark.parametrize(
    "tampering",
    [
        signed_by_another,
        swapped_between_silos,
        replayed,
        swapped_between_roles,
        with_one_key_replaced,
        with_another_nonce,
    ],
)
def test_every_key_is_its_owners(tampering: Tampering) -> None:
    stage = Stage.set()
    assert not stage.now.announce_keys(tampering(stage), to=[VICTIM])
    [error] = stage.federation.silos[VICTIM].errors
    assert isinstance(error, FaultySiloOrCoordinator)
    assert error.silo == "d"


def test_a_silo_knows_its_own_key() -> None:
    stage = Stage.set()
    assert not stage.now.announce_keys(
        stage.now.bundles | {VICTIM: stage.before.bundles[VICTIM]}, to=[VICTIM]
    )
    assert [type(error) for error in stage.federation.silos[VICTIM].errors] == [FaultyCoordinator]


@pytest.mark.parametrize("stranger", ["0", "cc", "z"])
def test_a_silo_that_nobody_pinned(stranger: SiloId) -> None:
    stage = Stage.set()
    bundles = stage.now.bundles | {stranger: Impostor.of(stranger, stage.now.descriptor).bundle}
    assert stage.liar.tell(VICTIM, KeysAnnounced(tuple(sorted(bundles.items())))) is not None
    [error] = stage.federation.silos[VICTIM].errors
    assert isinstance(error, FaultyCoordinator)
    assert f" {stranger}," in str(error)


def test_a_share_set_of_another_session() -> None:
    stage = Stage.set()
    stage.now.announce_keys()
    stage.now.dealt["d"] = stage.before.dealt["d"]
    assert not stage.now.announce_shares(to=[VICTIM])
    [error] = stage.federation.silos[VICTIM].errors
    assert isinstance(error, FaultySiloOrCoordinator)
    assert error.silo == "d"


def test_different_rosters_to_different_silos() -> None:
    federation = Federation(5)
    pinned = dict(federation.roster.members)
    for other in (
        pinned | {"d": IdentityKey.generate().public},  # another key
        {silo: pinned[silo] for silo in "abcde"[::-1]},  # other slots
        {silo: pinned[silo] for silo in "abcd"},  # one less
        pinned | {"f": IdentityKey.generate().public},  # one more
    ):
        liar = Liar(federation)
        liar.train(federation.terms(roster=Roster.of(other).digest), [VICTIM])
        error = federation.silos[VICTIM].errors.pop()
        assert isinstance(error, PolicyRefused)
        assert error.rule == "roster"
    assert not federation.silos[VICTIM].journal


def test_the_coordinator_names_a_silo_that_shows_keys_of_another() -> None:
    """The same checks at an honest coordinator name the sender alone."""
    stage = Stage.set()
    federation = stage.federation
    coordinator = MaskingCoordinator(federation.roster, terms=federation.terms(), attempt=2, seconds=60.0)
    coordinator.open(0.0)
    for tampering in (signed_by_another, swapped_between_roles, replayed):
        with pytest.raises(FaultySilo) as caught:
            coordinator.receive("d", AdvertiseKeys(tampering(stage)["d"]))
        assert caught.value.silo == "d"
        coordinator = MaskingCoordinator(federation.roster, terms=federation.terms(), attempt=2, seconds=60.0)
        coordinator.open(0.0)
    round = RoundCoordinator(federation.roster, terms=federation.terms())
    round.open(0.0)
    stranger: Any = Impostor.of("z", stage.now.descriptor).bundle
    with pytest.raises(UnexpectedMessage):
        round.receive("z", AdvertiseKeys(stranger))
