"""What every scheme owes, whatever protects it: run by ``test_contract`` for each.

Each function is one clause. It takes a ``Contract``: the scheme, and what a coordinator and a silo of it
are. ``Plain`` is run too: a clause that the baseline fails is a wrong clause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import pytest

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    InputRefused,
    RoundAborted,
    TooFewSilos,
    UnexpectedMessage,
    UsageError,
)
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.messages import (
    AdvertiseKeys,
    FromCoordinator,
    FromSilo,
    MaskedInput,
    PlainInput,
    PlainSum,
    Refused,
    RoundOpened,
    SumOpened,
)
from secagg.names import IntegerVector, SiloId, WordBits
from secagg.payload import Payload
from secagg.plain import PlainCoordinator, PlainSilo
from secagg.rounds.driver import PHASES, Phase
from secagg.simulation import Dropouts
from secagg.survivors import Locks
from tests.federations import Federation, Scheme, Witness, replay

CoordinatorHalf: TypeAlias = MaskingCoordinator | PlainCoordinator
SiloHalf: TypeAlias = MaskingSilo | PlainSilo


@dataclass(frozen=True)
class Contract:
    """One scheme under the contract.

    Attributes:
        scheme: the user's choice.
        upload: the message that carries a silo's vector.
        hides: whether one silo's vector is hidden from the coordinator.
    """

    scheme: Scheme
    upload: type[MaskedInput | PlainInput]
    hides: bool

    def federation(self, n: int, **named: Any) -> Federation:
        return Federation(n, scheme=self.scheme, **named)

    def coordinator(self, federation: Federation) -> CoordinatorHalf:
        make = MaskingCoordinator if self.hides else PlainCoordinator
        return make(federation.roster, terms=federation.terms, attempt=1, seconds=60.0)

    def silo(self, federation: Federation, silo: SiloId, vector: IntegerVector | None = None) -> SiloHalf:
        vector = federation.vectors[silo] if vector is None else vector
        if not self.hides:
            return PlainSilo(terms=federation.terms, vector=vector)
        return MaskingSilo(
            silo,
            identity=federation.identities[silo],
            roster=federation.roster,
            terms=federation.terms,
            vector=vector,
            locks=Locks(),
            data_set="data",
            random=federation.random[silo],
        )


def counted_in(dropouts: Dropouts, silos: Iterable[SiloId]) -> tuple[SiloId, ...]:
    """Return who is in the sum: a silo that was lost after its vector came still counts."""
    last = PHASES.index("MaskedInput")
    return tuple(s for s in silos if s not in dropouts or PHASES.index(dropouts[s]) > last)


# --- sums --------------------------------------------------------------------------------------------------


def equals_the_exact_sum(
    contract: Contract, n: int, *, word_bits: WordBits, dropouts: Dropouts, seed: int
) -> None:
    """The opened integers are those of Python's own addition; every silo that stayed learns the same."""
    federation = contract.federation(n, word_bits=word_bits, seed=seed)
    coordinator = federation.coordinator()
    opened = federation.run(coordinator, dropouts)
    assert opened.survivors == counted_in(dropouts, federation.roster.silos)
    assert opened.total.dtype == federation.encoding.dtype
    assert opened.total.tolist() == federation.sum_of(opened.survivors)
    assert coordinator.attempt == 1
    for silo in set(federation.roster.silos) - dropouts.keys():
        [learned] = federation.work[silo].applied
        assert learned.survivors == opened.survivors
        assert learned.total.tolist() == opened.total.tolist()
    assert all(not silo.errors for silo in federation.silos.values())


def replays(federation: Federation, coordinator: Witness) -> None:
    """A fresh coordinator that is fed the journal says every word again, and opens the same sum."""
    again = replay(coordinator.journal, federation.coordinator())
    assert again.frames_said == coordinator.frames_said
    assert again.attempt == coordinator.attempt
    assert (again.outcome is None) == (coordinator.outcome is None)
    if again.outcome is not None and coordinator.outcome is not None:
        assert again.outcome.survivors == coordinator.outcome.survivors
        assert again.outcome.total.tobytes() == coordinator.outcome.total.tobytes()


