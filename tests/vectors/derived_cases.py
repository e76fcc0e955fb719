"""Cases for what rounds over ciphertexts and key ceremonies derive, sign and check, function by function."""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from secagg.ckks.parameters import RINGS, SECRET_MAGIC
from secagg.ckks.seal import SEAL_MAGIC
from secagg.encrypted import transcript
from secagg.fixedpoint import Encoding
from secagg.keys.document import DAY, KeyDocument, encode_document, sign_document
from secagg.keys.transcript import ceremony_digest
from secagg.messages import KeyRequested, RoundOpened, UploadsAnnounced
from secagg.paillier.params import SECRET_MAGIC as PAILLIER_MAGIC
from secagg.rounds.bases import WANTED, base_fields
from tests.paillier_keys import secret_key, shared_key, threshold_key
from tests.vectors import world
from tests.vectors.cases import Group
from tests.vectors.encrypted_operations import agreement
from tests.vectors.encrypted_world import PAILLIER, THRESHOLD, run, signed
from tests.vectors.forging import LOW_ORDER
from tests.vectors.notation import CounterSource, Json, fixed, flipped, write, write_field, write_frame
from tests.vectors.operations import struct
from tests.vectors.world import COHORT, IDENTITIES, SILOS

MEMBERS = world.ROSTER.members
ROUND = PAILLIER.round_id
KEY, PARAMETERS = PAILLIER.adder.key, PAILLIER.adder.parameters


def encoding_input(encoding: Encoding) -> dict[str, object]:
    segments = [[s.name, s.length, s.bound, s.fraction_bits] for s in encoding.segments]
    return {
        "word_bits": encoding.word_bits,
        "cohort": encoding.cohort,
        "segments": segments,
        "weight_cap": encoding.weight_cap,
    }


# --- rounds ----------------------------------------------------------------------------------------------


def encrypted() -> Group:
    group = Group(
        "What a round over ciphertexts derives and signs: digests, uploads, sets, seals, base models."
    )
    _parameters(group)
    _round_ids(group)
    _uploads(group)
    _seals(group)
    return group


def _parameters(group: Group) -> None:
    encoding = encoding_input(world.TERMS.encoding)
    public: dict[str, object] = {"public": shared_key().public.to_bytes(), "threshold": None}
    group.passes("a whole key", "paillier_parameters", **public, encoding=encoding)
    wide = encoding | {"word_bits": 64, "segments": [["sum", 300, 8.0, 20]]}
    group.passes("words of 64 bits, several plaintexts", "paillier_parameters", **public, encoding=wide)
    for name, changes in {
        "a sum that could wrap": {"cohort": 2**30},
        "words of 16 bits": {"word_bits": 16},
    }.items():
        group.fails(name, "paillier_parameters", "ParameterError", **public, encoding=encoding | changes)
    bad = {"public": shared_key().to_bytes(), "threshold": None}
    group.fails("a secret key", "paillier_parameters", "MalformedMessage", **bad, encoding=encoding)
    cut: dict[str, object] = {
        "public": threshold_key(len(SILOS), COHORT.t)[0].to_bytes()[:300],
        "threshold": 3,
    }
    group.fails(
        "a shared key that is cut", "paillier_parameters", "MalformedMessage", **cut, encoding=encoding
    )


def _round_ids(group: Group) -> None:
    def given(opened: RoundOpened, key: bytes = KEY, parameters: bytes = PARAMETERS) -> dict[str, object]:
        return {"opened": write_frame(opened), "key": key, "parameters": parameters}

    opened = PAILLIER.round_opened
    assert group.passes("a round", "encrypted_round_id", **given(opened)) == "0x" + ROUND.hex()
    shares = THRESHOLD.adder.key, THRESHOLD.adder.parameters
    group.passes("under shares", "encrypted_round_id", **given(THRESHOLD.round_opened, *shares))
    group.passes("another attempt", "encrypted_round_id", **given(replace(opened, attempt=2)))
    group.passes("other seconds", "encrypted_round_id", **given(replace(opened, seconds=0.5)))
    bad = given(opened)
    header: str = write_frame(opened)["header"]
    for name, changed in {"a cut frame": header[:-2], "a frame with more in it": header + "00"}.items():
        group.fails(name, "encrypted_round_id", "MalformedMessage", **(bad | {"opened": {"header": changed}}))


