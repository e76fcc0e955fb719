"""The lock of rounds over ciphertexts: one set for one base, until as many silos voided as could have opened.

Where every silo holds the key any one can open, so all n must void; where t open together, t. What a silo
signed, released and voided outlives its process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_policy
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.errors import RoundAborted
from secagg.masking.params import Masking
from secagg.messages import (
    AdvertiseKeys,
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    Opened,
    OpeningRequested,
    PartialDecryption,
    RoundOpened,
    TrainingOpened,
    UploadsAnnounced,
    Void,
    Voided,
    VoidRequested,
)
from secagg.names import SiloId
from secagg.records import LockLifted, Released, SetSigned, SiloRecord, VoidSigned
from secagg.rounds.silo import Participant, answer
from secagg.scheme import Scheme
from secagg.survivors import LockRefused, sign_void
from secagg.terms import training_digest, voids_needed
from silo.journal import Journal
from tests.federations import CKKS_4096, PAILLIER, THRESHOLD_PAILLIER, Federation, Tamper, Witness

N = 4
ALL: tuple[SiloId, ...] = ("north", "south", "west", "east")
FEWER = ALL[:3]
NEEDED: dict[str, tuple[Scheme, int]] = {
    "Paillier": (PAILLIER, 4),
    "CKKS": (CKKS_4096, 4),
    "ThresholdPaillier": (THRESHOLD_PAILLIER, 3),
}
each_scheme = pytest.mark.parametrize(("scheme", "needed"), NEEDED.values(), ids=NEEDED)
light_schemes = pytest.mark.parametrize(
    ("scheme", "needed"), [NEEDED["CKKS"], NEEDED["ThresholdPaillier"]], ids=["CKKS", "ThresholdPaillier"]
)


class Site:
    """One silo with a journal on disk, in a federation of which the others are sessions too."""

    def __init__(self, federation: Federation, folder: Path, silo: SiloId = "north") -> None:
        self.federation = federation
        self.silo = silo
        self.folder = folder
        self.records: list[SiloRecord] = []
        self.start()

    def start(self) -> None:
        """Begin a process with what the journal of the last one has."""
        self.journal = Journal(self.folder / self.silo, roster=self.federation.roster.digest)
        self.participant = self.federation.participant(self.silo, self.journal.records)
        self.say(TrainingOpened(self.federation.terms, 60.0))

    def restart(self) -> None:
        self.journal.close()
        self.start()

    def say(self, message: Any) -> Any:
        """Deliver a message as a silo's process does; return the reply, or raise what made it refuse."""

        def sync(records: Sequence[SiloRecord]) -> None:
            self.journal.sync(records)
            self.records += records

        reply, error = answer(self.participant, wire.encode(message), sync)
        if error is not None:
            raise error
        return None if reply is None else wire.decode_from_silo(*reply)


class Attempts:
    """Attempts of one round, as far as "north" is concerned."""

    def __init__(self, scheme: Scheme, folder: Path) -> None:
        self.federation = Federation(N, scheme=scheme)
        self.site = Site(self.federation, folder)
        self.others: dict[SiloId, Participant] = {}
        for silo in ALL[1:]:
            self.others[silo] = self.federation.participant(silo)
            self.others[silo].receive(TrainingOpened(self.federation.terms, 60.0))

    def open(
        self, number: int, survivors: Sequence[SiloId] = ALL, voids: tuple[Void, ...] = ()
    ) -> tuple[EncryptedCoordinator, UploadsAnnounced]:
        """Open an attempt, take the uploads of ``survivors``; return what they are to sign."""
        federation = self.federation
        coordinator = EncryptedCoordinator(
            federation.roster,
            terms=federation.terms,
            adder=federation.adder,
            attempt=number,
            seconds=60.0,
            voids=voids,
        )
        for silo, message in coordinator.open(0.0).output.items():
            reply = self.tell(silo, message)
            if silo in survivors:
                coordinator.receive(silo, reply)
            else:
                coordinator.lose(silo)
        announced = coordinator.advance(0.0).output["north"]
        assert isinstance(announced, UploadsAnnounced)
        return coordinator, announced

    def tell(self, silo: SiloId, message: Any) -> Any:
        if silo == "north":
            return self.site.say(message)
        return self.others[silo].receive(message).output

    def signed(self, number: int) -> tuple[EncryptedCoordinator, Any]:
        """Let all sign the whole set; return what is said then."""
        coordinator, announced = self.open(number)
        for silo in ALL:
            coordinator.receive(silo, self.tell(silo, announced))
        return coordinator, coordinator.advance(0.0).output["north"]

    def voids(self, round_ids: Sequence[bytes], silos: Sequence[SiloId]) -> tuple[Void, ...]:
        identities = self.federation.identities
        return tuple(sign_void(identities[silo], silo, r) for r in round_ids for silo in silos)


# --- one set -----------------------------------------------------------------------------------------------


