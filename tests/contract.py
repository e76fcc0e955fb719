"""What every scheme owes, whatever protects it: run by ``test_contract`` for each.

Each function is one clause. It takes a ``Contract``: the scheme, and what a coordinator and a silo of it
are. ``Plain`` is run too: a clause that the baseline fails is a wrong clause. Where the coordinator cannot
read the sum, what was opened is what all silos say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias, get_args

import numpy as np
import pytest

from secagg.encrypted import transcript
from secagg.encrypted.coordinator import EncryptedCoordinator, joined
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
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
    AggregateAnnounced,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    MaskedInput,
    Opened,
    OpeningRequested,
    PartialsAnnounced,
    PlainInput,
    PlainSum,
    Refused,
    RoundOpened,
    SignedUpload,
    SumOpened,
    UploadsAnnounced,
)
from secagg.names import IntegerVector, SiloId, WordBits
from secagg.payload import Payload, PayloadType
from secagg.plain import PlainCoordinator, PlainSilo
from secagg.rounds.driver import Phase, phases_of, reaches
from secagg.scheme import Scheme
from secagg.session import Aggregate, SealedSum
from secagg.simulation import Dropouts
from secagg.survivors import Locks
from secagg.terms import MaskingParameters, PlainParameters, ThresholdPaillierParameters, training_digest
from tests.federations import Federation, Witness, next_base, replay

PHASES = phases_of("masking")
"""Phases by the names of masking; under another scheme a silo is lost in the one that comes next."""

Upload: TypeAlias = MaskedInput | PlainInput | EncryptedInput
Opening: TypeAlias = SumOpened | PlainSum | AggregateAnnounced | OpeningRequested
"""What a silo is told last before it has the sum, or says its part of it."""
OPENINGS = (SumOpened, PlainSum, AggregateAnnounced, OpeningRequested)
CoordinatorHalf: TypeAlias = MaskingCoordinator | PlainCoordinator | EncryptedCoordinator
SiloHalf: TypeAlias = MaskingSilo | PlainSilo | SharedKeySilo | ThresholdSilo


@dataclass(frozen=True)
class Contract:
    """One scheme under the contract.

    Attributes:
        scheme: the user's choice.
        upload: the message that carries a silo's vector.
    """

    scheme: Scheme
    upload: type[Upload]

    def federation(self, n: int, **named: Any) -> Federation:
        return Federation(n, scheme=self.scheme, **named)

    def coordinator(self, federation: Federation) -> CoordinatorHalf:
        common: dict[str, Any] = {"terms": federation.terms, "attempt": 1, "seconds": 60.0}
        match federation.terms.scheme:
            case PlainParameters():
                return PlainCoordinator(federation.roster, **common)
            case MaskingParameters():
                return MaskingCoordinator(federation.roster, **common)
            case _:
                return EncryptedCoordinator(federation.roster, **common, adder=federation.adder)

    def silo(self, federation: Federation, silo: SiloId, vector: IntegerVector | None = None) -> SiloHalf:
        vector = federation.vectors[silo] if vector is None else vector
        common: dict[str, Any] = {
            "identity": federation.identities[silo],
            "roster": federation.roster,
            "terms": federation.terms,
            "vector": vector,
            "locks": Locks(),
            "data_set": "data",
            "random": federation.random[silo],
        }
        match federation.terms.scheme:
            case PlainParameters():
                return PlainSilo(terms=federation.terms, vector=vector)
            case MaskingParameters():
                return MaskingSilo(silo, **common)
            case ThresholdPaillierParameters():
                return ThresholdSilo(silo, **common, cipher=federation.cipher(silo))
            case _:
                return SharedKeySilo(silo, **common, cipher=federation.cipher(silo))


def counted_in(dropouts: Dropouts, silos: Iterable[SiloId]) -> tuple[SiloId, ...]:
    """Return who is in the sum: a silo that was lost after its vector came still counts."""
    return tuple(s for s in silos if s not in dropouts or not reaches("MaskedInput", dropouts[s]))


# --- sums --------------------------------------------------------------------------------------------------


def equals_the_exact_sum(
    contract: Contract,
    n: int,
    *,
    word_bits: WordBits,
    dropouts: Dropouts,
    seed: int,
    vectors: Mapping[SiloId, IntegerVector] | None = None,
) -> bytes:
    """The opened integers are those of Python's own addition; every silo that stayed learns the same."""
    federation = contract.federation(n, word_bits=word_bits, seed=seed, vectors=vectors)
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
    return opened.total.tobytes()


