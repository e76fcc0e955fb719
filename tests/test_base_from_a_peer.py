"""A base model that no coordinator has: a silo that lacks it is sent it by a peer, sealed, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.errors import FaultyCoordinator, FaultySilo, FaultySiloOrCoordinator, UnexpectedMessage
from secagg.hazmat.agreement import AgreementKey, seal
from secagg.hazmat.identity import IdentityKey
from secagg.messages import (
    BaseAsked,
    BaseForwarded,
    BaseSealed,
    BaseSent,
    BaseWanted,
    Ready,
    Refused,
    TrainingOpened,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.rounds.base_desk import MAX_BASES
from secagg.rounds.bases import sign_base_wanted
from secagg.rounds.silo import Participant, base_key
from secagg.terms import training_digest
from tests.federations import CKKS_4096, MODEL, Federation, Witness, seeded

LACKING = "north"
LOW_ORDER = bytes(32)


class Round:
    """Four silos in training, "north" without the base; the coordinator has none either."""

    def __init__(self) -> None:
        self.federation = Federation(4, scheme=CKKS_4096)
        self.federation.work[LACKING].model = None
        self.coordinator: Witness = self.federation.coordinator(base=None, sealed_base=MODEL.size)
        told = self.coordinator.open(0.0).output
        self.silos = {silo: self.federation.participant(silo) for silo in self.federation.roster.silos}
        self.said: dict[SiloId, Any] = {
            silo: self.silos[silo].receive(message).output for silo, message in told.items()
        }
        self.wanted: BaseWanted = self.said[LACKING]

    def take(self, silo: SiloId, message: Any) -> dict[SiloId, Any]:
        """Return what the coordinator says of one message."""
        return dict(self.coordinator.receive(silo, message).output)

    def ready(self, *silos: SiloId) -> dict[SiloId, Any]:
        """Let silos say that they are ready; return all that the coordinator says."""
        told: dict[SiloId, Any] = {}
        for silo in silos:
            told |= self.take(silo, self.said[silo])
        return told

    def restarted(self) -> BaseWanted:
        """Start the process of "north" again, and return what it asks for."""
        self.silos[LACKING] = self.federation.participant(LACKING)
        self.coordinator.lose(LACKING)
        asked: Any = self.silos[LACKING].receive(self.coordinator.invitation).output
        assert isinstance(asked, BaseWanted)
        return asked

    def sealed_by(self, silo: SiloId, told: dict[SiloId, Any]) -> BaseSealed:
        reply: Any = self.silos[silo].receive(told[silo]).output
        assert isinstance(reply, BaseSealed)
        return reply


def asked() -> tuple[Round, dict[SiloId, Any]]:
    """A round in which west is asked for the base: the one that was ready last."""
    here = Round()
    assert here.take(LACKING, here.wanted) == {}
    told = here.ready("south")
    assert told == {"south": BaseAsked(MODEL.digest, LACKING, here.wanted.box, here.wanted.signature)}
    return here, told


# --- the way -----------------------------------------------------------------------------------------------


def test_a_silo_without_the_base_gets_it_from_a_peer_and_nobody_between_them_reads_it() -> None:
    here, told = asked()
    sealed = here.sealed_by("south", told)
    forwarded = here.take("south", sealed)
    assert forwarded == {LACKING: BaseForwarded(MODEL.digest, "south", sealed.box, sealed.sealed)}
    content = MODEL.buffer()[:].tobytes()
    assert not any(content[:16] in seen for seen in here.coordinator.traffic())
    assert here.silos[LACKING].receive(forwarded[LACKING]).output == Ready(
        training_digest(here.federation.terms)
    )
    assert here.federation.work[LACKING].candidate == MODEL.digest


def test_the_round_that_follows_has_the_silo_in_its_sum() -> None:
    federation = Federation(4, scheme=CKKS_4096)
    federation.work[LACKING].model = None
    coordinator = federation.coordinator(base=None, sealed_base=MODEL.size)
    total = federation.run(coordinator)
    assert total.survivors == federation.roster.silos
    assert federation.work[LACKING].model == MODEL.digest  # t silos signed for it.


def test_nobody_is_asked_before_it_is_ready_and_the_last_one_is_asked_first() -> None:
    here = Round()
    here.ready("south", "west")
    assert list(here.take(LACKING, here.wanted)) == ["west"]


def test_where_the_coordinator_has_the_base_it_sends_it_itself() -> None:
    here = Round()
    coordinator = here.federation.coordinator()
    coordinator.open(0.0)
    assert coordinator.receive(LACKING, here.wanted).output == {LACKING: BaseSent(MODEL.digest, MODEL)}


# --- losses ------------------------------------------------------------------------------------------------


def test_a_holder_that_is_lost_is_replaced_at_once() -> None:
    here, _ = asked()
    here.ready("west", "east")
    told = here.coordinator.lose("south").output
    assert list(told) == ["east"]
    assert list(here.coordinator.lose("east").output) == ["west"]
    with pytest.raises(UnexpectedMessage, match="was not asked for"):
        here.take("east", BaseSealed(MODEL.digest, LACKING, here.wanted.box, bytes(32), MODEL))


def test_a_holder_that_refuses_the_round_is_replaced_at_once() -> None:
    here, _ = asked()
    here.ready("west")
    assert list(here.take("south", Refused("trainer"))) == ["west"]


def test_without_another_holder_the_next_that_is_ready_is_asked() -> None:
    here, _ = asked()
    assert here.coordinator.lose("south").output == {}
    assert list(here.ready("east")) == ["east"]


def test_a_silo_that_restarts_is_sent_what_it_can_open() -> None:
    """What a peer sealed to the key of its last process comes later, and is not passed on."""
    here, told = asked()
    late = here.sealed_by("south", told)
    again = here.restarted()
    assert again.box != here.wanted.box
    asks = here.take(LACKING, again)
    assert list(asks) == ["south"]
    with pytest.raises(UnexpectedMessage, match="was not asked for"):
        here.take("south", late)
    forwarded = here.take("south", here.sealed_by("south", asks))
    assert isinstance(here.silos[LACKING].receive(forwarded[LACKING]).output, Ready)


def test_a_silo_that_was_out_of_reach_is_still_sent_it() -> None:
    here, told = asked()
    here.coordinator.lose(LACKING)
    forwarded = here.take("south", here.sealed_by("south", told))
    assert isinstance(here.silos[LACKING].receive(forwarded[LACKING]).output, Ready)


def test_one_silo_is_helped_a_bounded_number_of_times() -> None:
    here = Round()
    here.ready("south")
    for _ in range(MAX_BASES):
        assert list(here.take(LACKING, here.wanted)) == ["south"]
    with pytest.raises(UnexpectedMessage, match=f"{MAX_BASES} times"):
        here.take(LACKING, here.wanted)


# --- lies --------------------------------------------------------------------------------------------------


def test_a_request_that_its_silo_did_not_sign_names_who_sends_it_and_costs_no_holder() -> None:
    for forged in (
        lambda wanted: replace(wanted, signature=bytes(64)),
        lambda wanted: replace(wanted, box=AgreementKey.generate(seeded(9)).public),
        lambda wanted: sign_base_wanted(IdentityKey.generate(), LACKING, wanted.base, wanted.box),
    ):
        here = Round()
        here.ready("south")
        with pytest.raises(FaultySilo, match="not signed by it") as fault:
            here.take(LACKING, forged(here.wanted))
        assert fault.value.silo == LACKING
        assert here.coordinator.losses[LACKING].startswith("faulty: ")
        assert LACKING not in here.coordinator.waiting


def test_a_request_for_another_silo_names_who_sends_it() -> None:
    here = Round()
    with pytest.raises(FaultySilo) as fault:
        here.take("east", here.wanted)
    assert fault.value.silo == "east"


def test_a_request_with_a_key_of_low_order_names_who_sends_it() -> None:
    here = Round()
    identity = here.federation.identities[LACKING]
    with pytest.raises(FaultySilo, match="low order") as fault:
        here.take(LACKING, sign_base_wanted(identity, LACKING, MODEL.digest, LOW_ORDER))
    assert fault.value.silo == LACKING


def test_a_request_for_another_base_changes_nothing() -> None:
    here = Round()
    here.ready("south")
    identity = here.federation.identities[LACKING]
    with pytest.raises(UnexpectedMessage, match="does not start from"):
        here.take(LACKING, sign_base_wanted(identity, LACKING, bytes(32), here.wanted.box))
    assert list(here.take(LACKING, here.wanted)) == ["south"]


@pytest.mark.parametrize(
    "change",
    [
        lambda asked: replace(asked, signature=bytes(64)),
        lambda asked: replace(asked, box=bytes([9]) + bytes(31)),
        lambda asked: replace(asked, silo="east"),
        lambda asked: replace(asked, silo="stranger"),
    ],
)
def test_a_holder_seals_to_what_a_pinned_identity_signed_or_not_at_all(change: Any) -> None:
    here, told = asked()
    wrong = change(told["south"])
    with pytest.raises(FaultySiloOrCoordinator, match="not signed by it") as fault:
        here.silos["south"].receive(wrong)
    assert fault.value.silo == wrong.silo


def test_a_holder_is_asked_for_what_it_holds() -> None:
    here, told = asked()
    with pytest.raises(UnexpectedMessage, match="does not hold"):
        here.silos["south"].receive(replace(told["south"], base=bytes(32)))
    with pytest.raises(UnexpectedMessage, match="does not hold"):
        here.silos[LACKING].receive(told["south"])
    with pytest.raises(UnexpectedMessage, match="does not hold"):  # Before any terms.
        here.federation.participant("south").receive(told["south"])


def forwarding() -> tuple[Round, BaseForwarded]:
    here, told = asked()
    forwarded = here.take("south", here.sealed_by("south", told))[LACKING]
    assert isinstance(forwarded, BaseForwarded)
    return here, forwarded


def flipped(payload: Payload) -> Payload:
    content = payload.array().copy()
    content[-1] ^= 1
    return Payload.of(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: replace(told, sealed=flipped(told.sealed)),
        lambda told: replace(told, sealed=Payload.of(told.sealed.array()[:-1])),
        lambda told: replace(told, sealed=Payload.of(np.zeros(3, np.uint8))),
        lambda told: replace(told, box=AgreementKey.generate(seeded(9)).public),
        lambda told: replace(told, box=LOW_ORDER),
    ],
)
def test_a_base_that_was_tampered_with_is_asked_for_again_and_its_holder_doubted(change: Any) -> None:
    here, forwarded = forwarding()
    silo = here.silos[LACKING]
    again = silo.receive(change(forwarded)).output
    assert isinstance(again, BaseWanted)
    assert again.box != here.wanted.box
    assert doubted(silo) == "south"
    assert here.federation.work[LACKING].candidate is None
    silo.receive(forwarded)  # What is sealed to the first key is opened no more.
    assert doubted(silo) == "south"
    assert here.federation.work[LACKING].candidate is None


def doubted(silo: Participant) -> SiloId | None:
    return None if silo.doubted is None else silo.doubted.silo


def test_after_as_many_tries_as_there_are_other_silos_it_refuses_and_names_the_last_holder() -> None:
    here, forwarded = forwarding()
    silo, wrong = here.silos[LACKING], replace(forwarded, sealed=flipped(forwarded.sealed))
    for _ in range(2):
        assert isinstance(silo.receive(wrong).output, BaseWanted)
    with pytest.raises(FaultySiloOrCoordinator, match="the base model that it sealed") as fault:
        silo.receive(replace(wrong, holder="east"))
    assert fault.value.silo == "east"
    assert doubted(silo) is None
    with pytest.raises(UnexpectedMessage):
        silo.receive(forwarded)
    assert isinstance(silo.receive(here.coordinator.invitation).output, BaseWanted)
    assert isinstance(silo.receive(wrong).output, BaseWanted)  # For terms that are told anew it counts anew.


def test_a_holder_that_seals_something_else_keeps_nobody_from_the_base() -> None:
    """South is ready first and alone: it is not asked again while others may come to hold the base."""
    here, told = asked()
    south = here.sealed_by("south", told)
    forwarded = here.take("south", replace(south, sealed=flipped(south.sealed)))
    again: Any = here.silos[LACKING].receive(forwarded[LACKING]).output
    assert here.take(LACKING, again) == {}
    assert LACKING in here.coordinator.waiting
    told = here.ready("west")
    assert told == {"west": BaseAsked(MODEL.digest, LACKING, again.box, again.signature)}
    forwarded = here.take("west", here.sealed_by("west", told))
    reply: Any = here.silos[LACKING].receive(forwarded[LACKING]).output
    here.take(LACKING, reply)
    assert here.ready("east") == {}
    assert here.coordinator.waiting == frozenset()
    assert here.coordinator.losses == {}


@pytest.mark.parametrize("liar", ["south", "west", "east"])
def test_a_round_has_all_silos_in_its_sum_although_one_seals_another_base(liar: SiloId) -> None:
    federation = Federation(4, scheme=CKKS_4096)
    federation.work[LACKING].model = None
    federation.silos[liar].tamper = lambda reply: (
        replace(reply, sealed=flipped(reply.sealed)) if isinstance(reply, BaseSealed) else reply
    )
    coordinator = federation.coordinator(base=None, sealed_base=MODEL.size)
    assert federation.run(coordinator).survivors == federation.roster.silos
    assert coordinator.losses == {}
    assert all(silo.errors == [] for silo in federation.silos.values())


def sealed_to(here: Round, content: bytes) -> BaseForwarded:
    """What a holder that lies seals: it opens, and is something else."""
    own = AgreementKey.generate(seeded(8))
    sealed = seal(base_key(own, here.wanted.box, MODEL.digest, LACKING), content)
    return BaseForwarded(
        MODEL.digest, "south", own.public, Payload.over("u1", len(sealed), memoryview(sealed))
    )


@pytest.mark.parametrize(
    "content", [np.arange(3.0).tobytes(), MODEL.buffer()[:].tobytes() + b"123", b"", b"1234567"]
)
def test_a_base_with_another_digest_is_not_adopted_and_its_holder_doubted(content: bytes) -> None:
    here, _ = forwarding()
    assert isinstance(here.silos[LACKING].receive(sealed_to(here, content)).output, BaseWanted)
    assert doubted(here.silos[LACKING]) == "south"
    assert here.federation.work[LACKING].candidate is None


def test_what_was_sealed_is_taken_if_it_is_the_base() -> None:
    """The control of the test above."""
    here, _ = forwarding()
    sealed = sealed_to(here, MODEL.buffer()[:].tobytes())
    assert isinstance(here.silos[LACKING].receive(sealed).output, Ready)


@pytest.mark.parametrize("holder", [LACKING, "stranger"])
def test_a_base_of_no_peer_names_the_coordinator(holder: SiloId) -> None:
    here, forwarded = forwarding()
    with pytest.raises(FaultyCoordinator):
        here.silos[LACKING].receive(replace(forwarded, holder=holder))
    assert doubted(here.silos[LACKING]) is None


def test_a_base_that_was_not_asked_for_changes_nothing() -> None:
    here, forwarded = forwarding()
    fresh: Participant = here.federation.participant(LACKING)
    for silo in (here.silos["west"], fresh):
        with pytest.raises(UnexpectedMessage):
            silo.receive(forwarded)
    fresh.receive(TrainingOpened(here.federation.terms, 60.0))
    with pytest.raises(UnexpectedMessage):
        fresh.receive(replace(forwarded, base=bytes(32)))


def test_the_coordinator_passes_on_only_what_it_asked_for() -> None:
    here, told = asked()
    sealed = here.sealed_by("south", told)
    for sender, wrong in (
        ("west", sealed),
        ("south", replace(sealed, silo="west")),
        ("south", replace(sealed, base=bytes(32))),
        ("south", replace(sealed, wanted=bytes(32))),
    ):
        with pytest.raises(UnexpectedMessage, match="was not asked for"):
            here.take(sender, wrong)
    with pytest.raises(FaultySilo, match="low order") as fault:
        here.take("south", replace(sealed, box=LOW_ORDER))
    assert fault.value.silo == "south"
