"""Attack ``key_substitution``: learn a key that silos make, or make one of them hold another.

Everything that silos seal to each other goes through the coordinator. It puts keys of its own in the place of
silos', asks for a key in the name of a silo that lost it, hands out a key and a document of its own making,
its own secret under the maker's document, and what it kept from an earlier ceremony, under the same nonce
too. A maker that errs sends a secret where its document belongs. Every X25519 key is fresh and signed by a
pinned identity for one ceremony, every document by its maker, and no secret is taken but its document's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.errors import FaultySiloOrCoordinator, MalformedMessage, PolicyRefused, SecaggError
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.keys import boxes
from secagg.keys.boxes import Way, open_box
from secagg.keys.document import KeyDocument, decode_document, encode_document, sign_document
from secagg.keys.joiner import KeyJoiner, forward_key
from secagg.keys.transcript import request_digest, sign_sealing_key
from secagg.messages import (
    KeyAsked,
    KeyDealt,
    KeyDelivered,
    KeyForwarded,
    KeyPassed,
    KeyRequested,
    KeyWanted,
    SealingKeysAnnounced,
    SignedKey,
)
from secagg.names import SiloId
from secagg.terms import KeyScheme
from tests.ceremonies import IDENTITIES, MAKER, NOW, POLICY, ROSTER, SILOS, Ceremony, silo
from tests.paillier_keys import secret_key

SCHEMES: tuple[KeyScheme, ...] = ("paillier", "threshold-paillier")
VICTIM = "a"
OWN = AgreementKey.from_private_bytes(b"l" * 32)
IMPOSTOR = IdentityKey.from_private_bytes(b"L" * 32)
LEARNED = "the coordinator has the secret"
FOREIGN = "a silo holds the coordinator's key"
OTHER = "a silo holds another secret under the maker's key id"
OLD = "a silo holds the key of an earlier ceremony"
READ = "a coordinator's decoder reads a secret"


class Liar:
    """A coordinator that relays what it likes, and keeps what it sees.

    Attributes:
        found: what it achieved.
        errors: (attack, the refusal that it met).
    """

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.errors: list[tuple[str, SecaggError]] = []

    def tell(self, attack: str, receive: Callable[[], Any]) -> Any:
        """Return the reply to a lie, or None where it was refused."""
        try:
            return receive().output
        except SecaggError as error:
            self.errors.append((attack, error))
            return None

    def opens(self, document: bytes, giver: SignedKey, sealed: bytes, box: bytes, way: Way) -> bool:
        """Try to open a box with the coordinator's own key."""
        try:
            return bool(open_box(OWN, giver.key, decode_document(document), sealed=sealed, box=box, way=way))
        except MalformedMessage:
            return False


@cache
def honest(scheme: KeyScheme = "paillier") -> Ceremony:
    """Return a ceremony that the coordinator let go on to its end, keeping everything."""
    done = Ceremony.of(scheme)
    done.run()
    return done


def signed(ceremony: bytes, name: SiloId, identity: IdentityKey = IMPOSTOR) -> SignedKey:
    """Return the coordinator's own sealing key, in the name of a silo."""
    return sign_sealing_key(identity, ceremony, name, OWN, bytes(32))


def in_the_place_of(
    keys: tuple[tuple[SiloId, SignedKey], ...], ceremony: bytes
) -> Iterator[dict[str, SignedKey]]:
    """Yield lists of sealing keys with the coordinator's in the victim's place."""
    theirs = dict(keys)
    yield theirs | {VICTIM: signed(ceremony, VICTIM)}
    yield theirs | {VICTIM: replace(theirs[VICTIM], key=OWN.public)}
    yield theirs | {name: signed(ceremony, name) for name in SILOS if name != MAKER}


# --- learn it --------------------------------------------------------------------------------------------


def swap_sealing_keys(liar: Liar, scheme: KeyScheme) -> None:
    for variant in range(3):
        run = Ceremony.of(scheme)
        run.turn()
        announced = run.inbox[MAKER]
        assert isinstance(announced, SealingKeysAnnounced)
        swapped = list(in_the_place_of(announced.keys, announced.ceremony))[variant]
        lie = replace(announced, keys=tuple(swapped.items()))
        dealt = liar.tell("swapped", partial(run.silos[MAKER].receive, lie))
        if isinstance(dealt, KeyDealt):
            way, box = Way(announced.ceremony, MAKER, VICTIM), dict(dealt.boxes)[VICTIM]
            if liar.opens(dealt.document, dict(announced.keys)[MAKER], dealt.sealed, box, way):
                liar.found.add(LEARNED)


