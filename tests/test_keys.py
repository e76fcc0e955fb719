"""The key ceremony: every silo holds the maker's key, the coordinator its document; or nobody goes on."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg import wire
from secagg.errors import (
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    MalformedMessage,
    ParameterError,
    PolicyRefused,
    SecaggError,
    TooFewSilos,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat import agreement, framing, identity
from secagg.hazmat.content import CONTENT_DIGEST_SIZE, content_digest
from secagg.hazmat.identity import IdentityKey
from secagg.keys.coordinator import EstablishedKey, KeyCeremony
from secagg.keys.document import (
    DAY,
    DEFAULT_LIFETIME,
    SCHEMES,
    KeyDocument,
    audit_line,
    decode_document,
    document_fault,
    encode_document,
    sign_document,
)
from secagg.keys.forwarding import KeyForwarding
from secagg.keys.joiner import KeyJoiner, forward_key
from secagg.keys.keyring import MAGIC, MOST_AHEAD, HeldKey, Keyring
from secagg.keys.secret import make_key
from secagg.keys.transcript import box_key, ceremony_digest, request_digest
from secagg.messages import (
    KeyAsked,
    KeyDealt,
    KeyDelivered,
    KeyForwarded,
    KeyPassed,
    KeyRequested,
    KeyTaken,
    KeyWanted,
    Refused,
    SealingKey,
    SealingKeysAnnounced,
    SignedKey,
)
from secagg.names import SiloId
from secagg.paillier.ciphertexts import encrypt, read
from secagg.paillier.obfuscators import Pool
from secagg.paillier.shares import KeyShare
from secagg.paillier.threshold import ThresholdKey
from secagg.policy import Policy
from secagg.records import KeyAccepted, KeyMade, KeyPassedOn
from secagg.roster import Roster
from secagg.terms import KeyScheme
from tests.ceremonies import (
    IDENTITIES,
    MAKER,
    NOW,
    POLICY,
    ROSTER,
    SILOS,
    SIZES,
    THRESHOLD,
    Ceremony,
    ceremony,
    over_the_wire,
    silo,
)
from tests.paillier_keys import secret_key
from tests.samples import of

OTHERS = tuple(name for name in SILOS if name != MAKER)
SHARED: tuple[KeyScheme, ...] = ("paillier", "ckks")
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


def finished(scheme: KeyScheme = "paillier", **changes: Any) -> tuple[Ceremony, EstablishedKey]:
    done = Ceremony.of(scheme, **changes)
    return done, done.run()


# --- the whole of it -------------------------------------------------------------------------------------


@EVERY_SCHEME
def test_every_silo_holds_the_makers_key(scheme: KeyScheme) -> None:
    done, key = finished(scheme)
    document = key.document
    assert {done.held(name).document for name in SILOS} == {document}
    assert document_fault(document, ROSTER) is None
    assert (document.maker, document.made, document.lifetime) == (MAKER, NOW, DEFAULT_LIFETIME)
    assert (document.scheme, document.size, document.replaces) == (scheme, SIZES[scheme], None)
    assert [name for name, _ in key.taken] == list(OTHERS)
    contents = {done.held(name).content for name in SILOS}
    assert len(contents) == (len(SILOS) if scheme == "threshold-paillier" else 1)
    for name in SILOS:
        assert done.keyring(name).held(document.key, scheme=scheme, now=NOW) is done.held(name)


def test_shares_of_a_threshold_key_open_together() -> None:
    done, _ = finished("threshold-paillier")
    shares: list[Any] = [done.held(name).secret for name in SILOS]
    assert all(isinstance(share, KeyShare) for share in shares)
    key: ThresholdKey = shares[0].key
    ciphertexts = read(b"".join(encrypt(np.full((1, 8), 7, np.uint8), Pool(key.public))), key.public)
    partials = {share.party: share.decrypt(ciphertexts) for share in shares[1:]}
    assert len(partials) == THRESHOLD
    assert key.open(partials, size=8).tolist() == [[7] * 8]


@EVERY_SCHEME
def test_what_the_coordinator_sees_holds_no_secret(scheme: KeyScheme) -> None:
    done, key = finished(scheme)
    secrets = {done.held(name).content for name in SILOS}
    for seen in (*done.frames(), key.content, repr(done.held(MAKER)).encode()):
        assert not any(content in seen or content[-64:] in seen for content in secrets)


def test_journals_name_the_key_and_hold_no_secret() -> None:
    done, key = finished()
    ids = key.document.ceremony, key.document.key, key.document.digest
    assert dict(done.journal) == {MAKER: KeyMade(*ids)} | {name: KeyAccepted(*ids, MAKER) for name in OTHERS}


def test_a_key_replaces_another() -> None:
    first, old = finished()
    done, new = finished(seed="next", replaces=old.document.key)
    assert new.document.replaces == old.document.key != new.document.key
    keyring = Keyring("a", ROSTER, [first.held("a"), done.held("a")])
    for key in (old, new):  # Rounds that began under the old one are finished.
        assert keyring.held(key.document.key, scheme="paillier", now=NOW).document == key.document
    assert f"replaces {old.document.key.hex()[:16]}" in audit_line(new.document)


def test_two_ceremonies_share_nothing() -> None:
    (_, first), (_, second) = finished(), finished()
    assert first.document.key == second.document.key  # The tests' key; its documents differ.
    assert first.document.ceremony != second.document.ceremony


@pytest.mark.parametrize("scheme", [*SHARED, pytest.param("threshold-paillier", marks=pytest.mark.full)])
def test_keys_are_made(scheme: KeyScheme) -> None:
    """The product's own maker; the other tests take keys that are made once."""
    done = Ceremony(ceremony(scheme), {name: silo(name, make=make_key) for name in SILOS})
    with nullcontext() if scheme == "ckks" else pytest.warns(UserWarning, match="128 bits"):
        key = done.run()
    assert (done.held("a").content == done.held(MAKER).content) == (scheme in SHARED)
    assert done.held("a").document == key.document