# --- sessions by hand --------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """One attempt with every message at hand: what each silo and the coordinator were last told."""

    contract: Contract
    federation: Federation

    def __post_init__(self) -> None:
        self.coordinator = self.contract.coordinator(self.federation)
        self.silos = {s: self.contract.silo(self.federation, s) for s in self.federation.roster.silos}
        self.told: list[tuple[SiloId, FromCoordinator]] = []
        self.replied: list[tuple[SiloId, FromSilo]] = []
        self.inbox: Mapping[SiloId, FromCoordinator] = self.coordinator.open(0.0).output

    def turn(self) -> dict[SiloId, FromSilo]:
        """Deliver what the coordinator last said; return the replies, which are not delivered yet."""
        replies = {}
        for silo, message in self.inbox.items():
            self.told.append((silo, message))
            reply = self.silos[silo].receive(message).output
            if reply is not None:
                replies[silo] = reply
        return replies

    def take(self, replies: Mapping[SiloId, FromSilo]) -> None:
        for silo, message in replies.items():
            self.replied.append((silo, message))
            self.coordinator.receive(silo, message)
        self.inbox = self.coordinator.advance(0.0).output

    def up_to_upload(self) -> dict[SiloId, FromSilo]:
        """Return the uploads, before the coordinator has any."""
        while True:
            replies = self.turn()
            if any(isinstance(reply, self.contract.upload) for reply in replies.values()):
                return replies
            self.take(replies)

    def finish(self) -> None:
        while self.coordinator.outcome is None:
            self.take(self.turn())
        self.turn()


def sessions_are_single_use(contract: Contract) -> None:
    """Before its start, while it runs and once it is over, a session takes nothing that is not its turn's."""
    attempt = Attempt(contract, contract.federation(4))
    with pytest.raises(UsageError):
        attempt.coordinator.open(0.0)
    attempt.finish()
    with pytest.raises(UsageError):
        attempt.coordinator.open(0.0)
    assert attempt.coordinator.outcome is not None
    before = attempt.coordinator.outcome.total.tobytes()
    assert attempt.coordinator.deadline is None
    assert attempt.coordinator.phase is None
    assert attempt.coordinator.waiting == frozenset()
    assert attempt.coordinator.advance(1e9).output == {}
    for silo, reply in attempt.replied:
        with pytest.raises(UnexpectedMessage):
            attempt.coordinator.receive(silo, reply)
    for silo, message in attempt.told:
        outcome = attempt.silos[silo].outcome
        assert outcome is not None
        with pytest.raises(UnexpectedMessage):
            attempt.silos[silo].receive(message)
        assert attempt.silos[silo].outcome is outcome
    assert attempt.coordinator.outcome.total.tobytes() == before