def read_along(liar: Liar, scheme: KeyScheme) -> None:
    run = Ceremony.of(scheme)
    run.turn()
    replies = run.replies()
    secrets = [run.held(MAKER).content, secret_key().to_bytes()]
    seen = [*run.frames(), *(wire.encode(reply)[0] for reply in replies.values())]
    if any(secret in frame for secret in secrets for frame in seen):
        liar.found.add(LEARNED)


def ask_in_a_silos_name(liar: Liar) -> None:
    done = honest()
    key, keyring = done.held("c").document.key, done.keyring("c")
    nonce = bytes(32)
    request = request_digest(ROSTER, key, VICTIM, nonce)
    # Signed by nobody whom the holder knows, and by the victim for something else.
    old = next(reply for name, reply in done.replied if name == VICTIM).sealing  # type: ignore[union-attr]
    for sealing in (signed(request, VICTIM), replace(old, key=OWN.public), replace(old, nonce=nonce)):
        asked = KeyAsked(VICTIM, key, sealing)
        forward = partial(forward_key, silo="c", identity=IDENTITIES["c"], roster=ROSTER, now=NOW)
        answer = liar.tell("asked", partial(forward, asked, keyring))
        if isinstance(answer, KeyForwarded):
            way = Way(answer.request, "c", VICTIM)
            if liar.opens(answer.document, answer.sealing, answer.sealed, answer.box, way):
                liar.found.add(LEARNED)


# --- make a silo hold another ----------------------------------------------------------------------------


def sealed_by_liar(
    document: KeyDocument, content: bytes, ceremony: bytes, peer: SignedKey, giver: SiloId
) -> tuple[bytes, bytes]:
    """Return (sealed, box) as the giver would make them, but with the coordinator's key."""
    key, sealed = boxes.seal_secret(document, content, lambda size: bytes(size))
    way = Way(ceremony, giver, VICTIM)
    return sealed, boxes.seal_box(OWN, peer.key, document, key, way=way)


def deliver_its_own(liar: Liar) -> None:
    """Be the maker, for one silo: with a key and document of its own, or with the maker's document."""
    own = secret_key("liar")
    for attack in ("own document", "own secret"):
        run = Ceremony.of("paillier")
        run.turn()
        dealt = run.replies()[MAKER]
        requested = run.told[0][1]
        assert isinstance(dealt, KeyDealt)
        assert isinstance(requested, KeyRequested)
        document = decode_document(dealt.document)
        if attack == "own document":
            document = replace(document, key=own.public.id, material=own.public.to_bytes())
            document = sign_document(IMPOSTOR, document)
        peer = next(r.sealing for name, r in run.replied if name == VICTIM)  # type: ignore[union-attr]
        sealed, box = sealed_by_liar(document, own.to_bytes(), dealt.ceremony, peer, MAKER)
        sealing = signed(dealt.ceremony, MAKER)
        lie = KeyDelivered(dealt.ceremony, encode_document(document), sealing, sealed, box)
        victim = run.silos[VICTIM]
        liar.tell(attack, partial(victim.receive, lie))
        if victim.held is not None:
            liar.found.add(FOREIGN if attack == "own document" else OTHER)


def pass_its_own(liar: Liar) -> None:
    """Be the holder: answer a silo that lost its key with another secret."""
    document, own = honest().held(MAKER).document, secret_key("liar")
    joiner = KeyJoiner(
        VICTIM,
        key=document.key,
        scheme="paillier",
        identity=IDENTITIES[VICTIM],
        roster=ROSTER,
        policy=POLICY,
        now=NOW,
    )
    wanted = joiner.open().output
    assert isinstance(wanted, KeyWanted)
    request = request_digest(ROSTER, document.key, VICTIM, wanted.sealing.nonce)
    sealed, box = sealed_by_liar(document, own.to_bytes(), request, wanted.sealing, "c")
    lie = KeyPassed("c", request, encode_document(document), signed(request, "c"), sealed, box)
    liar.tell("passed", partial(joiner.receive, lie))
    if joiner.held is not None:
        liar.found.add(OTHER)


