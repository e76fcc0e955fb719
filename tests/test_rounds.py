"""Rounds at both roles: what a silo does before it takes part, and how the coordinator tries again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg import wire
from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    InputRefused,
    MissingExtra,
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
    SecaggError,
    TooFewSilos,
    TrainerFailed,
    UnexpectedMessage,
    UsageError,
)
from secagg.heads import LedgerRefused
from secagg.masking import transcript
from secagg.masking.dealing import Dealt, deal
from secagg.masking.params import Masking
from secagg.masking.past import PastAttempt
from secagg.messages import (
    AdvertiseKeys,
    BaseRequested,
    BaseSent,
    BoxReport,
    ConsistencyCheck,
    FromSilo,
    KeysAnnounced,
    MaskedInput,
    PlainSum,
    Ready,
    Refused,
    RoundOpened,
    ShareKeys,
    ShareSet,
    SurvivorsAnnounced,
    TrainingOpened,
    Unmasking,
    Voided,
    VoidRequested,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.records import AttemptJoined, VoidSigned
from secagg.rounds.memory import MAX_PAST_ATTEMPTS, Memory
from secagg.rounds.silo import Participant, refusal
from secagg.survivors import LockRefused
from secagg.terms import training_digest
from tests.contract import replays
from tests.federations import FAULTS, MODEL, Driver, Fault, Federation, Tamper, Witness, roster_of, words

OTHER = Payload.of(np.arange(3.0))


def opened(federation: Federation, **changes: Any) -> TrainingOpened:
    return TrainingOpened(replace(federation.terms, **changes), 60.0)


def attempt(federation: Federation, number: int = 1) -> RoundOpened:
    return RoundOpened(training_digest(federation.terms), number, 60.0)


# --- a silo: before anything leaves -----------------------------------------------------------------------


def test_nothing_leaves_before_the_policy_accepted_the_terms() -> None:
    for model in (MODEL.digest, None):
        federation = Federation(5, policy=Policy(min_silos=6))
        federation.work["north"].model = model
        silo = federation.participant("north")
        with pytest.raises(PolicyRefused) as refused:
            silo.receive(opened(federation))
        assert refused.value.rule == "min_silos"
        assert federation.work["north"].trained == 0
        for message in (attempt(federation), BaseSent(MODEL.digest, MODEL)):
            with pytest.raises(UnexpectedMessage):
                silo.receive(message)
    federation = Federation(5, policy=Policy(min_silos=5))
    assert federation.participant("north").receive(opened(federation)).output == Ready(
        training_digest(federation.terms)
    )


def test_terms_refused_later_end_what_was_agreed_before() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    silo.receive(opened(federation))
    silo.receive(attempt(federation))
    with pytest.raises(PolicyRefused):
        silo.receive(opened(federation, roster=bytes(32)))
    for message in (attempt(federation, 2), KeysAnnounced(())):
        with pytest.raises(UnexpectedMessage):
            silo.receive(message)


def test_a_silo_that_holds_a_model_never_adopts_another() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    with pytest.raises(FaultyCoordinator, match="another base model"):
        silo.receive(opened(federation, base=OTHER.digest))
    with pytest.raises(UnexpectedMessage):
        silo.receive(BaseSent(OTHER.digest, OTHER))
    silo.receive(opened(federation))
    for sent in (BaseSent(OTHER.digest, OTHER), BaseSent(MODEL.digest, MODEL)):
        with pytest.raises(UnexpectedMessage):
            silo.receive(sent)
    assert federation.work["north"].candidate is None


def test_a_silo_without_a_model_asks_for_the_one_that_is_named() -> None:
    federation = Federation(4)
    work = federation.work["north"]
    work.model = None
    silo = federation.participant("north")
    assert silo.receive(opened(federation)).output == BaseRequested(MODEL.digest)
    assert work.trained == 0
    with pytest.raises(UnexpectedMessage):
        silo.receive(attempt(federation))
    with pytest.raises(UnexpectedMessage):
        silo.receive(BaseSent(OTHER.digest, OTHER))
    with pytest.raises(FaultyCoordinator):
        silo.receive(BaseSent(MODEL.digest, OTHER))
    assert work.candidate is None
    assert silo.receive(BaseSent(MODEL.digest, MODEL)).output == Ready(training_digest(federation.terms))
    assert work.trained == 1


def test_a_bogus_model_adopted_before_step_1_does_not_stick() -> None:
    """T silos sign one descriptor in step 1; until then a model of the coordinator's is a candidate only."""
    federation = Federation(4)
    work = federation.work["north"]
    work.model = None
    silo = federation.participant("north")
    bogus = replace(federation.terms, base=OTHER.digest)
    silo.receive(TrainingOpened(bogus, 60.0))
    assert silo.receive(BaseSent(OTHER.digest, OTHER)).output == Ready(training_digest(bogus))
    silo.receive(RoundOpened(training_digest(bogus), 1, 60.0))
    assert work.candidate == OTHER.digest
    assert work.model is None
    # The others never sign for it, so the true round comes next, and its model is taken.
    assert silo.receive(opened(federation)).output == BaseRequested(MODEL.digest)
    silo.receive(BaseSent(MODEL.digest, MODEL))
    assert work.candidate == MODEL.digest
    assert work.model is None