# --- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "lost", "named"),
    [(0, ["d"], "d"), (0, ["a", MAKER], "a, b"), (1, [MAKER], MAKER), (2, ["c"], "c")],
)
def test_a_lost_silo_is_named_and_the_ceremony_can_be_run_again(
    phase: int, lost: list[SiloId], named: str
) -> None:
    run = Ceremony()
    for _ in range(phase):
        run.turn()
    for name in lost:
        run.coordinator.lose(name)
    run.take({name: reply for name, reply in run.replies().items() if name not in lost})
    assert run.coordinator.waiting == set(lost)  # They may come back until the deadline.
    deadline = run.coordinator.deadline
    assert deadline is not None
    with pytest.raises(TooFewSilos, match=f"silent or refused: {named}$"):
        run.coordinator.advance(deadline)
    assert run.coordinator.outcome is None
    assert finished()[1].document.key


def test_a_silo_that_comes_back_in_time_is_waited_for() -> None:
    run = Ceremony()
    run.coordinator.lose("d")
    replies = run.replies()
    late = replies.pop("d")
    run.take(replies)
    assert not run.inbox
    run.take({"d": late})
    assert run.run().document.maker == MAKER


@pytest.mark.parametrize("phase", [0, 1, 2])
@pytest.mark.parametrize("name", SILOS)
def test_a_silo_that_refuses_ends_it_at_once(name: SiloId, phase: int) -> None:
    run = Ceremony()
    for _ in range(phase):
        run.turn()
    assert run.coordinator.waiting - {name} or phase == 1  # Others have not answered yet.
    run.coordinator.receive(name, Refused("scheme"))
    with pytest.raises(TooFewSilos, match=f"silent or refused: {name}$"):
        run.coordinator.advance(0.0)
    assert run.coordinator.outcome is None


def test_a_strangers_refusal_ends_nothing() -> None:
    run = Ceremony()
    run.coordinator.receive("z", Refused("scheme"))
    assert run.run().document.key


# --- wrong messages at the coordinator -------------------------------------------------------------------


def stranger_signs(name: SiloId, reply: SealingKey) -> SealingKey:
    own = IdentityKey.generate()
    signature = own.sign("sealing key", reply.ceremony, name, reply.sealing.key, reply.sealing.nonce)
    return replace(reply, sealing=replace(reply.sealing, signature=signature))


def low_order(name: SiloId, reply: SealingKey) -> SealingKey:
    nonce = reply.sealing.nonce
    signature = IDENTITIES[name].sign("sealing key", reply.ceremony, name, bytes(32), nonce)
    return SealingKey(reply.ceremony, SignedKey(bytes(32), nonce, signature))


def other_key(_: SiloId, reply: SealingKey) -> SealingKey:
    return replace(reply, sealing=replace(reply.sealing, key=bytes([9]) + bytes(31)))


def other_nonce(_: SiloId, reply: SealingKey) -> SealingKey:
    return replace(reply, sealing=replace(reply.sealing, nonce=bytes(32)))


@pytest.mark.parametrize("change", [stranger_signs, low_order, other_key, other_nonce])
def test_a_sealing_key_that_is_not_its_silos_names_it(change: Callable[[SiloId, Any], SealingKey]) -> None:
    run = Ceremony()
    replies = run.replies()
    with pytest.raises(FaultySilo, match=r"^c: its sealing key") as caught:
        run.coordinator.receive("c", change("c", replies["c"]))
    assert caught.value.silo == "c"
    with pytest.raises(UnexpectedMessage, match="c has left"):
        run.coordinator.receive("c", replies["c"])


