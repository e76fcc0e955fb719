"""What a script drives: the product's sessions of both parties, of masks and of ciphertexts.

Each takes one step as it stands in a file, and returns what it causes as it stands there too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np

from secagg import wire
from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.silo import CKKSCipher
from secagg.encrypted.cipher import Adder
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
from secagg.hazmat.identity import IdentityKey
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.names import IntegerVector, SiloId
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import KeyShare
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from secagg.paillier.threshold import ThresholdKey
from secagg.payload import Payload
from secagg.records import decode_silo_record, encode_record
from secagg.session import Aggregate, CoordinatorSession, SealedSum, SiloSession
from secagg.survivors import Locks
from secagg.terms import Terms, ThresholdPaillierParameters
from tests.vectors import fixed_ckks, noised_world
from tests.vectors.changes import changed
from tests.vectors.notation import Json, Replay, read, read_frame, read_roster, write, write_frame
from tests.vectors.operations import terms_of


class Driver(Protocol):
    """Takes the steps of one script.

    Attributes:
        synced: what the last step put on disk, also if it failed then.
    """

    synced: list[bytes]

    def __call__(self, step: Json) -> Json:
        """Take one step; return what it causes."""
        ...

    @property
    def outcome(self) -> Json:
        """What came of all steps."""
        ...


class SiloScript:
    """Drives a silo: a frame in; a frame and journal lines out."""

    def __init__(self, setup: Json) -> None:
        self.synced: list[bytes] = []
        self.terms = terms_of(setup["opened"])
        self.random = Replay(read(setup["random"]))
        self.locks = Locks(decode_silo_record(line) for line in read(setup["journal"]))
        given = {
            "identity": IdentityKey.from_private_bytes(read(setup["identity"])),
            "roster": read_roster(setup["roster"]),
            "terms": self.terms,
            "vector": np.frombuffer(read(setup["vector"]), self.terms.encoding.dtype),
            "locks": self.locks,
            "data_set": setup["data_set"],
            "random": self.random,
        }
        self.session = self.begin(setup, given)

    def begin(self, setup: Json, given: dict[str, Any]) -> SiloSession:
        return MaskingSilo(setup["silo"], **given, threads=1)

    def __call__(self, step: Json) -> Json:
        self.synced = []
        taken = self.session.receive(wire.decode_from_coordinator(*read_frame(step["receive"])))
        for record in taken.records:
            self.locks.apply(record)
        self.synced = [encode_record(record) for record in taken.records]
        reply = None if taken.output is None else write_frame(taken.output)
        return {"records": write(self.synced), "reply": reply}

    @property
    def outcome(self) -> Json:
        return write_outcome(self.session.outcome)


class NoisedSilo:
    """Drives a whole silo that keeps a ledger, from TrainingOpened on."""

    def __init__(self, setup: Json) -> None:
        self.synced: list[bytes] = []
        terms, ledger = terms_of(setup["opened"]), read(setup["ledger"])
        self.participant, self.work = noised_world.participant(
            setup["silo"],
            identity=IdentityKey.from_private_bytes(read(setup["identity"])),
            roster=read_roster(setup["roster"]),
            terms=terms,
            vector=np.frombuffer(read(setup["vector"]), terms.encoding.dtype),
            ledger=None if ledger is None else (ledger["entries"], ledger["chain"]),
            data_set=setup["data_set"],
            records=[decode_silo_record(line) for line in read(setup["journal"])],
            random=Replay(read(setup["random"])),
        )

    def __call__(self, step: Json) -> Json:
        self.synced = []
        taken = self.participant.receive(wire.decode_from_coordinator(*read_frame(step["receive"])))
        self.synced = [encode_record(record) for record in taken.records]
        reply = None if taken.output is None else write_frame(taken.output)
        return {"records": write(self.synced), "reply": reply}

    @property
    def outcome(self) -> Json:
        return write_outcome(self.work.applied[-1] if self.work.applied else None)


class PaillierSilo(SiloScript):
    """Drives a silo that holds the whole key; what was announced is opened once its record is written."""

    def begin(self, setup: Json, given: dict[str, Any]) -> SiloSession:
        cipher = PaillierCipher(_secret(read(setup["key"])), self.terms.encoding, random=self.random)
        _fill(cipher)
        self.shared = SharedKeySilo(setup["silo"], **given, cipher=cipher)
        return self.shared

    def __call__(self, step: Json) -> Json:
        answer = super().__call__(step)
        self.shared.proceed()
        return answer


class ThresholdPaillierSilo(SiloScript):
    """Drives a silo that holds a share; a step also says whose part of the opening was wrong."""

    def begin(self, setup: Json, given: dict[str, Any]) -> SiloSession:
        share = _share(read(setup["key"]), read(setup["share"]))
        cipher = ThresholdPaillierCipher(share, self.terms.encoding, random=self.random)
        _fill(cipher)
        self.sharing = ThresholdSilo(setup["silo"], **given, cipher=cipher)
        return self.sharing

    def __call__(self, step: Json) -> Json:
        return super().__call__(step) | {"faulty": list(self.sharing.faulty)}


class FixedCKKS(CKKSCipher):
    """Encrypts to what a file says, because SEAL draws its own randomness."""

    def __init__(self, upload: bytes, *args: Any) -> None:
        super().__init__(*args)
        self._upload = upload

    def encrypt(self, vector: IntegerVector, *, silo: SiloId, round_id: bytes) -> Payload:
        return fixed_ckks.payload(self._upload)


class CKKSSilo(PaillierSilo):
    """Drives a silo that holds the whole key; large payloads of its replies are left out."""

    def begin(self, setup: Json, given: dict[str, Any]) -> SiloSession:
        key, upload = fixed_ckks.secret(read(setup["key"])), fixed_ckks.made(setup["upload"])
        cipher = FixedCKKS(upload, key, self.terms.encoding)
        self.shared = SharedKeySilo(setup["silo"], **given, cipher=cipher)
        return self.shared

    def __call__(self, step: Json) -> Json:
        answer = super().__call__(step)
        (answer["reply"] or {}).pop("payload", None)
        return answer


def _fill(cipher: PaillierCipher | ThresholdPaillierCipher) -> None:
    """Make the obfuscators on one thread, so that no two draw from the fixed bytes at once."""
    cipher._pool.fill(cipher.count, threads=1)


@cache
def _secret(data: bytes) -> SecretKey:
    return SecretKey.from_bytes(data)


@cache
def _shared(data: bytes) -> ThresholdKey:
    return ThresholdKey.from_bytes(data)


@cache
def _share(key: bytes, share: bytes) -> KeyShare:
    return KeyShare.from_bytes(share, _shared(key))


class CoordinatorScript:
    """Drives a coordinator: a frame of a silo, a loss or a time in; frames for silos out."""

    def __init__(self, setup: Json) -> None:
        self.synced: list[bytes] = []
        given = {
            "terms": terms_of(setup["opened"]),
            "attempt": setup["attempt"],
            "seconds": float(setup["seconds"]),
        }
        self.session = self.begin(setup, given)

    def begin(self, setup: Json, given: dict[str, Any]) -> CoordinatorSession:
        return MaskingCoordinator(read_roster(setup["roster"]), **given, threads=1)

    def __call__(self, step: Json) -> Json:
        match step["event"]:
            case "open":
                taken = self.session.open(float(step["now"]))
            case "receive":
                message = wire.decode_from_silo(*read_frame(step["message"]))
                taken = self.session.receive(step["sender"], message)
            case "lose":
                taken = self.session.lose(step["silo"], struck=step.get("struck", False))
            case "advance":
                taken = self.session.advance(float(step["now"]))
            case other:
                raise ValueError(other)
        outbox: list[dict[str, Any]] = []
        for silo, frame in ((silo, write_frame(message)) for silo, message in taken.output.items()):
            same = next((entry for entry in outbox if entry["frame"] == frame), None)
            if same is None:
                outbox.append({"to": [silo], "frame": frame})
            else:
                same["to"].append(silo)
        for entry in outbox[1:]:
            entry["frame"] = changed(entry["frame"], 0, outbox[0]["frame"]) or entry["frame"]
        return {"outbox": outbox}

    @property
    def outcome(self) -> Json:
        return write_outcome(self.session.outcome)


class PaillierCoordinator(CoordinatorScript):
    """Drives a coordinator that adds ciphertexts; a step also says whom it thinks faulty in the end."""

    def begin(self, setup: Json, given: dict[str, Any]) -> CoordinatorSession:
        terms: Terms = given["terms"]
        adder, past = self.adder(read(setup["key"]), terms), tuple(read(setup.get("past", [])))
        self.adding = EncryptedCoordinator(read_roster(setup["roster"]), **given, adder=adder, past=past)
        return self.adding

    def adder(self, key: bytes, terms: Terms) -> Adder:
        shared = isinstance(terms.scheme, ThresholdPaillierParameters)
        return PaillierAdder(_shared(key) if shared else PublicKey.from_bytes(key), terms.encoding)

    def __call__(self, step: Json) -> Json:
        return super().__call__(step) | {"faulty": list(self.adding.faulty)}


class CKKSCoordinator(PaillierCoordinator):
    """Drives a coordinator that knows the id of a key; large payloads that it sends are left out."""

    def adder(self, key: bytes, terms: Terms) -> Adder:
        return CKKSAdder(key, fixed_ckks.RING.degree, terms.encoding)

    def __call__(self, step: Json) -> Json:
        answer = super().__call__(step)
        for entry in answer["outbox"]:
            entry["frame"].pop("payload", None)
        return answer


def write_outcome(outcome: Aggregate | SealedSum | None) -> Json:
    """Return an opened sum, or what is known of one that silos opened, as it stands in a file."""
    match outcome:
        case Aggregate():
            return write({"total": outcome.total.tobytes(), "survivors": outcome.survivors})
        case SealedSum():
            return write({"base": outcome.base, "survivors": outcome.survivors})
        case None:
            return None