def an_outcome_is_read_only(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    attempt.finish()
    outcomes = [attempt.coordinator.outcome, *(s.outcome for s in attempt.silos.values())]
    for outcome in outcomes:
        assert outcome is not None
        with pytest.raises(ValueError, match="read-only"):
            outcome.total[0] = 0


def a_vector_of_another_form_is_refused_at_the_silo(contract: Contract) -> None:
    federation = contract.federation(4)
    length = federation.encoding.length
    for bad in (
        np.zeros(length - 1, np.uint32),
        np.zeros(length + 1, np.uint32),
        np.zeros(length, np.uint64),
        np.zeros((1, length), np.uint32),
    ):
        with pytest.raises(InputRefused) as refusal:
            contract.silo(federation, "north", bad)
        assert refusal.value.rule == "shape"


def an_upload_of_another_form_names_its_sender(contract: Contract) -> None:
    """The round goes on without it, and nothing of it is in the sum."""
    length = contract.federation(4).encoding.length
    for bad in (
        np.ones(length, np.uint32),
        np.ones(length + 2, np.uint32),
        np.ones(length + 1, np.uint64),
        np.ones(length + 1, np.float64),
    ):
        attempt = Attempt(contract, contract.federation(4))
        uploads = attempt.up_to_upload()
        with pytest.raises(FaultySilo) as fault:
            attempt.coordinator.receive("west", with_vector(uploads.pop("west"), bad))
        assert fault.value.silo == "west"
        assert not fault.value.dealer
        assert "west" not in attempt.coordinator.waiting
        attempt.take(uploads)
        attempt.finish()
        assert attempt.coordinator.outcome is not None
        assert attempt.coordinator.outcome.survivors == ("north", "south", "east")
        assert attempt.coordinator.outcome.total.tolist() == attempt.federation.sum_of(
            ("north", "south", "east")
        )


def with_vector(upload: FromSilo, vector: Any) -> FromSilo:
    if isinstance(upload, MaskedInput):
        return MaskedInput(upload.round_id, Payload.of(vector))
    assert isinstance(upload, PlainInput)
    return PlainInput(upload.training, Payload.of(vector))


def a_second_upload_changes_nothing(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    attempt.coordinator.receive("north", uploads["north"])
    with pytest.raises(UnexpectedMessage, match="north"):
        attempt.coordinator.receive("north", uploads["north"])
    attempt.take({silo: upload for silo, upload in uploads.items() if silo != "north"})
    attempt.finish()
    assert attempt.coordinator.outcome is not None
    assert attempt.coordinator.outcome.total.tolist() == attempt.federation.sum_of(attempt.silos)


def a_stranger_changes_nothing(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    with pytest.raises(UnexpectedMessage, match="stranger"):
        attempt.coordinator.receive("stranger", uploads["north"])
    attempt.take(uploads)
    attempt.finish()
    assert attempt.coordinator.outcome is not None
    assert attempt.coordinator.outcome.total.tolist() == attempt.federation.sum_of(attempt.silos)


def a_silo_that_refused_is_out_of_the_attempt(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    attempt.coordinator.receive("south", Refused("rule"))
    with pytest.raises(UnexpectedMessage, match="south"):
        attempt.coordinator.receive("south", uploads.pop("south"))
    attempt.take(uploads)
    attempt.finish()
    assert attempt.coordinator.outcome is not None
    assert attempt.coordinator.outcome.survivors == ("north", "west", "east")


def an_attempt_of_other_terms_is_refused(contract: Contract) -> None:
    federation = contract.federation(4)
    with pytest.raises(FaultyCoordinator):
        contract.silo(federation, "north").receive(RoundOpened(bytes(32), 1, 60.0))


def a_message_of_another_phase_changes_nothing(contract: Contract) -> None:
    federation = contract.federation(4)
    key = federation.roster.digest
    silo = contract.silo(federation, "north")
    opened = (PlainSum(key, (), payload(5)), SumOpened(key, (), (), payload(5)))
    for message in opened:
        with pytest.raises(UnexpectedMessage):
            silo.receive(message)
    coordinator = contract.coordinator(federation)
    upload = contract.upload(key, payload(6))
    with pytest.raises(UnexpectedMessage):
        coordinator.receive("north", upload)
    reply = silo.receive(coordinator.open(0.0).output["north"]).output
    assert isinstance(reply, AdvertiseKeys | PlainInput)


def payload(length: int) -> Payload:
    return Payload.of(np.zeros(length, np.uint32))


def a_wrong_count_writes_no_model(contract: Contract) -> None:
    """An upload whose count entry is not one halts the round, and no silo believes the sum."""
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    upload = uploads["east"]
    assert isinstance(upload, MaskedInput | PlainInput)
    vector = upload.vector.array().copy()
    vector[-1] += 1
    uploads["east"] = with_vector(upload, vector)
    aborted = ""
    try:
        attempt.take(uploads)
        attempt.finish()
    except RoundAborted as error:
        aborted = str(error)
    assert "count entry" in aborted
    assert attempt.coordinator.outcome is None

    attempt = Attempt(contract, contract.federation(4))
    while attempt.coordinator.outcome is None:
        attempt.take(attempt.turn())
    for silo, message in attempt.inbox.items():
        assert isinstance(message, SumOpened | PlainSum)
        total = message.total.array().copy()
        total[-1] += 1
        with pytest.raises(FaultyCoordinator, match="count entry"):
            attempt.silos[silo].receive(changed(message, total=Payload.of(total)))
        assert attempt.silos[silo].outcome is None


def changed(message: SumOpened | PlainSum, **fields: Any) -> SumOpened | PlainSum:
    return type(message)(**({f: getattr(message, f) for f in message.__struct_fields__} | fields))


def a_sum_of_another_form_is_refused(contract: Contract) -> None:
    for form in (np.zeros(5, np.uint32), np.zeros(7, np.uint32), np.zeros(6, np.uint64)):
        attempt = Attempt(contract, contract.federation(4))
        while attempt.coordinator.outcome is None:
            attempt.take(attempt.turn())
        form[-1] = 4
        for silo, message in attempt.inbox.items():
            assert isinstance(message, SumOpened | PlainSum)
            with pytest.raises(FaultyCoordinator):
                attempt.silos[silo].receive(changed(message, total=Payload.of(form)))
            assert attempt.silos[silo].outcome is None


def nobody_at_all_aborts(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    assert attempt.coordinator.deadline == 60.0
    assert attempt.coordinator.advance(59.9).output == {}
    with pytest.raises(TooFewSilos) as few:
        attempt.coordinator.advance(60.0)
    assert few.value.have == 0
    assert set(few.value.missing) == set(attempt.silos)


def a_failed_read_never_becomes_a_sum(contract: Contract, *, by_disk: bool = False) -> None:
    """A spooled upload that breaks off while it is added must not leave half of itself in a total."""
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    good = uploads.pop("north")
    assert isinstance(good, MaskedInput | PlainInput)
    whole = bytes(good.vector.buffer()[:])

    def pieces() -> Iterator[memoryview]:
        yield memoryview(whole[:8])
        if by_disk:
            raise EnvironmentFault("the disk cannot be read")

    broken = Payload("u4", good.vector.length, pieces, digest=bytes(32))
    upload = (
        MaskedInput(good.round_id, broken)
        if isinstance(good, MaskedInput)
        else PlainInput(good.training, broken)
    )
    with pytest.raises(RoundAborted):
        attempt.coordinator.receive("north", upload)
    with suppress(RoundAborted, UnexpectedMessage):
        attempt.take(uploads)
        attempt.inbox = attempt.coordinator.advance(1e9).output or attempt.inbox
        attempt.finish()
    opened = attempt.coordinator.outcome
    assert opened is None or opened.total.tolist() == attempt.federation.sum_of(opened.survivors)


def an_unreadable_disk_never_becomes_a_sum(contract: Contract) -> None:
    a_failed_read_never_becomes_a_sum(contract, by_disk=True)


CLAUSES: Sequence[Callable[[Contract], None]] = (
    sessions_are_single_use,
    an_outcome_is_read_only,
    a_vector_of_another_form_is_refused_at_the_silo,
    an_upload_of_another_form_names_its_sender,
    a_second_upload_changes_nothing,
    a_stranger_changes_nothing,
    a_silo_that_refused_is_out_of_the_attempt,
    an_attempt_of_other_terms_is_refused,
    a_message_of_another_phase_changes_nothing,
    a_wrong_count_writes_no_model,
    a_sum_of_another_form_is_refused,
    nobody_at_all_aborts,
    a_failed_read_never_becomes_a_sum,
    an_unreadable_disk_never_becomes_a_sum,
)


# --- what the coordinator saw ------------------------------------------------------------------------------


def found(needles: Iterable[bytes], traffic: Iterable[bytes]) -> set[bytes]:
    """Return which of ``needles`` occur anywhere in ``traffic``."""
    pieces = list(traffic)
    return {needle for needle in needles if any(needle in piece for piece in pieces)}


def spellings(value: float) -> set[bytes]:
    """Return a number's raw forms: integer and float of every size and order, and text."""
    forms = {repr(value).encode()}
    for order in ("<", ">"):
        forms |= {np.array(value, f"{order}f{size}").tobytes() for size in (4, 8)}
        if value == int(value):
            forms |= {np.array(int(value), f"{order}u{size}").tobytes() for size in (4, 8)}
            forms.add(str(int(value)).encode())
    return forms


def subset_sums(vectors: Sequence[IntegerVector]) -> set[bytes]:
    """Return the bytes of the sums of all non-empty subsets."""
    sums = set()
    for size in range(1, len(vectors) + 1):
        for chosen in combinations(vectors, size):
            total = chosen[0].copy()
            for vector in chosen[1:]:
                total += vector
            sums.add(total.tobytes())
    return sums


def every_schedule(silos: Sequence[SiloId], losses: int, phases: Sequence[Phase]) -> Iterable[Dropouts]:
    """Yield every way to lose exactly ``losses`` of ``silos``, each in any of ``phases``."""
    for lost in combinations(silos, losses):
        for choice in np.ndindex(*(len(phases),) * losses):
            yield {silo: phases[i] for silo, i in zip(lost, choice, strict=True)}
