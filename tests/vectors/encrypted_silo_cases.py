"""Cases for a silo under Paillier, with the whole key and with a share: the script, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import replace

from secagg.encrypted import transcript
from secagg.encrypted.silo import part_key
from secagg.hazmat.agreement import AgreementKey, seal
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    KeysAnnounced,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    RoundOpened,
    SignedUpload,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from secagg.payload import Payload
from secagg.records import SetSigned, VoidSigned, encode_record
from secagg.survivors import sign_survivors
from tests.paillier_keys import secret_key, shared_key, threshold_key
from tests.vectors import world
from tests.vectors.encrypted_world import (
    PAILLIER,
    THRESHOLD,
    Scheme,
    Transcript,
    added,
    bytes_of,
    content,
    reduced,
    run,
    signed,
)
from tests.vectors.notation import CounterSource, Json, fixed, flipped, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import COHORT, IDENTITIES, ROSTER, SILOS

FAULT = "FaultyCoordinator"
NO_SUM = "RoundAborted"
BOTH = "FaultySiloOrCoordinator"
UNEXPECTED = "UnexpectedMessage"


def frame(message: FromCoordinator) -> Json:
    return {"receive": write_frame(message)}


def _script(scheme: Scheme, kind: str, about: str, **keys: bytes) -> Script:
    honest = run(scheme)
    setup = {
        "silo": "b",
        "identity": IDENTITIES["b"].private_bytes(),
        "roster": ROSTER.members,
        "opened": write_frame(scheme.opened),
        **keys,
        "vector": world.VECTORS["b"].tobytes(),
        "data_set": world.DATA_SET,
        "journal": [],
        "random": honest.random["b"].drawn,
    }
    return Script(kind, about, write(setup), map(frame, honest.received["b"]))


def paillier_silo() -> Json:
    """Return the content of ``paillier_silo.json``."""
    script = _script(
        PAILLIER,
        "paillier_silo",
        "One silo in one attempt under a Paillier key that every silo holds. Each step: a frame of the "
        "coordinator, the reply, what it syncs before; a sum is opened once that is done.",
        key=shared_key().to_bytes(),
    )
    _leave_before_the_set(script, run(PAILLIER))
    _leave_at_the_sum(script, run(PAILLIER))
    return script.content


def threshold_silo() -> Json:
    """Return the content of ``threshold_silo.json``."""
    key, shares = threshold_key(len(SILOS), COHORT.t)
    script = _script(
        THRESHOLD,
        "threshold_silo",
        "One silo in one attempt under a Paillier key of which every silo holds a share. Each step: a frame "
        "of the coordinator, the reply, what it syncs before, and whose part of the opening was wrong.",
        key=key.to_bytes(),
        share=shares[ROSTER.slot("b")].to_bytes(),
    )
    _leave_before_the_set(script, run(THRESHOLD))
    _leave_at_the_request(script, run(THRESHOLD))
    _leave_at_the_parts(script, run(THRESHOLD))
    return script.content


def _leave_before_the_set(script: Script, honest: Transcript) -> None:
    scheme = honest.scheme
    opened, announced = honest.told("b", RoundOpened), honest.told("b", UploadsAnnounced)

    def fails(name: str, after: int, message: FromCoordinator, error: str, **more: Any) -> None:
        script.leave(name, after, frame(message), expected=error, **more)

    fails("terms that the silo was not told", 0, replace(opened, training=fixed("t")), FAULT)
    fails("uploads before the attempt is opened", 0, announced, UNEXPECTED)
    fails("keys of masks", 1, KeysAnnounced(()), UNEXPECTED)
    fails("the attempt is opened twice", 1, opened, UNEXPECTED)
    fails("another round", 1, replace(announced, round_id=fixed("r")), FAULT)

    pairs = announced.uploads
    uploads = dict(pairs)
    a = uploads["a"]

    def told(name: str, error: str, changed: tuple[tuple[SiloId, SignedUpload], ...]) -> None:
        fails(name, 1, UploadsAnnounced(scheme.round_id, changed), error)

    def told_of_a(name: str, upload: SignedUpload, error: str = BOTH) -> None:
        told(name, error, tuple((uploads | {"a": upload}).items()))

    told("a set without this silo", FAULT, tuple(pair for pair in pairs if pair[0] != "b"))
    told("fewer than max(t, k_min + c) silos", FAULT, pairs[:2])
    told("another order", FAULT, (pairs[1], pairs[0], *pairs[2:]))
    told("one silo twice", FAULT, (pairs[0], *pairs))
    told("a stranger", FAULT, (*pairs, ("stranger", a)))
    mine = signed(scheme, fixed("other ciphertexts"), uploads["b"].box, silo="b")
    told("its own upload is another one", FAULT, tuple((uploads | {"b": mine}).items()))
    told_of_a("a flipped bit in a digest", replace(a, content=flipped(a.content)))
    told_of_a("the upload of another silo", uploads["c"])
    told_of_a("an upload that a stranger signed", signed(scheme, a.content, a.box, by="stranger"))
    told_of_a("an upload that another silo signed", signed(scheme, a.content, a.box, by="c"))
    told_of_a("an upload under another key", signed(scheme, a.content, a.box, key=fixed("key")))
    told_of_a(
        "an upload of other parameters", signed(scheme, a.content, a.box, parameters=fixed("parameters"))
    )
    told_of_a("an upload of another round", signed(scheme, a.content, a.box, round_id=fixed("r")))
    told_of_a("a box that was not signed", replace(a, box=fixed("box")))
    if scheme.shares:
        told_of_a("a signed upload without a box", signed(scheme, a.content, None))

    voids = COHORT.t if scheme.shares else COHORT.n

    def locked(survivors: tuple[SiloId, ...]) -> Json:
        fields = world.TERMS.base, fixed("earlier round"), fixed("earlier round"), voids, survivors
        record = SetSigned(world.DATA_SET, *fields, ROSTER.digest)
        return {"journal": write([encode_record(record)])}

    names = transcript.names(pairs)
    fails("the set that was signed before", 1, announced, "accepted", setup=locked(names))
    other = ("b", "c", "d") if len(names) == 3 else names[:3]
    fails("another set was signed before", 1, announced, "PolicyRefused", setup=locked(other))
    void = {"journal": write([encode_record(VoidSigned(scheme.round_id))])}
    fails("a round that was voided here", 1, announced, "PolicyRefused", setup=void)
    fails("the set is announced twice", 2, announced, UNEXPECTED)


def _signatures(scheme: Scheme, honest: Transcript) -> dict[str, tuple[tuple[SiloId, bytes], ...]]:
    """Return signatures that are fewer than t over the set, by what is wrong with them."""
    pairs = honest.told("b", UploadsAnnounced).uploads
    names, set_id = transcript.names(pairs), transcript.set_id(scheme.round_id, pairs)
    good = {silo: honest.sent(silo, ConsistencyCheck).signature for silo in names}

    def all_sign(signed_id: bytes, over: tuple[SiloId, ...]) -> tuple[tuple[SiloId, bytes], ...]:
        return tuple((silo, sign_survivors(IDENTITIES[silo], signed_id, over)) for silo in names)

    other = (("a", signed(scheme, fixed("other"), dict(pairs)["a"].box)), *pairs[1:])
    return {
        "fewer than t signatures": tuple(good.items())[:2],
        "one signature counted twice": (("a", good["a"]), ("a", good["a"]), ("b", good["b"])),
        "signatures over the round id alone": all_sign(scheme.round_id, names),
        "signatures over another upload": all_sign(transcript.set_id(scheme.round_id, other), names),
        "signatures over fewer silos": all_sign(set_id, names[:-1]),
        "a signature of a stranger": (
            ("a", good["a"]),
            ("b", good["b"]),
            ("stranger", sign_survivors(IDENTITIES["stranger"], set_id, names)),
        ),
    }


def _leave_at_the_sum(script: Script, honest: Transcript) -> None:
    scheme, announced = honest.scheme, honest.told("b", AggregateAnnounced)

    def opens(name: str, expected: str = FAULT, **changed: Any) -> None:
        script.leave(name, 2, frame(replace(announced, **changed)), expected=expected)

    script.leave("a sum before the set is signed", 1, frame(announced), expected=UNEXPECTED)
    requested = OpeningRequested(scheme.round_id, announced.signatures, announced.total)
    script.leave("a request for a part", 2, frame(requested), expected=UNEXPECTED)
    opens("the sum of another round", round_id=fixed("r"))
    for name, signatures in _signatures(scheme, honest).items():
        opens(name, signatures=signatures)
    total = content(announced.total)
    opens("a sum of another length", total=bytes_of(total + total))
    opens("a sum of another type", total=Payload.over("u8", len(total) // 8, memoryview(total)))
    uploads = {silo: honest.sent(silo, EncryptedInput).ciphertexts for silo in "abc"}
    opens("one silo's upload as the sum", NO_SUM, total=uploads["a"])
    opens("the sum of fewer uploads", NO_SUM, total=added(scheme, [uploads["a"], uploads["c"]]))
    opens("the sum of more uploads", NO_SUM, total=added(scheme, [*uploads.values(), uploads["a"]]))
    other = PaillierCipher(secret_key(), scheme.terms.encoding, random=CounterSource("another key"))
    other._pool.fill(other.count, threads=1)
    vector = np.array([1, 2, 3, 3], np.uint32)
    elsewhere = other.encrypt(vector, silo="a", round_id=scheme.round_id)
    opens("a sum under another key", NO_SUM, total=elsewhere)
    n = int(shared_key().public.n)
    for name, number in {"zero": 0, "a plaintext in clear": 1 + 5 * n, "n squared": n * n}.items():
        opens(f"{name} is no ciphertext", NO_SUM, total=bytes_of(reduced(number)))
    # Who holds the key cannot tell: that is what L0 means.
    swapped = added(scheme, [uploads["a"], uploads["a"], uploads["b"]])
    opens("a sum of as many uploads that are not those of the set", "accepted", total=swapped)
    script.leave("the sum is announced twice", 3, frame(announced), expected=UNEXPECTED)


def _leave_at_the_request(script: Script, honest: Transcript) -> None:
    scheme, requested = honest.scheme, honest.told("b", OpeningRequested)

    def asks(name: str, error: str = FAULT, **changed: Any) -> None:
        script.leave(name, 2, frame(replace(requested, **changed)), expected=error)

    script.leave("a request before the set is signed", 1, frame(requested), expected=UNEXPECTED)
    asks("a request of another round", round_id=fixed("r"))
    for name, signatures in _signatures(scheme, honest).items():
        asks(name, signatures=signatures)
    own = {silo: content(honest.sent(silo, EncryptedInput).ciphertexts) for silo in SILOS}

    def of(name: str, *parts: bytes) -> None:
        asks(name, ciphertexts=bytes_of(b"".join(parts)))

    of("the sum in place of the uploads", content(added(scheme, [bytes_of(data) for data in own.values()])))
    of("one upload less", own["a"], own["b"], own["c"])
    of("one upload twice", own["a"], own["b"], own["c"], own["a"])
    of("the uploads in another order", own["a"], own["b"], own["d"], own["c"])
    of("a flipped bit in an upload", own["a"], own["b"], own["c"], flipped(own["d"], 511))
    total = AggregateAnnounced(scheme.round_id, requested.signatures, bytes_of(own["a"]))
    script.leave("a sum where shares open", 2, frame(total), expected=UNEXPECTED)

    # Its own silo signed each, and no coordinator should have taken it.
    end = scheme.adder.total.size
    bad = reduced(1 + 5 * int(shared_key().public.n)) + own["a"][end:]
    _signed_by_a(script, honest, "a signed upload that is no ciphertext", bad)
    _signed_by_a(script, honest, "a signed upload of another silo's ciphertexts", own["c"])
    _signed_by_a(script, honest, "a signed upload with another silo's proof", own["a"][:end] + own["c"][end:])


def _signed_by_a(script: Script, honest: Transcript, name: str, bad: bytes) -> None:
    scheme = honest.scheme
    own = {silo: content(honest.sent(silo, EncryptedInput).ciphertexts) for silo in SILOS}
    announced = honest.told("b", UploadsAnnounced)
    upload = signed(scheme, bytes_of(bad).digest, dict(announced.uploads)["a"].box)
    pairs = (("a", upload), *announced.uploads[1:])
    names, set_id = transcript.names(pairs), transcript.set_id(scheme.round_id, pairs)
    signatures = tuple((silo, sign_survivors(IDENTITIES[silo], set_id, names)) for silo in names)
    parts = bytes_of(b"".join((bad, own["b"], own["c"], own["d"])))
    script.leave(
        name,
        1,
        frame(UploadsAnnounced(scheme.round_id, pairs)),
        frame(OpeningRequested(scheme.round_id, signatures, parts)),
        expected=BOTH,
    )


def _leave_at_the_parts(script: Script, honest: Transcript) -> None:
    scheme, announced = honest.scheme, honest.told("b", PartialsAnnounced)
    script.leave("parts before they are asked for", 2, frame(announced), expected=UNEXPECTED)
    script.leave(
        "the opening is asked for twice", 3, frame(honest.told("b", OpeningRequested)), expected=UNEXPECTED
    )
    script.leave("parts after the sum is opened", 4, frame(announced), expected=UNEXPECTED)

    def told(name: str, expected: str = FAULT, **changed: Any) -> None:
        script.leave(name, 3, frame(replace(announced, **changed)), expected=expected)

    sealed = {silo: content(honest.sent(silo, PartialDecryption).sealed) for silo in SILOS}
    boxes = dict(announced.boxes)

    def of(name: str, expected: str, silos: str, changes: dict[SiloId, bytes] | None = None) -> None:
        parts = sealed | (changes or {})
        told(
            name,
            expected,
            boxes=tuple((silo, boxes[silo]) for silo in silos),
            sealed=bytes_of(b"".join(parts[silo] for silo in silos)),
        )

    told("parts of another round", round_id=fixed("r"))
    told("parts of another length", sealed=bytes_of(content(announced.sealed)[:-1]))
    told("a part of a stranger", boxes=(*announced.boxes[:-1], ("stranger", boxes["d"])))
    told("one part twice", boxes=(*announced.boxes[:-1], announced.boxes[0]))
    of("fewer than t parts", FAULT, "ab")
    of("t parts", "accepted", "abc")
    of("a changed part is left out", "accepted", "abcd", {"a": flipped(sealed["a"], 9)})
    wrong = {silo: flipped(sealed[silo], 9) for silo in "ad"}
    of("fewer than t parts are right", "TooFewSilos", "abcd", wrong)
    exchanged = (("a", boxes["c"]), announced.boxes[1], ("c", boxes["a"]), announced.boxes[3])
    told("keys of parts exchanged", "TooFewSilos", boxes=exchanged)

    # Well sealed by its silo.
    cipher = scheme.cipher("a", CounterSource("a wrong part"))
    uploads = [honest.sent(silo, EncryptedInput).ciphertexts for silo in SILOS]
    assert isinstance(cipher, ThresholdPaillierCipher)
    part = cipher.part(added(scheme, uploads), round_id=fixed("r"))
    key = fixed("key of the wrong part")
    # After what its obfuscator and the proof of its plaintexts took.
    drawn = honest.random["a"].drawn[128 + 272 + 164 :]
    box = AgreementKey.from_private_bytes(drawn[:32])
    peer = dict(honest.told("b", UploadsAnnounced).uploads)["b"]
    opener = part_key(box, peer, scheme.round_id, sender="a", recipient="b")
    told(
        "a part with the proof of another round is left out",
        "accepted",
        boxes=(("a", seal(opener, key)), *announced.boxes[1:]),
        sealed=bytes_of(seal(key, part) + content(announced.sealed)[len(sealed["a"]) :]),
    )
