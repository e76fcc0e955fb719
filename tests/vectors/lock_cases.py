"""Cases for survivor sets, locks, voids and evidence against dealers."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from secagg.masking import transcript
from secagg.messages import DealerEvidence, ShareKeys, Unmasking, Void
from secagg.records import AttemptJoined, LockLifted, Released, SetSigned, VoidSigned, encode_record
from secagg.roster import Roster
from secagg.survivors import sign_survivors, sign_void
from tests.vectors import world
from tests.vectors.cases import Group
from tests.vectors.forging import (
    ANNOUNCED,
    ROUND,
    SESSION,
    SHARES,
    bad_dealing,
    redealt,
)
from tests.vectors.notation import fixed, flipped
from tests.vectors.world import COHORT, HONEST, IDENTITIES, ROSTER, TERMS

MEMBERS = ROSTER.members
BASE = TERMS.base
OTHER_BASE = fixed("other base")
SET = ("a", "b", "c")
FIRST, SECOND, UNSEEN = fixed("first round"), fixed("second round"), fixed("unseen round")


def signed(
    round_id: bytes,
    survivors: tuple[str, ...] = SET,
    *,
    session: bytes = SESSION,
    roster: Roster = ROSTER,
    needed: int = COHORT.t,
) -> SetSigned:
    return SetSigned(world.DATA_SET, BASE, round_id, session, needed, survivors, roster.digest)


def locks() -> Group:
    group = Group("Survivor sets and their signatures, locks, voids, releases, evidence against dealers.")
    _survivor_sets(group)
    _locks(group)
    _voids(group)
    _evidence(group)
    return group


def _survivor_sets(group: Group) -> None:
    size = {"n": COHORT.n, "c": COHORT.c, "t": COHORT.t, "k_min": COHORT.k_min}

    def check(name: str, survivors: list[str], *, valid: bool = False) -> None:
        given = {"silo": "b", "survivors": survivors, "members": ["a", "b", "c"], "cohort": size}
        if valid:
            group.passes(name, "check_set", **given)
        else:
            group.fails(name, "check_set", "FaultyCoordinator", **given)

    check("a set", ["a", "b", "c"], valid=True)
    check("a silo twice", ["a", "b", "c", "c"])
    check("this silo is missing", ["a", "c"])
    check("a silo that shared no keys", ["a", "b", "c", "d"])
    check("too few", ["a", "b"])
    check("nobody", [])

    identity = IDENTITIES["a"].private_bytes()
    group.passes("a signed set", "sign_set", identity=identity, round_id=ROUND, survivors=SET)
    signatures = {silo: sign_survivors(IDENTITIES[silo], ROUND, SET) for silo in world.SILOS}
    pairs: dict[str, list[tuple[str, bytes]]] = {
        "three signatures": [(silo, signatures[silo]) for silo in SET],
        "one counts once": [("a", signatures["a"])] * 3,
        "a silo outside the set does not count": [(silo, signatures[silo]) for silo in ("a", "d")],
        "under another name": [("a", signatures["a"]), ("b", signatures["c"])],
        "over another order": [
            ("a", signatures["a"]),
            ("b", sign_survivors(IDENTITIES["b"], ROUND, SET[::-1])),
        ],
        "over another round": [("a", sign_survivors(IDENTITIES["a"], UNSEEN, SET)), ("b", signatures["b"])],
    }
    for name, given in pairs.items():
        group.passes(
            name, "count_signatures", roster=MEMBERS, round_id=ROUND, survivors=SET, signatures=given
        )


def _ask(group: Group, name: str, error: str | bool | None, journal: list[Any], **ask: object) -> None:
    lines = [encode_record(record) for record in journal]
    if error is None:
        group.passes(name, "lock", journal=lines, ask=ask)
    else:
        group.fails(name, "lock", error, journal=lines, ask=ask)


def _locks(group: Group) -> None:
    joined = AttemptJoined("vectors", "sum", 1, 1)
    attempt = {"federation": "vectors", "job": "sum", "round": 1, "attempt": 1}
    _ask(group, "an attempt", None, [], what="join", **attempt)
    _ask(group, "the next attempt", None, [joined], what="join", **(attempt | {"attempt": 2}))
    _ask(group, "an attempt that was joined", "FaultyCoordinator", [joined], what="join", **attempt)

    def sign(name: str, error: str | None, journal: list[Any], **changes: object) -> None:
        given: dict[str, object] = {"base": BASE, "round_id": SECOND, "session": SESSION}
        given |= {"threshold": COHORT.t, "survivors": SET, "roster": MEMBERS} | changes
        _ask(group, name, error, journal, what="sign", **given)

    refused = "PolicyRefused"
    sign("the first set of a base", None, [])
    sign("the same set again", None, [signed(FIRST)])
    sign("another set for another base", None, [signed(FIRST)], base=OTHER_BASE, survivors=("b", "c", "d"))
    sign("another set for another data set", None, [signed(FIRST)], data_set="other", survivors=("b", "c"))
    sign(
        "another set once the lock was lifted",
        None,
        [signed(FIRST), LockLifted(world.DATA_SET, BASE)],
        survivors=("b", "c", "d"),
    )
    sign("a smaller set", refused, [signed(FIRST)], survivors=("a", "b"))
    sign("a larger set", refused, [signed(FIRST)], survivors=("a", "b", "c", "d"))
    sign("another set of the same size", refused, [signed(FIRST)], survivors=("b", "c", "d"))
    sign(
        "another set after the round was released",
        refused,
        [signed(FIRST), Released(FIRST)],
        survivors=("b", "c", "d"),
    )
    sign(
        "another set after one void of two",
        refused,
        [signed(FIRST), signed(UNSEEN), VoidSigned(FIRST)],
        survivors=("b", "c", "d"),
    )
    sign("a round that was voided", refused, [VoidSigned(SECOND)])
    sign("a round that died with a lifted lock", refused, [signed(SECOND), LockLifted(world.DATA_SET, BASE)])

    _ask(group, "a release", None, [signed(FIRST)], what="release", round_id=FIRST)
    voided = [signed(FIRST), VoidSigned(FIRST)]
    _ask(group, "a release of a voided round", refused, voided, what="release", round_id=FIRST)
    lifted = [signed(FIRST), LockLifted(world.DATA_SET, BASE)]
    _ask(group, "a release after the lock was lifted", refused, lifted, what="release", round_id=FIRST)
    released = [signed(FIRST), Released(FIRST)]
    ids = [FIRST, SECOND, SECOND]
    _ask(group, "a void of what was not released", None, released, what="void", round_ids=ids)


def _voids(group: Group) -> None:
    group.passes("a void", "void", identity=IDENTITIES["a"].private_bytes(), silo="a", round_id=FIRST)

    def of(round_id: bytes, silos: str) -> list[Void]:
        return [sign_void(IDENTITIES[silo], silo, round_id) for silo in silos]

    def lift(
        name: str, voids: list[Void], journal: list[Any], *, lifts: bool = False, **more: object
    ) -> None:
        given: dict[str, object] = {"base": BASE, "voids": voids, "roster": MEMBERS, "threshold": COHORT.t}
        _ask(group, name, None if lifts else False, journal, what="lift", **(given | more))

    twice = [signed(FIRST), signed(SECOND)]
    lift("t voids", of(FIRST, "abd"), [signed(FIRST)], lifts=True)
    lift("t voids of each of two rounds", of(FIRST, "abd") + of(SECOND, "bcd"), twice, lifts=True)
    opened_alone = [signed(FIRST, session=FIRST, needed=COHORT.n), signed(SECOND)]
    every = of(FIRST, "abcd") + of(SECOND, "abcd")
    lift("n voids of what one silo could open", every, opened_alone, lifts=True)
    lift("t voids of what one silo could open", of(FIRST, "bcd") + of(SECOND, "abcd"), opened_alone)
    lift("t voids where the terms need more", of(FIRST, "abd"), [signed(FIRST)], threshold=COHORT.n)
    lift("no lock", of(FIRST, "abd"), [])
    lift("fewer than t voids", of(FIRST, "ab"), [signed(FIRST)])
    lift("one silo's void three times", of(FIRST, "aaa"), [signed(FIRST)])
    lift("voids of the later round only", of(SECOND, "abcd"), twice)
    lift("t voids over both rounds together", of(FIRST, "ab") + of(SECOND, "cd"), twice)
    lift("voids of another round", of(UNSEEN, "abcd"), [signed(FIRST)])
    lift("voids of another base's lock", of(FIRST, "abd"), [signed(FIRST)], base=OTHER_BASE)
    renamed = [replace(void, silo=silo) for void, silo in zip(of(FIRST, "aaa"), "abc", strict=True)]
    lift("one silo's void under three names", renamed, [signed(FIRST)])
    lift("a void of a stranger", [*of(FIRST, "ab"), *_stranger()], [signed(FIRST)])
    lift("under another roster", of(FIRST, "abd"), [signed(FIRST, roster=Roster(MEMBERS[::-1]))])

    def move(name: str, journal: list[Any], *, moves: bool = False, **more: object) -> None:
        given: dict[str, object] = {"base": BASE, "session": SESSION, "dealer": "a", "roster": MEMBERS}
        _ask(group, name, None if moves else False, journal, what="move", **(given | more))

    move("a dealer in the set", [signed(FIRST)], moves=True)
    move("a dealer outside the set", [signed(FIRST)], dealer="d")
    move("evidence of another session", [signed(FIRST)], session=fixed("session"))
    move("a move without a lock", [])
    move("a move under another roster", [signed(FIRST, roster=Roster(MEMBERS[::-1]))])


def _stranger() -> list[Void]:
    return [sign_void(IDENTITIES["stranger"], "stranger", FIRST)]


def _evidence(group: Group) -> None:
    bad = world.run(lost="a", shares=bad_dealing("a"))
    answers = {silo: dict(bad.sent(silo, Unmasking).openings)["a"] for silo in "bcd"}
    bad_set = bad.sent("a", ShareKeys).share_set
    evidence = DealerEvidence("a", SESSION, bad_set, "mask", tuple(answers.items()))
    honest_answers = {silo: dict(HONEST.sent(silo, Unmasking).openings)["a"] for silo in "abc"}
    honest_set = dict(SHARES.share_sets)["a"]
    honest = DealerEvidence("a", SESSION, honest_set, "seed", tuple(honest_answers.items()))

    def convict(name: str, given: DealerEvidence, *, convicts: bool = False, **more: object) -> None:
        full: dict[str, object] = {"evidence": given, "roster": MEMBERS, "threshold": COHORT.t} | more
        if convicts:
            group.passes(name, "convict", **full)
        else:
            group.fails(name, "convict", False, **full)

    convict("a dealer that shared another key", evidence, convicts=True)
    convict("an honest dealer", honest)
    convict("an honest dealer, with too few shares", replace(honest, openings=honest.openings[:2]))
    convict("one opening three times", replace(evidence, openings=evidence.openings[:1] * 3))
    convict("fewer than t openings", replace(evidence, openings=evidence.openings[:2]))
    convict("openings of the other kind", replace(evidence, kind="seed"))
    convict("a share set of another session", replace(evidence, session=fixed("session")))
    convict("a share set of another dealer", replace(honest, dealer="b"))
    changed = replace(honest_set, mask=ANNOUNCED.bundles[1][1].mask)
    convict("an honest share set with another mask key", replace(honest, kind="mask", share_set=changed))
    name, opening = evidence.openings[0]
    forged = replace(opening, share=flipped(opening.share, 32))
    convict("a forged opening", replace(evidence, openings=((name, forged), *evidence.openings[1:])))
    convict(
        "an opening in a stranger's name",
        replace(evidence, openings=(("e", opening), *evidence.openings[1:])),
    )
    convict("a dealer outside the roster", evidence, roster=MEMBERS[1:])
    old = redealt("a", fixed("old session"))
    convict("an old share set beside new openings", replace(honest, share_set=old.share_set))
    assert transcript.round_id(SESSION, SHARES.share_sets) == ROUND
