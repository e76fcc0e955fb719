"""Cases for the building blocks: frames, signatures, derived keys, boxes, streams, secret sharing."""

from __future__ import annotations

from secagg.hazmat.agreement import AgreementKey, seal
from secagg.hazmat.framing import Field
from secagg.hazmat.identity import IdentityKey
from secagg.hazmat.prg import SPAN
from secagg.hazmat.shamir import PRIME
from tests.vectors.cases import Group
from tests.vectors.notation import Json, fixed, flipped, write_field

FIELD_PRIME = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519, for a signature with s + order


def fields(*values: object) -> list[Json]:
    return [write_field(value) for value in values]


def framing() -> Group:
    group = Group("Frames: what is signed, hashed and bound into keys; and Ed25519 signatures over them.")
    good: dict[str, tuple[Field, ...]] = {
        "no fields": (),
        "bytes and text with equal content differ": (b"ab", "ab"),
        "integers are big-endian two's complement, one form each": (0, 127, 128, -128, -129, 2**64),
        "floats are IEEE binary64, by their bits": (0.0, -0.0, 1.5, float("inf")),
        "booleans are no integers, and none is nothing": (True, False, None),
        "tuples nest": ((), ("a", (b"b", 1))),
    }
    for name, values in good.items():
        group.passes(name, "frame_fields", label="label", fields=fields(*values))
    group.passes("digest", "digest_fields", label="label", fields=fields("a", 1))
    for name, bad in {
        "NaN is refused": float("nan"),
        "NaN inside a tuple is refused": ("a", float("nan")),
        "a lone surrogate has no UTF-8": "\ud800",
        "a list is no field": ["a"],
        "a list inside a tuple is no field": ("a", ["b"]),
    }.items():
        group.fails(name, "frame_fields", "ParameterError", label="label", fields=fields(bad))
    group.fails("a label without UTF-8", "frame_fields", "ParameterError", label="\udfff", fields=[])

    key = IdentityKey.from_private_bytes(fixed("identity"))
    signed = fields(b"session", ("a", "b"), 1)
    group.passes("signature", "sign", identity=key.private_bytes(), label="survivors", fields=signed)
    signature = key.sign("survivors", b"session", ("a", "b"), 1)

    def check(name: str, *, valid: bool, **changes: object) -> None:
        given: dict[str, object] = {"public": key.public, "signature": signature}
        given |= {"label": "survivors", "fields": signed} | changes
        if valid:
            group.passes(name, "verify_signature", **given)
        else:
            group.fails(name, "verify_signature", False, **given)

    check("a valid signature", valid=True)
    forged: dict[str, dict[str, object]] = {
        "another label": {"label": "void"},
        "a tuple that is flattened": {"fields": fields(b"session", "a", "b", 1)},
        "names in another order": {"fields": fields(b"session", ("b", "a"), 1)},
        "text in place of bytes": {"fields": fields("session", ("a", "b"), 1)},
        "true in place of 1": {"fields": fields(b"session", ("a", "b"), True)},
        "a field less": {"fields": fields(b"session", ("a", "b"))},
        "a field more": {"fields": fields(b"session", ("a", "b"), 1, None)},
        "a field that cannot be framed": {"fields": fields(b"session", ("a", "b"), float("nan"))},
        "a flipped bit in the first half": {"signature": flipped(signature)},
        "a flipped bit in the second half": {"signature": flipped(signature, 32)},
        "a signature that is cut": {"signature": signature[:-1]},
        "no signature": {"signature": b""},
        "a second half beyond the group order": {"signature": malleated(signature)},
        "another key": {"public": IdentityKey.from_private_bytes(fixed("other identity")).public},
        "a key of 31 bytes": {"public": key.public[:-1]},
        "bytes that are no point": {"public": b"\x02" + bytes(31)},
    }
    for name, changes in forged.items():
        check(name, valid=False, **changes)

    members = [("a", fixed("key a")), ("b", fixed("key b")), ("c", fixed("key c"))]
    group.passes("roster", "roster_digest", roster=members)
    for name, roster in {
        "no members": [],
        "one name twice": [members[0], ("a", fixed("key b"))],
        "one key twice": [members[0], ("b", members[0][1])],
        "a key of 31 bytes in a roster": [("a", bytes(31))],
        "a name with a space": [("a b", bytes(32))],
        "an empty name": [("", bytes(32))],
        "a name with a line break": [("a\n", bytes(32))],
        "a name of 65 characters": [("a" * 65, bytes(32))],
    }.items():
        group.fails(name, "roster_digest", "ParameterError", roster=roster)
    return group