def _uploads(group: Group) -> None:
    content, box = fixed("ciphertexts"), fixed("box key")
    stated: dict[str, object] = {"key": KEY, "parameters": PARAMETERS, "length": 512, "round_id": ROUND}
    by_a = stated | {"identity": IDENTITIES["a"].private_bytes(), "silo": "a", "content": content}
    whole = group.passes("an upload", "sign_upload", **by_a, box=None)
    shared = group.passes("an upload with a box", "sign_upload", **by_a, box=box)
    good = {"content": content, "box": None, "signature": whole}
    checked = stated | {"roster": MEMBERS, "silo": "a", "upload": good}
    group.passes("a signature", "check_upload_signature", **checked)
    boxed = good | {"box": box, "signature": shared}
    group.passes("a signature with a box", "check_upload_signature", **(checked | {"upload": boxed}))
    other: dict[str, dict[str, object]] = {
        "of another silo": {"silo": "b"},
        "under another key": {"key": fixed("key")},
        "of other parameters": {"parameters": fixed("parameters")},
        "of another length": {"length": 513},
        "of another round": {"round_id": fixed("r")},
        "of other ciphertexts": {"upload": good | {"content": flipped(content)}},
        "without its box": {"upload": boxed | {"box": None}},
        "with a box that was not signed": {"upload": good | {"box": box}},
        "with a flipped bit": {
            "upload": good | {"signature": "0x" + flipped(bytes.fromhex(whole[2:])).hex()}
        },
        "that is all zero": {"upload": good | {"signature": bytes(64)}},
    }
    for name, changes in other.items():
        group.fails(f"a signature {name}", "check_upload_signature", False, **(checked | changes))

    pairs = run(PAILLIER).told("b", UploadsAnnounced).uploads
    found = group.passes("a set", "set_id", round_id=ROUND, uploads=pairs)
    assert found == "0x" + transcript.set_id(ROUND, pairs).hex()
    with_box = (("a", signed(PAILLIER, content, box)), *pairs[1:])
    group.passes("a set with a box", "set_id", round_id=ROUND, uploads=with_box)


def _seals(group: Group) -> None:
    private, peer = fixed("private"), IDENTITY_POINT
    part: dict[str, object] = {"private": private, "peer": peer, "round_id": ROUND}
    part |= {"sender": "a", "recipient": "b"}
    there = group.passes("the key of a part", "part_opener", **part)
    back = group.passes("the other way", "part_opener", **(part | {"sender": "b", "recipient": "a"}))
    assert there != back
    base: dict[str, object] = {"private": private, "peer": peer, "base": world.TERMS.base, "recipient": "b"}
    group.passes("the key of a base model", "base_key", **base)
    for name, point in {"low order": LOW_ORDER, "a second encoding": b"\xff" * 32}.items():
        group.fails(
            f"a part to a point of {name}", "part_opener", "MalformedMessage", **(part | {"peer": point})
        )
        group.fails(
            f"a base to a point of {name}", "base_key", "MalformedMessage", **(base | {"peer": point})
        )
    group.passes("a base model", "base_digest", vectors=[[0.5, -1.0, 0.0]])
    group.passes("one with state", "base_digest", vectors=[[0.5, -1.0, 0.0], [0.0, -0.0, 1e-300]])
    for name, vectors in {
        "a weight that is no number": [[0.5, math.nan]],
        "an infinite weight": [[math.inf, 0.5]],
        "state of another length": [[0.5, 1.0], [1.0]],
        "no weights": [[]],
    }.items():
        group.fails(name, "base_digest", "InputRefused", vectors=vectors)
    fields = base_fields(world.TERMS.base, "b", peer)
    asked = {"label": WANTED, "fields": [write_field(field) for field in fields]}
    by_b = group.passes("a request for a base", "sign", identity=IDENTITIES["b"].private_bytes(), **asked)
    checked: dict[str, object] = asked | {"public": IDENTITIES["b"].public, "signature": by_b}
    group.passes("it is signed", "verify_signature", **checked)
    for name, changed in {
        "of another silo": (fields[0], "a", fields[2]),
        "for another base": (fixed("another base"), *fields[1:]),
        "to another key": (*fields[:2], fixed("box key")),
    }.items():
        given = checked | {"fields": [write_field(field) for field in changed]}
        group.fails(f"a request {name}", "verify_signature", False, **given)


