"""Cases for both parties under CKKS: what is sent follows from seeds (``fixed_ckks``), and is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace

from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.parameters import SECRET_MAGIC
from secagg.ckks.secret import check_values
from secagg.encrypted import transcript
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    Opened,
    RoundOpened,
    SignedUpload,
    TrainingOpened,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.survivors import sign_survivors
from secagg.terms import CKKSParameters, training_digest
from tests.vectors import fixed_ckks, world
from tests.vectors.coordinator_cases import ticked
from tests.vectors.encrypted_world import NEXT_BASE
from tests.vectors.fixed_ckks import RING, SCALE_BITS
from tests.vectors.notation import Json, fixed, flipped, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import COHORT, IDENTITIES, ROSTER

KEY = fixed("ckks key")
SURVIVORS: tuple[SiloId, ...] = ("a", "b", "c")
TERMS = replace(world.TERMS, scheme=CKKSParameters(COHORT, fixed_ckks.secret(KEY).key_id))
TRAINING = training_digest(TERMS)
ADDER = CKKSAdder(fixed_ckks.secret(KEY).key_id, RING.degree, TERMS.encoding)
PARAMETERS = ADDER.limbs.parameters
OPENED = RoundOpened(TRAINING, world.ATTEMPT, world.SECONDS)
ROUND = transcript.round_id(OPENED, ADDER)

if (PARAMETERS.scale_bits, ADDER.limbs.count, PARAMETERS.chunks) != (SCALE_BITS, 1, 1):
    raise AssertionError("what is made from seeds is of one limb and one chunk")


def upload_of(silo: SiloId, changes: Mapping[str, object] | None = None) -> Json:
    """Return how the upload of ``silo`` is made."""
    return write({"upload": fixed(f"ckks upload {silo}")} | dict(changes or {}))


def sum_of(
    values: list[float] | None = None,
    *,
    silos: int = 3,
    round_id: bytes = ROUND,
    key: bytes = KEY,
    changes: Mapping[str, object] | None = None,
) -> Json:
    """Return how a sum is made: of the survivors' vectors, unless it says otherwise."""
    if values is None:
        vectors = [world.VECTORS[silo].view(np.int32).tolist() for silo in SURVIVORS]
        values = [*(float(sum(column)) for column in zip(*vectors, strict=True)), 3.0]
    first = RING.entries
    checks = [silos * value for value in check_values(PARAMETERS, round_id=round_id, chunk=0)]
    slots = [*enumerate(values), (first, checks[0]), (first + 1, checks[1])]
    made = {"sum": fixed("ckks sum"), "key": key, "slots": [[slot, value.hex()] for slot, value in slots]}
    return write(made | dict(changes or {}))


