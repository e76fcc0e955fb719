"""The operations of rounds over ciphertexts and of key ceremonies, done by the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from secagg import wire
from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.limbs import Limbs, plan_limbs
from secagg.ckks.public import check_upload
from secagg.ckks.secret import check_slots, check_values
from secagg.encrypted import transcript
from secagg.encrypted.silo import part_key
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.keys import transcript as ceremony
from secagg.keys.boxes import Way, open_box, seal_box, seal_secret
from secagg.keys.coordinator import blame
from secagg.keys.document import (
    KeyDocument,
    decode_document,
    document_fault,
    encode_document,
    request_fault,
    sign_document,
)
from secagg.keys.keyring import check_age
from secagg.keys.secret import load_secret
from secagg.learning.model import GlobalModel
from secagg.messages import KeyRequested, RoundOpened, SignedKey, SignedUpload
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.public import PublicKey
from secagg.paillier.threshold import ThresholdKey
from secagg.payload import Payload
from secagg.rounds.silo import base_key as derive_base_key
from tests.vectors.notation import Json, Replay, read, read_frame, read_roster
from tests.vectors.operations import encoding_of, numbers, operation, struct


@dataclass(frozen=True)
class Stated:
    """An ``Adder`` as digests and signatures see it."""

    key: bytes
    parameters: bytes
    length: int = 1

    @property
    def upload(self) -> Stated:
        return self


def stated(given: Json) -> Any:
    return Stated(read(given["key"]), read(given["parameters"]), given.get("length", 1))


def agreement(given: Json) -> AgreementKey:
    return AgreementKey.from_private_bytes(read(given["private"]))


# --- rounds ----------------------------------------------------------------------------------------------


@operation
def encrypted_round_id(given: Json) -> object:
    opened = wire.decode_from_coordinator(*read_frame(given["opened"]))
    assert isinstance(opened, RoundOpened)
    return transcript.round_id(opened, stated(given))


@operation
def check_upload_signature(given: Json) -> object:
    roster, upload = read_roster(given["roster"]), struct(SignedUpload, given["upload"])
    return transcript.is_signed(roster, stated(given), read(given["round_id"]), given["silo"], upload)


@operation
def sign_upload(given: Json) -> object:
    identity = IdentityKey.from_private_bytes(read(given["identity"]))
    fields = transcript.upload_fields(
        stated(given), read(given["round_id"]), given["silo"], read(given["content"]), read(given["box"])
    )
    return identity.sign(transcript.UPLOAD, *fields)


@operation
def set_id(given: Json) -> object:
    uploads = [(silo, struct(SignedUpload, upload)) for silo, upload in given["uploads"]]
    return transcript.set_id(read(given["round_id"]), uploads)


@operation
def part_opener(given: Json) -> object:
    """The key that opens the key of one silo's part."""
    peer = SignedUpload(bytes(32), read(given["peer"]), bytes(64))
    sender, recipient = given["sender"], given["recipient"]
    return part_key(agreement(given), peer, read(given["round_id"]), sender=sender, recipient=recipient)


@operation
def base_key(given: Json) -> object:
    return derive_base_key(agreement(given), read(given["peer"]), read(given["base"]), given["recipient"])


@operation
def base_digest(given: Json) -> object:
    weights, *state = (numbers(vector) for vector in given["vectors"])
    return GlobalModel(1, weights, tuple(state)).digest


@operation
def paillier_parameters(given: Json) -> object:
    data = read(given["public"])
    key = PublicKey.from_bytes(data) if given["threshold"] is None else ThresholdKey.from_bytes(data)
    adder = PaillierAdder(key, encoding_of(given["encoding"]))
    return {
        "key": adder.key,
        "parameters": adder.parameters,
        "entries": adder.packing.entries,
        "checks": adder.checks(bytes(32)).tolist(),
        "bias": adder.packing.bias,
        "upload": [adder.upload.dtype, adder.upload.length],
        "part_size": adder.part_size,
    }


# --- CKKS ------------------------------------------------------------------------------------------------


def limbs_of(given: Json) -> Limbs:
    names = ("word_bits", "cohort", "degree")
    return plan_limbs(given["length"], **{name: given[name] for name in names})


@operation
def ckks_parameters(given: Json) -> object:
    adder = CKKSAdder(bytes(32), given["degree"], encoding_of(given["encoding"]))
    limbs = adder.limbs
    return {
        "parameters": adder.parameters,
        "limbs": limbs.count,
        "bits": limbs.bits,
        "entries": limbs.parameters.length,
        "bound": limbs.parameters.bound,
        "scale_bits": limbs.parameters.scale_bits,
        "chunks": limbs.parameters.chunks,
        "upload": [adder.upload.dtype, adder.upload.length],
        "total": [adder.total.dtype, adder.total.length],
    }