IDENTITY_POINT = (9).to_bytes(32, "little")
"""The base point, which is a public key as good as any."""


# --- CKKS ------------------------------------------------------------------------------------------------

SMALL: dict[str, object] = {"length": 4, "word_bits": 32, "cohort": 4, "degree": 4096}


def ckks() -> Group:
    group = Group(
        "CKKS without its randomness: parameters, limbs, check slots (floats in hexadecimal), uploads. An "
        "upload is `size` bytes of 0 with others put in at their places."
    )
    _plans(group)
    _limbs(group)
    _slots(group)
    _ckks_uploads(group)
    return group


def _plans(group: Group) -> None:
    encoding = encoding_input(world.TERMS.encoding)
    for degree in RINGS:
        group.passes(f"degree {degree}", "ckks_parameters", degree=degree, encoding=encoding)
    wide = encoding | {"word_bits": 64, "segments": [["sum", 3000, 8.0, 20]]}
    group.passes("words of 64 bits, several chunks", "ckks_parameters", degree=8192, encoding=wide)
    group.fails("another degree", "ckks_parameters", "ParameterError", degree=2048, encoding=encoding)
    many = encoding | {"cohort": 2**22, "segments": [["sum", 3, 1.0, 8]]}
    group.fails(
        "more silos than add up exactly", "ckks_parameters", "ParameterError", degree=4096, encoding=many
    )


def _limbs(group: Group) -> None:
    most = (2**31 - 1) // 4
    limbs = group.passes("limbs", "split_limbs", **SMALL, values=[1, -1, most, -most])
    wide: dict[str, object] = {"length": 2, "word_bits": 64, "cohort": 3, "degree": 8192}
    high = 2**53 // 3
    more = group.passes("limbs of 64 bits", "split_limbs", **wide, values=[high, -high])
    summed = [3 * limb for limb in limbs]
    group.passes("the sum of three", "join_limbs", **SMALL, values=[float(limb) for limb in summed])
    off = [limb + (0.24 if at % 2 else -0.24) for at, limb in enumerate(summed)]
    group.passes("as it is opened, off by less than a quarter", "join_limbs", **SMALL, values=off)
    group.passes("64 bits", "join_limbs", **wide, values=[float(2 * limb) for limb in more])
    for name, value in {"beyond the most": most + 1, "beyond it below": -most - 1}.items():
        group.fails(name, "split_limbs", "InputRefused", **SMALL, values=[value, 0, 0, 0])
    group.fails("beyond it, 64 bits", "split_limbs", "InputRefused", **wide, values=[0, high + 1])
    bad = {
        "off by more than a quarter": summed[0] + 0.26,
        "larger than any sum": 2.0**40,
        "not a number": math.nan,
        "infinite": math.inf,
        "minus infinite": -math.inf,
    }
    for name, value in bad.items():
        given = SMALL | {"values": [value, *(float(limb) for limb in summed[1:])]}
        group.fails(name, "join_limbs", "RoundAborted", **given)
    most_of_each = [float(4 * limb) for limb in (*limbs[:4], *([max(limbs, key=abs)] * 4))][: len(limbs)]
    beyond = [abs(value) * 1.0 for value in most_of_each]
    if len(limbs) > 4:
        group.fails("limbs whose sum is beyond a word", "join_limbs", "RoundAborted", **SMALL, values=beyond)
    group.fails(
        "a plan of no silo", "split_limbs", "ParameterError", **(SMALL | {"cohort": 1}), values=[0] * 4
    )


