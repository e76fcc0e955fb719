"""The coordinator's half of a round over ciphertexts: whom it names, what it waits for, what it believes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.encrypted import transcript
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.errors import FaultySilo, RoundAborted, TooFewSilos, UnexpectedMessage, UsageError
from secagg.messages import (
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    Opened,
    PartialDecryption,
    PartialsAnnounced,
    SignedUpload,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.scheme import Scheme
from secagg.session import SealedSum
from secagg.terms import training_digest
from tests.contract import Attempt, Contract, replays
from tests.federations import CKKS_4096, PAILLIER, THRESHOLD_PAILLIER, Driver, Fault, Federation

N = 4
ALL: tuple[SiloId, ...] = ("north", "south", "west", "east")
LOW_ORDER = bytes(32)
light_schemes = pytest.mark.parametrize(
    "scheme", [CKKS_4096, THRESHOLD_PAILLIER], ids=["CKKS", "ThresholdPaillier"]
)


def up_to(kind: type[FromSilo], scheme: Scheme, n: int = N) -> tuple[Attempt, dict[SiloId, Any]]:
    """Return an attempt and the first replies of one kind, which nobody has yet."""
    contract = Contract(scheme, EncryptedInput)
    here = Attempt(contract, contract.federation(n))
    while True:
        replies = here.turn()
        if any(isinstance(reply, kind) for reply in replies.values()):
            return here, replies
        here.take(replies)


def coordinator_of(here: Attempt) -> EncryptedCoordinator:
    return cast(EncryptedCoordinator, here.coordinator)


def blamed(here: Attempt, sender: SiloId, message: Any, why: str = "") -> None:
    """The message names its sender, of whom nothing more is taken."""
    with pytest.raises(FaultySilo, match=why) as fault:
        here.coordinator.receive(sender, message)
    assert fault.value.silo == sender
    assert sender not in here.coordinator.waiting
    with pytest.raises(UnexpectedMessage, match="has left"):
        here.coordinator.receive(sender, message)


def test_a_coordinator_is_made_for_terms_of_ciphertexts_and_their_key() -> None:
    federation = Federation(N, scheme=CKKS_4096)
    named: dict[str, Any] = {
        "terms": federation.terms,
        "adder": federation.adder,
        "attempt": 1,
        "seconds": 60.0,
    }
    EncryptedCoordinator(federation.roster, **named)
    plain = replace(federation.terms, scheme=Plain().parameters(N))
    other = replace(federation.terms, scheme=CKKS_4096.parameters(N, key=bytes(32)))
    for terms, why in ((plain, "not those of ciphertexts"), (other, "not the one that the terms name")):
        with pytest.raises(UsageError, match=why):
            EncryptedCoordinator(federation.roster, **(named | {"terms": terms}))


# --- uploads -----------------------------------------------------------------------------------------------


def signed_with(here: Attempt, silo: SiloId, upload: EncryptedInput, box: bytes | None) -> EncryptedInput:
    """Return an upload with another box, which its silo signed."""
    content = upload.upload.content
    fields = transcript.upload_fields(here.federation.adder, upload.round_id, silo, content, box)
    signature = here.federation.identities[silo].sign(transcript.UPLOAD, *fields)
    return replace(upload, upload=SignedUpload(content, box, signature))


@light_schemes
def test_a_wrong_upload_names_its_sender_and_the_round_goes_on(scheme: Scheme) -> None:
    here, uploads = up_to(EncryptedInput, scheme)
    good: EncryptedInput = uploads.pop("west")
    shares = scheme is THRESHOLD_PAILLIER
    wrong = [
        (replace(good, round_id=bytes(32)), "another round"),
        (replace(good, upload=replace(good.upload, content=bytes(32))), "not those that it signed"),
        (replace(good, upload=replace(good.upload, signature=bytes(64))), "not signed"),
        (replace(good, upload=replace(good.upload, box=bytes([9]) + bytes(31))), "not signed"),
        (signed_with(here, "west", good, None if shares else bytes([9]) + bytes(31)), "names a key to seal"),
    ]
    wrong += [(signed_with(here, "west", good, LOW_ORDER), "low order")] if shares else []
    for message, why in wrong:
        here = Attempt(here.contract, here.federation)
        blamed(here, "west", message, why)
    here.take(uploads)
    told = here.inbox["north"]
    assert isinstance(told, UploadsAnnounced)
    assert transcript.names(told.uploads) == ("north", "south", "east")


def test_where_one_key_opens_one_total_is_held_and_no_upload() -> None:
    """Guarantee: what was added is freed."""
    here, uploads = up_to(EncryptedInput, CKKS_4096)
    seen = []
    for silo in ALL:
        upload = uploads.pop(silo)
        seen.append(weakref.ref(upload.ciphertexts))
        here.coordinator.receive(silo, upload)
        del upload
    gc.collect()
    assert [ref() for ref in seen] == [None] * N


# --- signatures and parts ----------------------------------------------------------------------------------


def test_a_signature_that_is_not_over_the_set_names_its_sender() -> None:
    here, checks = up_to(ConsistencyCheck, CKKS_4096)
    blamed(here, "south", ConsistencyCheck(checks["south"].round_id, bytes(64)), "not valid")
    blamed(here, "west", checks["east"], "not valid")
    blamed(here, "east", replace(checks["east"], round_id=bytes(32)), "another round")
    with pytest.raises(TooFewSilos) as few:
        here.take({"north": checks["north"]})
    assert (few.value.have, few.value.need, few.value.phase) == (1, 3, "ConsistencyCheck")


def flipped(payload: Payload) -> Payload:
    content = payload.array().copy()
    content[0] ^= 1
    return Payload.of(content)


def test_a_part_of_another_form_names_its_sender_and_the_others_open() -> None:
    here, parts = up_to(PartialDecryption, THRESHOLD_PAILLIER)
    good: PartialDecryption = parts.pop("west")
    longer = Payload.of(np.zeros(good.sealed.length + 1, np.uint8))
    words = Payload.of(np.zeros(good.sealed.length, np.uint32))
    state = cast(Any, here.coordinator)._state
    for message, why in (
        (replace(good, round_id=bytes(32)), "another round"),
        (replace(good, boxes=good.boxes[1:]), "not sealed to each survivor"),
        (replace(good, boxes=good.boxes[::-1]), "not sealed to each survivor"),
        (replace(good, boxes=(*good.boxes[:3], ("z", good.boxes[3][1]))), "not sealed to each survivor"),
        (replace(good, sealed=longer), "another length"),
        (replace(good, sealed=words), "another length or type"),
    ):
        state.gate._struck.clear()
        blamed(here, "west", message, why)
    here.take(parts)
    told = here.inbox["north"]
    assert isinstance(told, PartialsAnnounced)
    assert [silo for silo, _ in told.boxes] == ["north", "south", "east"]
    assert set(here.inbox) == set(ALL)  # West's vector is in the sum, so west learns it too.
    said = here.turn()
    assert {type(reply) for reply in said.values()} == {Opened}
    here.take(said)
    assert here.sum_is_that_of(ALL)


def test_with_one_part_fewer_than_t_nothing_is_passed_on() -> None:
    here, parts = up_to(PartialDecryption, THRESHOLD_PAILLIER)
    for silo in ("north", "south"):
        here.coordinator.receive(silo, parts[silo])
    assert here.coordinator.advance(59.9).output == {}
    with pytest.raises(TooFewSilos) as few:
        here.coordinator.advance(60.0)
    assert (few.value.have, few.value.need, few.value.phase) == (2, 3, "PartialDecryption")
    assert few.value.missing == ("east", "west")
    assert here.coordinator.outcome is None
    assert all(silo.outcome is None for silo in here.silos.values())


# --- what silos say of the sum -----------------------------------------------------------------------------


def opening(n: int = N) -> tuple[Attempt, dict[SiloId, Opened]]:
    """Return an attempt that awaits Opened, and what its silos say of the sum."""
    here, said = up_to(Opened, CKKS_4096, n)
    return here, said


def finish(n: int, change: Callable[[dict[SiloId, Opened]], Mapping[SiloId, Opened]]) -> EncryptedCoordinator:
    here, said = opening(n)
    for silo, message in change(said).items():
        here.coordinator.receive(silo, message)
    here.coordinator.advance(60.0)
    return coordinator_of(here)


def other(base: int) -> bytes:
    return bytes([base]) * 32


def test_all_that_agree_are_believed_and_nobody_is_named() -> None:
    here, said = opening()
    here.take(said)
    assert here.coordinator.outcome == SealedSum(said["north"].base, ALL)
    assert coordinator_of(here).faulty == {}


def test_who_computed_another_model_is_named() -> None:
    done = finish(N, lambda said: said | {"west": replace(said["west"], base=other(1))})
    assert isinstance(done.outcome, SealedSum)
    assert done.outcome.base != other(1)
    assert done.faulty == {"west": "it computed another model from the sum than the others"}


@pytest.mark.parametrize("n", [4, 7])
def test_a_model_that_no_more_silos_name_than_may_collude_is_not_believed(n: int) -> None:
    """With n = 7, c = 2: two pairs and three single silos, where no pair has more than c."""
    scheme: Any = Federation(n, scheme=CKKS_4096).terms.scheme
    c = scheme.cohort.c
    with pytest.raises(RoundAborted, match="none is trusted") as aborted:
        finish(
            n,
            lambda said: {
                silo: replace(message, base=other(i // c)) for i, (silo, message) in enumerate(said.items())
            },
        )
    assert not isinstance(aborted.value, TooFewSilos)
    done = finish(
        n,
        lambda said: {
            silo: replace(message, base=other(0 if i <= c else i))
            for i, (silo, message) in enumerate(said.items())
        },
    )
    assert done.outcome is not None
    assert done.outcome.base == other(0)
    assert len(done.faulty) == n - c - 1


def test_a_silo_that_never_says_what_it_opened_is_not_waited_for_longer_than_the_phase() -> None:
    here, said = opening()
    del said["east"]
    for silo, message in said.items():
        here.coordinator.receive(silo, message)
    assert here.coordinator.waiting == {"east"}
    assert here.coordinator.advance(59.9).output == {}
    assert here.coordinator.outcome is None
    here.coordinator.advance(60.0)
    assert here.coordinator.outcome == SealedSum(said["north"].base, ALL)  # Its vector is in the sum.
    assert coordinator_of(here).faulty == {}


def test_as_many_as_may_collude_are_too_few_to_say_what_was_opened() -> None:
    with pytest.raises(TooFewSilos) as few:
        finish(N, lambda said: {"north": said["north"]})
    assert (few.value.have, few.value.need, few.value.phase) == (1, 2, "Opened")


def accused(by: Mapping[SiloId, tuple[SiloId, ...]]) -> list[SiloId]:
    done = finish(N, lambda said: {silo: replace(m, faulty=by.get(silo, ())) for silo, m in said.items()})
    return list(done.faulty)


def test_more_silos_than_may_collude_convict_and_fewer_do_not() -> None:
    assert accused({"north": ("west",), "south": ("west",)}) == ["west"]
    assert accused({"north": ("west",)}) == []
    assert accused({"north": ("west", "west", "west")}) == []  # One voice, however often.
    assert accused({"north": ("west",), "south": ("east",), "east": ("south",)}) == []
    assert accused({"north": ("stranger",), "south": ("stranger",)}) == []


def test_what_is_said_of_another_round_changes_nothing() -> None:
    here, said = opening()
    for message in (replace(said["west"], training=bytes(32)),):
        with pytest.raises(UnexpectedMessage, match="another round"):
            here.coordinator.receive("west", message)
    assert here.coordinator.waiting == set(ALL)
    here.take(said)
    assert here.coordinator.outcome is not None


def test_a_model_is_what_more_silos_than_may_collude_say_in_a_whole_round() -> None:
    """In a round the fault is in the report; a silo that is silent at the end is lost there."""
    federation = Federation(N, scheme=CKKS_4096)
    coordinator = federation.coordinator()
    faults: dict[tuple[SiloId, int, str], Fault] = {
        ("west", 1, "Opened"): "faulty",
        ("east", 1, "Opened"): "silent",
    }
    assert Driver(coordinator, federation.silos, faults).run() is None
    assert isinstance(coordinator.outcome, SealedSum)
    assert "another model" in coordinator.losses["west"]
    assert coordinator.losses["east"] == "Opened"
    assert coordinator.attempt == 1
    replays(federation, coordinator)


# --- late is not wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EncryptedInput, ConsistencyCheck])
def test_a_message_of_an_attempt_that_is_over_is_late_and_names_nobody(kind: type[FromSilo]) -> None:
    old, replies = up_to(kind, CKKS_4096)
    federation = old.federation
    for past, error in (({coordinator_of(old).round_id}, UnexpectedMessage), (set(), FaultySilo)):
        fresh = EncryptedCoordinator(
            federation.roster,
            terms=federation.terms,
            adder=federation.adder,
            attempt=2,
            seconds=60.0,
            past=past,
        )
        told = dict(fresh.open(0.0).output)
        if kind is ConsistencyCheck:
            for silo, message in told.items():
                upload: Any = old.contract.silo(federation, silo).receive(message).output
                fresh.receive(silo, upload)
            fresh.advance(0.0)
        with pytest.raises(error):
            fresh.receive("west", replies["west"])
        assert ("west" in fresh.waiting) == (error is UnexpectedMessage)


def test_a_round_knows_its_attempts_by_their_round_ids() -> None:
    """What was late in a first attempt is refused in the second, and its silo takes part in that."""
    federation = Federation(N, scheme=PAILLIER)
    coordinator = federation.coordinator()
    faults: dict[tuple[SiloId, int, str], Fault] = {
        ("west", 1, "ConsistencyCheck"): "silent",
        ("east", 1, "ConsistencyCheck"): "silent",
    }
    assert Driver(coordinator, federation.silos, faults).run() is None
    assert coordinator.attempt == 2
    uploads = [(s, m) for s, m in coordinator.log if isinstance(m, EncryptedInput)]
    assert len(uploads) == 2 * N
    assert len(set(coordinator.memory.encrypted)) == 2
    assert {upload.round_id for _, upload in uploads} == set(coordinator.memory.encrypted)
    assert training_digest(federation.terms) not in coordinator.memory.encrypted