def replays(federation: Federation, coordinator: Witness) -> None:
    """A fresh coordinator that is fed the journal says every word again, and opens the same sum."""
    again = replay(coordinator.journal, federation.coordinator())
    assert again.frames_said == coordinator.frames_said
    assert again.attempt == coordinator.attempt
    match coordinator.outcome:
        case Aggregate() as opened:
            assert again.opened.survivors == opened.survivors
            assert again.opened.total.tobytes() == opened.total.tobytes()
        case sealed:
            assert again.outcome == sealed


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
            reply = self.deliver(silo, message)
            if reply is not None:
                replies[silo] = reply
        return replies

    def deliver(self, silo: SiloId, message: FromCoordinator) -> FromSilo | None:
        """Hand one message to a silo, do what it allows when its records are synced, and return the reply."""
        half = self.silos[silo]
        reply = half.receive(message).output
        if isinstance(half, SharedKeySilo):
            half.proceed()
        if reply is None and isinstance(half, SharedKeySilo | ThresholdSilo) and half.outcome is not None:
            terms = self.federation.terms
            base, survivors = next_base(terms, half.outcome), half.outcome.survivors
            return Opened(training_digest(terms), base, survivors, half.faulty)
        return reply

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

    def up_to_opening(self) -> dict[SiloId, Opening]:
        """Return what silos are told last before they open, before they are told."""
        while True:
            told = {silo: message for silo, message in self.inbox.items() if isinstance(message, OPENINGS)}
            if told:
                return told
            self.take(self.turn())

    def finish(self) -> None:
        while self.coordinator.outcome is None:
            self.take(self.turn())
        self.turn()

    def finish_with(self, uploads: Mapping[SiloId, FromSilo]) -> None:
        self.take(uploads)
        self.finish()

    @property
    def opened(self) -> Aggregate | None:
        """The sum; where the coordinator cannot open it, what every silo that did says it is."""
        match self.coordinator.outcome:
            case SealedSum() as sealed:
                said = [o for half in self.silos.values() if (o := half.outcome) is not None]
                assert {(o.survivors, o.total.tobytes()) for o in said} == {
                    (sealed.survivors, said[0].total.tobytes())
                }
                return said[0]
            case outcome:
                return outcome

    def sum_is_that_of(self, silos: Iterable[SiloId]) -> bool:
        """Whether the exact sum of ``silos`` was opened."""
        chosen, opened = tuple(silos), self.opened
        assert opened is not None
        return opened.survivors == chosen and opened.total.tolist() == self.federation.sum_of(chosen)

    def instead(self, silo: SiloId, upload: FromSilo, content: Payload) -> Upload:
        """Return ``upload`` with other content, signed by its silo where uploads are."""
        match upload:
            case MaskedInput():
                return MaskedInput(upload.round_id, content)
            case PlainInput():
                return PlainInput(upload.training, content)
            case EncryptedInput():
                box = upload.upload.box
                fields = transcript.upload_fields(
                    self.federation.adder, upload.round_id, silo, content.digest, box
                )
                signature = self.federation.identities[silo].sign(transcript.UPLOAD, *fields)
                signed = SignedUpload(content.digest, box, signature)
                return EncryptedInput(upload.round_id, signed, content)
            case _:
                raise AssertionError(f"{type(upload).__name__} is no upload")

    def counting_twice(self, silo: SiloId, upload: FromSilo) -> Upload:
        """Return the upload of a silo that counts itself twice."""
        match upload:
            case EncryptedInput():
                vector = np.append(self.federation.vectors[silo], self.federation.encoding.dtype(2))
                ciphertexts = self.federation.cipher(silo).encrypt(
                    vector, silo=silo, round_id=upload.round_id
                )
                sent = self.instead(silo, upload, ciphertexts)
                assert isinstance(sent, EncryptedInput)
                half: Any = self.silos[silo]
                half._state = replace(half._state, upload=sent.upload)  # It means what it says.
                return sent
            case _:
                vector = content(upload).array().copy()
                vector[-1] += 1
                return self.instead(silo, upload, Payload.of(vector))

    def miscounted(self, message: Opening) -> Opening:
        """Return what opens a sum in which another number of vectors is."""
        match message:
            case SumOpened() | PlainSum():
                total = message.total.array().copy()
                total[-1] += 1
                return changed(message, total=Payload.of(total))
            case AggregateAnnounced():
                sent = [content(upload) for upload in self.uploads()]
                total = self.federation.adder.begin()
                for ciphertexts in sent[1:]:
                    total.add(ciphertexts)
                return changed(message, total=total.total())
            case OpeningRequested():
                sent = [content(upload) for upload in self.uploads()]
                return changed(message, ciphertexts=joined((sent[1], *sent[1:])))

    def uploads(self) -> list[FromSilo]:
        return [reply for _, reply in self.replied if isinstance(reply, self.contract.upload)]