def _slots(group: Group) -> None:
    first: dict[str, object] = SMALL | {"round_id": ROUND, "chunk": 0}
    values = group.passes("the check slots of a chunk", "ckks_check_values", **first)
    group.passes("of the next chunk", "ckks_check_values", **(first | {"chunk": 1}))
    group.passes("of another round", "ckks_check_values", **(first | {"round_id": fixed("r")}))
    good = [3 * float.fromhex(value) for value in values]
    stated = first | {"silos": 3, "slots": [value.hex() for value in good]}
    group.passes("a sum of three", "ckks_check_slots", **stated)
    group.passes(
        "off by a little",
        "ckks_check_slots",
        **(stated | {"slots": [(value + 2.0**-9).hex() for value in good]}),
    )
    other: dict[str, dict[str, object]] = {
        "of two": {"silos": 2},
        "of four": {"silos": 4},
        "of another round": {"round_id": fixed("r")},
        "of another chunk": {"chunk": 1},
        "of other parameters": {"length": 5},
        "off by two": {"slots": [good[0].hex(), (good[1] + 2).hex()]},
        "without a number": {"slots": ["nan", good[1].hex()]},
        "of zero": {"slots": [(0.0).hex(), (0.0).hex()]},
    }
    for name, changes in other.items():
        group.fails(f"a sum {name}", "ckks_check_slots", "RoundAborted", **(stated | changes))


def _ckks_uploads(group: Group) -> None:
    ring = RINGS[4096]
    most, least = (value.to_bytes(8, "little") for value in (ring.modulus - 1, ring.modulus))
    given: dict[str, object] = SMALL | {"type": "u8", "size": ring.fresh_size, "with": []}
    group.passes("an upload of zeros", "ckks_check_upload", **given)
    seed = given | {"with": [[0, b"\xff" * 64]]}
    group.passes("a seed is any bytes", "ckks_check_upload", **seed)
    last = ring.fresh_size - 8
    group.passes("the largest word", "ckks_check_upload", **(given | {"with": [[last, most]]}))
    bad: dict[str, dict[str, object]] = {
        "a word that is the modulus": {"with": [[last, least]]},
        "the first word is the modulus": {"with": [[64, least]]},
        "a word above the modulus": {"with": [[64 + 8 * 7, b"\xff" * 8]]},
        "a word less": {"size": ring.fresh_size - 8},
        "a word more": {"size": ring.fresh_size + 8},
        "another type": {"type": "u1"},
        "a secret key, as long as an upload": {"with": [[0, SECRET_MAGIC]]},
        "a secret key of its own length": {"size": 16 * 4096 + 32, "with": [[0, SECRET_MAGIC]]},
        "an object of SEAL": {"size": 4096, "with": [[0, SEAL_MAGIC]]},
        "a chunk of a sum": {"size": ring.sum_size},
    }
    for name, changes in bad.items():
        group.fails(name, "ckks_check_upload", "MalformedMessage", **(given | changes))


# --- key ceremonies --------------------------------------------------------------------------------------

MADE = 1_790_000_000
REQUESTED = KeyRequested(
    "vectors", world.ROSTER.digest, "paillier", 2048, None, "a", fixed("nonce"), 90 * DAY, None
)
FIELDS: dict[str, Any] = {
    "federation": "vectors",
    "scheme": "paillier",
    "size": 2048,
    "threshold": None,
    "roster": world.ROSTER.digest,
    "maker": "a",
    "made": MADE,
    "lifetime": 90 * DAY,
    "replaces": None,
}