def test_keys_of_t_silos_confirm_a_model_and_forged_ones_do_not() -> None:
    for forged in (False, True):
        federation = Federation(4)
        federation.work["north"].model = None
        coordinator = federation.coordinator()

        def forge(reply: FromSilo, forged: bool = forged) -> FromSilo:
            if forged and isinstance(reply, AdvertiseKeys):
                return AdvertiseKeys(replace(reply.bundle, nonce=bytes(32)))
            return reply

        silo = federation.participant("north")
        silo.receive(opened(federation))
        silo.receive(BaseSent(MODEL.digest, MODEL))
        mine = silo.receive(attempt(federation)).output
        bundles = {}
        for name in federation.roster.silos[1:]:
            other = federation.participant(name)
            other.receive(opened(federation))
            reply = other.receive(attempt(federation)).output
            assert reply is not None
            changed = forge(reply)
            assert isinstance(changed, AdvertiseKeys)
            bundles[name] = changed.bundle
        assert isinstance(mine, AdvertiseKeys)
        announced = KeysAnnounced((("north", mine.bundle), *bundles.items()))
        assert coordinator.outcome is None
        if forged:
            with pytest.raises(FaultySiloOrCoordinator):
                silo.receive(announced)
            assert federation.work["north"].model is None
        else:
            silo.receive(announced)
            assert federation.work["north"].model == MODEL.digest


def test_a_silo_without_the_model_takes_part_in_the_round() -> None:
    for scheme in (Masking(), Plain()):
        federation = Federation(4, scheme=scheme)
        federation.work["south"].model = None
        total = federation.run(federation.coordinator())
        assert total.survivors == federation.roster.silos
        assert federation.work["south"].model == MODEL.digest
        assert len(federation.work["south"].applied) == 1


def test_one_set_of_terms_is_trained_once() -> None:
    """However often it is announced, and also after a crash: the cache is what the driver keeps on disk."""
    federation = Federation(4)
    silo = federation.participant("north")
    for _ in range(3):
        silo.receive(opened(federation))
    again = federation.participant("north")
    again.receive(opened(federation))
    again.receive(attempt(federation))
    assert federation.work["north"].trained == 1
    # Other terms are another training, and only the last vector is kept.
    again.receive(opened(federation, training=(("epochs", 2),)))
    assert federation.work["north"].trained == 2
    assert len(federation.caches["north"]) == 1


def test_an_attempt_is_joined_at_most_once_also_after_a_crash() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    silo.receive(opened(federation))
    step = silo.receive(attempt(federation))
    assert step.records == (AttemptJoined("tests", "job", 1, 1),)
    with pytest.raises(FaultyCoordinator, match="joined before"):
        silo.receive(attempt(federation))
    after = federation.participant("north", step.records)
    after.receive(opened(federation))
    with pytest.raises(FaultyCoordinator, match="joined before"):
        after.receive(attempt(federation))
    assert isinstance(after.receive(attempt(federation, 2)).output, AdvertiseKeys)


def test_an_attempt_needs_its_training() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    with pytest.raises(UnexpectedMessage):
        silo.receive(attempt(federation))
    silo.receive(opened(federation))
    with pytest.raises(FaultyCoordinator):
        silo.receive(RoundOpened(bytes(32), 1, 60.0))


def test_messages_outside_an_attempt_change_nothing() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    messages = (
        KeysAnnounced(()),
        SurvivorsAnnounced(bytes(32), ()),
        PlainSum(bytes(32), (), Payload.of(np.zeros(6, np.uint32))),
    )
    for _ in range(2):
        for message in messages:
            with pytest.raises(UnexpectedMessage):
                silo.receive(message)
        silo.receive(opened(federation))
    assert isinstance(silo.receive(attempt(federation)).output, AdvertiseKeys)


def test_only_a_pinned_identity_is_a_participant() -> None:
    roster, identities = roster_of(4)
    work = Federation(4).work["north"]
    for name, key in (("north", identities["south"]), ("stranger", identities["north"])):
        with pytest.raises(PolicyRefused) as refused:
            Participant(name, identity=key, roster=roster, policy=Policy(), workload=work)
        assert refused.value.rule == "roster"


