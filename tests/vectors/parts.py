"""Cases for the parts of messages: key bundles, share sets and recovery, terms and policy."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.fixedpoint import plan_sum
from secagg.messages import KeyBundle, ShareSet, TrainingOpened, Unmasking
from secagg.terms import MaskingParameters, PlainParameters, Terms
from tests.vectors import world
from tests.vectors.cases import Group
from tests.vectors.forging import (
    ANNOUNCED,
    DESCRIPTOR,
    LOW_ORDER,
    SESSION,
    SHARES,
    keys_of,
    signed_bundle,
    signed_share_set,
)
from tests.vectors.noised_world import NOISE
from tests.vectors.notation import Json, fixed, flipped, write_frame
from tests.vectors.privacy_cases import NOISES, noised
from tests.vectors.world import COHORT, HONEST, IDENTITIES, ROSTER, TERMS, TRAINING

MEMBERS = ROSTER.members


def keys() -> Group:
    group = Group("The keys of one attempt: descriptor, signed bundles, session id.")
    group.passes("descriptor", "descriptor", training=TRAINING, attempt=world.ATTEMPT, seconds=world.SECONDS)
    group.passes("session id", "session_id", descriptor=DESCRIPTOR, bundles=ANNOUNCED.bundles)
    group.passes("session id of fewer", "session_id", descriptor=DESCRIPTOR, bundles=ANNOUNCED.bundles[:3])
    bundle = dict(ANNOUNCED.bundles)["a"]

    def check(name: str, changed: KeyBundle, *, error: str | None = "FaultySilo", **more: object) -> None:
        given: dict[str, object] = {"roster": MEMBERS, "descriptor": DESCRIPTOR, "silo": "a"}
        given |= {"bundle": changed} | more
        if error is None:
            group.passes(name, "check_bundle", **given)
        else:
            group.fails(name, "check_bundle", error, **given)

    check("a good bundle", bundle, error=None)
    for part in ("box", "mask", "nonce", "signature"):
        check(f"a flipped bit in {part}", replace(bundle, **{part: flipped(getattr(bundle, part))}))
    check("keys in each other's role", replace(bundle, box=bundle.mask, mask=bundle.box))
    check("another silo's name", bundle, silo="b")
    check("another silo's bundle", dict(ANNOUNCED.bundles)["b"])
    check("another descriptor", bundle, descriptor=fixed("descriptor"))
    others = [("a", fixed("another identity")), *MEMBERS[1:]]
    check("another pinned identity", bundle, roster=others)
    for name, key in {"the point 0": bytes(32), "the point 1": LOW_ORDER, "2^256 - 1": b"\xff" * 32}.items():
        check(f"signed, mask key is {name}", signed_bundle("a", replace(bundle, mask=key)))
        check(f"signed, box key is {name}", signed_bundle("a", replace(bundle, box=key)))
    return group


def shares() -> Group:
    group = Group("Dealing, committing, sealing and opening shares; share sets, round id, recovery.")
    box, mask, seed, _ = keys_of("a")
    drawn = HONEST.random["a"].drawn[128:]
    peers = [(silo, bundle.box) for silo, bundle in ANNOUNCED.bundles]
    group.passes(
        "dealing",
        "deal_shares",
        session=SESSION,
        dealer="a",
        identity=IDENTITIES["a"].private_bytes(),
        box=box.private_bytes(),
        mask=mask.private_bytes(),
        seed=seed,
        peers=peers,
        roster=MEMBERS,
        threshold=COHORT.t,
        random=drawn,
    )
    sets = dict(SHARES.share_sets)
    group.passes("round id", "round_id", session=SESSION, share_sets=SHARES.share_sets)
    _check_share_sets(group, sets["a"])
    _open_boxes(group, sets["a"])
    _recover(group, sets["a"])
    return group


def _check_share_sets(group: Group, share_set: ShareSet) -> None:
    good: dict[str, object] = {"roster": MEMBERS, "session": SESSION, "dealer": "a"}
    good |= {"share_set": share_set, "bundles": ANNOUNCED.bundles}
    group.passes("a good share set", "check_share_set", **good)

    def fails(name: str, **changes: object) -> None:
        group.fails(name, "check_share_set", "FaultySilo", **(good | changes))

    entry = replace(share_set.entries[0], mask_box=flipped(share_set.entries[0].mask_box))
    fails("a flipped bit in the seed commitment", share_set=replace(share_set, seed=flipped(share_set.seed)))
    fails("a flipped bit in an entry", share_set=replace(share_set, entries=(entry, *share_set.entries[1:])))
    fails("another session", session=fixed("session"))
    fails("another dealer", dealer="b")
    forged = {"mask": ANNOUNCED.bundles[1][1].mask, "entries": share_set.entries[::-1]}
    for part, value in forged.items():
        fails(
            f"signed, but another {part}",
            share_set=signed_share_set(SESSION, "a", replace(share_set, **{part: value})),
        )
    short = replace(share_set, entries=share_set.entries[1:])
    fails("signed, but for fewer silos", share_set=signed_share_set(SESSION, "a", short))


def _open_boxes(group: Group, share_set: ShareSet) -> None:
    entry = next(e for e in share_set.entries if e.recipient == "b")
    seed_box, mask_box = next((seed, mask) for dealer, seed, mask in SHARES.boxes if dealer == "a")
    good: dict[str, object] = {"session": SESSION, "dealer": "a", "recipient": "b", "entry": entry}
    good |= {"box": keys_of("b")[0].private_bytes(), "dealer_box": keys_of("a")[0].public}
    pair = group.passes("opened boxes", "open_boxes", **good, boxes=(seed_box, mask_box))
    good["boxes"] = seed_box, mask_box

    def fails(name: str, **changes: object) -> None:
        group.fails(name, "open_boxes", "MalformedMessage", **(good | changes))

    fails("seed and mask box exchanged", boxes=(mask_box, seed_box))
    fails("a flipped bit in a box", boxes=(seed_box, flipped(mask_box, 80)))
    fails("a box in another session", session=fixed("session"))
    fails("a box from another dealer", dealer="c")
    fails("a box for another recipient", recipient="c")
    fails("a box under another recipient's key", box=keys_of("c")[0].private_bytes())
    fails("another commitment", entry=replace(entry, seed_commitment=fixed("commitment")))

    opening: dict[str, object] = {"session": SESSION, "dealer": "a", "entry": entry}
    opening |= {"kind": "seed", "opening": pair["seed"]}
    group.passes("an opening", "check_opening", **opening)
    share, salt = bytes.fromhex(pair["seed"]["share"][2:]), pair["seed"]["salt"]
    bad: dict[str, dict[str, object]] = {
        "an opening of the other kind": {"kind": "mask"},
        "an opening with a flipped bit": {"opening": {"share": flipped(share, 32), "salt": salt}},
        "an opening in another session": {"session": fixed("session")},
        "an opening of another dealer": {"dealer": "c"},
        "an opening of another recipient": {"entry": share_set.entries[2]},
    }
    for name, changes in bad.items():
        group.fails(name, "check_opening", False, **(opening | changes))


def _recover(group: Group, share_set: ShareSet) -> None:
    answers = {silo: dict(HONEST.sent(silo, Unmasking).openings)["a"].share for silo in "abc"}
    good: dict[str, object] = {"session": SESSION, "dealer": "a", "share_set": share_set, "kind": "seed"}
    good |= {"indices": [1, 2, 3], "shares": list(answers.values())}
    group.passes("a recovered seed", "recover_secret", **good)
    dropout = [dict(HONEST.sent(silo, Unmasking).openings)["d"].share for silo in "abc"]
    of_d: dict[str, object] = {"dealer": "d", "share_set": dict(SHARES.share_sets)["d"], "kind": "mask"}
    group.passes("a recovered mask key", "recover_secret", **(good | of_d | {"shares": dropout}))
    bad: dict[str, dict[str, object]] = {
        "two shares of three": {"indices": [1, 2], "shares": list(answers.values())[:2]},
        "shares under each other's index": {"indices": [2, 1, 3]},
        "a share of another dealer among them": {"shares": [*list(answers.values())[:2], dropout[2]]},
        "shares of the other kind": {"kind": "mask"},
        "another dealer's commitment": {"dealer": "d"},
    }
    for name, changes in bad.items():
        group.fails(name, "recover_secret", False, **(good | changes))


def _noise_rules(check: Callable[..., None]) -> None:
    low = {"min_weight_cap": 1.0}
    for name in ("SiloNoise", "LocalNoise"):  # Of records it is as of silos.
        given = noised(NOISES[name])
        second = "release" if name == "LocalNoise" else None
        check(f"a second release with {name}", second, replace(given, release=2), **low)
        check(f"{name}, where noise is required", None, given, require_privacy=True, **low)
        check(f"{name} at the largest clip norm", None, given, max_l2_clip_norm=1.0, **low)
        check(f"{name} above the largest clip norm", "max_l2_clip_norm", given, max_l2_clip_norm=0.75)
        plain = replace(given, scheme=PlainParameters())
        shares = name != "LocalNoise"
        check(f"{name} under Plain", "privacy" if shares else None, plain, schemes=["plain"], **low)
        check(
            f"{name} with entries above the cap", None if shares else "max_clip", given, max_clip=1.0, **low
        )
        uncapped = None if shares else "min_weight_cap"
        check(f"{name} with a small weight cap", uncapped, given, min_weight_cap=2.0)
    record = replace(noised(NOISES["RecordNoise"]), scheme=PlainParameters())
    check("RecordNoise under Plain", "privacy", record, schemes=["plain"])
    check("no noise, where it is required", "privacy", require_privacy=True)


def terms() -> Group:
    group = Group("Terms: the digest that stands for them, and what a silo's policy refuses.")

    def opened(changed: Terms) -> Json:
        return write_frame(TrainingOpened(changed, world.SECONDS))

    group.passes("training digest", "training", opened=opened(TERMS))
    plain = replace(TERMS, scheme=PlainParameters())
    group.passes("training digest of Plain", "training", opened=opened(plain))
    group.passes(
        "training digest with other settings",
        "training",
        opened=opened(replace(TERMS, training=(("batch size", 32), ("learning rate", 0.25), ("note", None)))),
    )

    for name, noise in NOISES.items():
        group.passes(f"training digest with {name}", "training", opened=opened(noised(noise)))
    other = replace(TERMS, release=2, privacy=NOISE)
    group.passes("training digest of a second release", "training", opened=opened(other))

    def check(name: str, rule: str | None, changed: Terms = TERMS, **policy: object) -> None:
        members = policy.pop("roster", MEMBERS)
        if rule is None:
            group.passes(name, "check_policy", opened=opened(changed), policy=policy, roster=members)
            return
        group.fails(
            name, "check_policy", "PolicyRefused", opened=opened(changed), policy=policy, roster=members
        )
        if group.cases[-1]["error"]["rule"] != rule:
            raise AssertionError(f"{name}: {group.cases[-1]['error']}")

    def cohort(**changes: int) -> Terms:
        given = {"n": 4, "c": 1, "t": 3} | changes
        return replace(TERMS, scheme=MaskingParameters(Cohort(**given)))

    check("the defaults", None)
    check("Plain, where it is listed", None, plain, schemes=["plain"])
    check("more than the floors", None, cohort(c=2, t=4), colluders=1)
    check("Plain, where it is not listed", "scheme", plain)
    check("masking, where it is not listed", "scheme", schemes=["plain"])
    check("another roster", "roster", roster=MEMBERS[::-1])
    check("a roster with a silo swapped", "roster", roster=[*MEMBERS[:3], ("d", fixed("sybil"))])
    check("fewer silos than the roster has", "cohort", cohort(n=3))
    check(
        "more silos than the roster has",
        "encoding",
        replace(TERMS, encoding=plan_sum(world.LENGTH, clip=8.0, cohort=3)),
    )
    check("a cohort below the floor", "min_silos", min_silos=5)
    check("fewer colluders than assumed", "colluders", colluders=2)
    check("a threshold below the floor", "threshold", min_threshold=4)
    check("fewer honest silos than the floor", "min_honest", min_honest=3)
    check("a clip above the cap", "max_clip", max_clip=7.5)
    check("a second release", "release", replace(TERMS, release=2))
    _noise_rules(check)
    for name, settings in {
        "a policy without colluders": {"colluders": 0},
        "a policy of one honest silo": {"min_honest": 1},
        "a policy of two silos": {"min_silos": 2},
    }.items():
        group.fails(
            name, "check_policy", "ParameterError", opened=opened(TERMS), policy=settings, roster=MEMBERS
        )
    return group
