"""A federation in memory for tests: seeded keys and randomness, silos to tamper with, a coordinator that
remembers all that it saw and said. Keys that encrypt are made once in each process.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from msgspec.structs import replace

from secagg import wire
from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.params import CKKS
from secagg.ckks.secret import SecretKey as CKKSKey
from secagg.ckks.silo import CKKSCipher
from secagg.encrypted.cipher import Adders, Keys, SiloCipher
from secagg.errors import (
    FaultyCoordinator,
    FaultySilo,
    PolicyRefused,
    ProtocolError,
    RoundAborted,
    SecaggError,
    UnexpectedMessage,
)
from secagg.fixedpoint import SUM_LIMIT, Encoding, Segment
from secagg.hazmat.identity import IdentityKey
from secagg.masking.params import Masking
from secagg.messages import (
    AdvertiseKeys,
    BaseSealed,
    BoxReport,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    MaskedInput,
    Opened,
    Opening,
    PartialDecryption,
    PlainInput,
    Ready,
    Refused,
    ShareKeys,
    ToKeyHolder,
    Unmasking,
    Void,
    Voided,
)
from secagg.names import IntegerVector, RandomSource, SiloId, WordBits
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.gmp import mpz
from secagg.paillier.params import LEAST_BITS, Paillier, ThresholdPaillier
from secagg.paillier.shares import KeyShare
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from secagg.paillier.threshold import Proof, ThresholdKey
from secagg.payload import Frame, Payload
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.records import CoordinatorRecord, InputAccepted, PhaseClosed, SiloLost, SiloRecord
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.silo import Participant
from secagg.scheme import Scheme
from secagg.session import Aggregate, CoordinatorStep, SiloStep
from secagg.simulation import Dropouts, SimulatedSilo, run_round
from secagg.sums import policy_for
from secagg.terms import PlainParameters, SchemeParameters, Terms, is_encrypted, training_digest
from tests.paillier_keys import shared_key, threshold_key

PAILLIER = Paillier(bits=LEAST_BITS)
THRESHOLD_PAILLIER = ThresholdPaillier(bits=LEAST_BITS)
CKKS_4096 = CKKS(degree=4096)
ENCRYPTED: tuple[Scheme, ...] = (PAILLIER, THRESHOLD_PAILLIER, CKKS_4096)
"""What encrypts, with the smallest keys that there are."""
SCHEMES: tuple[Scheme, ...] = (Plain(), Masking(), *ENCRYPTED)

Tamper: TypeAlias = Callable[[FromSilo], FromSilo | None]

NAMES = ("north", "south", "west", "east", *(f"silo-{i:02}" for i in range(4, 40)))
MODEL = Payload.of(np.linspace(-1.0, 1.0, 7))
LENGTH = 5


def seeded(*key: int) -> RandomSource:
    """Return a stream of bytes that is the same in every run."""
    return np.random.default_rng(key).bytes


def roster_of(n: int, seed: int = 0) -> tuple[Roster, dict[SiloId, IdentityKey]]:
    identities = {NAMES[i]: IdentityKey.generate(seeded(seed, i, 1)) for i in range(n)}
    return Roster.of({silo: key.public for silo, key in identities.items()}), identities


def words(length: int, word_bits: WordBits, *key: int) -> IntegerVector:
    """Return uniform words: a sum modulo 2**word_bits is exact whatever the words are."""
    raw = seeded(*key)(length * word_bits // 8)
    return np.frombuffer(raw, np.uint32) if word_bits == 32 else np.frombuffer(raw, np.uint64)


def bounded(length: int, word_bits: WordBits, cohort: int, *key: int) -> IntegerVector:
    """Return uniform integers that an encryption takes: a sum of ``cohort`` of them does not wrap."""
    most = SUM_LIMIT[word_bits] // cohort
    integers = np.random.default_rng(key).integers(-most, most, length, np.int64, endpoint=True)
    return integers.astype(np.int32).view(np.uint32) if word_bits == 32 else integers.view(np.uint64)


def encoding_of(n: int, *, length: int = LENGTH, word_bits: WordBits = 32) -> Encoding:
    return Encoding(word_bits, n, (Segment("sum", length, 1.0, 8),))


# --- keys --------------------------------------------------------------------------------------------------


@cache
def ckks_key(degree: int) -> CKKSKey:
    """Return the CKKS key of this process."""
    return CKKSKey.generate(degree)


class KnownKey(ThresholdKey):
    """A threshold key that checks a proof once for all silos of this process, each of which would."""

    def check(
        self, party: int, ciphertexts: Sequence[mpz], partials: Sequence[mpz], proof: Proof, *, context: bytes
    ) -> bool:
        stated = (party, tuple(ciphertexts), tuple(partials), proof, context)
        known: dict[Any, bool] = self.__dict__.setdefault("known", {})
        if stated not in known:
            known[stated] = super().check(party, ciphertexts, partials, proof, context=context)
        return known[stated]


def dealt(parties: int, threshold: int) -> tuple[KnownKey, tuple[KeyShare, ...]]:
    """Return a key and its shares, with the numbers of ``threshold_key``."""
    key, shares = threshold_key(parties, threshold)
    known = KnownKey(key.public, parties, threshold, key.generator, key.verification)
    return known, tuple(KeyShare(known, share.party, share._share) for share in shares)


@dataclass(frozen=True)
class Held:
    """A key that is there from the beginning; ``encrypted.cipher.Keys``."""

    key: bytes
    make: Callable[[Encoding], SiloCipher]

    def cipher(self, terms: Terms) -> SiloCipher:
        if not is_encrypted(terms.scheme) or terms.scheme.key != self.key:
            raise PolicyRefused("key", "the key that the terms name is not held here")
        return self.make(terms.encoding)

    def want(self, terms: Terms) -> None:
        return None

    def receive(self, message: ToKeyHolder) -> SiloStep:
        raise UnexpectedMessage("no key is made here")


@dataclass(frozen=True)
class Protected:
    """Parameters of a scheme, what each silo encrypts with, and what the coordinator adds with."""

    parameters: SchemeParameters
    keys: Mapping[SiloId, Keys] = field(default_factory=dict)
    adders: Adders | None = None


@cache
def keys_of(scheme: Scheme, n: int) -> Protected:
    """Return what ``scheme`` is protected with among ``n`` silos; ciphers and their tables are kept."""
    silos = NAMES[:n]
    match scheme:
        case Masking() | Plain():
            return Protected(scheme.parameters(n))
        case Paillier():
            secret = shared_key()
            public = secret.public
            return Protected(
                scheme.parameters(n, key=public.id),
                dict.fromkeys(silos, held(public.id, lambda encoding: PaillierCipher(secret, encoding))),
                cache(lambda encoding: PaillierAdder(public, encoding)),
            )
        case ThresholdPaillier():
            key, shares = dealt(n, scheme.cohort(n).t)

            def share_held(share: KeyShare) -> Held:
                return held(key.id, lambda encoding: ThresholdPaillierCipher(share, encoding))

            return Protected(
                scheme.parameters(n, key=key.id),
                {silo: share_held(share) for silo, share in zip(silos, shares, strict=True)},
                cache(lambda encoding: PaillierAdder(key, encoding)),
            )
        case CKKS():
            whole, degree = ckks_key(scheme.degree), scheme.degree
            return Protected(
                scheme.parameters(n, key=whole.key_id),
                dict.fromkeys(silos, held(whole.key_id, lambda encoding: CKKSCipher(whole, encoding))),
                cache(lambda encoding: CKKSAdder(whole.key_id, degree, encoding)),
            )


def held(key: bytes, make: Callable[[Encoding], SiloCipher]) -> Held:
    return Held(key, cache(make))


# --- silos -------------------------------------------------------------------------------------------------


def next_base(terms: Terms, aggregate: Aggregate) -> bytes:
    """Return the digest of the model that silos here make of a sum."""
    return hashlib.sha256(terms.base + aggregate.total.tobytes()).digest()


class Work:
    """A workload that counts what is asked of it.

    Args:
        vector: what "training" yields.
        model: digest of the model that is held; None for a silo that must fetch it.

    Attributes:
        bases: digest -> model, of those that were seen here.
    """

    def __init__(self, vector: IntegerVector, model: bytes | None = MODEL.digest) -> None:
        self.given = vector
        self.model = model
        self.candidate: bytes | None = None
        self.bases = {MODEL.digest: MODEL}
        self.trained = 0
        self.applied: list[Aggregate] = []
        self.opened: dict[bytes, Opened] = {}

    def accept(self, terms: Terms) -> None:
        pass

    def holds(self, terms: Terms) -> bytes | None:
        return self.model

    def base_size(self, terms: Terms) -> int:
        return 0 if self.model is None else 8 * 4

    def base(self, terms: Terms) -> Payload | None:
        return None if self.model is None else self.bases.get(self.model)

    def adopt(self, terms: Terms, base: Payload) -> None:
        if base.digest != terms.base:
            raise FaultyCoordinator("the base is another one than the terms name")
        self.candidate = base.digest
        self.bases[base.digest] = base

    def confirm(self, terms: Terms) -> None:
        if self.candidate == terms.base:
            self.model = self.candidate

    def vector(self, terms: Terms) -> IntegerVector:
        self.trained += 1
        return self.given

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        self.applied.append(aggregate)
        training, base = training_digest(terms), next_base(terms, aggregate)
        opened = Opened(training, base, aggregate.survivors, faulty)
        if is_encrypted(terms.scheme):
            self.opened[training] = opened
        return opened

    def said(self, terms: Terms) -> Opened | None:
        return self.opened.get(training_digest(terms))


class Witness(RoundCoordinator):
    """The coordinator, and beside it all that it was sent, all that it sent and all that it journalled."""

    def __init__(self, roster: Roster, **named: Any) -> None:
        super().__init__(roster, **named)
        self.log: list[tuple[SiloId, FromSilo | FromCoordinator]] = []
        self.frames_said: list[tuple[SiloId, bytes, bytes]] = []
        self.journal: list[CoordinatorRecord] = []

    def open(self, now: float) -> CoordinatorStep:
        return self._remember(super().open(now))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        self.log.append((sender, message))
        return self._remember(super().receive(sender, message))

    def lose(self, silo: SiloId, **named: Any) -> CoordinatorStep:
        return self._remember(super().lose(silo, **named))

    def advance(self, now: float) -> CoordinatorStep:
        return self._remember(super().advance(now))

    def _remember(self, step: CoordinatorStep) -> CoordinatorStep:
        self.journal += step.records
        self.log += step.output.items()
        self.frames_said += [(silo, *flat(wire.encode(message))) for silo, message in step.output.items()]
        return step

    @property
    def opened(self) -> Aggregate:
        """The sum, which this coordinator opened itself."""
        assert isinstance(self.outcome, Aggregate)
        return self.outcome

    def traffic(self) -> Iterator[bytes]:
        """Yield headers and payloads of every message that came in or went out."""
        for _, message in self.log:
            yield from flat(wire.encode(message))


def flat(frame: Frame) -> tuple[bytes, bytes]:
    header, payload = frame
    return header, b"" if payload is None else bytes(payload[:])


class TamperedSilo(SimulatedSilo):
    """A silo whose replies ``tamper`` may change, or lose by returning None."""

    tamper: Tamper | None = None

    def deliver(self, frame: Frame) -> Frame | None:
        reply = super().deliver(frame)
        if reply is None or self.tamper is None:
            return reply
        changed = self.tamper(wire.decode_from_silo(*reply))
        return None if changed is None else wire.encode(changed)


class Federation:
    """Silos of one roster around one set of terms; every coordinator made here is for the same round."""

    def __init__(
        self,
        n: int,
        *,
        scheme: Scheme | None = None,
        vectors: Mapping[SiloId, IntegerVector] | None = None,
        encoding: Encoding | None = None,
        word_bits: WordBits = 32,
        seed: int = 0,
        policy: Policy | None = None,
        **changes: Any,
    ) -> None:
        self.roster, self.identities = roster_of(n, seed)
        self.encoding = encoding_of(n, word_bits=word_bits) if encoding is None else encoding
        scheme = Masking() if scheme is None else scheme
        self.keys = keys_of(scheme, n)
        self.vectors: Mapping[SiloId, IntegerVector] = vectors or {
            silo: self._vector(scheme, seed, slot) for slot, silo in enumerate(self.roster.silos)
        }
        parameters = self.keys.parameters
        fields: dict[str, Any] = {
            "federation": "tests",
            "job": "job",
            "round": 1,
            "kind": "sum",
            "release": 1,
            "roster": self.roster.digest,
            "base": MODEL.digest,
            "scheme": parameters,
            "encoding": self.encoding,
        }
        self.terms = Terms(**(fields | changes))
        self.policy = policy_for(parameters) if policy is None else policy
        self.work = {silo: Work(vector) for silo, vector in self.vectors.items()}
        self.caches: dict[SiloId, dict[bytes, IntegerVector]] = {silo: {} for silo in self.vectors}
        # One stream for each silo, which goes on over restarts: a crash never repeats randomness.
        self.random = {silo: seeded(seed, slot, 3) for slot, silo in enumerate(self.roster.silos)}
        self.silos = {silo: TamperedSilo(self.builder(silo)) for silo in self.roster.silos}

    def _vector(self, scheme: Scheme, *key: int) -> IntegerVector:
        length, word_bits = self.encoding.length, self.encoding.word_bits
        if isinstance(scheme, Masking | Plain):
            return words(length, word_bits, *key, 2)
        return bounded(length, word_bits, self.encoding.cohort, *key, 2)

    @property
    def t(self) -> int:
        assert not isinstance(self.terms.scheme, PlainParameters)
        return self.terms.scheme.cohort.t

    @property
    def c(self) -> int:
        assert not isinstance(self.terms.scheme, PlainParameters)
        return self.terms.scheme.cohort.c

    @property
    def adder(self) -> Any:
        """What the coordinator adds with; None where it needs no key."""
        return None if self.keys.adders is None else self.keys.adders(self.encoding)

    def cipher(self, silo: SiloId) -> Any:
        """Return what ``silo`` encrypts with."""
        return self.keys.keys[silo].cipher(self.terms)

    def participant(self, silo: SiloId, records: Iterable[SiloRecord] = ()) -> Participant:
        return Participant(
            silo,
            identity=self.identities[silo],
            roster=self.roster,
            policy=self.policy,
            workload=self.work[silo],
            keys=self.keys.keys.get(silo),
            records=records,
            cache=self.caches[silo],
            random=self.random[silo],
            threads=1,
        )

    def builder(self, silo: SiloId) -> Callable[[Iterable[SiloRecord]], Participant]:
        return lambda records: self.participant(silo, records)

    def coordinator(self, **changes: Any) -> Witness:
        named = {"terms": self.terms, "base": MODEL, "adder": self.adder, "threads": 1}
        return Witness(self.roster, **(named | changes))

    def run(self, coordinator: Witness, dropouts: Dropouts | None = None) -> Aggregate:
        return run_round(coordinator, self.silos, dropouts=dropouts)[0]

    def sum_of(self, silos: Iterable[SiloId]) -> list[int]:
        """Return the sum as Python integers, modulo the word: nothing of the product computes it."""
        vectors = [self.vectors[silo] for silo in silos]
        modulus = 1 << self.encoding.word_bits
        return [sum(int(v[i]) for v in vectors) % modulus for i in range(self.encoding.length)]


def replay(journal: Iterable[CoordinatorRecord], fresh: Witness) -> Witness:
    """Feed the records of one coordinator to another, as its recovery after a crash does."""
    opened = False
    for record in journal:
        match record:
            case InputAccepted():
                fresh.receive(record.sender, record.message)
            case SiloLost():
                fresh.lose(record.silo, fault=ProtocolError("as it was recorded") if record.struck else None)
            case PhaseClosed() if opened:
                fresh.advance(record.now)
            case PhaseClosed():
                fresh.open(record.now)
                opened = True
    return fresh


Fault: TypeAlias = Literal["silent", "lost", "refuses", "faulty", "twice", "stray", "returns"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class Driver:
    """Runs a round between a coordinator and its silos, with one fault for each chosen message.

    Args:
        faults: (silo, attempt, name of its message) -> what happens to it; 0 is training. "lost": the
            transport drops it and says so. "stray": a message of no phase comes first. "returns": the silo
            says Ready again first, as one does that was out of reach.
    """

    def __init__(
        self,
        coordinator: Witness,
        silos: Mapping[SiloId, SimulatedSilo],
        faults: Mapping[tuple[SiloId, int, str], Fault],
    ) -> None:
        self.coordinator = coordinator
        self.silos = silos
        self.faults = faults
        self.named: set[SiloId] = set()
        self.now = 0.0
        self._downlink: deque[tuple[SiloId, FromCoordinator]] = deque()

    def run(self) -> SecaggError | None:
        """Return why the round was given up, or None once the sum is open."""
        try:
            self._send(self.coordinator.open(self.now))
            while self.coordinator.outcome is None or self._downlink:
                self._deliver_all()
                if self.coordinator.outcome is None:
                    assert self.coordinator.deadline is not None
                    self.now = max(self.now, self.coordinator.deadline)
                    self._send(self.coordinator.advance(self.now))
        except (RoundAborted, FaultySilo) as error:
            return error
        return None

    def _deliver_all(self) -> None:
        while self._downlink:
            silo, message = self._downlink.popleft()
            reply = self.silos[silo].deliver(wire.encode(message))
            if reply is not None:
                for sent in self._suffer(silo, wire.decode_from_silo(*reply)):
                    self._take(silo, sent)
                self._send(self.coordinator.advance(self.now))

    def _suffer(self, silo: SiloId, reply: FromSilo) -> list[FromSilo]:
        match self.faults.get((silo, self.coordinator.attempt, type(reply).__name__)):
            case None:
                return [reply]
            case "silent":
                return []
            case "lost":
                self.coordinator.lose(silo)
                return []
            case "refuses":
                return [Refused("rule")]
            case "faulty":
                return [spoiled(silo, reply)]
            case "twice":
                return [reply, reply]
            case "stray":
                return [Voided(()) if not isinstance(reply, Voided) else BoxReport(bytes(32), silo), reply]
            case "returns":
                return [Ready(training_digest(self.coordinator.terms)), reply]

    def _take(self, silo: SiloId, message: FromSilo) -> None:
        try:
            self._send(self.coordinator.receive(silo, message))
        except UnexpectedMessage:
            pass
        except FaultySilo as fault:
            self.named.add(fault.silo)
            self._send(self.coordinator.lose(silo, fault=fault))

    def _send(self, step: CoordinatorStep) -> None:
        self._downlink += step.output.items()


def spoiled(silo: SiloId, reply: FromSilo) -> FromSilo:
    """Return a well-formed message that no honest silo sends; of kinds that cannot be wrong, the same."""
    match reply:
        case Ready():
            return Ready(bytes(32))
        case AdvertiseKeys():
            return AdvertiseKeys(replace(reply.bundle, nonce=bytes(32)))
        case ShareKeys():
            return ShareKeys(replace(reply.share_set, seed=bytes(32)), reply.boxes)
        case MaskedInput():
            return MaskedInput(reply.round_id, Payload.of(np.zeros(1, np.uint32)))
        case PlainInput():
            return PlainInput(reply.training, Payload.of(np.zeros(1, np.uint32)))
        case ConsistencyCheck():
            return ConsistencyCheck(reply.round_id, bytes(64))
        case Unmasking():
            first, *rest = reply.openings
            return Unmasking(reply.round_id, ((first[0], Opening(bytes(33), bytes(32))), *rest))
        case EncryptedInput():
            return EncryptedInput(reply.round_id, reply.upload, Payload.of(np.zeros(1, np.uint32)))
        case PartialDecryption():
            return PartialDecryption(reply.round_id, reply.boxes, Payload.of(np.zeros(1, np.uint8)))
        case Opened():
            return replace(reply, base=bytes(32))
        case BaseSealed():
            return replace(reply, sealed=Payload.of(np.zeros(reply.sealed.length, np.uint8)))
        case Voided():
            return Voided((Void(f"not-{silo}", bytes(32), bytes(64)),))
        case _:
            return reply