def test_a_silo_voids_what_it_did_not_release() -> None:
    federation = Federation(4)
    silo = federation.participant("north")
    step = silo.receive(VoidRequested((bytes(32), bytes(32), b"\1" * 32)))
    assert step.records == (VoidSigned(bytes(32)), VoidSigned(b"\1" * 32))
    assert isinstance(step.output, Voided)
    assert [void.round_id for void in step.output.voids] == [bytes(32), b"\1" * 32]
    assert {void.silo for void in step.output.voids} == {"north"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LockRefused("text", ("west",)), Refused("lock", ("west",))),
        (PolicyRefused("min_silos", "text", ("west",)), Refused("min_silos")),
        (InputRefused("nan", "text"), Refused("input: nan")),
        (InputRefused("sampling", "text"), Refused("input: sampling")),
        (LedgerRefused("west", bytes(32), "text"), Refused("ledger", ("west",))),
        (MissingExtra("dp", "dp_accounting"), Refused("missing extra")),
        (PrivacyBudgetExhausted("text"), Refused("privacy budget")),
        (TrainerFailed("north", "text"), Refused("trainer")),
        (FaultySiloOrCoordinator("west", "text"), Refused("faulty silo or coordinator", ("west",))),
        (FaultyCoordinator("text"), Refused("faulty coordinator")),
        (EnvironmentFault("text"), Refused("error")),
        (UsageError("text"), Refused("error")),
    ],
)
def test_a_refusal_tells_the_rule_and_no_text(error: SecaggError, told: Refused) -> None:
    assert refusal(error) == told
    assert b"text" not in wire.encode(refusal(error))[0]


# --- the coordinator: training ----------------------------------------------------------------------------


def training(n: int = 4, **named: Any) -> tuple[Federation, Witness]:
    federation = Federation(n)
    coordinator = federation.coordinator(**named)
    assert set(coordinator.open(0.0).output) == set(federation.roster.silos)
    return federation, coordinator


def ready(federation: Federation) -> Ready:
    return Ready(training_digest(federation.terms))


def test_training_waits_for_everybody_until_its_deadline() -> None:
    federation, coordinator = training(training_seconds=100.0)
    for silo in ("north", "south", "west"):
        coordinator.receive(silo, ready(federation))
    assert coordinator.phase == "Training"
    assert coordinator.waiting == {"east"}
    assert coordinator.advance(99.0).output == {}
    assert set(coordinator.advance(100.0).output) == set(federation.roster.silos)
    assert coordinator.attempt == 1
    assert coordinator.losses == {"east": "Training"}
    assert "east" not in coordinator.waiting


def test_training_needs_t_silos() -> None:
    federation, coordinator = training(training_seconds=100.0)
    for silo in ("north", "south"):
        coordinator.receive(silo, ready(federation))
    with pytest.raises(TooFewSilos) as few:
        coordinator.advance(100.0)
    assert (few.value.have, few.value.need, few.value.phase) == (2, 3, "Training")


def test_a_refusal_in_training_ends_the_wait() -> None:
    federation, coordinator = training()
    for silo in ("north", "south", "west"):
        coordinator.receive(silo, ready(federation))
    coordinator.receive("east", Refused("lock", ("west", "south")))
    assert coordinator.losses == {"east": "refused: lock (needs west, south)"}
    coordinator.advance(0.0)
    assert coordinator.attempt == 1
    assert coordinator.waiting == {"north", "south", "west"}


def test_ready_for_other_terms_changes_nothing() -> None:
    """It may be of an earlier job: nothing in it is signed, and so it proves nothing."""
    _, coordinator = training()
    with pytest.raises(UnexpectedMessage, match="west is ready for other terms"):
        coordinator.receive("west", Ready(bytes(32)))
    assert "west" in coordinator.waiting
    assert not coordinator.losses


def test_late_ready_is_taken_into_the_next_attempt() -> None:
    federation, coordinator = training()
    for silo in ("north", "south", "west"):
        coordinator.receive(silo, ready(federation))
    coordinator.advance(1e6)
    assert coordinator.waiting == {"north", "south", "west"}
    coordinator.receive("east", ready(federation))
    assert coordinator.waiting == {"north", "south", "west"}
    assert coordinator.losses == {"east": "Training"}  # To this attempt it is lost.
    coordinator.advance(2e6)
    assert coordinator.attempt == 2
    assert coordinator.waiting == set(federation.roster.silos)


def test_a_lost_silo_is_not_awaited_until_it_is_heard_of() -> None:
    federation, coordinator = training()
    for silo in federation.roster.silos:
        coordinator.receive(silo, ready(federation))
    coordinator.advance(0.0)
    coordinator.lose("west")
    assert coordinator.losses["west"] == "AdvertiseKeys"
    coordinator.advance(1e6)
    assert coordinator.attempt == 2
    assert coordinator.waiting == {"north", "south", "east"}
    # A message that is not accepted changes nothing, so it does not count as being heard of.
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("west", Voided(()))
    coordinator.receive("west", ready(federation))
    coordinator.advance(2e6)
    assert coordinator.attempt == 3
    assert coordinator.waiting == set(federation.roster.silos)