def ceremony() -> Group:
    group = Group(
        "Making a key and handing it on: what is hashed, signed, sealed and checked; see docs/keys.md."
    )
    asked = write_frame(REQUESTED)
    called = group.passes("a ceremony", "ceremony_digest", requested=asked)
    again = write_frame(
        replace(REQUESTED, scheme="threshold-paillier", threshold=3, replaces=fixed("old key"))
    )
    group.passes("one for shares that replaces a key", "ceremony_digest", requested=again)
    group.fails(
        "a cut frame", "ceremony_digest", "MalformedMessage", requested={"header": asked["header"][:-2]}
    )
    wanted: dict[str, object] = {"roster": MEMBERS, "key": KEY, "joiner": "c", "nonce": fixed("nonce")}
    group.passes("a request for a key", "request_digest", **wanted)
    group.fails(
        "a request under no roster",
        "request_digest",
        "ParameterError",
        **(wanted | {"roster": [MEMBERS[0]] * 2}),
    )
    document = _documents(group, asked, called)
    _sealing_keys(group, called)
    _taken(group, document)
    _boxes(group, called, document)
    return group


def _documents(group: Group, asked: Json, called: str) -> str:
    public, by_a = shared_key().public, {"identity": IDENTITIES["a"].private_bytes()}
    fields: dict[str, Any] = FIELDS | {"ceremony": called, "key": public.id, "material": public.to_bytes()}
    made = group.passes("a document", "sign_key_document", fields=fields, **by_a)
    document: dict[str, object] = {"document": made["document"], "roster": MEMBERS, "now": MADE + 5}
    group.passes("a document is right", "check_key_document", **document, requested=asked)
    # The rest are of CKKS, which has no public half: they are short.
    short = replace(REQUESTED, scheme="ckks", size=4096)
    called = "0x" + ceremony_digest(short).hex()
    of_ckks = fields | {"ceremony": called, "scheme": "ckks", "size": 4096, "material": b""}
    small = group.passes("a document of CKKS", "sign_key_document", fields=of_ckks, **by_a)["document"]
    given = document | {"document": small, "requested": write_frame(short)}
    group.passes("one of CKKS is right", "check_key_document", **given)

    def refused(name: str, expected: str, **changes: object) -> None:
        group.fails(name, "check_key_document", expected, **(given | changes))

    def another(name: str, *, by: str = "a", like: dict[str, Any] = of_ckks, **changes: Any) -> None:
        written = write(like | {"signature": bytes(64)} | changes)
        signed_by = sign_document(IDENTITIES[by], struct(KeyDocument, written))
        refused(name, "FaultySilo", document=encode_document(signed_by))

    raw = bytes.fromhex(small[2:])
    refused("a flipped bit in a signature", "FaultySilo", document=flipped(raw, len(raw) - 1))
    refused("a document that is cut", "MalformedMessage", document=raw[:-1])
    refused("a byte behind it", "MalformedMessage", document=raw + b"\0")
    refused("another version", "MalformedMessage", document=b"\x02" + raw[1:])
    refused("nothing", "MalformedMessage", document=b"")
    refused("a secret key", "MalformedMessage", document=SECRET_MAGIC)
    refused("a document with a secret key in it", "MalformedMessage", document=raw + PAILLIER_MAGIC)
    refused("another roster", "FaultySilo", roster=MEMBERS[::-1])
    refused("past its lifetime", "PolicyRefused", now=MADE + 90 * DAY)
    refused("made two days from now", "PolicyRefused", now=MADE - 2 * DAY)
    refused("another scheme than was asked for", "FaultySilo", requested=asked)
    another("signed by another silo", by="b")
    another("another maker", maker="b", by="b")
    another("another federation", federation="others")
    another("another lifetime", lifetime=91 * DAY)
    another("another ceremony", ceremony=fixed("ceremony"))
    another("a key that it does not replace", replaces=fixed("old key"))
    another("a threshold that does not belong to it", threshold=3)
    another("a public half that there is not", material=b"public half")
    another("a size of no ring", size=2048)
    del given["requested"]
    another("the id of another key", like=fields, key=fixed("key"))
    another("the public half of another key", like=fields, material=secret_key().public.to_bytes())
    another("a size that is not that of its key", like=fields, size=3072)
    return str(made["document"])