def test_a_sealing_key_of_another_silo_names_who_sends_it() -> None:
    run = Ceremony()
    with pytest.raises(FaultySilo) as caught:
        run.coordinator.receive("c", run.replies()["d"])
    assert caught.value.silo == "c"


def test_second_replies_and_strangers_change_nothing() -> None:
    run = Ceremony()
    while run.inbox:
        replies = run.replies()
        for name, reply in replies.items():
            run.coordinator.receive(name, reply)
            with pytest.raises(UnexpectedMessage):
                run.coordinator.receive(name, reply)
            with pytest.raises(UnexpectedMessage):
                run.coordinator.receive("z", reply)
        run.take({})
    assert run.coordinator.outcome is not None
    with pytest.raises(UnexpectedMessage):
        run.coordinator.receive("a", SealingKey(bytes(32), SignedKey(bytes(32), bytes(32), bytes(64))))


def test_messages_of_another_ceremony_are_late_not_wrong() -> None:
    old, _ = finished()
    run = Ceremony()
    while run.inbox:
        replies = run.replies()
        for name, message in old.replied:
            with pytest.raises(UnexpectedMessage):
                run.coordinator.receive(name, message)
        run.take(replies)
    assert run.coordinator.outcome is not None


def dealt() -> tuple[Ceremony, KeyDealt]:
    run = Ceremony()
    run.turn()
    reply = run.replies()[MAKER]
    assert isinstance(reply, KeyDealt)
    return run, reply


def redocumented(reply: KeyDealt, **changes: Any) -> KeyDealt:
    """What a maker that lies would send: the document says something else, and is signed."""
    document = replace(decode_document(reply.document), **changes)
    return replace(reply, document=encode_document(sign_document(IDENTITIES[MAKER], document)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "other"),
        ("size", 3072),
        ("threshold", 3),
        ("roster", bytes(32)),
        ("maker", "a"),
        ("maker", "z"),
        ("lifetime", DEFAULT_LIFETIME + 1),
        ("replaces", bytes(32)),
        ("ceremony", bytes(32)),
        ("key", bytes(32)),
        ("material", b""),
        ("material", secret_key("another").public.to_bytes()),
        ("scheme", "ckks"),
        ("scheme", "threshold-paillier"),
    ],
)
def test_a_document_that_is_not_what_was_asked_names_the_maker(field: str, value: object) -> None:
    run, reply = dealt()
    with pytest.raises(FaultySilo) as caught:
        run.coordinator.receive(MAKER, redocumented(reply, **{field: value}))
    assert caught.value.silo == MAKER
    # A silo that is told so by a coordinator that does not look finds the same.
    other = Ceremony()
    other.turn()
    other.take(other.replies())
    delivered = other.inbox["a"]
    assert isinstance(delivered, KeyDelivered)
    changed = redocumented(KeyDealt(delivered.ceremony, delivered.document, b"", ()), **{field: value})
    with pytest.raises(FaultySiloOrCoordinator) as blamed:
        other.silos["a"].receive(replace(delivered, document=changed.document))
    assert blamed.value.silo == MAKER
    assert other.silos["a"].held is None


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: replace(reply, boxes=reply.boxes[1:]),
        lambda reply: replace(reply, boxes=reply.boxes[::-1]),
        lambda reply: replace(reply, boxes=(*reply.boxes, reply.boxes[0])),
        lambda reply: replace(reply, boxes=((MAKER, reply.boxes[0][1]), *reply.boxes)),
        lambda reply: replace(reply, sealed=b""),
        lambda reply: replace(reply, document=reply.document[:-1]),
        lambda reply: replace(reply, document=secret_key().to_bytes()),
    ],
)
def test_a_deal_of_another_form_names_the_maker(change: Callable[[KeyDealt], KeyDealt]) -> None:
    run, reply = dealt()
    with pytest.raises(FaultySilo) as caught:
        run.coordinator.receive(MAKER, change(reply))
    assert caught.value.silo == MAKER


@pytest.mark.parametrize(
    "wrong",
    [
        lambda replies: replace(replies["a"], key=bytes(32)),
        lambda replies: replace(replies["a"], signature=bytes(64)),
        lambda replies: replies["c"],
    ],
)
def test_a_wrong_word_of_having_it_names_its_silo(wrong: Callable[[Any], KeyTaken]) -> None:
    run = Ceremony()
    run.turn()
    run.turn()
    with pytest.raises(FaultySilo) as caught:
        run.coordinator.receive("a", wrong(run.replies()))
    assert caught.value.silo == "a"