def in_masked_input(federation: Federation) -> tuple[Witness, dict[SiloId, MaskedInput]]:
    """Return an attempt that waits for masked inputs, and those inputs, not yet handed in."""
    coordinator = federation.coordinator()
    inbox = dict(coordinator.open(0.0).output)
    while True:
        replies = {silo: federation.silos[silo].deliver(wire.encode(m)) for silo, m in inbox.items()}
        said = {silo: wire.decode_from_silo(*reply) for silo, reply in replies.items() if reply is not None}
        if coordinator.phase == "MaskedInput":
            return coordinator, {s: m for s, m in said.items() if isinstance(m, MaskedInput)}
        for silo, message in said.items():
            coordinator.receive(silo, message)
        inbox = dict(coordinator.advance(0.0).output)


def test_a_silo_whose_connection_was_lost_is_not_awaited_in_later_phases_until_it_is_heard_of() -> None:
    federation = Federation(5)
    coordinator, inputs = in_masked_input(federation)
    for silo in inputs:
        coordinator.receive(silo, inputs[silo])
    coordinator.lose("west")  # After its input: that stays in the sum.
    announced = coordinator.advance(0.0).output
    assert coordinator.phase == "ConsistencyCheck"
    assert coordinator.waiting == set(federation.roster.silos) - {"west"}
    reply = federation.silos["west"].deliver(wire.encode(announced["west"]))  # It is back, and counts.
    assert reply is not None
    coordinator.receive("west", wire.decode_from_silo(*reply))
    for silo in announced.keys() - {"west"}:
        reply = federation.silos[silo].deliver(wire.encode(announced[silo]))
        assert reply is not None
        coordinator.receive(silo, wire.decode_from_silo(*reply))
    coordinator.advance(0.0)
    assert coordinator.phase == "Unmasking"
    assert coordinator.waiting == set(federation.roster.silos)
    assert "west" not in coordinator.losses
    replays(federation, coordinator)


def test_a_silo_that_left_the_protocol_is_not_taken_back_within_the_phase() -> None:
    federation = Federation(5)
    coordinator, inputs = in_masked_input(federation)
    coordinator.lose("west", fault=UnexpectedMessage("its bytes were none"))
    with pytest.raises(UnexpectedMessage, match="west has left"):
        coordinator.receive("west", inputs["west"])
    coordinator.lose("south")
    coordinator.receive("south", inputs["south"])  # Merely lost: its input counts.
    assert coordinator.waiting == set(federation.roster.silos) - {"west", "south"}


def test_a_phase_waits_longer_while_bytes_move() -> None:
    federation, coordinator = training()
    coordinator.defer(1e9)
    assert coordinator.deadline == 1e9
    for silo in ("north", "south", "west"):
        coordinator.receive(silo, ready(federation))
    assert coordinator.advance(1e6).output == {}
    coordinator.advance(1e9)
    assert coordinator.phase == "AdvertiseKeys"
    coordinator.defer(2e9)
    assert coordinator.deadline == 2e9
    coordinator.defer(1.0)
    assert coordinator.deadline == 2e9


def test_a_restarted_coordinator_voids_what_it_asked_for_and_trains_nobody_again() -> None:
    """Its process ended while silos signed: that attempt is over, its number used, the round is not lost."""
    federation, memory = stopped_while_silos_signed()
    trained = {silo: federation.work[silo].trained for silo in federation.roster.silos}
    coordinator = federation.coordinator(memory=memory)
    opened = federation.run(coordinator, {"north": "MaskedInput"})
    assert coordinator.attempt == 2
    assert coordinator.memory.asked[0] == memory.asked[0]
    assert opened.survivors == tuple(silo for silo in federation.roster.silos if silo != "north")
    assert {silo: federation.work[silo].trained for silo in federation.roster.silos} == trained


@pytest.mark.parametrize("forgotten", [{"attempt": 0}, {"asked": ()}], ids=str)
def test_a_restarted_coordinator_needs_both_to_finish(forgotten: dict[str, Any]) -> None:
    """The control: without the voids the locks hold, without the number no silo joins again."""
    federation, memory = stopped_while_silos_signed()
    known = replace(memory, **forgotten)
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator(attempts=1, memory=known), {"north": "MaskedInput"})


def stopped_while_silos_signed() -> tuple[Federation, Memory]:
    federation = Federation(5)
    first, inputs = in_masked_input(federation)
    for silo in inputs:
        first.receive(silo, inputs[silo])
    announced = first.advance(0.0).output
    for silo in announced:  # Locked to a set that nobody will open.
        assert federation.silos[silo].deliver(wire.encode(announced[silo])) is not None
    return federation, first.memory


def test_what_ends_a_round_is_where_silos_were_lost_first() -> None:
    federation, coordinator = training()
    for silo in federation.roster.silos:
        coordinator.receive(silo, ready(federation))
    coordinator.advance(0.0)
    coordinator.lose("west")
    coordinator.advance(1e6)
    coordinator.advance(2e6)
    assert coordinator.attempt == 3
    with pytest.raises(TooFewSilos) as last:
        coordinator.advance(3e6)
    assert last.value.__cause__ is None
    assert last.value.phase == "AdvertiseKeys"
    assert last.value.missing == tuple(sorted(federation.roster.silos))


