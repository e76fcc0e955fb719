"""The operations of differential privacy, done by the product: heads, locks, costs, noised sums."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from secagg import wire
from secagg.hazmat.identity import IdentityKey
from secagg.heads import Heads, check_sent
from secagg.messages import EncryptedInput, MaskedInput, SurvivorsAnnounced, UploadsAnnounced
from secagg.privacy.charge import events_of
from secagg.privacy.heads import LedgerHead, sign_head
from secagg.privacy.noise import reach
from secagg.privacy.noising import check_noised, decode_noised
from secagg.records import HeadHeld, HeadRecord, LedgerTrusted, LedgerWentBack
from secagg.survivors import lock_key
from secagg.terms import RecordNoise, SiloNoise
from tests.vectors.notation import Json, read, read_frame, read_roster
from tests.vectors.operations import operation, struct, terms_of


@operation
def sign_ledger_head(given: Json) -> object:
    identity, silo, data_set = read(given["identity"]), given["silo"], given["data_set"]
    entries, chain, context = given["entries"], read(given["chain"]), read(given["round_id"])
    key = IdentityKey.from_private_bytes(identity)
    return sign_head(key, silo, data_set, entries=entries, chain=chain, context=context)


@operation
def check_sent_head(given: Json) -> object:
    """What the coordinator checks of the head in an input."""
    sent = wire.decode_from_silo(*read_frame(given["message"]))
    assert isinstance(sent, MaskedInput | EncryptedInput)
    check_sent(read_roster(given["roster"]), terms_of(given["opened"]), given["silo"], sent)
    return True


@operation
def take_heads(given: Json) -> object:
    """The heads that are news to a silo, of those that are announced with a set."""
    records: list[HeadRecord] = [HeadHeld(silo, struct(LedgerHead, held)) for silo, held in given["held"]]
    records += [LedgerWentBack(silo, read(data_set)) for silo, data_set in given["went_back"]]
    records += [LedgerTrusted(silo) for silo in given["trusted"]]
    announced = wire.decode_from_coordinator(*read_frame(given["announced"]))
    if isinstance(announced, UploadsAnnounced):
        members = [silo for silo, _ in announced.uploads]
    else:
        assert isinstance(announced, SurvivorsAnnounced)
        members = list(announced.survivors)
    needed = members if given["ledger"] else []
    taken = Heads(records).take(
        read_roster(given["roster"]), announced.heads, needed=needed, context=announced.round_id
    )
    return [[record.silo, record.head.entries] for record in taken]


@operation
def locked_base(given: Json) -> object:
    """What stands for the base in a lock."""
    return lock_key("default", terms_of(given["opened"])).base


@operation
def cost(given: Json) -> object:
    """The events that one vector costs."""
    return [
        {"event": type(event).__name__} | asdict(event)
        for event in events_of(terms_of(given["opened"]), survivors=given.get("survivors"))
    ]


@operation
def noise_reach(given: Json) -> object:
    return reach(float(given["share"]))


@operation
def check_noised_encoding(given: Json) -> object:
    terms = terms_of(given["opened"])
    assert isinstance(terms.privacy, SiloNoise | RecordNoise)
    check_noised(terms.encoding, terms.privacy, given["length"])
    return True


@operation
def decode_noised_sum(given: Json) -> object:
    terms = terms_of(given["opened"])
    assert isinstance(terms.privacy, SiloNoise | RecordNoise)
    total = np.frombuffer(read(given["total"]), terms.encoding.dtype)
    mean = decode_noised(terms.encoding, terms.privacy, total, silos=given["silos"])
    assert mean.values is not None
    return {"values": mean.values.tolist(), "divisor": mean.weight}