@operation
def split_limbs(given: Json) -> object:
    signed = np.array(given["values"], np.int32 if given["word_bits"] == 32 else np.int64)
    values = limbs_of(given).split(signed.view(f"u{signed.itemsize}"))
    assert (values == np.rint(values)).all()
    return [int(value) for value in values]


@operation
def join_limbs(given: Json) -> object:
    joined = limbs_of(given).join(np.array([float(value) for value in given["values"]]))
    return joined.view(f"i{joined.itemsize}").tolist()


@operation
def ckks_check_values(given: Json) -> object:
    parameters = limbs_of(given).parameters
    values = check_values(parameters, round_id=read(given["round_id"]), chunk=given["chunk"])
    return [value.hex() for value in values]


@operation
def ckks_check_slots(given: Json) -> object:
    parameters, slots = limbs_of(given).parameters, [float.fromhex(slot) for slot in given["slots"]]
    round_id, chunk = read(given["round_id"]), given["chunk"]
    check_slots(parameters, np.array(slots), silos=given["silos"], round_id=round_id, chunk=chunk)
    return True


@operation
def ckks_check_upload(given: Json) -> object:
    """``size`` bytes of 0, with other bytes put in their places."""
    data = bytearray(given["size"])
    for at, part in read(given["with"]):
        data[at : at + len(part)] = part
    dtype = given["type"]
    length = len(data) // int(dtype[1])
    check_upload(Payload.over(dtype, length, memoryview(data)), limbs_of(given).parameters)
    return True


# --- key ceremonies --------------------------------------------------------------------------------------


def document_of(given: Json) -> KeyDocument:
    return decode_document(read(given["document"]))


@operation
def ceremony_digest(given: Json) -> object:
    requested = wire.decode_from_coordinator(*read_frame(given["requested"]))
    assert isinstance(requested, KeyRequested)
    return ceremony.ceremony_digest(requested)


@operation
def request_digest(given: Json) -> object:
    roster = read_roster(given["roster"])
    return ceremony.request_digest(roster, read(given["key"]), given["joiner"], read(given["nonce"]))


@operation
def sign_key_document(given: Json) -> object:
    unsigned = struct(KeyDocument, given["fields"] | {"signature": "0x" + "00" * 64})
    document = sign_document(IdentityKey.from_private_bytes(read(given["identity"])), unsigned)
    return {"document": encode_document(document), "digest": document.digest}


@operation
def check_key_document(given: Json) -> object:
    """What whoever is handed a document checks; ``requested`` is left out where it was not asked for."""
    document, roster = document_of(given), read_roster(given["roster"])
    blame(document.maker, document_fault(document, roster))
    if "requested" in given:
        requested = wire.decode_from_coordinator(*read_frame(given["requested"]))
        assert isinstance(requested, KeyRequested)
        blame(document.maker, request_fault(document, requested, ceremony.ceremony_digest(requested)))
    check_age(document, given["now"])
    return True


@operation
def sign_sealing_key(given: Json) -> object:
    identity = IdentityKey.from_private_bytes(read(given["identity"]))
    nonce = read(given["nonce"])
    return ceremony.sign_sealing_key(
        identity, read(given["ceremony"]), given["silo"], agreement(given), nonce
    )


@operation
def check_sealing_key(given: Json) -> object:
    roster, silo = read_roster(given["roster"]), given["silo"]
    sealing = struct(SignedKey, given["sealing"])
    blame(silo, ceremony.sealing_fault(roster, read(given["ceremony"]), silo, sealing))
    return True


@operation
def check_taken(given: Json) -> object:
    roster, document = read_roster(given["roster"]), document_of(given)
    return ceremony.is_taken(roster, given["silo"], document, read(given["signature"]))


@operation
def sign_taken(given: Json) -> object:
    identity = IdentityKey.from_private_bytes(read(given["identity"]))
    return ceremony.sign_taken(identity, document_of(given))


def way_of(given: Json) -> Way:
    return Way(read(given["ceremony"]), given["giver"], given["recipient"])


@operation
def seal_key(given: Json) -> object:
    """A secret that all silos hold, sealed once, and the box of the seal's key."""
    random, document = Replay(read(given["random"])), document_of(given)
    key, sealed = seal_secret(document, read(given["secret"]), random)
    box = seal_box(agreement(given), read(given["peer"]), document, key, way=way_of(given))
    return {"sealed": sealed, "box": box}


@operation
def open_key(given: Json) -> object:
    """The secret, which must be that of the document."""
    document = document_of(given)
    sealed, box = read(given["sealed"]), read(given["box"])
    peer, way = read(given["peer"]), way_of(given)
    secret = open_box(agreement(given), peer, document, sealed=sealed, box=box, way=way)
    load_secret(document, secret, slot=given["slot"])
    return secret