# --- wrong messages at a silo ----------------------------------------------------------------------------


def told(run: Ceremony, name: SiloId, kind: type[Any]) -> Any:
    message = run.inbox[name]
    assert isinstance(message, kind)
    return message


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda keys: keys[1:], FaultyCoordinator),
        (lambda keys: keys[::-1], FaultyCoordinator),
        (lambda keys: (*keys, keys[0]), FaultyCoordinator),
        (lambda keys: (*keys, ("z", keys[0][1])), FaultyCoordinator),
        (lambda keys: (keys[0], (MAKER, keys[0][1]), *keys[2:]), FaultyCoordinator),
        (lambda keys: (("a", keys[2][1]), *keys[1:]), FaultySiloOrCoordinator),
    ],
)
def test_a_maker_seals_to_the_roster_alone(
    change: Callable[[tuple[Any, ...]], tuple[Any, ...]], error: type[SecaggError]
) -> None:
    run = Ceremony()
    run.turn()
    announced = told(run, MAKER, SealingKeysAnnounced)
    with pytest.raises(error):
        run.silos[MAKER].receive(replace(announced, keys=change(announced.keys)))
    assert run.silos[MAKER].held is None
    with pytest.raises(UnexpectedMessage):
        run.silos[MAKER].receive(announced)


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", ["ceremony", "document", "sealing", "sealed", "box"])
def test_a_delivery_that_was_changed_is_refused(scheme: KeyScheme, part: str) -> None:
    run = Ceremony.of(scheme)
    run.turn()
    run.turn()
    delivered, other = told(run, "a", KeyDelivered), told(run, "c", KeyDelivered)
    if part == "sealed" and not delivered.sealed:
        return
    value: Any = getattr(delivered, part)
    value = replace(value, key=flipped(value.key)) if part == "sealing" else flipped(value)
    wrong = FaultyCoordinator if part == "ceremony" else FaultySiloOrCoordinator
    with pytest.raises(wrong):
        run.silos["a"].receive(replace(delivered, **{part: value}))
    assert run.silos["a"].held is None
    with pytest.raises(FaultySiloOrCoordinator, match=r"^b or the coordinator: the key does not come out"):
        run.silos["c"].receive(replace(other, box=delivered.box))


def test_a_silo_takes_part_once_and_in_one_role() -> None:
    run = Ceremony()
    requested = told(run, "a", KeyRequested)
    run.turn()
    announced = told(run, MAKER, SealingKeysAnnounced)
    for name in SILOS:
        with pytest.raises(UnexpectedMessage):
            run.silos[name].receive(requested)
    with pytest.raises(UnexpectedMessage):
        run.silos["a"].receive(announced)
    run.turn()
    delivered = told(run, "a", KeyDelivered)
    with pytest.raises(UnexpectedMessage):
        run.silos[MAKER].receive(delivered)
    run.turn()
    with pytest.raises(UnexpectedMessage):
        run.silos["a"].receive(delivered)
    assert run.coordinator.outcome is not None


@pytest.mark.parametrize(
    ("policy", "changes", "rule"),
    [
        (Policy(schemes=frozenset({"ckks", "masking"})), {}, "scheme"),
        (Policy(), {}, "scheme"),
        (POLICY, {"roster": bytes(32)}, "roster"),
        (POLICY, {"maker": "z"}, "maker"),
        (POLICY, {"size": 1024}, "key"),
        (POLICY, {"scheme": "ckks"}, "key"),
        (POLICY, {"threshold": 3}, "key"),
        (POLICY, {"scheme": "threshold-paillier"}, "key"),
        (POLICY, {"scheme": "threshold-paillier", "threshold": THRESHOLD - 1}, "threshold"),
        (POLICY, {"scheme": "threshold-paillier", "threshold": 5}, "key"),
        (
            Policy(schemes=POLICY.schemes, min_threshold=4),
            {"scheme": "threshold-paillier", "threshold": 3},
            "threshold",
        ),
        (Policy(schemes=POLICY.schemes, min_silos=5), {}, "min_silos"),
    ],
)
def test_a_silo_refuses_by_rule_before_it_sends_anything(
    policy: Policy, changes: dict[str, Any], rule: str
) -> None:
    requested = replace(told(Ceremony(), "a", KeyRequested), **changes)
    asked = silo("a", policy=policy)
    with pytest.raises(PolicyRefused) as caught:
        asked.receive(requested)
    assert caught.value.rule == rule
    with pytest.raises(UnexpectedMessage):
        asked.receive(told(Ceremony(), "a", KeyRequested))