@each_scheme
def test_a_set_that_was_signed_is_the_only_one_that_is_signed(
    scheme: Scheme, needed: int, tmp_path: Path
) -> None:
    here = Attempts(scheme, tmp_path)
    _, announced = here.open(1)
    assert isinstance(here.site.say(announced), ConsistencyCheck)
    _, smaller = here.open(2, FEWER)
    with pytest.raises(LockRefused) as refused:
        here.site.say(smaller)
    assert (refused.value.rule, refused.value.silos) == ("lock", ("east",))
    _, again = here.open(3)
    assert isinstance(here.site.say(again), ConsistencyCheck)
    signed = [record for record in here.site.records if isinstance(record, SetSigned)]
    assert [record.survivors for record in signed] == [ALL, ALL]
    assert len({record.round_id for record in signed}) == 2
    assert {record.threshold for record in signed} == {needed}


@light_schemes
def test_the_lock_outlives_the_process(scheme: Scheme, needed: int, tmp_path: Path) -> None:
    here = Attempts(scheme, tmp_path)
    _, announced = here.open(1)
    here.site.say(announced)
    here.site.restart()
    _, smaller = here.open(2, FEWER)
    with pytest.raises(LockRefused, match="can finish when these return: east"):
        here.site.say(smaller)
    here.site.restart()
    _, again = here.open(3)
    assert isinstance(here.site.say(again), ConsistencyCheck)


# --- voids -------------------------------------------------------------------------------------------------


@each_scheme
def test_as_many_voids_as_could_open_lift_the_lock_and_one_fewer_does_not(
    scheme: Scheme, needed: int, tmp_path: Path
) -> None:
    here = Attempts(scheme, tmp_path)
    assert here.federation.t == 3
    scheme_terms: Any = here.federation.terms.scheme
    assert voids_needed(scheme_terms) == needed
    coordinator, announced = here.open(1)
    here.site.say(announced)
    rounds = (coordinator.round_id,)
    short = here.voids(rounds, ALL[: needed - 1])
    for number, voids in enumerate((short, (*short, *short), (*short, Void("east", *forged(rounds)))), 2):
        _, smaller = here.open(number, FEWER, voids)
        with pytest.raises(LockRefused):
            here.site.say(smaller)
    _, smaller = here.open(9, FEWER, here.voids(rounds, ALL[:needed]))
    assert isinstance(here.site.say(smaller), ConsistencyCheck)
    [lifted] = [record for record in here.site.records if isinstance(record, LockLifted)]
    assert lifted == LockLifted("default", here.federation.terms.base)


def test_a_sum_that_one_silo_opened_stays_locked_when_the_next_terms_are_of_masks(tmp_path: Path) -> None:
    """t voids lift a lock under masks; north opened this set alone, and signs no other for its base."""
    here = Attempts(CKKS_4096, tmp_path)
    coordinator, announced = here.signed(1)
    assert isinstance(here.site.say(announced), Opened)
    others = here.voids([coordinator.round_id], ALL[1:])
    federation = here.federation
    federation.terms = replace(federation.terms, job="again", scheme=Masking().parameters(N))
    federation.policy = replace_policy(federation.policy, schemes=frozenset({"masking"}))
    assert len(others) == federation.t
    here.site.restart()
    opened = RoundOpened(training_digest(federation.terms), 2, 60.0, others, ())
    assert isinstance(here.site.say(opened), AdvertiseKeys)
    assert not any(isinstance(record, LockLifted) for record in here.site.records)


