"""Attack ``bad_dealer``: a silo deals shares, commitments or boxes that do not belong together.

If it were not found out, the sum could not be opened once everybody is locked to it; if blame could be
steered, a coordinator could have any honest silo taken out of a locked set, and see its vector as the
difference. So a cheat is named and left out of the next attempt, silos verify the proof themselves before a
lock moves, and no mixture of true messages convicts an honest dealer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from secagg import wire
from secagg.errors import SecaggError, TooFewSilos
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.hazmat.shamir import PRIME, SHARE_SIZE
from secagg.masking import transcript
from secagg.masking.checks import proves
from secagg.masking.dealing import OpeningPair, commit
from secagg.masking.params import Masking
from secagg.messages import (
    BoxReport,
    DealerEvidence,
    FromSilo,
    MaskedInput,
    Opening,
    RoundOpened,
    ShareEntry,
    ShareKeys,
    ShareSet,
    TrainingOpened,
    Unmasking,
)
from secagg.names import SiloId
from secagg.records import LockMoved, SetSigned, decode_silo_record
from secagg.simulation import Dropouts
from secagg.survivors import LockKey
from secagg.terms import Terms, training_digest
from tests.adversary.harness import KINDS
from tests.federations import MODEL, Federation, Witness

RANDOM = np.random.default_rng(7).bytes


def polynomial(secret: int, degree: int) -> Callable[[int], bytes]:
    coefficients = [int.from_bytes(RANDOM(40), "big") for _ in range(degree)]

    def value(x: int) -> bytes:
        total: int = secret + sum(c * x**power for power, c in enumerate(coefficients, 1))
        return (total % PRIME).to_bytes(SHARE_SIZE, "big")

    return value


# --- what a cheat deals --------------------------------------------------------------------------------


@dataclass
class Deal:
    """A deal before it is committed to, sealed and signed; a cheat changes what it likes.

    Attributes:
        seeds, masks: recipient -> share.
        seed: what the seed commitment is to.
        mask: the public key that is said to be shared.
        boxed: (recipient, kind) -> contents of the box, where they are not share and salt.
        swapped: (recipient, kind) -> the box that is sent, where it is not the signed one.
        garbled: whether what is signed is something else than what is sent.
    """

    state: Any
    t: int
    slots: Mapping[SiloId, int]
    seeds: dict[SiloId, bytes]
    masks: dict[SiloId, bytes]
    seed: bytes
    mask: bytes
    boxed: dict[tuple[SiloId, str], bytes]
    swapped: dict[tuple[SiloId, str], bytes]
    garbled: bool = False

    def deal(self, kind: str, secret: int, degree: int) -> None:
        share = polynomial(secret, degree)
        (self.seeds if kind == "seed" else self.masks).update(
            {peer: share(slot + 1) for peer, slot in self.slots.items()}
        )


Cheat = Callable[[Deal], None]


def dealt(cheat: Cheat, federation: Federation, dealer: SiloId) -> ShareKeys:
    """Deal for the silo in its stead, as ``cheat`` says, and let it go on with that."""
    session: Any = federation.silos[dealer]._participant._session
    state = session._state
    deal = Deal(
        state=state,
        t=federation.t,
        slots={peer: federation.roster.slot(peer) for peer in state.peers},
        seeds={},
        masks={},
        seed=state.seed,
        mask=state.mask.public,
        boxed={},
        swapped={},
    )
    deal.deal("seed", int.from_bytes(state.seed, "big"), deal.t - 1)
    deal.deal("mask", int.from_bytes(state.mask.private_bytes(), "big"), deal.t - 1)
    cheat(deal)
    pairs = {
        peer: OpeningPair(Opening(deal.seeds[peer], RANDOM(32)), Opening(deal.masks[peer], RANDOM(32)))
        for peer in state.peers
    }
    entries, boxes = [], []
    for peer, bundle in state.peers.items():
        sealed = [b"", b""]
        for slot, kind in enumerate(KINDS if peer != dealer else ()):
            opening: Opening = getattr(pairs[peer], kind)
            key = transcript.box_key(
                state.box, bundle.box, state.session, sender=dealer, recipient=peer, kind=kind
            )
            contents = deal.boxed.get((peer, kind), opening.share + opening.salt)
            sealed[slot] = seal(key, contents)
        entries.append(
            ShareEntry(
                peer,
                commit(state.session, dealer, peer, "seed", pairs[peer].seed),
                commit(state.session, dealer, peer, "mask", pairs[peer].mask),
                transcript.box_digest(sealed[0]),
                transcript.box_digest(sealed[1]),
            )
        )
        if peer != dealer:
            sent = [deal.swapped.get((peer, kind), box) for kind, box in zip(KINDS, sealed, strict=True)]
            boxes.append((peer, sent[0], sent[1]))
    committed = transcript.seed_commitment(state.session, dealer, deal.seed)
    unsigned = ShareSet(deal.mask, committed, tuple(entries), b"")
    fields = transcript.share_set_fields(state.session, dealer, unsigned)
    signature = federation.identities[dealer].sign(transcript.SHARE, *fields)
    share_set = msgspec.structs.replace(unsigned, signature=bytes(64) if deal.garbled else signature)
    session._state = replace(state, own=pairs[dealer], share_set=share_set)
    return ShareKeys(share_set, tuple(boxes))


def first(deal: Deal) -> SiloId:
    """A recipient that is among the t whose answers are used."""
    return next(iter(deal.slots))


def one_wrong(kind: str) -> Cheat:
    def cheat(deal: Deal) -> None:
        shares = deal.seeds if kind == "seed" else deal.masks
        value = int.from_bytes(shares[first(deal)], "big")
        shares[first(deal)] = ((value + 1) % PRIME).to_bytes(SHARE_SIZE, "big")

    return cheat


def unrelated(kind: str) -> Cheat:
    def cheat(deal: Deal) -> None:
        for peer in deal.slots:
            (deal.seeds if kind == "seed" else deal.masks)[peer] = b"\0" + RANDOM(SHARE_SIZE - 1)

    return cheat


def shared(kind: str, secret: int, more: int | None) -> Cheat:
    """Share ``secret`` with a polynomial of degree t + more; None for a constant one."""
    return lambda deal: deal.deal(kind, secret, 0 if more is None else deal.t + more)


def out_of_field(kind: str) -> Cheat:
    def cheat(deal: Deal) -> None:
        (deal.seeds if kind == "seed" else deal.masks)[first(deal)] = PRIME.to_bytes(SHARE_SIZE, "big")

    return cheat


def resealed(deal: Deal, recipients: int, contents: bytes | None) -> None:
    """Give the first recipients boxes with other contents; None for boxes under another key."""
    peers = [peer for peer in deal.slots if peer != list(deal.slots)[-1]]
    for peer in peers[:recipients]:
        if contents is None:
            deal.boxed[peer, "mask"] = RANDOM(SHARE_SIZE + 32)
        else:
            deal.boxed[peer, "seed"] = contents


WRONG_SECRETS: dict[str, Cheat] = {
    name: cheat
    for kind in KINDS
    for name, cheat in {
        f"one {kind} share wrong": one_wrong(kind),
        f"{kind} shares of nothing": unrelated(kind),
        f"a {kind} share out of the field": out_of_field(kind),
        f"{kind} of a degree too many": shared(kind, 5, 0),
        f"another {kind}": shared(kind, 5, -1),
        f"zero {kind}": shared(kind, 0, None),
        f"a {kind} of 257 bits": shared(kind, 2**256 + 1, -1),
    }.items()
} | {"seed commitment to another": lambda deal: setattr(deal, "seed", bytes(32))}

WRONG_ON_SIGHT: dict[str, Cheat] = {
    "another mask key": lambda deal: setattr(deal, "mask", AgreementKey.generate().public),
    "the box key as mask key": lambda deal: setattr(deal, "mask", deal.state.box.public),
    "a box that is not signed": lambda deal: deal.swapped.update({(first(deal), "seed"): RANDOM(81)}),
    "no signature": lambda deal: setattr(deal, "garbled", True),
}

WRONG_BOXES: dict[str, Callable[[Deal, int], None]] = {
    "not its commitment": lambda deal, recipients: resealed(deal, recipients, RANDOM(SHARE_SIZE + 32)),
    "the other kind": lambda deal, recipients: resealed(deal, recipients, None),
}


def attack(
    cheats: Mapping[int, Cheat], n: int, dropouts: Dropouts | None = None
) -> tuple[Federation, Witness, SecaggError | None]:
    """Run a round of ``n`` in which the silos at some slots deal as they like."""
    federation = Federation(n)
    for slot, cheat in cheats.items():
        dealer = federation.roster.silos[slot]

        def tamper(message: FromSilo, cheat: Cheat = cheat, dealer: SiloId = dealer) -> FromSilo:
            return dealt(cheat, federation, dealer) if isinstance(message, ShareKeys) else message

        federation.silos[dealer].tamper = tamper
    coordinator = federation.coordinator()
    try:
        federation.run(coordinator, dropouts)
    except SecaggError as error:
        return federation, coordinator, error
    return federation, coordinator, None


def check_named(
    name: str,
    result: tuple[Federation, Witness, SecaggError | None],
    cheats: set[SiloId],
    *,
    attempts: int,
    moved: bool = False,
) -> None:
    """The cheats are named and nobody else, and the sum of all others is opened."""
    federation, coordinator, error = result
    others = tuple(silo for silo in federation.roster.silos if silo not in cheats)
    faulty = {silo for silo, why in coordinator.losses.items() if why.startswith("faulty")}
    assert faulty <= cheats, f"{name}: an honest silo is named"
    assert faulty == cheats, f"{name}: the dealer is not named"
    assert error is None, f"{name}: the round is lost"
    assert coordinator.attempt == attempts
    assert coordinator.outcome is not None
    assert coordinator.outcome.survivors == others, name
    assert coordinator.opened.total.tolist() == federation.sum_of(others), f"{name}: the sum is wrong"
    assert coordinator.excluded == (cheats if attempts == 2 else frozenset()), name
    for silo in others:
        assert len(federation.work[silo].applied) == 1
        records = [decode_silo_record(line) for line in federation.silos[silo].journal]
        sets = [set(record.survivors) for record in records if isinstance(record, SetSigned)]
        removed = {record.dealer for record in records if isinstance(record, LockMoved)}
        assert removed == (cheats if moved else set()), f"{name}: the lock did not move"
        assert sets == ([{*others, *cheats}, {*others}] if moved else [{*others}] * len(sets)), name


def check_reports(name: str, resealing: Callable[[Deal, int], None], recipients: int) -> None:
    """Bad boxes for more than c silos exclude the dealer; for fewer it is one word against another."""
    result = attack({4: lambda deal: resealing(deal, recipients)}, 5)
    federation, coordinator, error = result
    dealer = federation.roster.silos[4]
    if recipients > federation.c:
        check_named(name, result, {dealer}, attempts=2)
    else:
        victims = federation.roster.silos[:recipients]
        others = tuple(silo for silo in federation.roster.silos if silo not in victims)
        faulty = [silo for silo, why in coordinator.losses.items() if why.startswith("faulty")]
        assert faulty == [], f"{name}: an honest silo is named"
        assert coordinator.excluded == frozenset(), f"{name}: an honest dealer is excluded"
        assert error is None
        assert coordinator.outcome is not None
        assert coordinator.outcome.survivors == others
        assert coordinator.opened.total.tolist() == federation.sum_of(others)


def check_false_report() -> None:
    """C colluders that report an honest dealer, in every attempt, do not exclude it."""
    federation = Federation(4)
    liar, victim = federation.roster.silos[3], federation.roster.silos[0]

    def tamper(message: FromSilo) -> FromSilo:
        if isinstance(message, MaskedInput):
            session: Any = federation.silos[liar]._participant._session
            return BoxReport(session._state.session, victim)
        return message

    federation.silos[liar].tamper = tamper
    coordinator = federation.coordinator()
    # With one more silo lost too few are left, so that there are more attempts, where reports would count.
    with pytest.raises(TooFewSilos):
        federation.run(coordinator, {federation.roster.silos[1]: "MaskedInput"})
    assert coordinator.attempt > 1
    assert coordinator.excluded == frozenset(), "an honest dealer is excluded"


# --- framing ---------------------------------------------------------------------------------------------


class Overheard:
    """A federation of five with an honest history, and all that its coordinator can build evidence from.

    Three rounds over one base and one set: two with t = 4, one with t = 5; in a fourth, on another base, the
    dealer was lost, so that shares of its mask key were revealed.
    """

    def __init__(self) -> None:
        self.federation = Federation(5)
        self.silos = self.federation.roster.silos
        self.dealer = self.silos[1]
        self.share_sets: list[ShareSet] = []
        self.sessions: list[bytes] = []
        self.openings: list[tuple[tuple[SiloId, Opening], ...]] = []
        stricter = Masking(threshold=5).parameters(5)
        terms = self.federation.terms
        self._round(terms)
        self._round(msgspec.structs.replace(terms, round=2))
        self._round(msgspec.structs.replace(terms, round=3, scheme=stricter))
        for work in self.federation.work.values():
            work.model = bytes(32)
        self._round(msgspec.structs.replace(terms, round=4, base=bytes(32)), {self.dealer: "MaskedInput"})
        for work in self.federation.work.values():
            work.model = MODEL.digest

    def _round(self, terms: Terms, dropouts: Dropouts | None = None) -> None:
        coordinator = self.federation.coordinator(terms=terms)
        self.federation.run(coordinator, dropouts)
        said = [(silo, message) for silo, message in coordinator.log]
        self.share_sets += [
            m.share_set for silo, m in said if isinstance(m, ShareKeys) and silo == self.dealer
        ]
        answers = {silo: dict(m.openings) for silo, m in said if isinstance(m, Unmasking)}
        self.openings.append(tuple((silo, answer[self.dealer]) for silo, answer in answers.items()))
        journal = self.federation.silos[self.silos[0]].journal
        signed = [r for r in map(decode_silo_record, journal) if isinstance(r, SetSigned)]
        self.sessions.append(signed[-1].session)

    def evidence(self, round: int, kind: transcript.Kind = "seed", **changes: Any) -> DealerEvidence:
        openings = self.openings[round][:4]
        true = DealerEvidence(self.dealer, self.sessions[round], self.share_sets[round], kind, openings)
        return msgspec.structs.replace(true, **changes)


def with_other(openings: tuple[tuple[SiloId, Opening], ...], opening: Opening) -> Any:
    return (*openings[:-1], (openings[-1][0], opening))


def accusations(heard: Overheard) -> dict[str, DealerEvidence]:
    """Return everything that a coordinator can say against an honest dealer, from true messages."""
    first, second, stricter, lost = (openings[:4] for openings in heard.openings)
    set_1, set_2 = heard.share_sets[:2]
    stranger = heard.silos[2]
    return {
        "its own shares": heard.evidence(0),
        "its own mask shares": heard.evidence(3, "mask"),
        "one share too few": heard.evidence(0, openings=first[:3]),
        "two shares": heard.evidence(0, openings=first[:2]),
        "no share": heard.evidence(0, openings=()),
        "one share too few, one twice": heard.evidence(0, openings=(*first[:3], first[0])),
        "one share for all": heard.evidence(0, openings=tuple((silo, first[0][1]) for silo, _ in first)),
        "shares changed round": heard.evidence(
            0, openings=tuple((silo, first[i - 1][1]) for i, (silo, _) in enumerate(first))
        ),
        "a share of another session": heard.evidence(0, openings=with_other(first, second[-1][1])),
        "all shares of another session": heard.evidence(0, openings=second),
        "a share set of another session": heard.evidence(0, session=heard.sessions[1]),
        "another session's commitments": heard.evidence(0, share_set=set_2),
        "another mask key": heard.evidence(
            3, "mask", share_set=msgspec.structs.replace(heard.share_sets[3], mask=set_1.mask)
        ),
        "another seed commitment": heard.evidence(
            0, share_set=msgspec.structs.replace(set_1, seed=set_2.seed)
        ),
        "other entries": heard.evidence(
            0, share_set=msgspec.structs.replace(set_1, entries=set_2.entries), openings=second
        ),
        "the other kind": heard.evidence(0, "mask"),
        "mask shares as seed shares": heard.evidence(3, "seed"),
        "a forged share": heard.evidence(0, openings=with_other(first, Opening(bytes(33), bytes(32)))),
        "another dealer's name": heard.evidence(0, dealer=stranger),
        "nobody": heard.evidence(0, dealer="nobody"),
        "four of five": heard.evidence(2, openings=stricter),
        "a stranger's share": heard.evidence(0, openings=(*first[:3], ("nobody", first[3][1]))),
        "lost and one too few": heard.evidence(3, "mask", openings=lost[:3]),
    }


def check_framing() -> None:
    """No accusation is proof, and none makes a silo move its lock or sign a smaller set."""
    heard = Overheard()
    federation = heard.federation
    thresholds = dict(zip(heard.sessions, (4, 4, 5, 4), strict=True))
    for number, (name, evidence) in enumerate(accusations(heard).items()):
        threshold = thresholds[evidence.session]
        assert not proves(evidence, federation.roster, threshold=threshold), f"{name}: it is proof"
        silo = federation.silos[heard.silos[0]]
        silo.restart()
        terms = msgspec.structs.replace(federation.terms, job=f"framing-{number}")
        silo.deliver(wire.encode(TrainingOpened(terms, 60.0)))
        before = len(silo.journal)
        opened = RoundOpened(training_digest(terms), 1, 60.0, (), (evidence,))
        assert silo.deliver(wire.encode(opened)) is not None
        records = [decode_silo_record(line) for line in silo.journal[before:]]
        assert not any(isinstance(r, LockMoved) for r in records), f"{name}: an honest dealer is framed"
        lock = silo._participant._locks.lock(LockKey("default", MODEL.digest))
        assert lock is not None
        assert lock.survivors == set(heard.silos), f"{name}: an honest dealer is framed"


def test_bad_dealer() -> None:
    for name, cheat in WRONG_SECRETS.items():
        # n = 5, t = 4: the dealer is left out of the second attempt, four remain. A seed is asked for if its
        # input counts, and then all signed a set with it; a mask key if it is lost.
        seed = "seed" in name
        dropouts: Dropouts = {} if seed else {Federation(5).roster.silos[4]: "MaskedInput"}
        result = attack({4: cheat}, 5, dropouts)
        check_named(name, result, {result[0].roster.silos[4]}, attempts=2, moved=seed)
    result = attack({1: one_wrong("seed"), 4: unrelated("seed")}, 7)
    cheats = {result[0].roster.silos[1], result[0].roster.silos[4]}
    check_named("two at once", result, cheats, attempts=2, moved=True)
    for name, cheat in WRONG_ON_SIGHT.items():
        result = attack({4: cheat}, 5)
        check_named(name, result, {result[0].roster.silos[4]}, attempts=1)
    for name, resealing in WRONG_BOXES.items():
        for recipients in (1, 2, 4):
            check_reports(name, resealing, recipients)
    check_false_report()
    check_framing()


def accept(*_: object, **__: object) -> bool:
    return True


def nothing(*_: object) -> None:
    """A check that refuses nothing."""


def unchecked(
    *,
    session: bytes,
    dealer: SiloId,
    recipient: SiloId,
    box: AgreementKey,
    dealer_box: bytes,
    entry: ShareEntry,
    boxes: tuple[bytes, bytes],
) -> OpeningPair:
    """Take what is in the boxes without a look at the commitments."""
    openings = []
    for kind, sealed in zip(KINDS, boxes, strict=True):
        key = transcript.box_key(box, dealer_box, session, sender=dealer, recipient=recipient, kind=kind)
        plain = unseal(key, sealed)
        openings.append(Opening(plain[:SHARE_SIZE], plain[SHARE_SIZE:]))
    return OpeningPair(*openings)


def any_threshold(evidence: DealerEvidence, roster: Any, *, threshold: int) -> bool:
    """Take the number of shares for the threshold."""
    return proves(evidence, roster, threshold=len(evidence.openings))


def without_mask(session: bytes, dealer: SiloId, share_set: ShareSet) -> tuple[Any, ...]:
    fields = share_set_fields(session, dealer, share_set)
    return (*fields[:2], *fields[3:])


share_set_fields = transcript.share_set_fields


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.masking.checks.secret_matches", accept, "the dealer is not named"),
        ("secagg.rounds.silo.proves", lambda *_, **__: False, "the round is lost"),
        ("secagg.rounds.silo.proves", any_threshold, "an honest dealer is framed"),
        ("secagg.masking.coordinator.share_set_fault", nothing, "the dealer is not named"),
        ("secagg.masking.transcript.box_digest", lambda _: bytes(32), "the dealer is not named"),
        ("secagg.masking.silo.receive", unchecked, "an honest silo is named"),
        (
            "secagg.rounds.coordinator.RoundCoordinator.excluded",
            property(lambda round: frozenset(e.dealer for e in round._memory.evidence)),
            "the dealer is not named",
        ),
        (
            "secagg.rounds.coordinator.RoundCoordinator.excluded",
            property(
                lambda round: (
                    frozenset(d for d, _ in round._memory.reports)
                    | {e.dealer for e in round._memory.evidence}
                )
            ),
            "an honest dealer is excluded",
        ),
        ("secagg.masking.checks.verify", accept, "the dealer is not named"),
        ("secagg.masking.checks.opening_matches", accept, "it is proof"),
        ("secagg.masking.transcript.share_set_fields", without_mask, "another mask key: it is proof"),
    ],
)
def test_bad_dealer_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_bad_dealer()