@pytest.mark.parametrize(("clock", "accepted"), [(0, True), (-MOST_AHEAD, True), (-MOST_AHEAD - 1, False)])
def test_a_key_from_the_future_is_not_taken(clock: int, accepted: bool) -> None:
    run = Ceremony()
    run.silos["a"] = silo("a", now=NOW + clock)
    run.turn()
    run.turn()
    if accepted:
        run.turn()
        assert run.coordinator.outcome is not None
    else:
        with pytest.raises(PolicyRefused, match="compare the clocks"):
            run.silos["a"].receive(run.inbox["a"])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1024},
        {"size": 2049},
        {"threshold": 3},
        {"maker": "z"},
        {"lifetime": 0},
        {"lifetime": 367 * DAY},
        {"scheme": "masking", "size": 2048, "threshold": None},
        {"scheme": "ckks", "size": 2048},
        {"scheme": "threshold-paillier", "threshold": None},
        {"scheme": "threshold-paillier", "threshold": 5},
        {"scheme": "threshold-paillier", "threshold": 0},
    ],
)
def test_a_coordinator_asks_for_no_such_key(changes: dict[str, Any]) -> None:
    scheme = changes.pop("scheme", "paillier")
    with pytest.raises(ParameterError):
        ceremony(
            "paillier" if scheme == "masking" else scheme,
            **changes | ({"size": 1} if scheme == "masking" else {}),
        )


@pytest.mark.parametrize(("n", "scheme"), [(64, "threshold-paillier"), (65, "paillier"), (65, "ckks")])
def test_as_many_silos_as_there_are_shares_may_have_a_key(n: int, scheme: KeyScheme) -> None:
    large_ceremony(n, scheme)


def test_more_silos_than_there_are_shares_are_told_before_anybody_is_asked() -> None:
    with pytest.raises(ParameterError, match="has 64 shares, too few for 65 silos"):
        large_ceremony(65, "threshold-paillier")


def large_ceremony(n: int, scheme: KeyScheme) -> None:
    keys = {f"silo-{number:02}": IdentityKey.generate().public for number in range(n)}
    threshold = 40 if scheme == "threshold-paillier" else None
    KeyCeremony(
        Roster.of(keys),
        federation="federation",
        scheme=scheme,
        size=SIZES[scheme],
        maker="silo-00",
        threshold=threshold,
    )


def test_sessions_are_single_use() -> None:
    run = Ceremony()
    with pytest.raises(UsageError):
        run.coordinator.open(0.0)
    _, joiner = asking()
    with pytest.raises(UsageError):
        joiner.open()


# --- a keyring -------------------------------------------------------------------------------------------


def test_a_key_is_given_within_its_lifetime_for_its_roster_and_scheme() -> None:
    done, key = finished(lifetime=10 * DAY)
    document, keyring = key.document, done.keyring("a")
    held = keyring.held(document.key, scheme="paillier", now=NOW + 10 * DAY - 1)
    assert held is done.held("a")

    def refused(match: str, keyring: Keyring = keyring, **changes: Any) -> None:
        asked: dict[str, Any] = {"key_id": document.key, "scheme": "paillier", "now": NOW} | changes
        with pytest.raises(PolicyRefused, match=match) as caught:
            keyring.held(asked.pop("key_id"), **asked)
        assert caught.value.rule == "key"

    refused("make a new one that replaces it", now=NOW + 10 * DAY)
    refused("compare the clocks", now=NOW - MOST_AHEAD - 1)
    refused("is for paillier, not for ckks", scheme="ckks")
    refused("ask a silo that holds it", key_id=bytes(32))
    refused("make a new one", key_id=bytes(32), scheme="threshold-paillier")
    longer = Roster.of(dict(ROSTER.members) | {"e": bytes(32)})
    refused("another roster", Keyring("a", longer, [held]))
    refused("another roster", Keyring("c", ROSTER, [held]))  # Another silo's file.


@EVERY_SCHEME
def test_a_held_key_comes_back_from_its_bytes(scheme: KeyScheme) -> None:
    done, _ = finished(scheme)
    held = done.held("c")
    again = HeldKey.from_bytes(held.to_bytes())
    assert (again.document, again.slot, again.content) == (held.document, held.slot, held.content)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError):
            copied(held)
    with pytest.raises(MalformedMessage):
        decode_document(held.to_bytes())
    whole, other = (done.held(name).to_bytes()[:-CONTENT_DIGEST_SIZE] for name in ("c", "d"))
    start, end = len(MAGIC) + 2, len(whole) - len(held.content)

    def check_refused(wrong: bytes) -> None:
        for data in (wrong, wrong + content_digest(wrong)):
            with pytest.raises(MalformedMessage):
                HeldKey.from_bytes(data)

    for wrong in (b"", whole[1:], whole[:-1], whole[:end], MAGIC):
        check_refused(wrong)
    check_refused(MAGIC + b"\0\2" + whole[start:-1] + bytes([held.content[-1] ^ 1]))
    if scheme == "threshold-paillier":
        check_refused(MAGIC + b"\0\2" + other[start:])