def forged(rounds: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    return rounds[0], bytes(64)


@light_schemes
def test_every_round_that_was_signed_must_be_void(scheme: Scheme, needed: int, tmp_path: Path) -> None:
    here = Attempts(scheme, tmp_path)
    rounds = []
    for number in (1, 2):
        coordinator, announced = here.open(number)
        here.site.say(announced)
        rounds.append(coordinator.round_id)
    for number, some in enumerate((rounds[:1], rounds[1:]), 3):
        _, smaller = here.open(number, FEWER, here.voids(some, ALL))
        with pytest.raises(LockRefused):
            here.site.say(smaller)
    _, smaller = here.open(5, FEWER, here.voids(rounds, ALL[:needed]))
    assert isinstance(here.site.say(smaller), ConsistencyCheck)


@light_schemes
def test_a_lifted_lock_stays_lifted_and_its_rounds_void_after_a_restart(
    scheme: Scheme, needed: int, tmp_path: Path
) -> None:
    here = Attempts(scheme, tmp_path)
    coordinator, said = here.signed(1)
    here.open(2, FEWER, here.voids([coordinator.round_id], ALL))
    here.site.restart()
    _, smaller = here.open(3, FEWER)
    assert isinstance(here.site.say(smaller), ConsistencyCheck)
    assert isinstance(said, AggregateAnnounced | OpeningRequested)


# --- released and void -------------------------------------------------------------------------------------


def test_a_sum_is_opened_when_its_release_is_on_disk_and_not_before(tmp_path: Path) -> None:
    here = Attempts(CKKS_4096, tmp_path)
    coordinator, announced = here.signed(1)
    step = here.site.participant.receive(announced)
    assert (step.records, step.output) == ((Released(coordinator.round_id),), None)
    work = here.federation.work["north"]
    assert work.applied == []
    opened = here.site.participant.proceed()
    assert isinstance(opened, Opened)
    assert [total.survivors for total in work.applied] == [ALL]


def test_a_sum_whose_release_is_not_kept_is_never_opened(tmp_path: Path) -> None:
    here = Attempts(CKKS_4096, tmp_path)
    _, announced = here.signed(1)
    here.site.journal.close()
    with pytest.raises(Exception, match="the journal is closed"):
        here.site.say(announced)
    assert here.federation.work["north"].applied == []


def test_a_part_leaves_with_the_record_of_its_release(tmp_path: Path) -> None:
    here = Attempts(THRESHOLD_PAILLIER, tmp_path)
    coordinator, requested = here.signed(1)
    step = here.site.participant.receive(requested)
    assert step.records == (Released(coordinator.round_id),)
    assert isinstance(step.output, PartialDecryption)


@light_schemes
def test_what_was_released_is_never_voided_also_after_a_restart(
    scheme: Scheme, needed: int, tmp_path: Path
) -> None:
    here = Attempts(scheme, tmp_path)
    coordinator, said = here.signed(1)
    assert isinstance(here.site.say(said), Opened | PartialDecryption)
    asked = VoidRequested((coordinator.round_id, bytes(32)))
    for _ in range(2):
        voided = here.site.say(asked)
        assert isinstance(voided, Voided)
        assert [void.round_id for void in voided.voids] == [bytes(32)]
        here.site.restart()


@light_schemes
def test_what_was_voided_is_never_released_also_after_a_restart(
    scheme: Scheme, needed: int, tmp_path: Path
) -> None:
    here = Attempts(scheme, tmp_path)
    coordinator, said = here.signed(1)
    asked = VoidRequested((coordinator.round_id,))
    assert [void.silo for void in here.site.say(asked).voids] == ["north"]
    with pytest.raises(LockRefused, match="voided here"):
        here.site.say(said)
    assert here.federation.work["north"].applied == []
    here.site.restart()
    assert here.site.say(asked).voids
    assert [type(record) for record in here.site.records].count(VoidSigned) == 1
    assert not any(isinstance(record, Released) for record in here.site.records)


@light_schemes
def test_a_void_round_is_not_signed(scheme: Scheme, needed: int, tmp_path: Path) -> None:
    here = Attempts(scheme, tmp_path)
    coordinator, announced = here.open(1)
    here.site.say(VoidRequested((coordinator.round_id,)))
    with pytest.raises(LockRefused, match="voided here"):
        here.site.say(announced)


# --- whole rounds ------------------------------------------------------------------------------------------


def in_turn(*tampers: Tamper) -> Tamper:
    def tamper(reply: FromSilo) -> FromSilo | None:
        changed: FromSilo | None = reply
        for one in tampers:
            changed = None if changed is None else one(changed)
        return changed

    return tamper


def loses(kind: type[FromSilo], which: Sequence[int]) -> Tamper:
    """Return what loses messages of one kind, by their numbers from 1."""
    seen = [0]

    def tamper(reply: FromSilo) -> FromSilo | None:
        if isinstance(reply, kind):
            seen[0] += 1
            return None if seen[0] in which else reply
        return reply

    return tamper


def locked_then_smaller(scheme: Scheme, *, mute: int) -> tuple[Federation, Witness]:
    """All four sign, two signatures are lost, ``mute`` silos void nothing; then east is silent."""
    federation = Federation(N, scheme=scheme)
    for silo in ALL:
        tampers = []
        if silo in {"south", "west"}:
            tampers.append(loses(ConsistencyCheck, [1]))
        if silo in ALL[:mute]:
            tampers.append(loses(Voided, range(1, 9)))
        if silo == "east":
            tampers.append(loses(EncryptedInput, range(2, 9)))
        federation.silos[silo].tamper = in_turn(*tampers)
    return federation, federation.coordinator()


@light_schemes
def test_a_round_goes_on_without_a_silo_that_is_gone_once_enough_voided(scheme: Scheme, needed: int) -> None:
    federation, coordinator = locked_then_smaller(scheme, mute=N - needed)
    total = federation.run(coordinator)
    assert coordinator.attempt == 2
    assert total.survivors == FEWER
    assert total.total.tolist() == federation.sum_of(FEWER)
    reopened = [m for _, m in coordinator.log if isinstance(m, RoundOpened) and m.attempt == 2]
    assert len({void.silo for void in reopened[0].voids}) == needed


@light_schemes
def test_with_one_void_fewer_silos_stay_locked_and_nothing_is_opened(scheme: Scheme, needed: int) -> None:
    federation, coordinator = locked_then_smaller(scheme, mute=N - needed + 1)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    assert coordinator.outcome is None
    assert all(work.applied == [] for work in federation.work.values())
    for silo in FEWER:
        assert any(isinstance(error, LockRefused) for error in federation.silos[silo].errors)
        assert "needs east" in coordinator.losses[silo]
