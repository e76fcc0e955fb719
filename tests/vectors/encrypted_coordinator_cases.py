"""Cases for the coordinator under Paillier, a whole key or shares: the script, and whom it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from secagg.encrypted import transcript
from secagg.messages import (
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    MaskedInput,
    Opened,
    PartialDecryption,
    Refused,
    SignedUpload,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.survivors import sign_survivors
from tests.paillier_keys import SAFE_P, shared_key, threshold_key
from tests.vectors import world
from tests.vectors.coordinator_cases import happened, ticked, took
from tests.vectors.encrypted_world import (
    PAILLIER,
    THRESHOLD,
    Scheme,
    Transcript,
    bytes_of,
    content,
    reduced,
    run,
    signed,
)
from tests.vectors.forging import LOW_ORDER
from tests.vectors.notation import Json, fixed, flipped, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import COHORT, IDENTITIES, ROSTER, SILOS

FAULT = "FaultySilo"
UNEXPECTED = "UnexpectedMessage"

Case = Callable[..., None]


def paillier_coordinator() -> Json:
    """Return the content of ``paillier_coordinator.json``."""
    script = _script(
        PAILLIER,
        "paillier_coordinator",
        "The coordinator in one attempt under a Paillier key that every silo holds; silo d is lost before "
        "its upload arrives. Each step: an event, the frames that it sends, whom it thinks faulty.",
        shared_key().public.to_bytes(),
    )
    _leave_at_uploads(script, run(PAILLIER))
    _leave_at_signatures(script, run(PAILLIER))
    _leave_at_models(script, run(PAILLIER))
    return script.content


def threshold_coordinator() -> Json:
    """Return the content of ``threshold_coordinator.json``."""
    script = _script(
        THRESHOLD,
        "threshold_coordinator",
        "The coordinator in one attempt under a Paillier key of which every silo holds a share. Each step: "
        "an event, the frames that it sends, whom it thinks faulty.",
        threshold_key(len(SILOS), COHORT.t)[0].to_bytes(),
    )
    _leave_at_boxes(script, run(THRESHOLD))
    _leave_at_signatures(script, run(THRESHOLD))
    _leave_at_parts(script, run(THRESHOLD))
    _leave_at_models(script, run(THRESHOLD))
    return script.content


def _script(scheme: Scheme, kind: str, about: str, key: bytes) -> Script:
    setup = {
        "roster": ROSTER.members,
        "opened": write_frame(scheme.opened),
        "key": key,
        "attempt": world.ATTEMPT,
        "seconds": world.SECONDS,
    }
    steps = [{"event": "open", "now": 0.0}, *map(happened, run(scheme).events)]
    return Script(kind, about, write(setup), steps)


def _instead(script: Script, honest: Transcript, of: type[FromSilo]) -> Case:
    """Return what lets silo b send something else where it sent a message of this type."""

    def case(name: str, sent: FromSilo, error: str = FAULT, **more: Any) -> None:
        script.leave(name, 1 + honest.position("b", of), took("b", sent), expected=error, **more)

    return case


def _leave_at_uploads(script: Script, honest: Transcript) -> None:
    scheme, sends = honest.scheme, _instead(script, honest, EncryptedInput)
    good = honest.sent("b", EncryptedInput)
    data = content(good.ciphertexts)

    def signs(name: str, upload: SignedUpload, error: str = FAULT) -> None:
        sends(name, replace(good, upload=upload), error)

    def uploads(name: str, payload: Payload) -> None:
        sends(name, EncryptedInput(scheme.round_id, signed(scheme, payload.digest, None, silo="b"), payload))

    by_b = good.upload.content, None
    sends("an upload of another round", replace(good, round_id=fixed("r")))
    late = write({"past": [fixed("r")]})
    sends("an upload of an attempt that is over", replace(good, round_id=fixed("r")), UNEXPECTED, setup=late)
    uploads("ciphertexts of another length", bytes_of(data + data))
    uploads("ciphertexts of another type", Payload.over("u8", len(data) // 8, memoryview(data)))
    sends("ciphertexts that were not signed", replace(good, ciphertexts=bytes_of(flipped(data))))
    sends("the upload of another silo", honest.sent("a", EncryptedInput))
    signs("an upload that another silo signed", signed(scheme, *by_b, silo="b", by="c"))
    signs("an upload signed under another name", signed(scheme, *by_b, silo="c", by="b"))
    signs("an upload under another key", signed(scheme, *by_b, silo="b", key=fixed("key")))
    signs("an upload of other parameters", signed(scheme, *by_b, silo="b", parameters=fixed("parameters")))
    signs("an upload signed for another round", signed(scheme, *by_b, silo="b", round_id=fixed("r")))
    signs("a key to seal to where none is used", signed(scheme, by_b[0], good.upload.content, silo="b"))
    n = int(shared_key().public.n)
    for name, number in {
        "zero": 0,
        "a plaintext in clear": 1 + 5 * n,
        "a factor of n": SAFE_P * 12345,
        "n squared": n * n,
    }.items():
        uploads(f"{name} is no ciphertext", bytes_of(reduced(number)))
    script.leave("an upload twice", 3, took("b", good), expected=UNEXPECTED)
    stranger = took("stranger", good)
    script.leave("an upload of a stranger", 1, stranger, expected=UNEXPECTED)
    script.leave(
        "an upload after a refusal", 1, took("b", Refused("key")), took("b", good), expected=UNEXPECTED
    )
    sends("a masked vector", MaskedInput(scheme.round_id, world.vector_of(4)), UNEXPECTED)
    sends("a signature too early", honest.sent("b", ConsistencyCheck), UNEXPECTED)
    script.leave("fewer than max(t, k_min + c) uploads", 3, ticked(60.0), expected="TooFewSilos")
    script.leave("opened twice", 1, {"event": "open", "now": 0.0}, expected="UsageError")


def _leave_at_signatures(script: Script, honest: Transcript) -> None:
    scheme, sends = honest.scheme, _instead(script, honest, ConsistencyCheck)
    pairs = honest.told("b", UploadsAnnounced).uploads
    names, set_id = transcript.names(pairs), transcript.set_id(scheme.round_id, pairs)
    at = 1 + honest.position("b", ConsistencyCheck)

    def signs(name: str, signed_id: bytes, over: tuple[SiloId, ...], by: SiloId = "b") -> None:
        sends(name, ConsistencyCheck(scheme.round_id, sign_survivors(IDENTITIES[by], signed_id, over)))

    signs("a signature over the round id alone", scheme.round_id, names)
    signs("a signature over another set", set_id, names[:-1])
    signs("the signature of another silo", set_id, names, by="a")
    other = (("a", replace(dict(pairs)["a"], content=fixed("other"))), *pairs[1:])
    signs("a signature over another upload", transcript.set_id(scheme.round_id, other), names)
    check = honest.sent("b", ConsistencyCheck)
    sends("a signature for another round", replace(check, round_id=fixed("r")))
    outsider = took("stranger", check)
    script.leave("a signature from outside the set", at, outsider, expected=UNEXPECTED)
    late = took("d", honest.sent("b", EncryptedInput))
    script.leave("an upload that is too late", at, late, expected=UNEXPECTED)
    script.leave("fewer than t signatures", at + 1, ticked(120.0), expected="TooFewSilos")


def _leave_at_models(script: Script, honest: Transcript) -> None:
    """What silos made of the sum: more than c equal digests end the round."""
    at = 1 + honest.position("a", Opened)
    opened = honest.sent("a", Opened)
    a, b, c = (took(silo, opened) for silo in "abc")
    other = took("c", replace(opened, base=fixed("another model")))
    of_another_round = took("a", replace(opened, training=fixed("t")))
    script.leave("a model of another round", at, of_another_round, expected=UNEXPECTED)
    script.leave("a model twice", at + 1, a, expected=UNEXPECTED)
    script.leave("fewer than c + 1 models", at + 1, ticked(9e9), expected="TooFewSilos")
    different = took("b", replace(opened, base=fixed("another model")))
    script.leave("no model of more than c silos", at, a, different, ticked(9e9), expected="RoundAborted")
    script.leave("another model of one silo names it", at, a, b, other, ticked(9e9), expected="accepted")
    blaming = [took(silo, replace(opened, faulty=("c",))) for silo in "ab"]
    script.leave("c is named by more than c silos", at, *blaming, c, ticked(9e9), expected="accepted")
    script.leave("b is named by c silos", at, a, blaming[1], c, ticked(9e9), expected="accepted")


def _leave_at_boxes(script: Script, honest: Transcript) -> None:
    """What an upload must have where shares open."""
    scheme, sends = honest.scheme, _instead(script, honest, EncryptedInput)
    good = honest.sent("b", EncryptedInput)
    boxes = {
        "a signed upload without a box": None,
        "a box of low order": LOW_ORDER,
        "a box in a second encoding": b"\xff" * 32,
    }
    for name, box in boxes.items():
        sends(name, replace(good, upload=signed(scheme, good.upload.content, box, silo="b")))
    sends("a box that was not signed", replace(good, upload=replace(good.upload, box=fixed("box"))))
    data, of_a = (content(honest.sent(silo, EncryptedInput).ciphertexts) for silo in "ba")
    end = scheme.adder.total.size
    for name, instead in {
        "a plaintext in clear": reduced(1 + 5 * int(shared_key().public.n)) + data[end:],
        "the ciphertexts and the proof of another silo": of_a,
        "the ciphertexts of another silo": of_a[:end] + data[end:],
        "the proof of another silo": data[:end] + of_a[end:],
        "a flipped bit in A": flipped(data, end + 511),
        "a flipped bit in z": flipped(data, end + 512 + 255),
        "a flipped bit in x": flipped(data, len(data) - 1),
        "ciphertexts without a proof": data[:end],
    }.items():
        upload = signed(scheme, bytes_of(instead).digest, good.upload.box, silo="b")
        sends(name, EncryptedInput(scheme.round_id, upload, bytes_of(instead)))
    sends("an upload of another round", replace(good, round_id=fixed("r")))
    sends("the upload of another silo", honest.sent("a", EncryptedInput))
    sends(
        "ciphertexts that were not signed",
        replace(good, ciphertexts=bytes_of(flipped(content(good.ciphertexts)))),
    )
    by_key = signed(scheme, good.upload.content, good.upload.box, silo="b", key=shared_key().public.id)
    sends("an upload under the same modulus as a whole key", replace(good, upload=by_key))
    sends("a part too early", honest.sent("b", PartialDecryption), UNEXPECTED)
    script.leave("an upload twice", 3, took("b", good), expected=UNEXPECTED)
    script.leave("an upload of a stranger", 1, took("stranger", good), expected=UNEXPECTED)
    script.leave("fewer than max(t, k_min + c) uploads", 3, ticked(60.0), expected="TooFewSilos")


def _leave_at_parts(script: Script, honest: Transcript) -> None:
    sends = _instead(script, honest, PartialDecryption)
    good = honest.sent("b", PartialDecryption)
    sends("a part of another round", replace(good, round_id=fixed("r")))
    sends("a part that is sealed to fewer silos", replace(good, boxes=good.boxes[:-1]))
    sends("a part whose boxes are in another order", replace(good, boxes=good.boxes[::-1]))
    sends(
        "a part with a box for a stranger", replace(good, boxes=(*good.boxes[:-1], ("stranger", bytes(48))))
    )
    sends("a part of another length", replace(good, sealed=bytes_of(content(good.sealed)[:-1])))
    sends("a model before the parts", honest.sent("b", Opened), UNEXPECTED)
    # What is in it, the coordinator cannot see.
    junk = replace(good, sealed=bytes_of(flipped(content(good.sealed))))
    sends("a part that does not open is passed on", junk, "accepted")
    at = 1 + honest.position("c", PartialDecryption)
    script.leave("a part twice", at, took("b", good), expected=UNEXPECTED)
    script.leave("fewer than t parts", at, ticked(120.0), expected="TooFewSilos")