def test_a_huge_secret_is_refused_before_primes_are_looked_for() -> None:
    _, key = finished()
    huge = secret_key().to_bytes() + bytes(1 << 17)
    with pytest.raises(MalformedMessage, match=f"a secret of {len(huge)} bytes"):
        HeldKey(key.document, huge, slot=0)


# --- documents -------------------------------------------------------------------------------------------


@given(of(KeyDocument))
def test_a_document_comes_back(document: KeyDocument) -> None:
    assume(b"secret" not in document.material)  # Hypothesis reads the product for constants.
    assert decode_document(encode_document(document)) == document
    assert document_fault(document, ROSTER) is not None
    assert audit_line(document)


@given(st.data())
def test_a_damaged_document_is_malformed_or_has_a_fault(data: st.DataObject) -> None:
    content = encode_document(DOCUMENT)
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = data.draw(
        st.sampled_from(
            (content[:at], content[:at] + flipped(content[at:]), content[at:], content + content[:1])
        ).filter(lambda changed: changed != content)
    )
    try:
        document = decode_document(damaged)
    except MalformedMessage:
        return
    assert document_fault(document, ROSTER) is not None


DOCUMENT = finished()[1].document


@pytest.mark.parametrize("field", [name for name in KeyDocument.__struct_fields__ if name != "signature"])
def test_the_makers_signature_covers_every_field(field: str) -> None:
    kind: Any = msgspec.json.decode(msgspec.json.encode(getattr(DOCUMENT, field)))
    value = getattr(DOCUMENT, field)
    other: Any
    match value:
        case int():
            other = value + 1
        case str():
            other = "ckks" if field == "scheme" else "c"
        case bytes():
            other = flipped(value)
        case _:
            other = bytes(32) if field == "replaces" else 3
    assert kind != other
    changed = replace(DOCUMENT, **{field: other})
    assert changed.digest != DOCUMENT.digest
    fault = document_fault(changed, ROSTER)
    assert fault is not None
    assert "not signed" in fault or "pinned roster" in fault


def test_secrets_are_refused_before_anything_is_read() -> None:
    done, _ = finished("ckks")
    for secret in (secret_key().to_bytes(), done.held("a").content, done.held("a").to_bytes()):
        hidden = msgspec.msgpack.encode([b"x" * 9, secret])
        for content in (
            secret,
            b"\x01" + secret,
            hidden,
            encode_document(replace(DOCUMENT, material=secret)),
        ):
            with pytest.raises(MalformedMessage, match="a secret key was sent"):
                decode_document(content)