def test_a_failure_of_another_kind_has_the_first_one_as_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    federation, coordinator = training()
    for silo in federation.roster.silos:
        coordinator.receive(silo, ready(federation))
    coordinator.advance(0.0)
    coordinator.advance(1e6)
    monkeypatch.setattr(
        "secagg.masking.coordinator.MaskingCoordinator.advance",
        lambda *_: (_ for _ in ()).throw(RoundAborted("the count is wrong")),
    )
    coordinator.advance(2e6)
    with pytest.raises(RoundAborted, match="the count is wrong") as last:
        coordinator.advance(3e6)
    assert isinstance(last.value.__cause__, TooFewSilos)


def test_the_base_is_sent_to_whom_asks_for_it() -> None:
    _, coordinator = training()
    assert coordinator.receive("west", BaseRequested(MODEL.digest)).output == {
        "west": BaseSent(MODEL.digest, MODEL)
    }
    assert "west" in coordinator.waiting
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("west", BaseRequested(OTHER.digest))
    _, coordinator = training(base=None)
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("west", BaseRequested(MODEL.digest))


def test_a_round_is_used_once_and_in_order() -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    assert (coordinator.phase, coordinator.deadline, coordinator.waiting) == (None, None, frozenset())
    assert coordinator.advance(1e9).output == {}
    coordinator.lose("west")
    for message in (ready(federation), Refused("rule"), Voided(())):
        with pytest.raises(UnexpectedMessage):
            coordinator.receive("west", message)
    coordinator.open(0.0)
    with pytest.raises(UsageError):
        coordinator.open(0.0)
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("stranger", ready(federation))
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("west", Voided(()))

    coordinator = federation.coordinator()
    federation.run(coordinator)
    losses = dict(coordinator.losses)
    assert (coordinator.phase, coordinator.deadline, coordinator.waiting) == (None, None, frozenset())
    for message in (ready(federation), Refused("rule"), Voided(())):
        with pytest.raises(UnexpectedMessage):
            coordinator.receive("west", message)
    assert coordinator.losses == losses


# --- the coordinator: attempts ------------------------------------------------------------------------------


def loses(kind: type[FromSilo], times: int = 1) -> Tamper:
    """Return what loses the first messages of one kind."""
    left = [times]

    def tamper(reply: FromSilo) -> FromSilo | None:
        if isinstance(reply, kind) and left[0]:
            left[0] -= 1
            return None
        return reply

    return tamper


def heard(coordinator: Witness, kind: type[FromSilo]) -> list[tuple[SiloId, Any]]:
    return [(peer, message) for peer, message in coordinator.log if isinstance(message, kind)]


@pytest.mark.parametrize("kind", [AdvertiseKeys, MaskedInput, ConsistencyCheck, Unmasking])
def test_an_attempt_that_fails_costs_no_training(kind: type[FromSilo]) -> None:
    """The next one has new keys and masks, the same vectors and the same lock, and opens the sum."""
    federation = Federation(4)
    for silo in ("west", "east"):
        federation.silos[silo].tamper = loses(kind)
    coordinator = federation.coordinator()
    total = federation.run(coordinator)
    assert coordinator.attempt == 2
    assert total.total.tolist() == federation.sum_of(federation.roster.silos)
    assert [work.trained for work in federation.work.values()] == [1] * 4
    keys = [message.bundle.box for _, message in heard(coordinator, AdvertiseKeys)]
    uploads = [message.vector.digest for _, message in heard(coordinator, MaskedInput)]
    assert len(set(keys)) == len(keys) > 5
    assert len(set(uploads)) == len(uploads)
    replays(federation, coordinator)


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_the_number_of_attempts_is_bounded(attempts: int) -> None:
    federation = Federation(4)
    for silo in ("west", "east"):
        federation.silos[silo].tamper = loses(ConsistencyCheck, times=1000)
    coordinator = federation.coordinator(attempts=attempts)
    with pytest.raises(TooFewSilos) as few:
        federation.run(coordinator)
    assert coordinator.attempt == attempts
    assert few.value.phase == "ConsistencyCheck"
    assert federation.work["north"].trained == 1


def test_silos_that_were_lost_are_waited_for_if_there_is_no_sum_without_them() -> None:
    federation, coordinator = training()
    for silo in federation.roster.silos:
        coordinator.receive(silo, ready(federation))
    coordinator.advance(0.0)
    coordinator.lose("west")
    coordinator.lose("east")
    for number in (1, 2):
        coordinator.advance(number * 1e6)
        assert coordinator.attempt == number + 1
        assert coordinator.waiting == set(federation.roster.silos)
    with pytest.raises(TooFewSilos):
        coordinator.advance(3e6)


