"""Attack ``domain_separation``: use something outside of what it was made for.

A key that serves two purposes lets one undo the other; a signature or digest that can be read two ways says
what nobody meant. So no label of the product means two things, no key or signature passes for another, and no
two lists of fields run together into the same bytes.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any, get_args

import pytest

import secagg
from secagg.channel.handshake import Ends, Offering
from secagg.channel.messages import Offer
from secagg.ckks.coordinator import CKKSAdder
from secagg.encrypted import silo as encrypted_silo
from secagg.encrypted import transcript as encrypted
from secagg.hazmat import framing
from secagg.hazmat.agreement import AgreementKey, hkdf
from secagg.hazmat.framing import Field, digest, frame
from secagg.hazmat.identity import verify
from secagg.keys import transcript as ceremony
from secagg.keys.document import KeyDocument, document_fields, sign_document
from secagg.masking import transcript
from secagg.messages import SignedUpload
from secagg.privacy.heads import sign_head
from secagg.psi.draws import Place, draw_key
from secagg.psi.many.shares import pair_keys
from secagg.psi.many.terms import ManyTerms
from secagg.rounds.bases import WANTED, base_fields
from secagg.rounds.silo import base_key
from secagg.survivors import sign_survivors, sign_void
from secagg.terms import training_digest
from secagg.vertical.linear.masks import pair_key as mask_key
from secagg.vertical.split import seeds
from secagg.vertical.split.settings import SplitSettings, SplitTerms
from tests.adversary import reference
from tests.adversary.reference import SILOS

ROOT = Path(secagg.__file__).parents[1]
SOURCES = sorted(path for part in ("secagg", "silo") for path in (ROOT / part).rglob("*.py"))
# Call -> what it makes, and which argument is the label.
LABELLED = {
    "digest": ("digest", 0),
    "frame": ("digest", 0),
    "hkdf": ("key", 1),
    "derive": ("key", 1),
    "sign": ("signature", 0),
}
IDS = ("same", *SILOS)
WORDS = (bytes(32), bytes(31) + b"\x01")
ADDER = CKKSAdder(WORDS[0], 4096, reference.terms(32).encoding)


def labels() -> dict[tuple[str, str], list[str]]:
    """Return (label, what is made) -> where, for every label in the product's text."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    constants: dict[str, str] = {
        target.id: statement.value.value
        for tree in trees.values()
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        if isinstance(statement.value.value, str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name not in LABELLED or len(call.args) <= LABELLED[name][1]:
                continue
            made, position = LABELLED[name]
            match call.args[position]:
                case ast.Constant(value=str() as label):
                    found[label, made].append(f"{path.name}:{call.lineno}")
                case ast.Name(id=constant) | ast.Attribute(attr=constant):
                    if constant in constants:
                        found[constants[constant], made].append(f"{path.name}:{call.lineno}")
    return found


LABELS = labels()
PURPOSES = sorted(label for label, made in LABELS if made == "key")
SIGNED = sorted(label for label, made in LABELS if made == "signature")
HASHED = sorted(label for label, made in LABELS if made == "digest")


def ambiguous_labels() -> list[str]:
    """Attack: look for a label that stands in two places, and so may have two meanings."""
    made: defaultdict[str, list[str]] = defaultdict(list)
    for (label, _), places in LABELS.items():
        made[label] += places
    return [label for label, places in made.items() if len(places) > 1]


def shared_keys() -> list[set[tuple[Field, ...]]]:
    """Attack: look for two uses of one key.

    All that could tell uses apart besides their names is taken away: one key pair for both silos and both
    jobs, a seed that is their agreed secret, one value for session and round.
    """
    own = AgreementKey.from_private_bytes(bytes(range(32)))
    agreed = reference.x25519(bytes(range(32)), own.public)
    peer = SignedUpload(bytes(32), own.public, bytes(64))
    uses: defaultdict[bytes, set[tuple[Field, ...]]] = defaultdict(set)
    for word in WORDS:
        for one, other in permutations(IDS, 2):
            uses[transcript.pair_stream(own, own.public, word, lower=one, higher=other)].add(
                ("pair", word, one, other)
            )
            kinds: tuple[transcript.Kind, ...] = ("seed", "mask")
            for kind in kinds:
                key = transcript.box_key(own, own.public, word, sender=one, recipient=other, kind=kind)
                uses[key].add(("box", word, one, other, kind))
            for number, to in product((0, 1), ("x", "y")):
                key = mask_key(
                    own, own.public, word, number, to=to, one=min(one, other), other=max(one, other)
                )
                uses[key].add(("vertical", word, number, to, min(one, other), max(one, other)))
            for inside in WORDS:
                key = ceremony.box_key(own, own.public, word, inside, giver=one, recipient=other)
                uses[key].add(("key box", word, inside, one, other))
            part = encrypted_silo.part_key(own, peer, word, sender=one, recipient=other)
            uses[part].add(("part", word, one, other))
        for one, other in combinations(IDS, 2):
            many = ManyTerms(session=word, leader=one, followers=(other, "third"))
            uses[pair_keys(many, one, own, {other: own.public})[other]].add(("share", word, one, other))
            split = SplitTerms(
                alignment=word, count=2, parties=(one, other), label_party=one, settings=SplitSettings()
            )
            uses[seeds.batch_key(split)].add(("batches", word, one, other))
        for purpose in get_args(seeds.Use):
            for context in ((word,), (word, 0), (word, "same")):
                source = seeds.stream(agreed, purpose, *context)
                for call in range(2):
                    uses[source(32)].add(("split", purpose, context, call))
        for silo in IDS:
            uses[transcript.self_stream(agreed, word, silo)].add(("self", word, silo))
            uses[base_key(own, own.public, word, silo)].add(("base", word, silo))
    for purpose, length in product(PURPOSES, (32, 64)):
        uses[hkdf(agreed, purpose, "same", length=length)[:32]].add((purpose, length))
    places: tuple[Place, ...] = ("exponent", "padding")
    for place, number in product(places, (1, 2)):
        uses[draw_key(agreed, place, number)].add(("draw", place, number))
    assert len(PURPOSES) == 13
    return [named for named in uses.values() if len(named) > 1]


def statements() -> Iterator[tuple[str, str, bytes, tuple[Field, ...]]]:
    """Yield (silo, label, signature, fields) of everything that is signed in a round and after it."""
    sent = reference.fixed_round(32)
    terms = training_digest(reference.terms(32))
    descriptor = transcript.descriptor_digest(terms, reference.ATTEMPT, reference.SECONDS)
    session = transcript.session_id(descriptor, sent.bundles.items())
    round_id = sent.opened.round_id
    for silo in SILOS:
        bundle, share_set = sent.bundles[silo], sent.shares[silo].share_set
        yield silo, "advertise keys", bundle.signature, transcript.bundle_fields(descriptor, silo, bundle)
        fields = transcript.share_set_fields(session, silo, share_set)
        yield silo, "share keys", share_set.signature, fields
        void = sign_void(reference.identity(silo), silo, round_id)
        yield silo, "void", void.signature, (round_id,)
        for box in (None, bundle.mask):  # Where one key opens, and where shares do.
            fields = encrypted.upload_fields(ADDER, round_id, silo, bytes(32), box)
            yield silo, "upload", reference.identity(silo).sign(encrypted.UPLOAD, *fields), fields
        fields = base_fields(WORDS[0], silo, bundle.box)
        yield silo, "base wanted", reference.identity(silo).sign(WANTED, *fields), fields
        uploads = tuple((one, SignedUpload(bytes(32), None, bytes(64))) for one in SILOS)
        named = encrypted.set_id(round_id, uploads)
        yield silo, "survivors", sign_survivors(reference.identity(silo), named, SILOS), (named, SILOS)
        head = sign_head(reference.identity(silo), silo, "brain", entries=2, chain=WORDS[0], context=round_id)
        fields = silo, head.data_set, head.entries, head.chain, round_id
        yield silo, "ledger head", head.signature, fields
        ends = Ends(reference.roster(), "meeting", tuple(SILOS), silo, SILOS[silo == SILOS[0]])
        offering, peer = Offering.begin(ends), AgreementKey.generate().public
        proof = offering.answer(Offer(peer), reference.identity(silo)).proof
        fields = ends.transcript(offering.offer.ephemeral, peer), ends.mine, ends.other
        yield silo, "channel", proof.signature, fields
        yield from key_statements(silo)
    for silo, signature in sent.survivor_signatures.items():
        yield silo, "survivors", signature, (round_id, sent.opened.survivors)


def key_statements(silo: str) -> Iterator[tuple[str, str, bytes, tuple[Field, ...]]]:
    """Yield what is signed in a key ceremony."""
    identity, own = reference.identity(silo), AgreementKey.from_private_bytes(bytes(range(32)))
    sealing = ceremony.sign_sealing_key(identity, WORDS[0], silo, own, WORDS[1])
    yield silo, "sealing key", sealing.signature, (WORDS[0], silo, own.public, WORDS[1])
    unsigned = KeyDocument(
        *("federation", "ckks", 8192, None, WORDS[0], silo, 1, 1, None),
        *WORDS,
        material=b"",
        signature=bytes(64),
    )
    document = sign_document(identity, unsigned)
    yield silo, "key document", document.signature, document_fields(document)
    taken = ceremony.sign_taken(identity, document)
    yield silo, "key taken", taken, (document.ceremony, document.digest)


def taken_for_another() -> list[tuple[str, str]]:
    """Attack: hand a signature on as one of another kind, of another silo, or over rearranged fields."""
    roster, found, seen = reference.roster(), [], set()
    for silo, label, signature, fields in statements():
        rearranged = ((*fields, b""), fields[1:], (fields,), tuple(reversed(fields)))
        claims: list[tuple[str, str, tuple[Field, ...]]] = [
            *((silo, other, fields) for other in (*SIGNED, *HASHED, *PURPOSES, "") if other != label),
            *((other, label, fields) for other in SILOS if other != silo),
            *((silo, label, changed) for changed in rearranged if changed != fields),
        ]
        assert verify(roster.key(silo), signature, label, *fields)
        found += [
            (label, claimed)
            for signer, claimed, claim in claims
            if verify(roster.key(signer), signature, claimed, *claim)
        ]
        seen.add(label)
    assert seen == set(SIGNED), "a kind of signature is not attacked here"
    return found


def shared_digests() -> int:
    """Attack: look for two labels with one digest of the same fields."""
    return len(HASHED) - len({digest(label, bytes(32), "same") for label in HASHED})


def run_together() -> list[tuple[Any, ...]]:
    """Attack: look for two lists of fields with one digest, by moving bytes over the border between them."""
    lists: list[tuple[Any, ...]] = [
        *(("silo-1", "1"), ("silo-", "11"), ("silo-11", "")),
        *(("a", "bc"), ("ab", "c"), ("abc",), (("a", "bc"),), (("a",), "bc")),
        *((1,), (True,), ("1",), (b"1",), (b"\x01",), (1.0,), (None,), ((),), ()),
        *((bytes(32), bytes(32)), (bytes(64),), (bytes(33), bytes(31))),
    ]
    digests = [digest("label", *fields) for fields in lists]
    return [fields for i, fields in enumerate(lists) if digests.index(digests[i]) < i]


def test_domain_separation() -> None:
    assert ambiguous_labels() == [], "a label has two meanings"
    assert shared_keys() == [], "one key has two uses"
    assert shared_digests() == 0, "one digest has two labels"
    assert run_together() == [], "two lists of fields are one"
    assert taken_for_another() == [], "a signature passes for another"


def without_label(label: str, *fields: Field) -> bytes:
    return frame("", *fields)


def without_border(field: Field) -> bytes:
    match field:
        case tuple():
            return b"(" + b"".join(map(without_border, field))
        case str():
            return field.encode()
        case bytes():
            return field
        case _:
            return encode(field)


def same_for_both(own: AgreementKey, peer: bytes, word: bytes, **_: str) -> bytes:
    return own.derive(peer, "mask", word, "same", "same")


encode = framing._encode


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.hazmat.agreement.frame", without_label, "one key has two uses"),
        (
            "secagg.hazmat.agreement.frame",
            lambda *fields: frame(*fields[:-1]),  # the length
            "one key has two uses",
        ),
        (
            "secagg.masking.transcript.pair_stream",
            lambda own, peer, _, lower, higher: own.derive(peer, "pairwise mask", lower, higher),
            "one key has two uses",
        ),
        ("secagg.masking.transcript.pair_stream", same_for_both, "one key has two uses"),
        (
            "secagg.masking.transcript.self_stream",
            lambda seed, round_id, _: hkdf(seed, "self mask", round_id),
            "one key has two uses",
        ),
        (
            "secagg.masking.transcript.self_stream",
            lambda seed, _, silo: hkdf(seed, "self mask", silo),
            "one key has two uses",
        ),
        ("secagg.hazmat.identity.frame", without_label, "a signature passes for another"),
        (
            "secagg.masking.transcript.box_key",
            lambda own, peer, session, sender, recipient, kind: own.derive(
                peer, "pairwise mask", session, sender, recipient
            ),
            "one key has two uses",
        ),
        (
            "secagg.encrypted.silo.part_key",
            lambda own, peer, round_id, sender, recipient: own.derive(
                peer.box, "partial decryption", round_id
            ),
            "one key has two uses",
        ),
        ("secagg.hazmat.framing.frame", without_label, "one digest has two labels"),
        ("secagg.hazmat.framing._encode", without_border, "two lists of fields are one"),
    ],
)
def test_domain_separation_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_domain_separation()