def malleated(signature: bytes) -> bytes:
    second = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + second.to_bytes(32, "little")


def derivation() -> Group:
    group = Group("Derived keys (HKDF-SHA-256), X25519 agreement, sealed boxes, mask streams.")
    secret, session = fixed("secret"), fixed("session")
    for size in (1, 32, 64):
        context = fields(session, "a", 1)
        group.passes(
            f"{size} bytes", "derive_key", secret=secret, purpose="test", context=context, length=size
        )
    for name, length in {"no bytes": 0, "a negative length": -1, "more than 255 blocks": 8161}.items():
        group.fails(
            name, "derive_key", "ParameterError", secret=secret, purpose="test", context=[], length=length
        )
    group.fails(
        "NaN in a context",
        "derive_key",
        "ParameterError",
        secret=secret,
        purpose="test",
        context=fields(float("nan")),
        length=32,
    )

    own, peer = (AgreementKey.from_private_bytes(fixed(f"agreement {name}")) for name in "ab")
    group.passes(
        "agreement",
        "agree",
        private=own.private_bytes(),
        peer=peer.public,
        purpose="test",
        context=fields(session, "a", "b"),
    )
    group.passes("a public key", "check_public_key", public=own.public)
    order_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
    bad_points = {
        "the point 0": bytes(32),
        "the point 1": (1).to_bytes(32, "little"),
        "a point of order 8": order_8.to_bytes(32, "little"),
        "the point -1": (FIELD_PRIME - 1).to_bytes(32, "little"),
        "0 in a second encoding": FIELD_PRIME.to_bytes(32, "little"),
        "1 in a second encoding": (FIELD_PRIME + 1).to_bytes(32, "little"),
        "a good point with the top bit set": own.public[:-1] + bytes([own.public[-1] | 0x80]),
        "31 bytes": own.public[:-1],
        "33 bytes": own.public + b"\0",
    }
    for name, public in bad_points.items():
        group.fails(name, "check_public_key", "MalformedMessage", public=public)
    group.fails(
        "agreement with a point of low order",
        "agree",
        "MalformedMessage",
        private=own.private_bytes(),
        peer=bad_points["a point of order 8"],
        purpose="test",
        context=[],
    )

    box: dict[str, object] = {"private": own.private_bytes(), "peer": peer.public, "session": session}
    seed_key = group.passes("box key", "box_key", **box, sender="a", recipient="b", kind="seed")
    mask_key = group.passes("box key, other kind", "box_key", **box, sender="a", recipient="b", kind="mask")
    back_key = group.passes("box key, other way", "box_key", **box, sender="b", recipient="a", kind="seed")
    key = fixed("box")
    group.passes("a sealed box", "seal_box", key=key, plaintext=fixed("plaintext", 65))
    sealed = seal(key, fixed("plaintext", 65))
    group.passes("an opened box", "open_box", key=key, box=sealed)
    for name, changed in {
        "a flipped bit in a box": flipped(sealed),
        "a flipped bit in a tag": flipped(sealed, len(sealed) - 1),
        "a box that is cut": sealed[:-1],
        "a box with a byte more": sealed + b"\0",
        "no box": b"",
    }.items():
        group.fails(name, "open_box", "MalformedMessage", key=key, box=changed)
    for name, other in {"other kind": mask_key, "other way": back_key, "another pair": seed_key}.items():
        group.fails(f"a box under the key of: {name}", "open_box", "MalformedMessage", key=other, box=sealed)
    group.fails("a sealing key of 16 bytes", "seal_box", "ParameterError", key=bytes(16), plaintext=b"")

    round_id = fixed("round")
    group.passes("self stream key", "self_stream", seed=fixed("seed"), round_id=round_id, silo="a")
    pair: dict[str, object] = {"private": own.private_bytes(), "peer": peer.public, "round_id": round_id}
    group.passes("pair stream key", "pair_stream", **pair, lower="a", higher="b")
    stream = fixed("stream")
    for bits in (32, 64):
        group.passes(f"{bits}-bit words", "stream_words", key=stream, word_bits=bits, first=0, count=6)
    group.passes("across a span", "stream_words", key=stream, word_bits=32, first=SPAN - 2, count=4)
    for size in (0, 16, 31, 33):
        key = fixed("stream", size)
        group.fails(
            f"a stream key of {size} bytes",
            "stream_words",
            "ParameterError",
            key=key,
            word_bits=32,
            first=0,
            count=1,
        )
    return group