def locked_then_smaller(void_losers: int) -> tuple[Federation, Witness]:
    """All four sign S, two signatures are lost; next time "east" falls silent before its vector."""
    federation = Federation(4)
    silos = federation.roster.silos
    for silo in silos:
        tampers = []
        if silo in {"south", "west"}:
            tampers.append(loses(ConsistencyCheck))
        if silo in silos[:void_losers]:
            tampers.append(loses(Voided, times=9))
        if silo == "east":
            tampers.append(second_upload_lost())
        federation.silos[silo].tamper = in_turn(tampers)
    return federation, federation.coordinator()


def second_upload_lost() -> Tamper:
    seen = []

    def tamper(reply: FromSilo) -> FromSilo | None:
        if isinstance(reply, MaskedInput):
            seen.append(reply)
            return reply if len(seen) == 1 else None
        return reply

    return tamper


def in_turn(tampers: list[Tamper]) -> Tamper:
    def tamper(reply: FromSilo) -> FromSilo | None:
        changed: FromSilo | None = reply
        for one in tampers:
            changed = None if changed is None else one(changed)
        return changed

    return tamper


def test_voids_of_t_silos_lift_the_lock() -> None:
    federation, coordinator = locked_then_smaller(void_losers=1)
    total = federation.run(coordinator)
    assert coordinator.attempt == 2
    assert total.survivors == ("north", "south", "west")
    assert total.total.tolist() == federation.sum_of(total.survivors)
    [reopened] = {
        message.attempt: message
        for _, message in coordinator.log
        if isinstance(message, RoundOpened) and message.attempt == 2
    }.values()
    assert {void.silo for void in reopened.voids} == {"south", "west", "east"}
    assert all(not silo.errors for silo in federation.silos.values())
    replays(federation, coordinator)


def test_without_t_voids_the_lock_stays() -> None:
    federation, coordinator = locked_then_smaller(void_losers=2)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    assert coordinator.outcome is None
    for silo in ("north", "south", "west"):
        assert any(isinstance(error, LockRefused) for error in federation.silos[silo].errors)
        # The refusal names whose return would let the round finish.
        assert "needs east" in coordinator.losses[silo]
    assert coordinator.attempt <= 3
    replays(federation, coordinator)


def test_a_void_in_another_silos_name_names_its_sender() -> None:
    federation = Federation(5)
    coordinator = federation.coordinator()
    faults: dict[tuple[SiloId, int, str], Fault] = {
        ("west", 1, "ConsistencyCheck"): "silent",
        ("east", 1, "ConsistencyCheck"): "silent",
        ("south", 1, "Voided"): "faulty",
    }
    driver = Driver(coordinator, federation.silos, faults)
    assert driver.run() is None
    assert driver.named == {"south"}
    assert coordinator.losses["south"].startswith("faulty: ")
    assert coordinator.attempt == 2
    assert driver.now == 60.0  # The silent ones were waited for, the faulty one was not.
    replays(federation, coordinator)


# --- dealers that cheat -------------------------------------------------------------------------------------


def resigned(dealt: Dealt, named: dict[str, Any], **changes: Any) -> Dealt:
    unsigned = replace(dealt.share_set, signature=bytes(64), **changes)
    fields = transcript.share_set_fields(named["session"], named["dealer"], unsigned)
    signature = named["identity"].sign(transcript.SHARE, *fields)
    signed: ShareSet = replace(unsigned, signature=signature)
    return Dealt(signed, dealt.boxes, dealt.own)


def shares_of_another_seed(**named: Any) -> Dealt:
    """Every share matches its commitment; together they are not the seed that was committed to."""
    dealt = deal(**(named | {"seed": bytes(32)}))
    committed = transcript.seed_commitment(named["session"], named["dealer"], named["seed"])
    return resigned(dealt, named, seed=committed)


def bad_boxes_for(*victims: SiloId) -> Callable[..., Dealt]:
    """Return a dealer whose signed boxes for ``victims`` do not open."""

    def dealing(**named: Any) -> Dealt:
        dealt = deal(**named)
        junk = bytes(len(dealt.boxes[0][1]))
        boxes = tuple((p, junk, mask) if p in victims else (p, seed, mask) for p, seed, mask in dealt.boxes)
        entries = tuple(
            replace(entry, seed_box=transcript.box_digest(junk)) if entry.recipient in victims else entry
            for entry in dealt.share_set.entries
        )
        return resigned(Dealt(dealt.share_set, boxes, dealt.own), named, entries=entries)

    return dealing


def cheat(monkeypatch: pytest.MonkeyPatch, dealer: SiloId, dealing: Callable[..., Dealt]) -> None:
    def choose(**named: Any) -> Dealt:
        return dealing(**named) if named["dealer"] == dealer else deal(**named)

    monkeypatch.setattr("secagg.masking.silo.deal", choose)


