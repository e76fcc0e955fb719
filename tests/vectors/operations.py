"""Every operation that a vector file may name, done by the product.

The generator and the test both come through here: what differs is that one writes the result down and the
other compares it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from gmpy2 import mpz

from secagg import wire
from secagg.cohort import Cohort
from secagg.errors import SecaggError
from secagg.fixedpoint import Encoding, Segment, plan_sum
from secagg.hazmat.agreement import AgreementKey, check_point, hkdf, seal, unseal
from secagg.hazmat.framing import digest, frame
from secagg.hazmat.identity import IdentityKey, verify
from secagg.hazmat.prg import add_streams
from secagg.hazmat.shamir import combine, lagrange, split
from secagg.masking import transcript
from secagg.masking.checks import bundle_fault, opening_matches, proves, recover, share_set_fault
from secagg.masking.coordinator import blame
from secagg.masking.dealing import deal, receive
from secagg.messages import DealerEvidence, KeyBundle, Opening, ShareEntry, ShareSet, TrainingOpened, Void
from secagg.packing import Packing
from secagg.paillier.ciphertexts import Total, encrypt
from secagg.paillier.ciphertexts import read as read_ciphertexts
from secagg.paillier.obfuscators import Pool
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import KeyShare, deal_from
from secagg.paillier.threshold import Proof, ThresholdKey
from secagg.policy import Policy
from secagg.records import AttemptJoined, decode_silo_record, encode_record
from secagg.survivors import LockKey, Locks, check_survivors, sign_survivors, sign_void, signed_survivors
from secagg.terms import Terms, training_digest
from secagg.weighting import decode_mean, encode_mean, plan_mean
from tests.vectors.notation import (
    Json,
    Replay,
    read,
    read_field,
    read_frame,
    read_roster,
    write,
    write_error,
)

Operation = Callable[[Json], object]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


def perform(name: str, given: Json) -> Json:
    """Do the operation; return ``{"output": ...}`` or ``{"error": ...}``."""
    try:
        return {"output": write(OPERATIONS[name](given))}
    except SecaggError as error:
        return {"error": write_error(error)}


# --- framing and signatures ----------------------------------------------------------------------------


@operation
def frame_fields(given: Json) -> object:
    return frame(given["label"], *map(read_field, given["fields"]))


@operation
def digest_fields(given: Json) -> object:
    return digest(given["label"], *map(read_field, given["fields"]))


@operation
def sign(given: Json) -> object:
    key = IdentityKey.from_private_bytes(read(given["identity"]))
    return key.sign(given["label"], *map(read_field, given["fields"]))


@operation
def verify_signature(given: Json) -> object:
    fields = map(read_field, given["fields"])
    return verify(read(given["public"]), read(given["signature"]), given["label"], *fields)


@operation
def roster_digest(given: Json) -> object:
    return read_roster(given["roster"]).digest


# --- keys and streams ----------------------------------------------------------------------------------


@operation
def derive_key(given: Json) -> object:
    context = map(read_field, given["context"])
    return hkdf(read(given["secret"]), given["purpose"], *context, length=given["length"])


@operation
def agree(given: Json) -> object:
    key = AgreementKey.from_private_bytes(read(given["private"]))
    return key.derive(read(given["peer"]), given["purpose"], *map(read_field, given["context"]))


@operation
def check_public_key(given: Json) -> object:
    check_point(read(given["public"]))
    return True


@operation
def seal_box(given: Json) -> object:
    return seal(read(given["key"]), read(given["plaintext"]))


@operation
def open_box(given: Json) -> object:
    return unseal(read(given["key"]), read(given["box"]))


@operation
def box_key(given: Json) -> object:
    own = AgreementKey.from_private_bytes(read(given["private"]))
    sender, recipient, kind = given["sender"], given["recipient"], given["kind"]
    session = read(given["session"])
    return transcript.box_key(
        own, read(given["peer"]), session, sender=sender, recipient=recipient, kind=kind
    )


@operation
def self_stream(given: Json) -> object:
    return transcript.self_stream(read(given["seed"]), read(given["round_id"]), given["silo"])


@operation
def pair_stream(given: Json) -> object:
    own = AgreementKey.from_private_bytes(read(given["private"]))
    lower, higher = given["lower"], given["higher"]
    return transcript.pair_stream(
        own, read(given["peer"]), read(given["round_id"]), lower=lower, higher=higher
    )


@operation
def stream_words(given: Json) -> object:
    first, count = given["first"], given["count"]
    words = np.zeros(first + count, np.uint32 if given["word_bits"] == 32 else np.uint64)
    add_streams(words, plus=[read(given["key"])])
    return words[first:].tobytes()


# --- secret sharing --------------------------------------------------------------------------------------


@operation
def split_secret(given: Json) -> object:
    source = Replay(read(given["random"]))
    shares = split(read(given["secret"]), given["threshold"], given["indices"], source)
    assert source.used_up
    return list(shares.values())


@operation
def combine_shares(given: Json) -> object:
    return combine(lagrange(given["indices"]), read(given["shares"]))


# --- parts of messages -----------------------------------------------------------------------------------


def struct(kind: type[Any], value: Json) -> Any:
    return msgspec.convert(read(value), kind)


@operation
def descriptor(given: Json) -> object:
    return transcript.descriptor_digest(read(given["training"]), given["attempt"], float(given["seconds"]))


@operation
def session_id(given: Json) -> object:
    bundles = [(silo, struct(KeyBundle, bundle)) for silo, bundle in given["bundles"]]
    return transcript.session_id(read(given["descriptor"]), bundles)


@operation
def check_bundle(given: Json) -> object:
    roster, silo = read_roster(given["roster"]), given["silo"]
    blame(silo, bundle_fault(roster, read(given["descriptor"]), silo, struct(KeyBundle, given["bundle"])))
    return True


@operation
def deal_shares(given: Json) -> object:
    source = Replay(read(given["random"]))
    dealt = deal(
        session=read(given["session"]),
        dealer=given["dealer"],
        identity=IdentityKey.from_private_bytes(read(given["identity"])),
        box=AgreementKey.from_private_bytes(read(given["box"])),
        mask=AgreementKey.from_private_bytes(read(given["mask"])),
        seed=read(given["seed"]),
        peers=dict(read(given["peers"])),
        roster=read_roster(given["roster"]),
        threshold=given["threshold"],
        random=source,
    )
    assert source.used_up
    own = {"seed": dealt.own.seed, "mask": dealt.own.mask}
    return {"share_set": dealt.share_set, "boxes": dealt.boxes, "own": own}


@operation
def check_share_set(given: Json) -> object:
    peers = {silo: struct(KeyBundle, bundle) for silo, bundle in given["bundles"]}
    share_set = struct(ShareSet, given["share_set"])
    roster, dealer = read_roster(given["roster"]), given["dealer"]
    blame(dealer, share_set_fault(roster, read(given["session"]), dealer, share_set, peers))
    return True


@operation
def open_boxes(given: Json) -> object:
    seed_box, mask_box = read(given["boxes"])
    pair = receive(
        session=read(given["session"]),
        dealer=given["dealer"],
        recipient=given["recipient"],
        box=AgreementKey.from_private_bytes(read(given["box"])),
        dealer_box=read(given["dealer_box"]),
        entry=struct(ShareEntry, given["entry"]),
        boxes=(seed_box, mask_box),
    )
    return {"seed": pair.seed, "mask": pair.mask}


@operation
def check_opening(given: Json) -> object:
    entry, opening = struct(ShareEntry, given["entry"]), struct(Opening, given["opening"])
    return opening_matches(read(given["session"]), given["dealer"], entry, given["kind"], opening)


@operation
def recover_secret(given: Json) -> object:
    """The secret, or false if the shares are not shares of what the dealer committed to."""
    share_set = struct(ShareSet, given["share_set"])
    weights, shares = lagrange(given["indices"]), read(given["shares"])
    secret = recover(read(given["session"]), given["dealer"], share_set, given["kind"], weights, shares)
    return False if secret is None else secret


@operation
def round_id(given: Json) -> object:
    share_sets = [(dealer, struct(ShareSet, share_set)) for dealer, share_set in given["share_sets"]]
    return transcript.round_id(read(given["session"]), share_sets)


# --- terms and policy ------------------------------------------------------------------------------------


def terms_of(frame: Json) -> Terms:
    opened = wire.decode_from_coordinator(*read_frame(frame))
    assert isinstance(opened, TrainingOpened)
    return opened.terms


@operation
def training(given: Json) -> object:
    return training_digest(terms_of(given["opened"]))


@operation
def check_policy(given: Json) -> object:
    settings = dict(given["policy"])
    if "schemes" in settings:
        settings["schemes"] = frozenset(settings["schemes"])
    Policy(**settings).check(terms_of(given["opened"]), read_roster(given["roster"]))
    return True


# --- survivors, locks, evidence --------------------------------------------------------------------------


@operation
def check_set(given: Json) -> object:
    members = frozenset(given["members"])
    check_survivors(given["silo"], given["survivors"], members, Cohort(**given["cohort"]))
    return True


@operation
def sign_set(given: Json) -> object:
    key = IdentityKey.from_private_bytes(read(given["identity"]))
    return sign_survivors(key, read(given["round_id"]), given["survivors"])


@operation
def count_signatures(given: Json) -> object:
    """The silos whose signature counts."""
    signatures = [(silo, signature) for silo, signature in read(given["signatures"])]
    roster, survivors = read_roster(given["roster"]), given["survivors"]
    return sorted(signed_survivors(roster, read(given["round_id"]), survivors, signatures))


@operation
def void(given: Json) -> object:
    key = IdentityKey.from_private_bytes(read(given["identity"]))
    return sign_void(key, given["silo"], read(given["round_id"]))


@operation
def lock(given: Json) -> object:
    """Rebuild the locks from a journal, then ask for one more record: its line, or false for none."""
    locks = Locks(decode_silo_record(line) for line in read(given["journal"]))
    asked: Json = read(given["ask"])
    key = LockKey(asked.pop("data_set", "default"), asked.pop("base", b""))
    what = asked.pop("what")
    if "roster" in asked:
        asked["roster"] = read_roster(asked["roster"])
    match what:
        case "join":
            record: Any = locks.join(AttemptJoined(**asked))
        case "sign":
            record = locks.sign(key, **asked)
        case "release":
            record = locks.release(**asked)
        case "void":
            return [encode_record(made) for made in locks.void(**asked)]
        case "lift":
            voids = [msgspec.convert(one, Void) for one in asked.pop("voids")]
            record = locks.lift(key, voids, **asked)
        case "move":
            record = locks.move(key, **asked)
        case _:
            raise ValueError(what)
    return False if record is None else encode_record(record)


@operation
def convict(given: Json) -> object:
    evidence = struct(DealerEvidence, given["evidence"])
    return proves(evidence, read_roster(given["roster"]), threshold=given["threshold"])


# --- wire ------------------------------------------------------------------------------------------------


@operation
def decode_from_silo(given: Json) -> object:
    return wire.decode_from_silo(*read_frame(given))


@operation
def decode_from_coordinator(given: Json) -> object:
    return wire.decode_from_coordinator(*read_frame(given))


# --- numbers ---------------------------------------------------------------------------------------------


def encoding_of(given: Json) -> Encoding:
    segments = tuple(Segment(name, size, float(bound), bits) for name, size, bound, bits in given["segments"])
    return Encoding(given["word_bits"], given["cohort"], segments, float(given["weight_cap"]))


def numbers(values: Json) -> Any:
    return np.array([float(value) for value in values])


@operation
def encoding(given: Json) -> object:
    made = encoding_of(given)
    return {"length": made.length, "headroom_bits": made.headroom_bits}


@operation
def encode(given: Json) -> object:
    values = {name: numbers(segment) for name, segment in given["values"].items()}
    return encoding_of(given["encoding"]).encode(values, factors=given.get("factors")).tobytes()


@operation
def decode(given: Json) -> object:
    made = encoding_of(given["encoding"])
    total = np.frombuffer(read(given["total"]), made.dtype)
    return {name: values.tolist() for name, values in made.decode(total).items()}


@operation
def plan(given: Json) -> object:
    made = (plan_sum if given["of"] == "sum" else plan_mean)(**given["arguments"])
    segments = [[s.name, s.length, s.bound, s.fraction_bits] for s in made.segments]
    return {"word_bits": made.word_bits, "segments": segments}


@operation
def encode_weighted(given: Json) -> object:
    made = encoding_of(given["encoding"])
    update = None if given["update"] is None else numbers(given["update"])
    metrics = {name: float(value) for name, value in given["metrics"].items()}
    weight, evaluation_weight = float(given["weight"]), float(given["evaluation_weight"])
    return encode_mean(
        made, update=update, weight=weight, metrics=metrics, evaluation_weight=evaluation_weight
    ).tobytes()


@operation
def decode_weighted(given: Json) -> object:
    made = encoding_of(given["encoding"])
    total = np.frombuffer(read(given["total"]), made.dtype)
    mean = decode_mean(made, total, silos=given["silos"])
    values = None if mean.values is None else mean.values.tolist()
    return {"values": values, "weight": mean.weight, "metrics": dict(mean.metrics), "clipped": mean.clipped}


# --- Paillier ------------------------------------------------------------------------------------------


def _packing(given: Json) -> Packing:
    return Packing(given["word_bits"], given["cohort"], given["plaintext_bits"])


def _rows(rows: Json) -> Any:
    data = [read(row) for row in rows]
    return np.frombuffer(b"".join(data), np.uint8).reshape(len(data), -1)


def _numbers(data: Json, key: PublicKey) -> list[mpz]:
    raw, size = read(data), key.ciphertext_size
    return [mpz.from_bytes(raw[at : at + size], "big") for at in range(0, len(raw), size)]


def _written(numbers: Sequence[mpz], key: PublicKey) -> bytes:
    return b"".join(number.to_bytes(key.ciphertext_size, "big") for number in numbers)


@operation
def pack(given: Json) -> object:
    signed = np.array(given["values"], np.int32 if given["word_bits"] == 32 else np.int64)
    words, checks = signed.view(f"u{signed.itemsize}"), np.array(given["checks"], np.int64)
    return [row.tobytes() for row in _packing(given).pack(words, checks)]


@operation
def unpack(given: Json) -> object:
    rows, checks = _rows(given["rows"]), np.array(given["checks"], np.int64)
    words = _packing(given).unpack(rows, checks, length=given["length"], silos=given["silos"])
    return words.view(f"i{words.itemsize}").tolist()


@operation
def paillier_public(given: Json) -> object:
    key = PublicKey.from_bytes(read(given["public"]))
    return {"id": key.id, "base": _written([key.base], key), "obfuscation": key.obfuscation}


@operation
def paillier_secret(given: Json) -> object:
    return SecretKey.from_bytes(read(given["secret"])).public.to_bytes()


@operation
def paillier_encrypt(given: Json) -> object:
    pool = Pool(PublicKey.from_bytes(read(given["public"])), random=Replay(read(given["random"])))
    return b"".join(encrypt(_rows(given["rows"]), pool))


@operation
def paillier_add(given: Json) -> object:
    total = Total(PublicKey.from_bytes(read(given["public"])), given["count"])
    for vector in given["vectors"]:
        total.add([read(vector)])
    return bytes(total.ciphertexts()[:])


@operation
def paillier_open(given: Json) -> object:
    secret = SecretKey.from_bytes(read(given["secret"]))
    ciphertexts = read_ciphertexts(read(given["ciphertexts"]), secret.public)
    return [row.tobytes() for row in secret.open(ciphertexts, size=given["size"])]


@operation
def paillier_deal(given: Json) -> object:
    p, q = (int.from_bytes(read(given[name]), "big") for name in "pq")
    random = Replay(read(given["random"]))
    key, shares = deal_from(p, q, parties=given["parties"], threshold=given["threshold"], random=random)
    return {"id": key.id, "key": key.to_bytes(), "shares": [share.to_bytes() for share in shares]}


@operation
def paillier_decrypt_share(given: Json) -> object:
    key = ThresholdKey.from_bytes(read(given["key"]))
    ciphertexts = read_ciphertexts(read(given["ciphertexts"]), key.public)
    return _written(KeyShare.from_bytes(read(given["share"]), key).decrypt(ciphertexts), key.public)


@operation
def paillier_prove(given: Json) -> object:
    key = ThresholdKey.from_bytes(read(given["key"]))
    proof = KeyShare.from_bytes(read(given["share"]), key).prove(
        _numbers(given["ciphertexts"], key.public),
        _numbers(given["partials"], key.public),
        context=read(given["context"]),
        random=Replay(read(given["random"])),
    )
    response = proof.response.to_bytes((proof.response.bit_length() + 7) // 8, "big")
    return {"challenge": proof.challenge.to_bytes(32, "big"), "response": response}


@operation
def paillier_check(given: Json) -> object:
    key = ThresholdKey.from_bytes(read(given["key"]))
    proof = Proof(*(int.from_bytes(read(given[name]), "big") for name in ("challenge", "response")))
    return key.check(
        given["party"],
        _numbers(given["ciphertexts"], key.public),
        _numbers(given["partials"], key.public),
        proof,
        context=read(given["context"]),
    )


@operation
def paillier_combine(given: Json) -> object:
    key = ThresholdKey.from_bytes(read(given["key"]))
    partials = {party: _numbers(data, key.public) for party, data in given["partials"]}
    return [row.tobytes() for row in key.open(partials, size=given["size"])]