def deliver_an_old_one(liar: Liar, scheme: KeyScheme) -> None:
    old = honest(scheme)
    requested = next(message for name, message in old.told if name == VICTIM)
    delivered = next(m for name, m in old.told if name == VICTIM and isinstance(m, KeyDelivered))
    assert isinstance(requested, KeyRequested)
    for again in (requested, replace(requested, nonce=bytes(32))):
        victim = silo(VICTIM)
        reply: Any = victim.receive(again).output
        lie = replace(delivered, ceremony=reply.ceremony)
        liar.tell("old", partial(victim.receive, lie))
        if victim.held is not None:
            liar.found.add(OLD)


# --- a maker that errs -----------------------------------------------------------------------------------


def send_a_secret_as_document(liar: Liar) -> None:
    held = honest().held(MAKER)
    document = encode_document(replace(held.document, material=held.content))
    for content in (held.content, held.to_bytes(), document):
        try:
            decode_document(content)
        except MalformedMessage as error:
            if "a secret key was sent" not in str(error):  # It was read, as far as it went.
                liar.found.add(READ)
        else:
            liar.found.add(READ)


def attack() -> Liar:
    liar = Liar()
    for scheme in SCHEMES:
        swap_sealing_keys(liar, scheme)
        read_along(liar, scheme)
        deliver_an_old_one(liar, scheme)
    ask_in_a_silos_name(liar)
    deliver_its_own(liar)
    pass_its_own(liar)
    send_a_secret_as_document(liar)
    return liar


def check(liar: Liar) -> None:
    assert not liar.found, "; ".join(sorted(liar.found))


def test_key_substitution() -> None:
    liar = attack()
    check(liar)
    named = {"swapped": VICTIM, "asked": VICTIM, "passed": "c"}
    assert len(liar.errors) == 2 * 3 + 2 * 2 + 3 + 2 + 1
    for kind, error in liar.errors:
        assert isinstance(error, FaultySiloOrCoordinator), kind
        assert error.silo == named.get(kind, MAKER)
        assert not isinstance(error, PolicyRefused)


class Repeated:
    """An agreement key that is not made anew for every ceremony."""

    @staticmethod
    def generate(_random: object) -> AgreementKey:
        return AgreementKey.from_private_bytes(b"r" * 32)


def in_clear(_key: bytes, plaintext: bytes, *, associated: bytes) -> bytes:
    del associated
    return plaintext


SEALING = ("secagg.keys.silo.sealing_fault", lambda *_: None)
ASKING = ("secagg.keys.joiner.sealing_fault", lambda *_: None)
DOCUMENT = ("secagg.keys.silo.document_fault", lambda *_: None)
SECRET = ("secagg.keys.secret._expect", lambda _: None)


@pytest.mark.parametrize(
    ("mutants", "achieved"),
    [
        ([SEALING], LEARNED),
        ([ASKING], LEARNED),
        ([("secagg.keys.boxes.seal", in_clear)], LEARNED),
        ([SEALING, DOCUMENT], FOREIGN),
        # The document alone would still keep the coordinator's secret out.
        ([SEALING, SECRET], OTHER),
        ([ASKING, SECRET], OTHER),
        ([("secagg.keys.silo.AgreementKey", Repeated)], OLD),
        ([("secagg.keys.document._SECRETS", ())], READ),
    ],
)
def test_key_substitution_mutant(
    monkeypatch: pytest.MonkeyPatch, mutants: list[tuple[str, Any]], achieved: str
) -> None:
    honest.cache_clear()
    for defence, mutant in mutants:
        monkeypatch.setattr(defence, mutant)
    if mutants[0][0].endswith(".seal"):  # Nothing comes out of such boxes, so no ceremony ends.
        liar = Liar()
        read_along(liar, "paillier")
    else:
        liar = attack()
    honest.cache_clear()
    with pytest.raises(AssertionError, match=achieved):
        check(liar)
