"""Attack ``he_mismatch``: let ciphertexts be taken for what they are not, so that a sum opens to garbage.

SEAL loads most ciphertexts with a flipped bit, and decrypts what another key encrypted, without a word; under
Paillier any number is a ciphertext of something. Here uploads are cut, flipped, moved to another silo, round,
key or parameters, signed by others, or signed by their own silo and still no ciphertexts; sums are cut,
flipped, mixed up, of another key, of fewer silos. Each upload must name its sender; each sum must be refused,
or open to what was summed. Who holds a key that all share cannot tell a sum of other uploads: that is what L0
says, and no part of this attack.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.secret import SecretKey as CKKSKey
from secagg.ckks.silo import CKKSCipher
from secagg.encrypted import transcript
from secagg.encrypted.cipher import Adder, Form
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
from secagg.errors import FaultyCoordinator, FaultySilo, RoundAborted, TooFewSilos
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    PartialsAnnounced,
    RoundOpened,
    SignedUpload,
    UploadsAnnounced,
)
from secagg.names import IntegerVector, SiloId
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from secagg.payload import Payload, PayloadType
from secagg.scheme import Scheme
from secagg.survivors import Locks
from tests.counts import count
from tests.federations import (
    CKKS_4096,
    PAILLIER,
    THRESHOLD_PAILLIER,
    Federation,
    ckks_key,
    dealt,
    encoding_of,
    keys_of,
)
from tests.paillier_keys import SAFE_P, secret_key, shared_key, threshold_key

N = 4
# Three ciphertexts, full to the end, and two chunks.
LENGTHS = {"Paillier": 182, "ThresholdPaillier": 182, "CKKS": 2100}
PARTS = {"Paillier": 3, "CKKS": 2}
UPLOADS, SUMS = 300, 150  # Each kind comes up some times; a mutant needs no more to be found.
ALL_UPLOADS, ALL_SUMS = count(UPLOADS, full=10_000), count(SUMS, full=10_000)
SPOILED = "spoiled by its silo, alone"
PARTS_CHANGED = count(6, full=150)  # Each is opened with all proofs, which takes a tenth of a second.
SHARED: Mapping[str, Scheme] = {"Paillier": PAILLIER, "CKKS": CKKS_4096}
NAMES: Mapping[str, Scheme] = {**SHARED, "ThresholdPaillier": THRESHOLD_PAILLIER}


@dataclass(frozen=True)
class World:
    """Four silos that share a key, what they honestly sent, and what an attacker has from elsewhere."""

    name: str

    @cached_property
    def federation(self) -> Federation:
        return Federation(N, scheme=NAMES[self.name], encoding=encoding_of(N, length=LENGTHS[self.name]))

    @property
    def adder(self) -> Adder:
        adders = keys_of(NAMES[self.name], N).adders
        assert adders is not None
        return adders(self.federation.encoding)

    @cached_property
    def opened(self) -> RoundOpened:
        return cast(RoundOpened, self.coordinator().open(0.0).output["north"])

    @cached_property
    def round_id(self) -> bytes:
        return transcript.round_id(self.opened, self.adder)

    def coordinator(self) -> EncryptedCoordinator:
        federation = self.federation
        return EncryptedCoordinator(
            federation.roster, terms=federation.terms, adder=self.adder, attempt=1, seconds=60.0
        )

    def silo(self, name: SiloId) -> SharedKeySilo | ThresholdSilo:
        federation = self.federation
        kind: Any = SharedKeySilo if self.name in SHARED else ThresholdSilo
        return kind(  # type: ignore[no-any-return]  # One of the two.
            name,
            identity=federation.identities[name],
            roster=federation.roster,
            terms=federation.terms,
            cipher=cast(Any, keys_of(NAMES[self.name], N).keys[name].cipher(federation.terms)),
            vector=federation.vectors[name],
            locks=Locks(),
            data_set="data",
        )

    @cached_property
    def silos(self) -> dict[SiloId, SharedKeySilo | ThresholdSilo]:
        return {name: self.silo(name) for name in self.federation.roster.silos}

    @cached_property
    def uploads(self) -> dict[SiloId, EncryptedInput]:
        return {
            name: cast(EncryptedInput, silo.receive(self.opened).output) for name, silo in self.silos.items()
        }

    @cached_property
    def announced(self) -> AggregateAnnounced:
        """The true sum, as all four signed it; afterwards every silo waits for it."""
        coordinator = self.coordinator()
        coordinator.open(0.0)
        for name, upload in self.uploads.items():
            coordinator.receive(name, upload)
        told: Mapping[SiloId, FromCoordinator] = coordinator.advance(0.0).output
        for name, message in told.items():
            assert isinstance(message, UploadsAnnounced)
            coordinator.receive(name, cast(ConsistencyCheck, self.silos[name].receive(message).output))
        return cast(AggregateAnnounced, coordinator.advance(0.0).output["north"])

    def elsewhere_sent(self, *, key: str = "", round_id: bytes | None = None) -> tuple[Adder, list[Payload]]:
        """Ciphertexts of other vectors, under this key or another one, and what adds them."""
        encoding = self.federation.encoding
        cipher: PaillierCipher | ThresholdPaillierCipher | CKKSCipher
        match self.name:
            case "Paillier":
                cipher = PaillierCipher(secret_key(key) if key else shared_key(), encoding)
            case "CKKS":
                cipher = CKKSCipher(CKKSKey.generate(4096) if key else ckks_key(4096), encoding)
            case _:
                _, shares = threshold_key(5, 4) if key else dealt(N, THRESHOLD_PAILLIER.cohort(N).t)
                cipher = ThresholdPaillierCipher(shares[0], encoding)
        drawn = np.random.default_rng(9)
        vectors = [drawn.integers(0, 1000, LENGTHS[self.name] + 1).astype(np.uint32) for _ in range(N)]
        for vector in vectors:
            vector[-1] = 1
        named = round_id or self.round_id
        return cipher, [cipher.encrypt(vector, silo="north", round_id=named) for vector in vectors]

    def summed(self, adder: Adder, payloads: list[Payload]) -> bytes:
        total = adder.begin()
        for payload in payloads:
            total.add(payload)
        return content(total.total())

    @cached_property
    def elsewhere(self) -> list[bytes]:
        """Sums that are not of this round: of another key, of fewer silos; and of another round."""
        fewer = [upload.ciphertexts for upload in self.uploads.values()][1:]
        return [
            self.summed(*self.elsewhere_sent(key="other")),
            self.summed(self.adder, fewer),
            self.summed(*self.elsewhere_sent(round_id=bytes(32))),
        ]

    def parted(self, spoil: Callable[[bytes], bytes] | None = None) -> tuple[Any, PartialsAnnounced]:
        """North, which waits for the parts of an opening, and these; south may spoil its own."""
        silos: Any = {name: self.silo(name) for name in self.federation.roster.silos}
        if spoil is not None:
            silos["south"]._cipher = Spoiling(silos["south"]._cipher, spoil)
        coordinator = self.coordinator()
        told: Mapping[SiloId, FromCoordinator] = coordinator.open(0.0).output
        while not isinstance(told["north"], PartialsAnnounced):
            for name, message in told.items():
                coordinator.receive(name, silos[name].receive(message).output)
            told = coordinator.advance(0.0).output
        return silos["north"], told["north"]

    @cached_property
    def true_parts(self) -> tuple[Any, PartialsAnnounced]:
        return self.parted()

    @cached_property
    def spoiled_parts(self) -> list[tuple[Any, PartialsAnnounced]]:
        """South's part, sealed and proved as its own: of other ciphertexts, in turn, and of garbage."""
        size = cast(PaillierAdder, self.adder).public.ciphertext_size
        return [
            self.parted(spoil)
            for spoil in (
                lambda part: part[size : 2 * size] + part[size:],
                lambda part: part[size : 2 * size] + part[:size] + part[2 * size :],
                lambda part: bytes([part[0] ^ 1]) + part[1:],
                lambda part: (2).to_bytes(size, "big") + part[size:],
            )
        ]

    @cached_property
    def secrets(self) -> bytes:
        match self.name:
            case "Paillier":
                return shared_key().to_bytes()
            case "CKKS":
                return ckks_key(4096).material().content
            case _:
                return threshold_key(5, 4)[1][0].to_bytes()

    @cached_property
    def box(self) -> bytes | None:
        """What north's upload says that its peers seal to."""
        return self.uploads["north"].upload.box

    @cached_property
    def exact(self) -> list[int]:
        return self.federation.sum_of(self.federation.roster.silos)

    # --- what an attacker makes ------------------------------------------------------------------------

    def payload(self, data: bytes, dtype: PayloadType | None = None) -> Payload:
        form = self.adder.upload
        dtype = dtype or form.dtype
        size = Form(dtype, 1).size
        return Payload.over(dtype, len(data) // size, memoryview(data[: len(data) // size * size]))

    def signed(self, data: bytes, *, silo: SiloId = "north", **other: Any) -> Any:
        """An upload that north signed, for another silo, key, round or parameters where it says so."""
        box = other.get("box", self.box)
        payload = self.payload(data, other.pop("dtype", None))
        round_id = other.pop("round_id", self.round_id)
        stated = Stated(
            other.get("key", self.adder.key),
            other.get("parameters", self.adder.parameters),
            Form("u1", payload.length),
        )
        fields = transcript.upload_fields(cast(Adder, stated), round_id, silo, payload.digest, box)
        signature = self.federation.identities["north"].sign(transcript.UPLOAD, *fields)
        return EncryptedInput(self.round_id, SignedUpload(payload.digest, box, signature), payload)

    def no_ciphertext(self, drawn: random.Random) -> bytes:
        """Bytes of the right size, one number of which is no ciphertext."""
        data = bytearray(content(self.uploads["north"].ciphertexts))
        if self.name == "CKKS":
            modulus = cast(CKKSAdder, self.adder).limbs.parameters.ring.modulus
            word = drawn.choice([modulus, modulus + 1, 2**60, 2**63, 2**64 - 1])
            at = drawn.choice([0, len(data) // 2]) + 64 + 8 * drawn.randrange(4096)
            data[at : at + 8] = word.to_bytes(8, "little")
            return bytes(data)
        public = cast(PaillierAdder, self.adder).public
        n, size = int(public.n), public.ciphertext_size
        p = SAFE_P if n % SAFE_P == 0 else shared_key().primes()[0]
        bare = (1 + drawn.randrange(n) * n) % n**2
        number = drawn.choice(
            [0, 1, n, bare, p * drawn.randrange(1, n), n * n, n * n + 5, 2 ** (8 * size) - 1]
        )
        at = size * drawn.randrange(self.adder.total.length // size)
        data[at : at + size] = number.to_bytes(size, "big")
        return bytes(data)


class Spoiling:
    """The cipher of a silo that spoils its part of an opening."""

    def __init__(self, cipher: Any, spoil: Callable[[bytes], bytes]) -> None:
        self._cipher, self._spoil = cipher, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cipher, name)

    def part(self, total: Payload, *, round_id: bytes) -> bytes:
        return self._spoil(self._cipher.part(total, round_id=round_id))


@dataclass(frozen=True)
class Stated:
    """What an upload says that it is encrypted under."""

    key: bytes
    parameters: bytes
    upload: Form


@cache
def world(name: str) -> World:
    return World(name)


def content(payload: Payload) -> bytes:
    return payload.buffer()[:].tobytes()


def flipped(data: bytes, drawn: random.Random, bits: int = 1) -> bytes:
    changed = bytearray(data)
    for _ in range(bits):
        bit = drawn.randrange(8 * len(data))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(data: bytes, drawn: random.Random) -> bytes:
    return data[: 8 * drawn.randrange(1, len(data) // 8)]


def wrong_uploads(here: World, drawn: random.Random) -> Iterator[tuple[str, EncryptedInput]]:
    """Yield uploads of no silo for this round, for ever, with what was done to each."""
    good, south = here.uploads["north"], here.uploads["south"]
    data = content(good.ciphertexts)
    elsewhere = [content(payload) for payload in here.elsewhere_sent(key="other")[1]]

    def moved(changed: bytes) -> EncryptedInput:
        """Other bytes under the same signature, which the message names by their own digest."""
        payload = here.payload(changed)
        return EncryptedInput(good.round_id, replace(good.upload, content=payload.digest), payload)

    kinds: list[Callable[[], tuple[str, EncryptedInput]]] = [
        lambda: ("flipped", replace(good, ciphertexts=here.payload(flipped(data, drawn)))),
        lambda: ("garbled", replace(good, ciphertexts=here.payload(flipped(data, drawn, 500)))),
        lambda: ("flipped, its digest", moved(flipped(data, drawn))),
        lambda: ("cut", replace(good, ciphertexts=here.payload(cut(data, drawn)))),
        lambda: ("cut, signed", here.signed(cut(data, drawn))),
        lambda: ("longer", here.signed(data + bytes(8 * drawn.randrange(1, 99)))),
        lambda: ("another type", here.signed(data, dtype="u4")),
        lambda: ("another's bytes", replace(good, ciphertexts=south.ciphertexts)),
        lambda: ("another's upload", replace(south, round_id=good.round_id)),
        lambda: ("signature", with_signature(good, flipped(good.upload.signature, drawn))),
        lambda: ("no signature", with_signature(good, drawn.randbytes(64))),
        lambda: ("for another silo", here.signed(data, silo="south")),
        lambda: ("for another key", here.signed(data, key=drawn.randbytes(32))),
        lambda: ("another key", here.signed(drawn.choice(elsewhere), key=drawn.randbytes(32))),
        lambda: ("another round", here.signed(data, round_id=drawn.randbytes(32))),
        lambda: ("other parameters", here.signed(data, parameters=drawn.randbytes(32))),
        lambda: (
            "a key to seal to, or none",
            here.signed(data, box=None if here.box else drawn.randbytes(32)),
        ),
        lambda: ("no ciphertext", here.signed(here.no_ciphertext(drawn))),
        lambda: ("a secret", here.signed((here.secrets + bytes(len(data)))[: len(data)])),
        lambda: ("a secret alone", here.signed(here.secrets)),
    ]
    while True:
        for kind in kinds:
            yield kind()


def with_signature(upload: EncryptedInput, signature: bytes) -> EncryptedInput:
    return replace(upload, upload=replace(upload.upload, signature=signature))


def accepted_uploads(here: World, times: int) -> list[str]:
    """Attack: return which wrong uploads were taken, or ended the round without a name."""
    taken = []
    for _, (kind, upload) in zip(range(times), wrong_uploads(here, random.Random(2)), strict=False):  # noqa: S311 - the attacker's
        coordinator = here.coordinator()
        coordinator.open(0.0)
        try:
            coordinator.receive("north", upload)
        except FaultySilo as fault:
            if fault.silo == "north":
                continue
        except RoundAborted:
            pass
        taken.append(kind)
    return taken


def wrong_sums(here: World, drawn: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield what is no sum of this round, for ever, with what was done to each."""
    data = content(here.announced.total)
    half = len(data) // 2
    part = len(data) // PARTS[here.name]
    kinds: list[Callable[[], tuple[str, bytes]]] = [
        lambda: ("flipped", flipped(data, drawn)),
        lambda: ("garbled", flipped(data, drawn, 500)),
        lambda: ("cut", cut(data, drawn)),
        lambda: ("longer", data + bytes(8 * drawn.randrange(1, 99))),
        lambda: ("in turn", data[part:] + data[:part]),
        lambda: ("one twice", data[:part] + data[:part] + data[2 * part :]),
        lambda: ("of another key or round, or of fewer", drawn.choice(here.elsewhere)),
        lambda: ("mixed", data[:half] + here.elsewhere[0][half:]),
        lambda: ("no ciphertexts", drawn.randbytes(len(data))),
        lambda: ("a secret", (here.secrets + bytes(len(data)))[: len(data)]),
    ]
    while True:
        for kind in kinds:
            yield kind()


def opened(here: World, data: bytes) -> IntegerVector | None:
    """Announce a sum to a silo that signed the set; return what it takes from it."""
    announced = here.announced
    silo: Any = copy.copy(here.silos["north"])  # It goes on from the same state every time.
    try:
        silo.receive(replace(announced, total=here.payload(data, announced.total.dtype)))
        silo.proceed()
    except (FaultyCoordinator, RoundAborted):
        return None
    assert silo.outcome is not None
    total: IntegerVector = silo.outcome.total
    return total


def opened_to_garbage(here: World, times: int) -> list[str]:
    """Attack: return which wrong sums opened to something else than the sum."""
    garbage = []
    for _, (kind, data) in zip(range(times), wrong_sums(here, random.Random(3)), strict=False):  # noqa: S311 - the attacker's
        total = opened(here, data)
        if total is not None and total.tolist() != here.exact:
            garbage.append(kind)
    return garbage


def wrong_parts(here: World, drawn: random.Random) -> Iterator[tuple[str, Any, PartialsAnnounced]]:
    """Yield what are not the parts of an opening, for ever, with what was done to each, and north."""
    north, true = here.true_parts
    data, boxes = content(true.sealed), true.boxes
    part = len(data) // len(boxes)
    turned = tuple((silo, boxes[at - 1][1]) for at, (silo, _) in enumerate(boxes))

    def with_data(changed: bytes) -> PartialsAnnounced:
        return replace(true, sealed=Payload.over("u1", len(changed), memoryview(changed)))

    kinds: list[Callable[[], tuple[str, PartialsAnnounced]]] = [
        lambda: ("flipped", with_data(flipped(data, drawn))),
        lambda: ("garbled", with_data(flipped(data, drawn, 50))),
        lambda: ("cut", with_data(cut(data, drawn))),
        lambda: ("in turn", with_data(data[part:] + data[:part])),
        lambda: ("one twice", with_data(data[:part] + data[:part] + data[2 * part :])),
        lambda: ("keys in turn", replace(true, boxes=turned)),
        lambda: (
            "names in turn",
            replace(true, boxes=tuple((boxes[i - 1][0], b[1]) for i, b in enumerate(boxes))),
        ),
        lambda: ("too few", replace(with_data(data[:part]), boxes=boxes[:1])),
    ]
    while True:
        for spoiled in here.spoiled_parts:
            yield SPOILED, *spoiled
        for kind in kinds:
            name, parts = kind()
            yield name, north, parts


def parts_opened_to_garbage(here: World, times: int) -> list[str]:
    """Attack: return which wrong parts opened to something else, or kept t right ones from opening."""
    garbage = []
    for _, (kind, north, parts) in zip(range(times), wrong_parts(here, random.Random(4)), strict=False):  # noqa: S311 - the attacker's
        silo = copy.copy(north)  # It goes on from the same state every time.
        try:
            silo.receive(parts)
        except (FaultyCoordinator, RoundAborted, TooFewSilos):
            garbage += [kind] if kind == SPOILED else []
            continue
        assert silo.outcome is not None
        if silo.outcome.total.tolist() != here.exact:
            garbage.append(kind)
    return garbage


EVERY = pytest.mark.parametrize("name", NAMES)


def attack(name: str, *, uploads: int = UPLOADS, sums: int = SUMS) -> None:
    here = world(name)
    # The same calls take what is right.
    coordinator = here.coordinator()
    coordinator.open(0.0)
    coordinator.receive("north", here.uploads["north"])
    assert accepted_uploads(here, uploads) == [], "a wrong upload was taken"
    if name not in SHARED:  # Silos add the uploads themselves: there is no sum to change.
        north, parts = here.true_parts
        silo = copy.copy(north)
        silo.receive(parts)
        assert silo.outcome is not None
        assert silo.outcome.total.tolist() == here.exact
        assert parts_opened_to_garbage(here, PARTS_CHANGED) == [], "parts opened to garbage, or to nothing"
        return
    total = opened(here, content(here.announced.total))
    assert total is not None
    assert total.tolist() == here.exact
    assert opened_to_garbage(here, sums) == [], "a sum opened to garbage"


@EVERY
def test_he_mismatch(name: str) -> None:
    attack(name, uploads=ALL_UPLOADS, sums=ALL_SUMS)


def test_seal_reads_no_byte_of_a_refused_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world("CKKS")
    assert here.announced is not None
    monkeypatch.setattr("secagg.ckks.seal.Seal.load", lambda *_: pytest.fail("SEAL read an upload"))
    assert accepted_uploads(here, UPLOADS) == []


def leaving_out(field: int) -> Callable[..., Any]:
    """``upload_fields`` that leaves something out."""
    whole = transcript.upload_fields

    def made(*given: Any) -> Any:
        fields = whole(*given)
        return (*fields[:field], *fields[field + 1 :])

    return made


def unchecked(self: Any, rows: Any, checks: Any, *, length: int, silos: int) -> Any:
    """``Packing.unpack`` that takes whatever the lanes hold."""
    mask = 2**self.lane_bits - 1
    plaintexts = [int.from_bytes(row.tobytes(), "little") for row in rows]
    lanes = [plain >> self.lane_bits * at & mask for plain in plaintexts for at in range(1, self.lanes)]
    return np.array([(lane - silos * self.bias) % 2**32 for lane in lanes[:length]], np.uint32)


def alike(self: Any, round_id: bytes) -> Any:
    """Checks that are those of every row and round."""
    return np.ones(self.count, np.int64)


@pytest.mark.parametrize(
    ("name", "defence", "mutant", "found"),
    [
        *((name, "secagg.encrypted.transcript.verify", lambda *_: True, "was taken") for name in NAMES),
        *(
            (name, "secagg.encrypted.transcript.upload_fields", leaving_out(field), "was taken")
            for name in NAMES
            for field in (0, 1, 2, 3, 5)  # Key, parameters, round, silo, content.
            if field != 5 or name in SHARED  # Elsewhere the proof holds for no other content either.
        ),
        ("Paillier", "secagg.paillier.coordinator.read", lambda *_: [], "was taken"),
        ("CKKS", "secagg.ckks.coordinator.check_upload", lambda *_: None, "was taken"),
        ("ThresholdPaillier", "secagg.paillier.knowledge.check_known", lambda *_, **__: None, "was taken"),
        (
            "ThresholdPaillier",
            "secagg.paillier.threshold.ThresholdKey.check",
            lambda *_, **__: True,
            "to garbage",
        ),
        ("Paillier", "secagg.packing.Packing.unpack", unchecked, "opened to garbage"),
        ("Paillier", "secagg.paillier.coordinator.PaillierAdder.checks", alike, "opened to garbage"),
        ("CKKS", "secagg.ckks.secret.check_slots", lambda *_, **__: None, "opened to garbage"),
    ],
)
def test_he_mismatch_mutant(
    monkeypatch: pytest.MonkeyPatch, name: str, defence: str, mutant: Any, found: str
) -> None:
    anew = defence.endswith(("upload_fields", ".checks"))  # Honest silos sign and pack what the mutant says.
    if anew:
        world.cache_clear()
    else:
        here = world(name)
        if name in SHARED:
            assert here.announced is not None
            assert here.elsewhere
        else:
            assert here.spoiled_parts
    monkeypatch.setattr(defence, mutant)
    try:
        with pytest.raises(AssertionError, match=found):
            attack(name)
    finally:
        if anew:
            world.cache_clear()