@pytest.mark.parametrize("content", [b"", b"\x02", b"\x01", bytes(1 << 19), b"\x01" + b"\x91" * 10_000])
def test_what_is_no_document_is_malformed(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_document(content)


def test_a_document_has_one_line_for_people() -> None:
    key = DOCUMENT.key.hex()[:16]
    assert audit_line(DOCUMENT) == (
        f"paillier key {key} of 2048 bits for federation: any silo opens alone; "
        "made by b 2026-09-21 14:13 UTC, used until 2026-12-20 14:13 UTC"
    )
    shared = finished("threshold-paillier")[1].document
    assert "3 silos open together" in audit_line(shared)


# --- a silo that lost its key ----------------------------------------------------------------------------


def asking(scheme: KeyScheme = "paillier", key: bytes = DOCUMENT.key) -> tuple[KeyWanted, KeyJoiner]:
    joiner = KeyJoiner(
        "a", key=key, scheme=scheme, identity=IDENTITIES["a"], roster=ROSTER, policy=POLICY, now=NOW
    )
    wanted = over_the_wire(joiner.open().output)
    assert isinstance(wanted, KeyWanted)
    return wanted, joiner


def forwarded(done: Ceremony, name: SiloId, asked: KeyAsked, now: int = NOW) -> Any:
    return forward_key(
        asked, done.keyring(name), silo=name, identity=IDENTITIES[name], roster=ROSTER, now=now
    )


@pytest.mark.parametrize("scheme", SHARED)
def test_a_silo_gets_a_lost_key_from_a_peer(scheme: KeyScheme) -> None:
    done, key = finished(scheme)
    wanted, joiner = asking(scheme, key.document.key)
    relay = KeyForwarding(ROSTER, joiner="a", wanted=wanted, key=key)
    relay.ask(MAKER)
    relay.drop()
    asked = relay.ask("c")
    assert relay.waiting == "c"
    step = forwarded(done, "c", over_the_wire(asked))
    assert step.records == (KeyPassedOn(key.document.key, key.document.digest, "a"),)
    passed = relay.receive("c", over_the_wire(step.output))
    assert isinstance(passed, KeyPassed)
    assert relay.waiting == "a"
    taken = joiner.receive(over_the_wire(passed))
    [record] = taken.records
    assert isinstance(record, KeyAccepted)
    assert record.giver == "c"
    assert isinstance(taken.output, KeyTaken)
    assert relay.receive("a", over_the_wire(taken.output)) is None
    assert relay.waiting is None
    assert relay.outcome == dict(key.taken)["a"]  # Ed25519 signs the same in the same way.
    assert joiner.held is not None
    assert joiner.held.content == done.held("a").content
    for message in (asked, step.output, passed):
        assert done.held("a").content[-64:] not in wire.encode(message)[0]


def test_nobody_forwards_a_share() -> None:
    done, key = finished("threshold-paillier")
    with pytest.raises(PolicyRefused, match="make a new key that replaces it"):
        asking("threshold-paillier", key.document.key)
    wanted, _ = asking("paillier", key.document.key)
    with pytest.raises(UnexpectedMessage, match="make a new key that replaces it"):
        KeyForwarding(ROSTER, joiner="a", wanted=wanted, key=key)
    with pytest.raises(PolicyRefused, match="make a new key that replaces it"):
        forwarded(done, "c", KeyAsked("a", key.document.key, wanted.sealing))


def test_a_holder_answers_members_that_sign_and_only_within_the_lifetime() -> None:
    done, key = finished()
    wanted, _ = asking(key=key.document.key)
    asked = KeyAsked("a", wanted.key, wanted.sealing)
    for changes in ({"joiner": "d"}, {"joiner": "z"}, {"key": bytes(32)}):
        with pytest.raises(FaultySiloOrCoordinator):
            forwarded(done, "c", replace(asked, **changes))
    with pytest.raises(FaultyCoordinator):
        forwarded(done, "a", asked)
    with pytest.raises(PolicyRefused, match="past its lifetime"):
        forwarded(done, "c", asked, now=NOW + DEFAULT_LIFETIME)
    assert forwarded(done, "c", asked).output is not None


def test_the_coordinator_checks_a_request_and_its_answer() -> None:
    done, key = finished()
    wanted, _ = asking(key=key.document.key)
    with pytest.raises(FaultySilo) as caught:
        KeyForwarding(ROSTER, joiner="c", wanted=wanted, key=key)
    assert caught.value.silo == "c"
    with pytest.raises(UnexpectedMessage):
        KeyForwarding(ROSTER, joiner="a", wanted=replace(wanted, key=bytes(32)), key=key)
    good = forwarded(done, MAKER, KeyAsked("a", wanted.key, wanted.sealing)).output
    assert isinstance(good, KeyForwarded)
    another = finished(seed="another")[1].content
    for wrong in (
        replace(good, document=another),
        replace(good, document=b"x"),
        replace(good, sealing=replace(good.sealing, nonce=bytes(32))),
    ):
        relay = KeyForwarding(ROSTER, joiner="a", wanted=wanted, key=key)
        relay.ask(MAKER)
        with pytest.raises(UnexpectedMessage):
            relay.receive("c", good)
        with pytest.raises(UnexpectedMessage):
            relay.receive(MAKER, replace(good, request=bytes(32)))
        with pytest.raises(FaultySilo) as caught:
            relay.receive(MAKER, wrong)
        assert caught.value.silo == MAKER
        assert relay.outcome is None


@pytest.mark.parametrize(
    "change",
    [
        lambda passed: replace(passed, request=bytes(32)),
        lambda passed: replace(passed, holder="a"),
        lambda passed: replace(passed, holder="d"),
        lambda passed: replace(passed, holder="z"),
        lambda passed: replace(passed, document=b"x"),
        lambda passed: replace(passed, document=finished(seed="another")[1].content),
        lambda passed: replace(passed, box=flipped(passed.box)),
        lambda passed: replace(passed, sealed=flipped(passed.sealed)),
        lambda passed: replace(passed, sealing=replace(passed.sealing, key=flipped(passed.sealing.key))),
    ],
)
def test_a_joiner_takes_what_it_asked_for_or_nothing(change: Callable[[KeyPassed], KeyPassed]) -> None:
    done, key = finished()
    wanted, joiner = asking(key=key.document.key)
    answer = forwarded(done, "c", KeyAsked("a", wanted.key, wanted.sealing)).output
    good = KeyPassed("c", answer.request, answer.document, answer.sealing, answer.sealed, answer.box)
    with pytest.raises((FaultyCoordinator, FaultySiloOrCoordinator)):
        joiner.receive(change(good))
    assert joiner.held is None
    with pytest.raises(UnexpectedMessage):
        joiner.receive(good)


# --- the page --------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything that is signed, hashed or derived, and compare labels and numbers of fields."""
    page = (Path(__file__).parents[1] / "docs" / "keys.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    told = {
        label.strip(" `"): fields.strip() for label, _, fields in cells if "; " in fields or " of " in fields
    }
    seen: dict[str, int] = {}
    real = framing.frame

    def noted(label: str, *fields: Any) -> bytes:
        assert seen.setdefault(label, len(fields)) == len(fields)
        return real(label, *fields)

    for module in (framing, identity, agreement):
        monkeypatch.setattr(module, "frame", noted)
    run = Ceremony.of("ckks")
    document = run.run().document
    monkeypatch.setattr(identity, "frame", real)
    asking("ckks", document.key)
    told["digest of a key document"] = told["key document"]
    assert {label: told[label].count(";") + 1 for label in told} == {
        label: count for label, count in seen.items() if label in told
    }
    assert seen.keys() - told.keys() <= {"ckks key", "roster"}


CHANGED: dict[str, Any] = {
    "federation": "other",
    "roster": bytes(32),
    "scheme": "ckks",
    "size": 3072,
    "threshold": 3,
    "maker": "c",
    "nonce": bytes(32),
    "lifetime": 1,
    "replaces": bytes(32),
}


def test_every_field_of_what_is_asked_names_the_ceremony() -> None:
    requested = told(Ceremony(), "a", KeyRequested)
    assert CHANGED.keys() == set(KeyRequested.__struct_fields__)
    digests = {ceremony_digest(replace(requested, **{field: value})) for field, value in CHANGED.items()}
    assert len(digests | {ceremony_digest(requested)}) == len(CHANGED) + 1


def test_a_request_and_a_box_are_bound_to_all_that_they_are_for() -> None:
    other = Roster.of(dict(reversed(ROSTER.members)))
    asked = [(ROSTER, b"k", "a", b"n"), (other, b"k", "a", b"n"), (ROSTER, b"l", "a", b"n")]
    asked += [(ROSTER, b"k", "c", b"n"), (ROSTER, b"k", "a", b"m")]
    assert len({request_digest(*each) for each in asked}) == len(asked)
    own = agreement.AgreementKey.from_private_bytes(bytes(range(32)))
    ways = [(b"1", b"k", "a", "c"), (b"2", b"k", "a", "c"), (b"1", b"l", "a", "c"), (b"1", b"k", "c", "a")]
    keys = {
        box_key(own, own.public, ceremony, key, giver=giver, recipient=recipient)
        for ceremony, key, giver, recipient in ways
    }
    assert len(keys) == len(ways)


# --- sizes and imports -----------------------------------------------------------------------------------


def test_the_largest_deal_fits_into_a_header() -> None:
    """64 silos: a CKKS key is sealed once, so that its size is not multiplied by n; shares are small."""
    names = [f"{slot:02}".rjust(64, "x") for slot in range(64)]
    ckks = KeyDealt(bytes(32), bytes(1000), bytes(16 * 8192 + 64), tuple((name, bytes(48)) for name in names))
    # 8192 bits: the key and 64 verification keys; a share has twice the bits of the key, and some.
    shares = KeyDealt(bytes(32), bytes(66 * 2048), b"", tuple((name, bytes(2200)) for name in names))
    for message in (ckks, shares):
        header, payload = wire.encode(message)
        assert payload is None
        assert len(header) < wire.MAX_HEADER_SIZE / 8
        assert wire.decode_from_silo(header) == message


def test_nothing_of_it_needs_an_extra_to_be_imported() -> None:
    code = (
        "import sys\n"
        "sys.modules['gmpy2'] = sys.modules['tenseal'] = None\n"
        "import secagg.keys, secagg.keys.document, secagg.keys.coordinator, secagg.keys.forwarding\n"
        "import secagg.keys.silo, secagg.keys.joiner, secagg.keys.keyring\n"
        "print('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.parametrize("module", ["document", "transcript", "coordinator", "forwarding"])
def test_the_coordinators_side_loads_nothing_that_opens(module: str) -> None:
    code = f"import sys, secagg.keys.{module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = {name for name in done.stdout.split() if name.startswith("secagg.")}
    assert f"secagg.keys.{module}" in loaded
    assert not {name for name in loaded if name.rpartition(".")[2] in {"silo", "secret", "shares", "keyring"}}