def _sealing_keys(group: Group, called: str) -> None:
    given: dict[str, object] = {
        "ceremony": called,
        "silo": "c",
        "private": fixed("sealing"),
        "nonce": fixed("n"),
    }
    sealing = group.passes(
        "a sealing key", "sign_sealing_key", **given, identity=IDENTITIES["c"].private_bytes()
    )
    checked: dict[str, object] = {"roster": MEMBERS, "ceremony": called, "silo": "c", "sealing": sealing}
    group.passes("it is signed", "check_sealing_key", **checked)
    bad: dict[str, dict[str, object]] = {
        "of another silo": {"silo": "b"},
        "of a stranger": {"silo": "stranger"},
        "of another ceremony": {"ceremony": fixed("ceremony")},
        "with another key": {"sealing": sealing | {"key": fixed("key")}},
        "with another nonce": {"sealing": sealing | {"nonce": fixed("key")}},
    }
    for name, changes in bad.items():
        group.fails(f"a sealing key {name}", "check_sealing_key", "FaultySilo", **(checked | changes))
    for name, point in {"low order": LOW_ORDER, "a second encoding": b"\xff" * 32}.items():
        fields = bytes.fromhex(called[2:]), "c", point, fixed("n")
        signature = IDENTITIES["c"].sign("sealing key", *fields)
        low = {"key": point, "nonce": fixed("n"), "signature": signature}
        group.fails(
            f"a signed point of {name}", "check_sealing_key", "FaultySilo", **(checked | {"sealing": low})
        )


def _taken(group: Group, document: str) -> None:
    signature = group.passes(
        "a silo takes the key", "sign_taken", identity=IDENTITIES["c"].private_bytes(), document=document
    )
    taken: dict[str, object] = {"roster": MEMBERS, "silo": "c", "document": document, "signature": signature}
    group.passes("its signature", "check_taken", **taken)
    group.fails("another silo's", "check_taken", False, **(taken | {"silo": "b"}))
    group.fails("none", "check_taken", False, **(taken | {"signature": bytes(64)}))


def _boxes(group: Group, called: str, document: str) -> None:
    a, c = (agreement({"private": "0x" + fixed(f"sealing {silo}").hex()}) for silo in "ac")
    way: dict[str, object] = {"ceremony": called, "giver": "a", "recipient": "c", "document": document}
    random, secret = CounterSource("seal of a key"), shared_key().to_bytes()
    sent: dict[str, object] = way | {"private": a.private_bytes(), "peer": c.public, "random": random(32)}
    sealed = group.passes("a key is sealed", "seal_key", **sent, secret=secret)
    received: dict[str, object] = way | {"private": c.private_bytes(), "peer": a.public, "slot": 2} | sealed
    group.passes("it opens", "open_key", **received)
    inside, box = (bytes.fromhex(sealed[name][2:]) for name in ("sealed", "box"))
    bad: dict[str, dict[str, object]] = {
        "a box with a flipped bit": {"box": flipped(box)},
        "a secret with a flipped bit": {"sealed": flipped(inside)},
        "a box of another silo": {"recipient": "b"},
        "a box of another giver": {"giver": "b"},
        "a box of another ceremony": {"ceremony": fixed("ceremony")},
        "a box from another key": {"peer": IDENTITY_POINT},
        "a box to another key": {"private": fixed("private")},
        "no secret": {"sealed": b""},
        "no box": {"box": b""},
    }
    for name, changes in bad.items():
        group.fails(name, "open_key", "MalformedMessage", **(received | changes))
