"""Cases for the coordinator: the honest script, and whom it names on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import replace

from secagg.masking import transcript
from secagg.messages import (
    AdvertiseKeys,
    BoxReport,
    ConsistencyCheck,
    FromSilo,
    MaskedInput,
    Opening,
    Ready,
    Refused,
    ShareKeys,
    Unmasking,
)
from secagg.names import SiloId
from secagg.survivors import sign_survivors
from tests.vectors import world
from tests.vectors.forging import (
    LOW_ORDER,
    ROUND,
    SESSION,
    SURVIVORS,
    bad_dealing,
    redealt,
    signed_bundle,
    signed_share_set,
)
from tests.vectors.notation import Json, fixed, flipped, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import HONEST, IDENTITIES, ROSTER, TRAINING


def took(sender: SiloId, message: FromSilo) -> Json:
    return {"event": "receive", "sender": sender, "message": write_frame(message)}


def ticked(now: float) -> Json:
    return {"event": "advance", "now": now}


def happened(event: world.Event) -> Json:
    return took(event.sender, event.message) if isinstance(event, world.Sent) else ticked(event.now)


def _from(at: int, transcript_: world.Transcript = HONEST) -> list[Json]:
    """Return the events from ``at`` on (the script has ``open`` before them)."""
    return [happened(event) for event in transcript_.events[at:]]


def coordinator() -> Json:
    """Return the content of ``coordinator.json``: the coordinator of the honest attempt."""
    setup = {
        "roster": ROSTER.members,
        "opened": write_frame(world.OPENED),
        "attempt": world.ATTEMPT,
        "seconds": world.SECONDS,
    }
    script = Script(
        "coordinator",
        "The coordinator in one attempt; silo d is lost before its vector arrives. Each step: an event, and "
        "the frames that it sends.",
        write(setup),
        [{"event": "open", "now": 0.0}, *_from(0)],
    )
    _leave_first_phases(script)
    _leave_last_phases(script)
    return script.content


def _case(
    script: Script, name: str, sender: SiloId, instead_of: type[FromSilo], sent: FromSilo, error: str
) -> None:
    """``sender`` sends something else where it sent a message of ``instead_of``."""
    after = 1 + HONEST.position(sender, instead_of)
    script.leave(name, after, took(sender, sent), expected=error)


def _leave_first_phases(script: Script) -> None:
    bundle = HONEST.sent("b", AdvertiseKeys).bundle
    shares = HONEST.sent("b", ShareKeys)

    def advertises(name: str, sent: FromSilo, error: str = "FaultySilo") -> None:
        _case(script, name, "b", AdvertiseKeys, sent, error)

    advertises("keys with a flipped bit", AdvertiseKeys(replace(bundle, box=flipped(bundle.box))))
    later = transcript.descriptor_digest(TRAINING, 2, world.SECONDS)
    advertises("keys for another attempt", AdvertiseKeys(signed_bundle("b", bundle, descriptor=later)))
    advertises("the keys of another silo", HONEST.sent("a", AdvertiseKeys))
    low = signed_bundle("b", replace(bundle, box=LOW_ORDER))
    advertises("a signed box key of low order", AdvertiseKeys(low))
    advertises("shares before keys", shares, "UnexpectedMessage")
    advertises("a message of no phase of an attempt", Ready(TRAINING), "UnexpectedMessage")
    script.leave("keys twice", 3, took("b", AdvertiseKeys(bundle)), expected="UnexpectedMessage")
    stranger = took("stranger", AdvertiseKeys(bundle))
    script.leave("keys of a stranger", 1, stranger, expected="UnexpectedMessage")
    script.leave(
        "keys after a refusal",
        1,
        took("b", Refused("lock")),
        took("b", AdvertiseKeys(bundle)),
        expected="UnexpectedMessage",
    )
    struck = {"event": "lose", "silo": "b", "struck": True}
    script.leave(
        "keys of a silo that was struck",
        1,
        struck,
        took("b", AdvertiseKeys(bundle)),
        expected="UnexpectedMessage",
    )
    script.leave("opened twice", 1, {"event": "open", "now": 0.0}, expected="UsageError")
    script.leave("fewer than t keys at the deadline", 3, ticked(60.0), expected="TooFewSilos")

    def deals(name: str, sent: FromSilo, error: str = "FaultySilo") -> None:
        _case(script, name, "b", ShareKeys, sent, error)

    def deals_set(name: str, **changed: Any) -> None:
        share_set = signed_share_set(SESSION, "b", replace(shares.share_set, **changed))
        deals(name, replace(shares, share_set=share_set))

    deals(
        "a share set with a flipped bit",
        replace(shares, share_set=replace(shares.share_set, seed=flipped(shares.share_set.seed))),
    )
    deals(
        "a share set for another session",
        replace(shares, share_set=signed_share_set(fixed("s"), "b", shares.share_set)),
    )
    deals_set("a mask key that was not advertised", mask=bundle.box)
    deals_set("a share set for fewer silos", entries=shares.share_set.entries[:3])
    deals_set("a share set in another order", entries=shares.share_set.entries[::-1])
    deals("a box is missing", replace(shares, boxes=shares.boxes[1:]))
    deals("the boxes in another order", replace(shares, boxes=shares.boxes[::-1]))
    name, seed, mask = shares.boxes[0]
    deals(
        "a box that was not signed", replace(shares, boxes=((name, flipped(seed), mask), *shares.boxes[1:]))
    )
    deals("seed and mask box exchanged", replace(shares, boxes=((name, mask, seed), *shares.boxes[1:])))


def _leave_last_phases(script: Script) -> None:
    def uploads(name: str, sent: FromSilo, error: str = "FaultySilo") -> None:
        _case(script, name, "b", MaskedInput, sent, error)

    uploads("a vector of another round", MaskedInput(fixed("r"), world.vector_of(4)))
    uploads("a vector without its count entry", MaskedInput(ROUND, world.vector_of(3)))
    uploads("a vector of 64-bit words", MaskedInput(ROUND, world.vector_of(4, word=np.uint64)))
    uploads("a report of another session", BoxReport(fixed("s"), "a"))
    uploads("a report of a silo that dealt nothing", BoxReport(SESSION, "stranger"))
    uploads("an unmasking too early", HONEST.sent("b", Unmasking), "UnexpectedMessage")
    at = 1 + HONEST.position("c", MaskedInput)
    script.leave("a vector twice", at, took("b", HONEST.sent("b", MaskedInput)), expected="UnexpectedMessage")
    script.leave("fewer than max(t, k_min + c) vectors", at, ticked(60.0), expected="TooFewSilos")

    # A vector that is none: only the count entry shows it, and it names nobody.
    at = HONEST.position("c", MaskedInput)
    garbage = took("c", MaskedInput(ROUND, world.vector_of(4)))
    script.leave("a garbage vector", 1 + at, garbage, *_from(at + 1), expected="RoundAborted")

    def signs(name: str, sent: FromSilo, error: str = "FaultySilo") -> None:
        _case(script, name, "b", ConsistencyCheck, sent, error)

    key = IDENTITIES["b"]
    signs("a signature over another set", ConsistencyCheck(ROUND, sign_survivors(key, ROUND, ROSTER.silos)))
    signs("a signature of another silo", HONEST.sent("a", ConsistencyCheck))
    signs("a signature for another round", ConsistencyCheck(fixed("r"), bytes(64)))
    late = took("d", MaskedInput(ROUND, world.vector_of(4)))
    at = 1 + HONEST.position("a", ConsistencyCheck)
    script.leave("a vector that is too late", at, late, expected="UnexpectedMessage")
    outsider = took("d", ConsistencyCheck(ROUND, sign_survivors(IDENTITIES["d"], ROUND, SURVIVORS.survivors)))
    script.leave("a signature from outside the set", at, outsider, expected="UnexpectedMessage")

    answer = HONEST.sent("b", Unmasking)
    openings = dict(answer.openings)

    def unmasks(name: str, sent: tuple[tuple[SiloId, Opening], ...]) -> None:
        _case(script, name, "b", Unmasking, replace(answer, openings=sent), "FaultySilo")

    def unmasks_a(name: str, opening: Opening) -> None:
        unmasks(name, tuple((openings | {"a": opening}).items()))

    unmasks_a("a share with a flipped bit", replace(openings["a"], share=flipped(openings["a"].share, 32)))
    unmasks_a("a salt with a flipped bit", replace(openings["a"], salt=flipped(openings["a"].salt)))
    unmasks_a("the share of another dealer", openings["c"])
    dealt = redealt("b", SESSION)
    unmasks("a share of the other kind", tuple((openings | {"b": dealt.own.mask}).items()))
    unmasks("a share is missing", answer.openings[1:])
    unmasks("the shares in another order", answer.openings[::-1])
    _case(
        script, "shares of another round", "b", Unmasking, replace(answer, round_id=fixed("r")), "FaultySilo"
    )
    at = 1 + HONEST.position("c", Unmasking)
    script.leave("fewer than t answers", at, ticked(120.0), expected="TooFewSilos")
    _convict_a_dealer(script)


def _convict_a_dealer(script: Script) -> None:
    """Dealer a shares another mask key than it advertised and is lost; t answers show it."""
    at = HONEST.position("a", ShareKeys)
    steps = _from(at, world.run(lost="a", shares=bad_dealing("a")))
    script.leave("a dealer whose shares are not of its secret", 1 + at, *steps, expected="FaultySilo")