def test_a_convicted_dealer_is_left_out_and_the_lock_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signed S with the cheat in it; with the evidence they open S without it, and no void is needed."""
    cheat(monkeypatch, "west", shares_of_another_seed)
    federation = Federation(5)
    coordinator = federation.coordinator()
    total = federation.run(coordinator)
    honest = ("north", "south", "east", "silo-04")
    assert coordinator.attempt == 2
    assert coordinator.excluded == {"west"}
    assert total.survivors == honest
    assert total.total.tolist() == federation.sum_of(honest)
    assert not heard(coordinator, Voided)
    invited = [p for p, m in coordinator.log if isinstance(m, RoundOpened) and m.attempt == 2]
    assert invited == list(honest)
    assert all(not federation.silos[silo].errors for silo in honest)
    assert coordinator.losses["west"].startswith("faulty: west")
    replays(federation, coordinator)


def test_a_dealer_reported_by_more_than_c_silos_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cheat(monkeypatch, "west", bad_boxes_for("north", "south"))
    federation = Federation(5)
    assert federation.c == 1
    coordinator = federation.coordinator()
    total = federation.run(coordinator)
    assert [peer for peer, _ in heard(coordinator, BoxReport)] == ["north", "south"]
    assert coordinator.attempt == 2
    assert coordinator.excluded == {"west"}
    assert total.survivors == ("north", "south", "east", "silo-04")
    assert total.total.tolist() == federation.sum_of(total.survivors)
    replays(federation, coordinator)


def test_c_reports_exclude_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """C silos may lie, so their word convicts no one: the reporter is lost for this attempt, as it said."""
    cheat(monkeypatch, "west", bad_boxes_for("north"))
    federation = Federation(5)
    coordinator = federation.coordinator()
    total = federation.run(coordinator)
    assert coordinator.attempt == 1
    assert coordinator.excluded == frozenset()
    assert total.survivors == ("south", "west", "east", "silo-04")


def test_one_silo_that_reports_in_every_attempt_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cheat(monkeypatch, "west", bad_boxes_for("north"))
    federation = Federation(5)
    for silo in ("east", "silo-04"):
        federation.silos[silo].tamper = loses(MaskedInput, times=2)
    coordinator = federation.coordinator()
    federation.run(coordinator)
    assert len(heard(coordinator, BoxReport)) == 3
    assert coordinator.excluded == frozenset()


# --- recovery is a replay -----------------------------------------------------------------------------------

KINDS = ("Ready", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking", "Voided")


@st.composite
def schedules(draw: st.DrawFn) -> dict[tuple[SiloId, int, str], Any]:
    keys = st.tuples(
        st.sampled_from(("north", "south", "west", "east", "silo-04")),
        st.sampled_from((0, 1, 1, 1, 2, 3)),
        st.sampled_from(KINDS),
    )
    return draw(st.dictionaries(keys, st.sampled_from(FAULTS), max_size=8))


@given(schedules(), st.sampled_from([Masking(), Plain()]))
def test_a_replay_says_every_word_again(faults: dict[Any, Any], scheme: Any) -> None:
    """Whatever was silent, lost, refused, faulty, repeated, stray or came back: the journal says it all."""
    federation = Federation(5, scheme=scheme)
    coordinator = federation.coordinator()
    driver = Driver(coordinator, federation.silos, faults)
    error = driver.run()
    assert (error is None) == (coordinator.outcome is not None)
    assert driver.named <= {silo for (silo, _, _), fault in faults.items() if fault == "faulty"}
    if coordinator.outcome is not None:
        assert coordinator.opened.total.tolist() == federation.sum_of(coordinator.outcome.survivors)
    assert all(work.trained == 1 for work in federation.work.values())
    replays(federation, coordinator)


@pytest.mark.parametrize("kind", KINDS[1:-1])
def test_a_faulty_sender_is_named_and_the_round_goes_on(kind: str) -> None:
    federation = Federation(5)
    coordinator = federation.coordinator()
    driver = Driver(coordinator, federation.silos, {("west", 1, kind): "faulty"})
    assert driver.run() is None
    assert driver.named == {"west"}
    assert coordinator.losses["west"].startswith("faulty: ")
    assert coordinator.attempt == 1
    assert driver.now == 0.0  # Nobody waited for a deadline.
    replays(federation, coordinator)


def test_a_replay_needs_what_was_lost() -> None:
    """The control: without the record that a faulty sender is awaited no more, a replay stops there."""
    federation = Federation(5)
    coordinator = federation.coordinator()
    assert Driver(coordinator, federation.silos, {("west", 1, "ShareKeys"): "faulty"}).run() is None
    coordinator.journal = [r for r in coordinator.journal if type(r).__name__ != "SiloLost"]
    with pytest.raises((AssertionError, UnexpectedMessage)):
        replays(federation, coordinator)


def test_a_participants_vector_is_the_cached_one_in_every_attempt() -> None:
    """A workload that would train to another vector the second time is not asked a second time."""
    federation = Federation(4)
    for silo in ("west", "east"):
        federation.silos[silo].tamper = loses(AdvertiseKeys)
    before = federation.sum_of(federation.roster.silos)

    def retrained(reply: FromSilo) -> FromSilo:
        federation.work["north"].given = words(5, 32, 99)
        return reply

    federation.silos["north"].tamper = retrained
    coordinator = federation.coordinator()
    assert federation.run(coordinator).total.tolist() == before
    assert coordinator.attempt == 2


# --- late is not wrong --------------------------------------------------------------------------------------


class Delaying(Driver):
    """Delivers one reply of west's first attempt only when the second attempt awaits its kind."""

    def __init__(self, *named: Any, kind: str) -> None:
        super().__init__(*named)
        self.kind = kind
        self.held: FromSilo | None = None
        self.said = ""

    def _suffer(self, silo: SiloId, reply: FromSilo) -> list[FromSilo]:
        if silo == "west" and type(reply).__name__ == self.kind:
            if self.coordinator.attempt == 1:
                self.held = reply
                return []
            assert self.held is not None
            with pytest.raises(UnexpectedMessage) as late:
                self.coordinator.receive(silo, self.held)
            self.said = str(late.value)
        return super()._suffer(silo, reply)