def payload(recipe: Json, dtype: Any = "u8") -> Payload:
    data = fixed_ckks.made(recipe)
    return Payload.over(dtype, len(data) // int(dtype[1]), memoryview(data))


def signed(silo: SiloId, recipe: Json, *, box: bytes | None = None, key: bytes = ADDER.key) -> SignedUpload:
    content = payload(recipe).digest
    fields = (key, *transcript.upload_fields(ADDER, ROUND, silo, content, box)[1:])
    return SignedUpload(content, box, IDENTITIES[silo].sign(transcript.UPLOAD, *fields))


UPLOADS = tuple((silo, signed(silo, upload_of(silo))) for silo in SURVIVORS)
SET_ID = transcript.set_id(ROUND, UPLOADS)
SIGNATURES = tuple((silo, sign_survivors(IDENTITIES[silo], SET_ID, SURVIVORS)) for silo in SURVIVORS)


def described(message: FromCoordinator | FromSilo, recipe: Json | None = None) -> Json:
    """Return a frame whose payload stands there as it is made."""
    return write_frame(message) | ({} if recipe is None else {"payload": recipe})


def ckks_silo() -> Json:
    """Return the content of ``ckks_silo.json``."""
    setup = {
        "silo": "b",
        "identity": IDENTITIES["b"].private_bytes(),
        "roster": ROSTER.members,
        "opened": write_frame(TrainingOpened(TERMS, world.SECONDS)),
        "key": KEY,
        "upload": upload_of("b"),
        "vector": world.VECTORS["b"].tobytes(),
        "data_set": world.DATA_SET,
        "journal": [],
        "random": b"",
    }

    def announced(recipe: Json, dtype: Any = "u8") -> Json:
        return {"receive": described(AggregateAnnounced(ROUND, SIGNATURES, payload(recipe, dtype)), recipe)}

    told = {"receive": described(UploadsAnnounced(ROUND, UPLOADS))}
    steps = [{"receive": described(OPENED)}, told, announced(sum_of())]
    script = Script(
        "ckks_silo",
        "One silo in one attempt under a CKKS key that every silo holds; what it uploads is given. Each "
        "step: a frame of the coordinator, the reply, what it syncs before; a sum is opened once it has.",
        write(setup),
        steps,
    )

    def opens(name: str, recipe: Json, expected: str = "RoundAborted", dtype: Any = "u8") -> None:
        script.leave(name, 2, announced(recipe, dtype), expected=expected)

    opens("values off by less than a quarter", sum_of([0.24, 1.0, -2.24, 3.0]), "accepted")
    opens("another key", sum_of(key=fixed("another key")))
    opens("check slots of two silos", sum_of(silos=2))
    opens("check slots of four silos", sum_of(silos=4))
    opens("check slots of another round", sum_of(round_id=fixed("r")))
    opens("no check slots", sum_of(silos=0))
    opens("a count entry that is not |S|", sum_of([1.0, 2.0, 3.0, 2.0]))
    opens("a value that is no integer", sum_of([0.3, 1.0, 2.0, 3.0]))
    opens("a value that no sum of this cohort has", sum_of([4 * PARAMETERS.bound + 1, 1.0, 2.0, 3.0]))
    opens("a value behind the end", sum_of([1.0, 2.0, 3.0, 3.0, 1.0]))
    modulus = RING.modulus.to_bytes(8, "little")
    opens("a word that is the modulus", sum_of(changes={"with": [[8, modulus]]}))
    opens("another word", sum_of(changes={"with": [[8 * 4096, b"\0\0\0\0\0\0\0\0"]]}))
    opens("a word less", sum_of(changes={"size": 16 * 4096 - 8}), "FaultyCoordinator")
    opens("an upload as the sum", upload_of("a"), "FaultyCoordinator")
    opens("words of another type", sum_of(), "FaultyCoordinator", dtype="u1")
    other = UploadsAnnounced(ROUND, (("a", signed("a", upload_of("a"), key=fixed("key"))), *UPLOADS[1:]))
    script.leave(
        "an upload under another key", 1, {"receive": described(other)}, expected="FaultySiloOrCoordinator"
    )
    script.leave("a sum before the set is signed", 1, announced(sum_of()), expected="UnexpectedMessage")
    return script.content


def ckks_coordinator() -> Json:
    """Return the content of ``ckks_coordinator.json``."""
    setup = {
        "roster": ROSTER.members,
        "opened": write_frame(TrainingOpened(TERMS, world.SECONDS)),
        "key": ADDER.key,
        "attempt": world.ATTEMPT,
        "seconds": world.SECONDS,
    }

    def took(sender: SiloId, message: FromSilo, recipe: Json | None = None) -> Json:
        return {"event": "receive", "sender": sender, "message": described(message, recipe)}

    def sends(silo: SiloId, recipe: Json, upload: SignedUpload | None = None, dtype: Any = "u8") -> Json:
        message = EncryptedInput(ROUND, upload or signed(silo, recipe), payload(recipe, dtype))
        return took(silo, message, recipe)

    steps = [
        {"event": "open", "now": 0.0},
        *(sends(silo, upload_of(silo)) for silo in SURVIVORS),
        ticked(60.0),
        *(took(silo, ConsistencyCheck(ROUND, signature)) for silo, signature in SIGNATURES),
        ticked(60.0),
        *(took(silo, Opened(TRAINING, NEXT_BASE, tuple(SURVIVORS))) for silo in SURVIVORS),
        ticked(60.0),
    ]
    script = Script(
        "ckks_coordinator",
        "The coordinator in one attempt under a CKKS key, of which it knows the id; silo d is lost before "
        "its upload arrives. Each step: an event, the frames that it sends, whom it thinks faulty.",
        write(setup),
        steps,
    )

    def uploads(name: str, step: Json, expected: str = "FaultySilo") -> None:
        script.leave(name, 2, step, expected=expected)

    good = upload_of("b")
    modulus, size = RING.modulus.to_bytes(8, "little"), RING.fresh_size
    spoiled: dict[str, dict[str, object]] = {
        "the first word is the modulus": {"with": [[64, modulus]]},
        "the last word is the modulus": {"with": [[size - 8, modulus]]},
        "all bits of a word": {"with": [[1024, b"\xff" * 8]]},
        "a word less": {"size": size - 8},
        "a secret key": {"with": [[0, SECRET_MAGIC]]},
    }
    for name, changes in spoiled.items():
        uploads(name, sends("b", upload_of("b", changes)))
    uploads("a sum as an upload", sends("b", sum_of()))
    uploads("bytes in place of words", sends("b", good, dtype="u1"))
    uploads(
        "other words than were signed",
        sends("b", upload_of("b", {"with": [[80, bytes(8)]]}), signed("b", good)),
    )
    uploads(
        "the upload of another silo",
        took("b", EncryptedInput(ROUND, dict(UPLOADS)["a"], payload(upload_of("a"))), upload_of("a")),
    )
    uploads("an upload under another key", sends("b", good, signed("b", good, key=fixed("key"))))
    uploads("a key to seal to", sends("b", good, signed("b", good, box=fixed("box"))))
    uploads(
        "an upload of another round",
        took("b", EncryptedInput(fixed("r"), signed("b", good), payload(good)), good),
    )
    seeds = upload_of("b", {"with": [[0, bytes(64)]]})
    uploads("any seed", sends("b", seeds), "accepted")
    bad = replace(dict(UPLOADS)["b"], signature=flipped(dict(UPLOADS)["b"].signature))
    uploads("a flipped bit in a signature", sends("b", good, bad))
    uploads("an upload twice", sends("a", upload_of("a")), "UnexpectedMessage")
    uploads("fewer than max(t, k_min + c) uploads", ticked(60.0), "TooFewSilos")
    at = 6
    wrong = took("b", ConsistencyCheck(ROUND, sign_survivors(IDENTITIES["b"], ROUND, SURVIVORS)))
    script.leave("a signature over the round id alone", at, wrong, expected="FaultySilo")
    script.leave("fewer than t signatures", at + 1, ticked(120.0), expected="TooFewSilos")
    return script.content