def content(upload: FromSilo) -> Payload:
    """Return what an upload carries."""
    match upload:
        case MaskedInput() | PlainInput():
            return upload.vector
        case EncryptedInput():
            return upload.ciphertexts
        case _:
            raise AssertionError(f"{type(upload).__name__} is no upload")


def changed(message: Opening, **fields: Any) -> Opening:
    return type(message)(**({f: getattr(message, f) for f in message.__struct_fields__} | fields))


def of_other_forms(right: Payload, *, count: int) -> list[Payload]:
    """Return payloads that are shorter, longer, or of other types; in clear their count entry is right."""
    shapes = [(right.length - 1, right.dtype), (right.length + 1, right.dtype)]
    shapes += [(right.length, dtype) for dtype in get_args(PayloadType) if dtype not in {"u1", right.dtype}]
    forms = []
    for length, dtype in shapes:
        vector = np.ones(length, dtype)
        vector[-1] = count
        forms.append(Payload.of(vector))
    return forms


def sessions_are_single_use(contract: Contract) -> None:
    """Before its start, while it runs and once it is over, a session takes nothing that is not its turn's."""
    attempt = Attempt(contract, contract.federation(4))
    with pytest.raises(UsageError):
        attempt.coordinator.open(0.0)
    attempt.finish()
    with pytest.raises(UsageError):
        attempt.coordinator.open(0.0)
    assert attempt.sum_is_that_of(attempt.silos)
    held = attempt.coordinator.outcome
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
    assert attempt.coordinator.outcome is held
    assert attempt.sum_is_that_of(attempt.silos)