def delayed(kind: str) -> tuple[Federation, Witness, Delaying]:
    federation = Federation(5)
    coordinator = federation.coordinator()
    # With west and east silent three of four are there, so a second attempt follows.
    driver = Delaying(coordinator, federation.silos, {("east", 1, kind): "silent"}, kind=kind)
    assert driver.run() is None
    return federation, coordinator, driver


LATE = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking")


def check_late(kind: str) -> None:
    federation, coordinator, driver = delayed(kind)
    assert driver.said == "west: a message of an earlier attempt came late"
    assert coordinator.attempt == 2
    assert coordinator.outcome is not None
    assert "west" in coordinator.outcome.survivors
    assert coordinator.opened.total.tolist() == federation.sum_of(coordinator.outcome.survivors)
    assert not driver.named
    assert "west" not in coordinator.losses
    replays(federation, coordinator)


@pytest.mark.parametrize("kind", LATE)
def test_a_message_of_an_earlier_attempt_is_late_and_not_a_fault(kind: str) -> None:
    check_late(kind)


@pytest.mark.parametrize("kind", LATE)
def test_without_the_past_a_late_silo_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same delay costs an honest silo its name."""
    monkeypatch.setattr("secagg.masking.past.PastAttempt.has", lambda *_: False)
    with pytest.raises(AssertionError, match=r"FaultySilo.*west: "):
        check_late(kind)


def test_a_report_of_an_earlier_session_is_late_and_another_one_a_fault() -> None:
    federation = Federation(5)
    coordinator = federation.coordinator()
    assert not coordinator.memory.past  # before any attempt
    Driver(coordinator, federation.silos, {}).run()
    (first,) = coordinator.memory.past
    assert first.session is not None
    assert first.has(federation.roster, "west", BoxReport(first.session, "north"))
    assert not first.has(federation.roster, "west", BoxReport(bytes(32), "north"))
    nobody = PastAttempt(first.descriptor)
    assert not nobody.has(federation.roster, "west", BoxReport(first.session, "north"))
    assert not nobody.has(federation.roster, "west", ConsistencyCheck(bytes(32), bytes(64)))
    assert not first.has(federation.roster, "west", Ready(bytes(32)))


def test_another_silos_late_message_is_no_excuse() -> None:
    """Guarantee of ``has``: what is signed counts for its signer alone."""
    federation = Federation(5)
    coordinator = federation.coordinator()
    Driver(coordinator, federation.silos, {}).run()
    (first,) = coordinator.memory.past
    for kind in (AdvertiseKeys, ShareKeys):
        message = next(m for s, m in coordinator.log if s == "west" and isinstance(m, kind))
        assert first.has(federation.roster, "west", message)
        assert not first.has(federation.roster, "east", message)


def test_ready_for_an_earlier_round_is_late_and_not_a_fault() -> None:
    federation = Federation(4)
    before = federation.coordinator()
    Driver(before, federation.silos, {}).run()
    late = ready(federation)
    terms = replace(federation.terms, round=2)
    coordinator = federation.coordinator(terms=terms, memory=before.memory.next_round())
    coordinator.open(0.0)
    with pytest.raises(UnexpectedMessage, match="west is ready for other terms"):
        coordinator.receive("west", late)
    assert "west" in coordinator.waiting
    assert not coordinator.losses
    coordinator.receive("west", Ready(training_digest(terms)))
    assert "west" not in coordinator.waiting


def test_the_past_is_bounded() -> None:
    federation = Federation(4)
    past = tuple(PastAttempt(bytes([number]) * 32) for number in range(MAX_PAST_ATTEMPTS))
    coordinator = federation.coordinator(memory=Memory(past=past))
    Driver(coordinator, federation.silos, {}).run()
    assert len(coordinator.memory.past) == MAX_PAST_ATTEMPTS
    assert coordinator.memory.past[:-1] == past[1:]
