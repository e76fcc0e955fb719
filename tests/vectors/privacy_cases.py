"""Cases for differential privacy: heads of ledgers, locks of releases, costs, noised sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.fixedpoint import Encoding, Segment
from secagg.messages import (
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    Heads,
    MaskedInput,
    SignedUpload,
    SurvivorsAnnounced,
    TrainingOpened,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.privacy.heads import LedgerHead
from secagg.terms import (
    LocalNoise,
    MaskingParameters,
    PlainParameters,
    PrivacyParameters,
    RecordNoise,
    Terms,
)
from tests.vectors import privacy_operations, world  # noqa: F401 - the first registers what the cases name.
from tests.vectors.cases import Group
from tests.vectors.noised_world import NOISE, TERMS, chain_of, head
from tests.vectors.notation import Json, fixed, write_frame
from tests.vectors.world import IDENTITIES, ROSTER

UPLOAD = SignedUpload(fixed("content"), None, fixed("signature", 64))
ROUND, EARLIER = fixed("a round"), fixed("an earlier round")
RECORD = RecordNoise(l2_clip_norm=1.0, share=64.0, sampling_rate=0.25, batch=8.0, delta=1e-5)
LOCAL = LocalNoise(l2_clip_norm=1.0, noise_multiplier=1.5, sampling_rate=0.125, steps=16, delta=1e-5)
NOISES: dict[str, PrivacyParameters] = {"SiloNoise": NOISE, "RecordNoise": RECORD, "LocalNoise": LOCAL}


def opened(terms: Terms) -> Json:
    return write_frame(TrainingOpened(terms, world.SECONDS))


def noised(
    noise: PrivacyParameters | None, *, bound: float = 12.0, name: str = "update", **more: Any
) -> Terms:
    encoding = Encoding(32, 4, (Segment(name, world.LENGTH, bound, 8),))
    return replace(TERMS, **({"privacy": noise, "encoding": encoding} | more))


def privacy() -> Group:
    group = Group("Differential privacy: heads of ledgers, locks of later releases, costs, noised sums.")
    _sent(group)
    _taken(group)
    _locks(group)
    _costs(group)
    _sums(group)
    return group


def _sent(group: Group) -> None:
    group.passes(
        "a head",
        "sign_ledger_head",
        identity=IDENTITIES["a"].private_bytes(),
        silo="a",
        data_set=world.DATA_SET,
        entries=3,
        chain=chain_of("a", 3),
        round_id=ROUND,
    )
    good, data = head("a", 3, ROUND), Payload.of(np.arange(4, dtype=np.uint8))

    def sends(name: str, sent: LedgerHead | None, *, right: bool = False, noise: Any = NOISE) -> None:
        inputs: tuple[FromSilo, ...] = (
            MaskedInput(ROUND, world.vector_of(4), sent),
            EncryptedInput(ROUND, UPLOAD, data, sent),
        )
        for message in inputs:
            given = {"roster": ROSTER.members, "opened": opened(noised(noise)), "silo": "a"}
            given["message"] = write_frame(message)
            kind = type(message).__name__
            if right:
                group.passes(f"{kind}: {name}", "check_sent_head", **given)
            else:
                group.fails(f"{kind}: {name}", "check_sent_head", "FaultySilo", **given)

    sends("a head that its silo signed", good, right=True)
    sends("no head where there is no noise", None, right=True, noise=None)
    sends("no head", None)
    sends("a head of another round", head("a", 3, EARLIER))
    sends("a head that another silo signed", head("a", 3, ROUND, by="b"))
    sends("the head of another silo", head("b", 3, ROUND))
    sends("a wrong head where there is no noise", head("b", 3, ROUND), noise=None)
    sends("another number of entries", replace(good, entries=4))
    sends("another data set", replace(good, data_set=fixed("data set")))


def _taken(group: Group) -> None:
    now = {"a": head("a", 3, ROUND), "b": head("b", 5, ROUND), "c": head("c", 8, ROUND)}
    held = [(silo, head(silo, entries, EARLIER)) for silo, entries in (("a", 2), ("b", 5))]

    def takes(
        name: str,
        expected: str | None,
        heads: Heads,
        *,
        every: bool = False,
        ledger: bool = True,
        went_back: SiloId | None = None,
        trusted: tuple[SiloId, ...] = (),
    ) -> None:
        silos = ("a", "b", "c")
        announced: dict[str, FromCoordinator] = {
            "survivors": SurvivorsAnnounced(ROUND, silos, heads),
            "uploads": UploadsAnnounced(ROUND, tuple((silo, UPLOAD) for silo in silos), heads),
        }
        back = [(went_back, now[went_back].data_set)] if went_back else []
        for kind in announced if every else ("survivors",):
            given = {"roster": ROSTER.members, "ledger": ledger, "held": held}
            given |= {"went_back": back, "trusted": trusted, "announced": write_frame(announced[kind])}
            if expected is None:
                group.passes(f"{kind}: {name}", "take_heads", **given)
            else:
                group.fails(f"{kind}: {name}", "take_heads", expected, **given)

    def of(**changed: LedgerHead) -> Heads:
        return tuple((now | changed).items())

    fault, refused = "FaultyCoordinator", "PolicyRefused"
    takes("heads that went on or stand still", None, of(), every=True)
    takes("a head is behind", refused, of(a=head("a", 1, ROUND)), every=True)
    takes("a head is kept back", fault, of()[:2], every=True)
    takes("a head is not signed", fault, of(c=replace(now["c"], signature=bytes(64))), every=True)
    takes("a head of another round", fault, of(a=head("a", 1, EARLIER)), every=True)
    takes("another ledger", refused, of(b=head("b", 5, ROUND, chain=fixed("chain"))))
    takes("no heads", fault, ())
    takes("one head twice", fault, (*of(), ("a", now["a"])))
    takes("no heads, at a silo without a ledger", None, (), ledger=False)
    takes("a head is behind, at a silo without a ledger", refused, of(a=head("a", 1, ROUND)), ledger=False)
    takes("a ledger that was behind went on", refused, of(), every=True, went_back="a")
    takes("a ledger that was behind stands still", refused, of(), went_back="b")
    takes("a ledger of which nothing else is held was behind", refused, of(), went_back="c")
    takes("a ledger that was behind is trusted", None, of(), every=True, went_back="a", trusted=("a",))
    takes("another ledger is trusted", refused, of(), went_back="a", trusted=("b", "c"))
    takes("a ledger is trusted and is behind what was held", None, of(a=head("a", 1, ROUND)), trusted=("a",))
    takes("another ledger is trusted as a head is behind", refused, of(a=head("a", 1, ROUND)), trusted=("b",))


def _locks(group: Group) -> None:
    for name, terms in {
        "the first release": TERMS,
        "the second release": replace(TERMS, release=2),
        "the third release": replace(TERMS, release=3),
        "the second release of another base": replace(TERMS, release=2, base=fixed("other base")),
    }.items():
        group.passes(f"lock of {name}", "locked_base", opened=opened(terms))


def _costs(group: Group) -> None:
    larger = MaskingParameters(Cohort(4, 1, 4))
    for name, noise in NOISES.items():
        group.passes(f"cost of {name}", "cost", opened=opened(noised(noise)))
    group.passes("cost of SiloNoise, t = 4", "cost", opened=opened(noised(NOISE, scheme=larger)))
    group.passes("cost with four survivors", "cost", opened=opened(noised(NOISE)), survivors=4)
    group.passes("cost of a sum without noise", "cost", opened=opened(noised(None)))
    for name, noise in NOISES.items():
        plain = opened(noised(noise, scheme=PlainParameters()))
        if name == "LocalNoise":
            group.passes("cost of LocalNoise under Plain", "cost", opened=plain)
        else:
            group.fails(f"cost of {name} under Plain", "cost", "ParameterError", opened=plain)
    group.fails(
        "cost with no honest silo", "cost", "ParameterError", opened=opened(noised(NOISE)), survivors=1
    )
    for share in (4.0, 682.0, 682.5, 1e5, 2.0**40):
        group.passes(f"reach of {share:g}", "noise_reach", share=share)
    for share in (0.25, 2.0**41, float("nan"), float("inf")):
        group.fails(f"reach of {share:g}", "noise_reach", "ParameterError", share=share)


def _sums(group: Group) -> None:
    def checks(name: str, terms: Terms, *, right: bool = False, length: int = world.LENGTH) -> None:
        given = {"opened": opened(terms), "length": length}
        if right:
            group.passes(name, "check_noised_encoding", **given)
        else:
            group.fails(name, "check_noised_encoding", "FaultyCoordinator", **given)

    # 256 or 8 * 256 steps of the norm, and 12 * 64 of noise.
    checks("room for an update and its noise", noised(NOISE, bound=4.0), right=True)
    checks("room for a step and its noise", noised(RECORD, bound=11.0), right=True)
    checks("room for an update without noise", noised(NOISE, bound=1.0))
    checks("a step too little for an update", noised(NOISE, bound=4.0 - 2.0**-8))
    checks("a step too little for gradients", noised(RECORD, bound=11.0 - 2.0**-8))
    checks("a model of another length", noised(NOISE), length=world.LENGTH + 1)
    checks("a segment of another name", noised(NOISE, name="sum"))
    for name, segments in {
        "a weight beside an update": (Segment("weight", 1, 1.0, 8),),
        "a metric beside an update": (Segment("metric:loss", 1, 1.0, 8),),
        "two updates": (Segment("update2", world.LENGTH, 12.0, 8),),
    }.items():
        encoding = Encoding(32, 4, (*noised(NOISE).encoding.segments, *segments))
        checks(name, noised(NOISE, encoding=encoding))

    total = np.array([256, -512, 1], np.int32).view(np.uint32).tobytes()
    for name, noise, silos in (
        ("an opened sum of updates", NOISE, 3),
        ("an opened sum of updates over four silos", NOISE, 4),
        ("an opened sum of gradients", RECORD, 3),
    ):
        group.passes(name, "decode_noised_sum", opened=opened(noised(noise)), total=total, silos=silos)
    for name, wrong in {"an entry less": total[:-4], "an entry more": total + bytes(4)}.items():
        group.fails(
            f"an opened sum with {name}",
            "decode_noised_sum",
            "UsageError",
            opened=opened(noised(NOISE)),
            total=wrong,
            silos=3,
        )
