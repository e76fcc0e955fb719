"""One silo's half of a round over ciphertexts: what it signs, what it opens, whom it names for the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from secagg import wire
from secagg.encrypted import transcript
from secagg.encrypted.cipher import SEAL_SIZE
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
from secagg.errors import (
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    InputRefused,
    PolicyRefused,
    RoundAborted,
    SecaggError,
    TooFewSilos,
    UnexpectedMessage,
)
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    Opened,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    Refused,
    RoundOpened,
    SignedUpload,
    TrainingOpened,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.paillier.knowledge import encrypt_known
from secagg.paillier.obfuscators import Pool
from secagg.paillier.silo import ThresholdPaillierCipher
from secagg.payload import Payload
from secagg.plain import Plain
from secagg.rounds.silo import refusal
from secagg.scheme import Scheme
from secagg.survivors import Locks
from secagg.terms import Terms, training_digest
from tests.contract import Attempt, Contract
from tests.federations import CKKS_4096, PAILLIER, THRESHOLD_PAILLIER, Federation, Held, keys_of

N = 4
SELF, PEER = "north", "west"
LOW_ORDER = bytes(32)
SHARED: dict[str, Scheme] = {"Paillier": PAILLIER, "CKKS": CKKS_4096}
ALL: dict[str, Scheme] = SHARED | {"ThresholdPaillier": THRESHOLD_PAILLIER}
each_scheme = pytest.mark.parametrize("scheme", ALL.values(), ids=ALL)
light_schemes = pytest.mark.parametrize(
    "scheme", [CKKS_4096, THRESHOLD_PAILLIER], ids=["CKKS", "ThresholdPaillier"]
)


def attempt(scheme: Scheme) -> Attempt:
    contract = Contract(scheme, EncryptedInput)
    return Attempt(contract, contract.federation(N))


def up_to(kind: type[FromSilo], scheme: Scheme) -> tuple[Attempt, dict[SiloId, Any]]:
    """Return an attempt and the first replies of one kind, which nobody has yet."""
    here = attempt(scheme)
    while True:
        replies = here.turn()
        if any(isinstance(reply, kind) for reply in replies.values()):
            return here, replies
        here.take(replies)


def announced(scheme: Scheme) -> tuple[Attempt, UploadsAnnounced]:
    """Return an attempt in which silos are about to be told whose uploads there are."""
    here, uploads = up_to(EncryptedInput, scheme)
    here.take(uploads)
    return here, cast(UploadsAnnounced, here.inbox[SELF])


# --- its own parameters ------------------------------------------------------------------------------------


def test_a_session_is_not_made_for_other_terms_another_key_or_another_vector() -> None:
    federation = Federation(N, scheme=CKKS_4096)
    named: dict[str, Any] = {
        "identity": federation.identities[SELF],
        "roster": federation.roster,
        "terms": federation.terms,
        "cipher": federation.cipher(SELF),
        "vector": federation.vectors[SELF],
        "locks": Locks(),
        "data_set": "data",
    }
    SharedKeySilo(SELF, **named)
    plain = replace(federation.terms, scheme=Plain().parameters(N))
    other = replace(federation.terms, scheme=CKKS_4096.parameters(N, key=bytes(32)))
    for changes, rule in (({"terms": plain}, "scheme"), ({"terms": other}, "key")):
        with pytest.raises(PolicyRefused) as refused:
            SharedKeySilo(SELF, **(named | changes))
        assert refused.value.rule == rule
    with pytest.raises(InputRefused):
        SharedKeySilo(SELF, **(named | {"vector": federation.vectors[SELF][:-1]}))


@each_scheme
def test_a_vector_is_encrypted_anew_for_every_attempt(scheme: Scheme) -> None:
    federation = Federation(N, scheme=scheme)
    contract = Contract(scheme, EncryptedInput)
    seen = []
    for number in (1, 2, 1):
        silo = contract.silo(federation, SELF)
        reply: Any = silo.receive(RoundOpened(training_digest(federation.terms), number, 60.0)).output
        seen.append(reply)
    contents = {reply.upload.content for reply in seen}
    assert len(contents) == 3
    assert seen[0].round_id == seen[2].round_id != seen[1].round_id
    boxes = [reply.upload.box for reply in seen]
    assert boxes == [None] * 3 if scheme in SHARED.values() else len(set(boxes)) == 3
    assert federation.vectors[SELF].tolist() == Federation(N, scheme=scheme).vectors[SELF].tolist()


# --- what is signed ----------------------------------------------------------------------------------------


def changed(told: UploadsAnnounced, silo: SiloId, **fields: Any) -> UploadsAnnounced:
    """Return the announcement with something else in the upload of one silo."""
    uploads = tuple((s, replace(u, **fields) if s == silo else u) for s, u in told.uploads)
    return UploadsAnnounced(told.round_id, uploads)


def resigned(here: Attempt, told: UploadsAnnounced, silo: SiloId, **fields: Any) -> UploadsAnnounced:
    """The same, by a silo that colludes: it signed that."""
    upload = replace(dict(told.uploads)[silo], **fields)
    signed = transcript.upload_fields(here.federation.adder, told.round_id, silo, upload.content, upload.box)
    signature = here.federation.identities[silo].sign(transcript.UPLOAD, *signed)
    return changed(told, silo, **fields, signature=signature)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda told: UploadsAnnounced(bytes(32), told.uploads), "another round"),
        (lambda told: UploadsAnnounced(told.round_id, told.uploads[::-1]), "order of the roster"),
        (lambda told: UploadsAnnounced(told.round_id, told.uploads[:2]), "3 = max"),
        (lambda told: UploadsAnnounced(told.round_id, told.uploads[1:]), "lacks this silo"),
        (lambda told: UploadsAnnounced(told.round_id, (*told.uploads, told.uploads[0])), "twice"),
        (
            lambda told: UploadsAnnounced(told.round_id, (*told.uploads[:3], ("z", told.uploads[3][1]))),
            "shared no keys",
        ),
        (lambda told: changed(told, SELF, content=bytes(32)), "not the one that it sent"),
        (lambda told: changed(told, SELF, signature=bytes(64)), "not the one that it sent"),
    ],
)
@light_schemes
def test_a_set_that_no_honest_coordinator_announces_is_not_signed(
    scheme: Scheme, change: Callable[[UploadsAnnounced], UploadsAnnounced], why: str
) -> None:
    here, told = announced(scheme)
    with pytest.raises(FaultyCoordinator, match=why):
        here.deliver(SELF, change(told))
    with pytest.raises(UnexpectedMessage):  # It left: nothing more is taken.
        here.deliver(SELF, told)


@pytest.mark.parametrize("fields", [{"content": bytes(32)}, {"signature": bytes(64)}, {"box": bytes(32)}])
@light_schemes
def test_an_upload_that_a_peer_did_not_sign_names_it_beside_the_coordinator(
    scheme: Scheme, fields: dict[str, Any]
) -> None:
    here, told = announced(scheme)
    with pytest.raises(FaultySiloOrCoordinator, match="not signed by the pinned identity") as fault:
        here.deliver(SELF, changed(told, PEER, **fields))
    assert fault.value.silo == PEER


@pytest.mark.parametrize(("box", "why"), [(None, "names no key to seal to"), (LOW_ORDER, "low order")])
def test_an_upload_to_which_no_part_can_be_sealed_names_its_silo_before_anything_is_signed(
    box: bytes | None, why: str
) -> None:
    here, told = announced(THRESHOLD_PAILLIER)
    with pytest.raises(FaultySiloOrCoordinator, match=why) as fault:
        here.deliver(SELF, resigned(here, told, PEER, box=box))
    assert fault.value.silo == PEER


# --- t signatures ------------------------------------------------------------------------------------------


def opening(scheme: Scheme) -> tuple[Attempt, Any]:
    here = attempt(scheme)
    return here, here.up_to_opening()[SELF]


UNSIGNED: tuple[Callable[..., Any], ...] = (
    lambda here, s: s[:2],
    lambda here, s: (s[0],) * 4,
    lambda here, s: (*s[:2], (s[2][0], s[3][1])),
    lambda here, s: (*s[:2], signed_over_the_bare_round(here, s[2][0])),
)


@light_schemes
def test_nothing_is_released_that_fewer_than_t_silos_signed(scheme: Scheme) -> None:
    here, told = opening(scheme)
    assert len(told.signatures) == N
    for silo, change in zip(here.silos, UNSIGNED, strict=True):  # Each leaves with what it is told.
        with pytest.raises(FaultyCoordinator, match="t = 3 are needed"):
            here.deliver(silo, replace(told, signatures=change(here, told.signatures)))
        assert here.silos[silo].outcome is None
        with pytest.raises(UnexpectedMessage):
            here.deliver(silo, told)


def signed_over_the_bare_round(here: Attempt, silo: SiloId) -> tuple[SiloId, bytes]:
    """What a silo would sign that names the round and not the uploads in it."""
    survivors = here.federation.roster.silos
    round_id = cast(Any, here.coordinator).round_id
    return silo, here.federation.identities[silo].sign("survivors", round_id, survivors)


@light_schemes
def test_t_signatures_are_enough(scheme: Scheme) -> None:
    here, told = opening(scheme)
    assert here.deliver(SELF, replace(told, signatures=told.signatures[1:])) is not None


@light_schemes
def test_an_opening_of_another_round_is_refused(scheme: Scheme) -> None:
    here, told = opening(scheme)
    with pytest.raises(FaultyCoordinator, match="another round"):
        here.deliver(SELF, replace(told, round_id=bytes(32)))


@pytest.mark.parametrize("scheme", SHARED.values(), ids=SHARED)
def test_what_is_announced_and_does_not_open_names_nobody_and_leaves_nothing(scheme: Scheme) -> None:
    here, told = opening(scheme)
    assert isinstance(told, AggregateAnnounced)
    silo = cast(SharedKeySilo, here.silos[SELF])
    garbage = Payload.of(np.full(told.total.length, 255, told.total.dtype))
    step = silo.receive(replace(told, total=garbage))
    assert step.output is None
    with pytest.raises(RoundAborted, match=r"does not open.*a silo or the coordinator"):
        silo.proceed()
    assert silo.outcome is None
    silo.proceed()  # There is nothing left to open.
    assert silo.outcome is None
    with pytest.raises(UnexpectedMessage):
        silo.receive(told)


# --- shares: what is added ---------------------------------------------------------------------------------


def test_a_silo_that_signed_what_is_no_ciphertext_is_named_by_its_peers() -> None:
    """The coordinator, which would have refused it, colludes."""
    here, uploads = up_to(EncryptedInput, THRESHOLD_PAILLIER)
    form = here.federation.adder.upload
    zeros = Payload.of(np.zeros(form.length, np.uint8))
    uploads[PEER] = here.instead(PEER, uploads[PEER], zeros)
    told = UploadsAnnounced(
        uploads[SELF].round_id, tuple((s, uploads[s].upload) for s in here.federation.roster.silos)
    )
    signatures = tuple(
        (silo, cast(ConsistencyCheck, here.deliver(silo, told)).signature)
        for silo in here.federation.roster.silos
        if silo != PEER
    )
    contents = [uploads[s].ciphertexts.array() for s in here.federation.roster.silos]
    requested = OpeningRequested(told.round_id, signatures, Payload.of(np.concatenate(contents)))
    with pytest.raises(FaultySiloOrCoordinator, match="its upload: ") as fault:
        here.deliver(SELF, requested)
    assert fault.value.silo == PEER


# --- shares: what is combined ------------------------------------------------------------------------------


def flipped(at: int) -> Callable[[bytes], bytes]:
    """Return what changes one bit of a part; the proof is at its end."""

    def flip(part: bytes) -> bytes:
        content = bytearray(part)
        content[at] ^= 1
        return bytes(content)

    return flip


def no_number(part: bytes) -> bytes:
    return bytes(len(part))


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the partial decryption": flipped(100),
    "a bit of the proof": flipped(-1),
    "zeros": no_number,
}


class Lying(ThresholdPaillierCipher):
    """A silo that proves one thing and sends another, of the same length."""

    lie: Callable[[bytes], bytes]

    def part(self, total: Payload, *, round_id: bytes) -> bytes:
        return self.lie(super().part(total, round_id=round_id))


def with_liars(*liars: SiloId, lie: Callable[[bytes], bytes]) -> tuple[Attempt, dict[SiloId, Any]]:
    """Return an attempt in which some lie, and the parts of all."""
    here = attempt(THRESHOLD_PAILLIER)
    for silo in liars:
        honest: Any = keys_of(THRESHOLD_PAILLIER, N).keys[silo].cipher(here.federation.terms)
        cipher = Lying(honest._share, here.federation.encoding)
        cipher.lie = lie
        here.silos[silo] = ThresholdSilo(
            silo,
            identity=here.federation.identities[silo],
            roster=here.federation.roster,
            terms=here.federation.terms,
            cipher=cipher,
            vector=here.federation.vectors[silo],
            locks=Locks(),
            data_set="data",
        )
    while not isinstance(here.inbox[SELF], OpeningRequested):
        here.take(here.turn())
    return here, dict(here.turn())


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_wrong_part_is_left_out_and_its_silo_is_named_by_all_others(lie: Callable[[bytes], bytes]) -> None:
    here, parts = with_liars(PEER, lie=lie)
    here.take(parts)
    said = cast(dict[SiloId, Opened], here.turn())
    honest = [silo for silo in said if silo != PEER]
    assert {said[silo].faulty for silo in honest} == {(PEER,)}
    assert len({reply.base for reply in said.values()}) == 1
    for silo in honest:
        opened = here.silos[silo].outcome
        assert opened is not None
        assert opened.total.tolist() == here.federation.sum_of(here.federation.roster.silos)
    here.take(said)
    assert here.coordinator.outcome is not None
    assert list(cast(Any, here.coordinator).faulty) == [PEER]


def test_two_wrong_parts_of_four_open_nothing_and_are_named_by_all_others() -> None:
    here, parts = with_liars(PEER, "east", lie=flipped(100))
    here.take(parts)
    for silo in (SELF, "south"):
        with pytest.raises(TooFewSilos) as few:
            here.deliver(silo, here.inbox[silo])
        assert (few.value.have, few.value.need) == (2, 3)
        assert set(few.value.missing) == {PEER, "east"}
        assert here.silos[silo].outcome is None
        with pytest.raises(UnexpectedMessage):
            here.deliver(silo, here.inbox[silo])
        said = refusal(few.value, 1)
        assert (said.rule, set(said.silos)) == ("wrong parts", {PEER, "east"})
        here.coordinator.receive(silo, said)
    with pytest.raises(TooFewSilos):
        here.coordinator.advance(60.0)
    assert set(cast(Any, here.coordinator).faulty) == {PEER, "east"}


def test_a_whole_round_names_whose_part_is_wrong_where_too_few_are_right() -> None:
    """West's part is lost and east's is wrong: those two open with their own, the others tell of east."""
    federation = Federation(N, scheme=THRESHOLD_PAILLIER)

    def wrong(reply: Any) -> Any:
        if not isinstance(reply, PartialDecryption):
            return reply
        content = reply.sealed.array().copy()
        content[0] ^= 1
        return replace(reply, sealed=Payload.of(content))

    federation.silos["east"].tamper = wrong
    federation.silos["west"].tamper = lambda reply: None if isinstance(reply, PartialDecryption) else reply
    coordinator = federation.coordinator(attempts=1)
    assert federation.run(coordinator).survivors == federation.roster.silos
    assert "its part of the opening is wrong" in coordinator.losses["east"]
    for silo in (SELF, "south"):
        assert [type(error) for error in federation.silos[silo].errors] == [TooFewSilos]
        assert "names east" in coordinator.losses[silo]


def garbage(federation: Federation, rows_of: Callable[[bytes], NDArray[np.uint8]]) -> Any:
    """Return what changes the upload of "east" to ciphertexts of other rows, proved and signed as its own."""

    def tamper(reply: Any) -> Any:
        if not isinstance(reply, EncryptedInput):
            return reply
        adder: Any = federation.adder
        context = adder.context("east", reply.round_id)
        rows = rows_of(reply.round_id)
        data = encrypt_known(rows, Pool(adder.public), context=context, random=os.urandom)
        payload = Payload.over("u1", len(data), memoryview(data))
        fields = transcript.upload_fields(
            federation.adder, reply.round_id, "east", payload.digest, reply.upload.box
        )
        signature = federation.identities["east"].sign(transcript.UPLOAD, *fields)
        upload = SignedUpload(payload.digest, reply.upload.box, signature)
        return EncryptedInput(reply.round_id, upload, payload)

    return tamper


def blames_nobody(federation: Federation, why: str) -> None:
    coordinator = federation.coordinator(attempts=1)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    for silo in ("north", "south", "west"):
        [error] = federation.silos[silo].errors
        assert type(error) is RoundAborted
        assert why in str(error)
        assert "one of the silos did it" in str(error)
        assert coordinator.losses[silo] == "refused: no sum"


def test_what_one_silo_encrypts_in_place_of_a_vector_makes_no_sum_and_nobody_is_blamed() -> None:
    """It knows what it sends, so that the proof holds: all ones, no check, and a count of two."""
    adder: Any = Federation(N, scheme=THRESHOLD_PAILLIER).adder
    two = np.zeros(adder.length, np.uint32)
    two[-1] = 2
    made: list[tuple[Callable[[bytes], NDArray[np.uint8]], str]] = [
        (lambda _: np.full((adder.count, adder.packing.row_bytes), 127, np.uint8), "sum"),
        (lambda _: np.zeros((adder.count, adder.packing.row_bytes), np.uint8), "of this round"),
        (lambda round_id: adder.packing.pack(two, adder.checks(round_id)), "count"),
    ]
    for rows_of, why in made:
        federation = Federation(N, scheme=THRESHOLD_PAILLIER)
        federation.silos["east"].tamper = garbage(federation, rows_of)
        blames_nobody(federation, why)


@each_scheme
def test_terms_that_the_workload_refuses_cost_no_key(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(N, scheme=scheme)

    def refuse(_terms: Terms) -> None:
        raise PolicyRefused("memory_limit", "too much")

    monkeypatch.setattr(federation.work["north"], "accept", refuse)
    for name in ("want", "cipher"):  # Which asks a peer, and makes tables of 40 MB.
        monkeypatch.setattr(Held, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    reply = federation.silos["north"].deliver(wire.encode(TrainingOpened(federation.terms, 60.0)))
    assert reply is not None
    refused = wire.decode_from_silo(*reply)
    assert isinstance(refused, Refused)
    assert refused.rule == "memory_limit"


def parts_announced() -> tuple[Attempt, PartialsAnnounced]:
    here, parts = up_to(PartialDecryption, THRESHOLD_PAILLIER)
    here.take(parts)
    return here, cast(PartialsAnnounced, here.inbox[SELF])


def of(told: Any, silos: list[SiloId]) -> PartialsAnnounced:
    """Return the announcement of the parts of some silos."""
    size = told.sealed.length // len(told.boxes)
    content = told.sealed.array()
    names = [silo for silo, _ in told.boxes]
    rows = [content[names.index(silo) * size :][:size] for silo in silos]
    boxes = tuple((silo, dict(told.boxes)[silo]) for silo in silos)
    return PartialsAnnounced(told.round_id, boxes, Payload.of(np.concatenate(rows)))


def test_parts_down_to_t_open_and_one_fewer_opens_nothing() -> None:
    here, _ = parts_announced()
    everybody = here.federation.sum_of(here.federation.roster.silos)
    for silo, parts in (("north", ["north", "south", "east"]), ("south", ["west", "east"])):
        said = here.deliver(silo, of(here.inbox[silo], parts))  # Its own is here, and need not come back.
        assert isinstance(said, Opened)
        assert said.faulty == ()
        opened = here.silos[silo].outcome
        assert opened is not None
        assert opened.total.tolist() == everybody
    with pytest.raises(FaultyCoordinator, match="fewer parts"):
        here.deliver("west", of(here.inbox["west"], ["west", "south"]))
    assert here.silos["west"].outcome is None


def test_a_part_that_was_changed_on_its_way_is_one_that_is_wrong() -> None:
    here, told = parts_announced()
    boxes = tuple((s, flipped(0)(box) if s == PEER else box) for s, box in told.boxes)
    content = told.sealed.array().copy()
    content[2 * (told.sealed.length // N) + 5] ^= 1
    other = cast(PartialsAnnounced, here.inbox["south"])
    for silo, message in (
        ("north", replace(told, boxes=boxes)),
        ("south", replace(other, sealed=Payload.of(content))),
    ):
        said = here.deliver(silo, message)
        assert isinstance(said, Opened)
        assert said.faulty == (PEER,)


def test_parts_that_no_honest_coordinator_announces_are_refused() -> None:
    here, told = parts_announced()
    wrong = (
        (replace(told, round_id=bytes(32)), "another round"),
        (of(told, [SELF, SELF, "south", "east"]), "distinct survivors"),
        (replace(told, boxes=(*told.boxes[:3], ("stranger", told.boxes[3][1]))), "distinct survivors"),
        (replace(told, boxes=told.boxes[:3]), "another length"),
    )
    for silo, (message, why) in zip(here.silos, wrong, strict=True):  # Each leaves with what it is told.
        with pytest.raises(FaultyCoordinator, match=why):
            here.deliver(silo, message)
        assert here.silos[silo].outcome is None
        with pytest.raises(UnexpectedMessage):
            here.deliver(silo, told)


def test_parts_of_another_form_are_refused() -> None:
    here, told = parts_announced()
    wrong = (told.sealed.array()[:-1], np.zeros(told.sealed.length, np.uint32))
    for silo, content in zip(here.silos, wrong, strict=False):
        with pytest.raises(FaultyCoordinator, match="another length or type"):
            here.deliver(silo, replace(told, sealed=Payload.of(content)))


def test_a_part_leaves_sealed_to_each_survivor_and_to_nobody_else() -> None:
    here, parts = up_to(PartialDecryption, THRESHOLD_PAILLIER)
    part: PartialDecryption = parts[SELF]
    assert tuple(peer for peer, _ in part.boxes) == here.federation.roster.silos
    state: Any = here.silos[SELF]
    clear = state._state.part
    sealed = part.sealed.array().tobytes()
    assert len(sealed) == len(clear) + SEAL_SIZE
    assert not any(clear[start : start + 16] in sealed for start in range(0, len(clear) - 16, 16))


# --- what is printed ---------------------------------------------------------------------------------------


@light_schemes
def test_no_state_of_a_session_shows_what_it_holds(scheme: Scheme) -> None:
    here, told = opening(scheme)
    silo = here.silos[SELF]
    here.deliver(SELF, told)
    shown = repr(silo) + repr(cast(Any, silo)._state)
    vector = here.federation.vectors[SELF]
    assert str(int(vector[0])) not in shown
    assert len(shown) < 400


def test_errors_of_a_session_say_no_number_of_the_sum() -> None:
    here, told = opening(PAILLIER)
    silo = cast(SharedKeySilo, here.silos[SELF])
    fewer = here.federation.adder.begin()
    for upload in here.uploads()[1:]:
        fewer.add(cast(EncryptedInput, upload).ciphertexts)
    silo.receive(replace(told, total=fewer.total()))
    with pytest.raises(SecaggError) as error:
        silo.proceed()
    total = here.federation.sum_of(here.federation.roster.silos[1:])
    assert not any(str(number) in str(error.value) for number in total)


def test_an_upload_is_bound_to_all_that_it_is_for() -> None:
    here, told = announced(THRESHOLD_PAILLIER)
    adder, roster = here.federation.adder, here.federation.roster
    upload: SignedUpload = dict(told.uploads)[PEER]
    assert transcript.is_signed(roster, adder, told.round_id, PEER, upload)
    assert not transcript.is_signed(roster, adder, bytes(32), PEER, upload)
    assert not transcript.is_signed(roster, adder, told.round_id, SELF, upload)
    for fields in ({"content": bytes(32)}, {"box": None}, {"box": bytes(32)}):
        assert not transcript.is_signed(roster, adder, told.round_id, PEER, replace(upload, **fields))
    other = Federation(N, scheme=PAILLIER).adder
    assert not transcript.is_signed(roster, other, told.round_id, PEER, upload)


def test_what_survivors_sign_names_every_upload() -> None:
    _, told = announced(CKKS_4096)
    whole = transcript.set_id(told.round_id, told.uploads)
    others = [
        transcript.set_id(bytes(32), told.uploads),
        transcript.set_id(told.round_id, told.uploads[1:]),
        transcript.set_id(told.round_id, told.uploads[::-1]),
        transcript.set_id(told.round_id, changed(told, PEER, content=bytes(32)).uploads),
        transcript.set_id(told.round_id, changed(told, PEER, box=bytes(32)).uploads),
    ]
    assert len({whole, *others}) == len(others) + 1