def shamir() -> Group:
    group = Group("Secret sharing over the prime 2^256 + 297; `random` is 48 bytes for each coefficient.")
    secret, random = fixed("secret"), fixed("coefficients", 96)
    shares = group.passes(
        "3 of 4", "split_secret", secret=secret, threshold=3, indices=[1, 2, 3, 4], random=random
    )
    group.passes(
        "slots need not be dense",
        "split_secret",
        secret=secret,
        threshold=3,
        indices=[2, 5, 9],
        random=random,
    )
    group.passes(
        "the largest secret",
        "split_secret",
        secret=b"\xff" * 32,
        threshold=2,
        indices=[1, 2],
        random=bytes(48),
    )
    for name, indices in {
        "the first three": [1, 2, 3],
        "any order": [4, 1, 3],
        "all four": [1, 2, 3, 4],
    }.items():
        given = [shares[index - 1] for index in indices]
        group.passes(name, "combine_shares", indices=indices, shares=given)

    bad: dict[str, dict[str, object]] = {
        "threshold 1": {"threshold": 1},
        "threshold above the number of shares": {"threshold": 5},
        "index 0 is the secret": {"indices": [0, 1, 2, 3]},
        "a negative index": {"indices": [-1, 1, 2, 3]},
        "an index twice": {"indices": [1, 1, 2, 3]},
        "a secret of 31 bytes": {"secret": secret[:-1]},
        "a secret of 33 bytes": {"secret": secret + b"\0"},
    }
    for name, changes in bad.items():
        good = {"secret": secret, "threshold": 3, "indices": [1, 2, 3, 4], "random": random}
        group.fails(name, "split_secret", "ParameterError", **(good | changes))

    def combining(name: str, error: str, indices: list[int], given: list[str | bytes]) -> None:
        group.fails(name, "combine_shares", error, indices=indices, shares=given)

    combining("no shares", "ParameterError", [], [])
    combining("one share short", "ParameterError", [1, 2, 3], shares[:2])
    combining("one share too many", "ParameterError", [1, 2, 3], shares)
    combining("the share of an index twice", "ParameterError", [1, 1, 3], [shares[0], shares[0], shares[2]])
    combining("the share of index 0", "ParameterError", [0, 1, 2], shares[:3])
    combining("a share that is the prime", "MalformedMessage", [1, 2], [PRIME.to_bytes(33, "big"), shares[1]])
    combining("the largest 33 bytes", "MalformedMessage", [1, 2], [b"\xff" * 33, shares[1]])
    combining("a share of 32 bytes", "MalformedMessage", [1, 2], [bytes(32), shares[1]])
    combining("a share of 34 bytes", "MalformedMessage", [1, 2], [bytes(34), shares[1]])
    above = (2**256).to_bytes(33, "big")
    combining("a value that is no 32-byte secret", "MalformedMessage", [1, 2], [above, above])
    return group