def an_outcome_is_read_only(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    attempt.finish()
    outcomes = [attempt.opened, *(s.outcome for s in attempt.silos.values())]
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
    bads = of_other_forms(content(Attempt(contract, contract.federation(4)).up_to_upload()["west"]), count=1)
    assert len(bads) > 3
    for bad in bads:
        attempt = Attempt(contract, contract.federation(4))
        uploads = attempt.up_to_upload()
        with pytest.raises(FaultySilo) as fault:
            attempt.coordinator.receive("west", attempt.instead("west", uploads.pop("west"), bad))
        assert fault.value.silo == "west"
        assert not fault.value.dealer
        assert "west" not in attempt.coordinator.waiting
        attempt.take(uploads)
        attempt.finish()
        assert attempt.sum_is_that_of(("north", "south", "east"))


def a_second_upload_changes_nothing(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    attempt.coordinator.receive("north", uploads["north"])
    with pytest.raises(UnexpectedMessage, match="north"):
        attempt.coordinator.receive("north", uploads["north"])
    attempt.take({silo: upload for silo, upload in uploads.items() if silo != "north"})
    attempt.finish()
    assert attempt.sum_is_that_of(attempt.silos)


def a_stranger_changes_nothing(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    with pytest.raises(UnexpectedMessage, match="stranger"):
        attempt.coordinator.receive("stranger", uploads["north"])
    attempt.take(uploads)
    attempt.finish()
    assert attempt.sum_is_that_of(attempt.silos)


def a_silo_that_refused_is_out_of_the_attempt(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    attempt.coordinator.receive("south", Refused("rule"))
    with pytest.raises(UnexpectedMessage, match="south"):
        attempt.coordinator.receive("south", uploads.pop("south"))
    attempt.take(uploads)
    attempt.finish()
    assert attempt.sum_is_that_of(("north", "west", "east"))


def an_attempt_of_other_terms_is_refused(contract: Contract) -> None:
    federation = contract.federation(4)
    with pytest.raises(FaultyCoordinator):
        contract.silo(federation, "north").receive(RoundOpened(bytes(32), 1, 60.0))


def a_message_of_another_phase_changes_nothing(contract: Contract) -> None:
    federation = contract.federation(4)
    key = federation.roster.digest
    silo = contract.silo(federation, "north")
    opened = (
        PlainSum(key, (), payload(5)),
        SumOpened(key, (), (), payload(5)),
        UploadsAnnounced(key, ()),
        AggregateAnnounced(key, (), payload(5)),
        OpeningRequested(key, (), payload(5)),
        PartialsAnnounced(key, (), payload(5)),
    )
    for message in opened:
        with pytest.raises(UnexpectedMessage):
            silo.receive(message)
    coordinator = contract.coordinator(federation)
    uploads: tuple[Upload, ...] = (
        MaskedInput(key, payload(6)),
        PlainInput(key, payload(6)),
        EncryptedInput(key, SignedUpload(key, None, bytes(64)), payload(6)),
    )
    for upload in uploads:
        with pytest.raises(UnexpectedMessage):
            coordinator.receive("north", upload)
    reply = silo.receive(coordinator.open(0.0).output["north"]).output
    assert isinstance(reply, AdvertiseKeys | PlainInput | EncryptedInput)


def payload(length: int) -> Payload:
    return Payload.of(np.zeros(length, np.uint32))


def a_wrong_count_writes_no_model(contract: Contract) -> None:
    """An upload whose count entry is not one halts the round, no silo believes the sum, nobody is named."""
    attempt = Attempt(contract, contract.federation(4))
    uploads = attempt.up_to_upload()
    uploads["east"] = attempt.counting_twice("east", uploads["east"])
    with pytest.raises(RoundAborted, match="count entry") as aborted:
        attempt.finish_with(uploads)  # Whoever opens sees it, and cannot tell whose entry is wrong.
    assert type(aborted.value) is RoundAborted
    assert attempt.coordinator.outcome is None
    assert all(silo.outcome is None for silo in attempt.silos.values())

    attempt = Attempt(contract, contract.federation(4))
    for silo, message in attempt.up_to_opening().items():
        # Under a key that all hold, a silo's upload may have made it so; else what was announced did.
        shared = isinstance(message, AggregateAnnounced)
        why = r"count entry|does not open" if shared else r"count entry|not those that it signed"
        with pytest.raises(RoundAborted if shared else FaultyCoordinator, match=why):
            attempt.deliver(silo, attempt.miscounted(message))
        assert attempt.silos[silo].outcome is None


def a_sum_of_another_form_is_refused(contract: Contract) -> None:
    attempt = Attempt(contract, contract.federation(4))
    message = attempt.up_to_opening()["north"]
    for bad in of_other_forms(opened_from(message), count=4):
        attempt = Attempt(contract, contract.federation(4))
        for silo, message in attempt.up_to_opening().items():
            field = "ciphertexts" if isinstance(message, OpeningRequested) else "total"
            with pytest.raises(FaultyCoordinator):
                attempt.deliver(silo, changed(message, **{field: bad}))
            assert attempt.silos[silo].outcome is None


def opened_from(message: Opening) -> Payload:
    return message.ciphertexts if isinstance(message, OpeningRequested) else message.total


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
    good = content(uploads["north"])
    whole = bytes(good.buffer()[:])

    def pieces() -> Iterator[memoryview]:
        yield memoryview(whole[:8])
        if by_disk:
            raise EnvironmentFault("the disk cannot be read")

    broken = Payload(good.dtype, good.length, pieces, digest=good.digest)
    upload = attempt.instead("north", uploads.pop("north"), broken)
    with pytest.raises(RoundAborted):
        attempt.coordinator.receive("north", upload)
    with suppress(RoundAborted, UnexpectedMessage):
        attempt.take(uploads)
        attempt.inbox = attempt.coordinator.advance(1e9).output or attempt.inbox
        attempt.finish()
    opened = attempt.opened
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
