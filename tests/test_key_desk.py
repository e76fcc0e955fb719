"""Silos that lack the key of a round: the desk finds each a holder that is there and has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.errors import FaultySilo, FaultySiloOrCoordinator, PolicyRefused, UnexpectedMessage
from secagg.fixedpoint import Encoding
from secagg.keys.adders import adder_of
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.desk import MOST_REQUESTS, KeyDesk
from secagg.keys.document import DEFAULT_LIFETIME
from secagg.keys.holder import KeyHolder
from secagg.keys.keyring import HeldKey
from secagg.messages import (
    KeyAsked,
    KeyForwarded,
    KeyPassed,
    KeyTaken,
    KeyWanted,
    Ready,
    Refused,
    SealingKeysAnnounced,
    TrainingOpened,
)
from secagg.names import SiloId
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.policy import Policy
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.silo import Participant, answer
from secagg.sums import policy_for
from secagg.terms import Terms
from tests.ceremonies import (
    IDENTITIES,
    MAKER,
    NOW,
    POLICY,
    ROSTER,
    SILOS,
    Ceremony,
    maker,
    over_the_wire,
)
from tests.federations import MODEL, Work, bounded, encoding_of

DONE = Ceremony.of("paillier")
KEY: EstablishedKey = DONE.run()
ENCODING: Encoding = encoding_of(4)
ADDER = adder_of(KEY.document, ENCODING)
PAILLIER = Paillier(bits=2048).parameters(4, key=KEY.document.key)


def terms(**changes: Any) -> Terms:
    """Terms of a round under the key."""
    fields: dict[str, Any] = {
        "federation": "federation",
        "job": "job",
        "round": 1,
        "kind": "sum",
        "release": 1,
        "roster": ROSTER.digest,
        "base": MODEL.digest,
        "scheme": PAILLIER,
        "encoding": ENCODING,
    }
    return Terms(**(fields | changes))


def holder(silo: SiloId, held: Iterable[HeldKey] = (), **changes: Any) -> KeyHolder:
    named: dict[str, Any] = {
        "identity": IDENTITIES[silo],
        "roster": ROSTER,
        "policy": POLICY,
        "clock": lambda: NOW,
        "make": maker(),
    }
    return KeyHolder(silo, held=held, **(named | changes))


def having(silo: SiloId, **changes: Any) -> KeyHolder:
    return holder(silo, [DONE.held(silo)], **changes)


def wanted(silo: SiloId) -> tuple[KeyHolder, KeyWanted]:
    """Return a silo that lost its key, and what it asks."""
    lacks = holder(silo)
    step = lacks.want(terms())
    assert step is not None
    assert isinstance(step.output, KeyWanted)
    return lacks, step.output


def answered(silo: SiloId, told: Any) -> KeyForwarded:
    reply: Any = having(silo).receive(over_the_wire(told)).output
    assert isinstance(reply, KeyForwarded)
    return reply


# --- one silo ----------------------------------------------------------------------------------------------


def test_a_silo_that_lost_its_key_is_helped_by_the_first_that_is_there() -> None:
    desk = KeyDesk(ROSTER, KEY)
    lacks, asks = wanted("a")
    told = desk.receive("a", asks, absent=frozenset({"b"})).outbox
    assert told == {"c": KeyAsked("a", KEY.document.key, asks.sealing)}
    passed = desk.receive("c", answered("c", told["c"]))
    assert list(passed.outbox) == ["a"]
    assert passed.holders == frozenset()
    taken: Any = lacks.receive(over_the_wire(passed.outbox["a"])).output
    assert isinstance(taken, KeyTaken)
    done = desk.receive("a", taken)
    assert (done.outbox, done.holders) == ({}, frozenset({"a"}))
    assert [key.content for key in lacks.held] == [DONE.held("a").content]
    assert lacks.want(terms()) is None


def test_a_holder_that_is_lost_is_replaced_by_one_that_is_there() -> None:
    desk = KeyDesk(ROSTER, KEY)
    _, asks = wanted("a")
    assert list(desk.receive("a", asks).outbox) == ["b"]
    desk.lose("b")
    assert list(desk.ask(absent=frozenset({"b", "c"}))) == ["d"]
    desk.lose("d")
    assert desk.ask(absent=frozenset({"b", "c", "d"})) == {}
    assert list(desk.ask(absent=frozenset({"c", "d"}))) == ["b"]  # When one is back, it is asked.


def test_a_holder_that_answers_wrongly_is_named_and_another_one_asked() -> None:
    desk = KeyDesk(ROSTER, KEY)
    _, asks = wanted("a")
    told = desk.receive("a", asks).outbox
    with pytest.raises(FaultySilo) as fault:
        desk.receive("b", replace(answered("b", told["b"]), document=b"none"))
    assert fault.value.silo == "b"
    assert list(desk.ask()) == ["c"]


def test_a_joiner_that_says_wrongly_that_it_has_the_key_is_named() -> None:
    desk = KeyDesk(ROSTER, KEY)
    lacks, asks = wanted("a")
    told = desk.receive("a", asks).outbox
    passed = desk.receive("b", answered("b", told["b"])).outbox
    taken: Any = lacks.receive(over_the_wire(passed["a"])).output
    with pytest.raises(FaultySilo) as fault:
        desk.receive("a", replace(taken, signature=bytes(64)))
    assert fault.value.silo == "a"
    assert desk.ask() == {}


def test_only_who_was_asked_is_heard_and_only_for_this_request() -> None:
    desk = KeyDesk(ROSTER, KEY)
    _, asks = wanted("a")
    told = desk.receive("a", asks).outbox
    good = answered("b", told["b"])
    for sender, message in (("c", good), ("a", good), ("b", replace(good, request=bytes(32)))):
        with pytest.raises(UnexpectedMessage, match="was not asked for a key"):
            desk.receive(sender, message)
    with pytest.raises(UnexpectedMessage, match="was not asked for a key"):
        desk.receive("a", KeyTaken(good.request, KEY.document.key, bytes(64)))
    assert list(desk.receive("b", good).outbox) == ["a"]


def test_a_request_that_is_not_its_silos_names_who_sends_it() -> None:
    desk = KeyDesk(ROSTER, KEY)
    with pytest.raises(FaultySilo) as fault:
        desk.receive("c", wanted("a")[1])
    assert fault.value.silo == "c"
    with pytest.raises(UnexpectedMessage, match="another key"):
        desk.receive("a", replace(wanted("a")[1], key=bytes(32)))
    assert desk.ask() == {}


def test_one_silo_is_helped_a_bounded_number_of_times() -> None:
    desk = KeyDesk(ROSTER, KEY)
    for _ in range(MOST_REQUESTS):
        assert desk.receive("a", wanted("a")[1]).outbox
    with pytest.raises(UnexpectedMessage, match=f"{MOST_REQUESTS} times"):
        desk.receive("a", wanted("a")[1])


def test_a_silo_that_restarts_is_sent_what_it_can_open() -> None:
    """What a holder sealed to its last process comes later, and is not passed on."""
    desk = KeyDesk(ROSTER, KEY)
    late = answered("b", desk.receive("a", wanted("a")[1]).outbox["b"])
    desk.lose("a")
    lacks, asks = wanted("a")
    told = desk.receive("a", asks).outbox
    with pytest.raises(UnexpectedMessage):
        desk.receive("b", late)
    passed = desk.receive("b", answered("b", told["b"])).outbox
    assert isinstance(lacks.receive(over_the_wire(passed["a"])).output, KeyTaken)


def test_a_silo_that_was_out_of_reach_is_still_sent_it() -> None:
    desk = KeyDesk(ROSTER, KEY)
    told = desk.receive("a", wanted("a")[1]).outbox
    desk.lose("a")
    assert isinstance(desk.receive("b", answered("b", told["b"])).outbox["a"], KeyPassed)


def test_a_silo_that_was_out_of_reach_when_it_was_sent_the_key_may_still_say_that_it_has_it() -> None:
    desk = KeyDesk(ROSTER, KEY)
    lacks, asks = wanted("a")
    told = desk.receive("a", asks).outbox
    passed = desk.receive("b", answered("b", told["b"])).outbox
    desk.lose("a")
    assert desk.ask() == {}
    taken: Any = lacks.receive(over_the_wire(passed["a"])).output
    assert desk.receive("a", taken).holders == {"a"}


# --- several silos -----------------------------------------------------------------------------------------


def test_silos_that_lack_the_key_are_not_asked_for_it_and_each_is_helped() -> None:
    """Silos "a" and "b" lost it; "b" was asked before that was known."""
    desk = KeyDesk(ROSTER, KEY)
    (one, first), (other, second) = wanted("a"), wanted("b")
    told = desk.receive("a", first).outbox
    assert list(told) == ["b"]
    with pytest.raises(UnexpectedMessage, match="does not hold"):  # So it refuses nothing, and stays.
        other.receive(over_the_wire(told["b"]))
    told = desk.receive("b", second).outbox
    asked = {message.joiner: silo for silo, message in told.items() if isinstance(message, KeyAsked)}
    assert asked == {"a": "c", "b": "d"}
    for joiner, lacks in (("a", one), ("b", other)):
        by = asked[joiner]
        passed = desk.receive(by, answered(by, told[by])).outbox
        taken: Any = lacks.receive(over_the_wire(passed[joiner])).output
        assert desk.receive(joiner, taken).holders == {joiner}


def test_one_holder_helps_one_after_the_other() -> None:
    desk = KeyDesk(ROSTER, KEY)
    absent = frozenset({"d"})
    (one, first), (_, second) = wanted("a"), wanted("b")
    desk.receive("a", first, absent=absent)
    told = desk.receive("b", second, absent=absent).outbox
    assert told == {"c": KeyAsked("a", KEY.document.key, first.sealing)}
    told = desk.receive("c", answered("c", told["c"]), absent=absent).outbox
    assert set(told) == {"a", "c"}
    assert told["c"] == KeyAsked("b", KEY.document.key, second.sealing)
    # "a" asks anew, and what "c" said for "b" is not taken for an answer to it.
    again = wanted("a")[1]
    assert desk.receive("a", again, absent=absent).outbox == {}
    passed = desk.receive("c", answered("c", told["c"]), absent=absent).outbox
    assert isinstance(passed["b"], KeyPassed)
    assert passed["c"] == KeyAsked("a", KEY.document.key, again.sealing)
    assert one.held == ()


def test_a_silo_that_has_just_got_the_key_is_told_what_to_train_before_it_helps_another() -> None:
    """One message to a silo in a step: its invitation comes with the step in which it has the key."""
    desk = KeyDesk(ROSTER, KEY)
    (one, first), (_, second) = wanted("a"), wanted("b")
    told = desk.receive("a", first, absent=frozenset({"b", "d"})).outbox
    passed = desk.receive("c", answered("c", told["c"])).outbox
    away = frozenset({"c", "d"})
    assert desk.receive("b", second, absent=away).outbox == {}
    taken: Any = one.receive(over_the_wire(passed["a"])).output
    done = desk.receive("a", taken, absent=away)
    assert (done.outbox, done.holders) == ({}, frozenset({"a"}))
    assert list(desk.ask(absent=away)) == ["a"]


# --- in a round --------------------------------------------------------------------------------------------


def participants(lost: frozenset[SiloId]) -> dict[SiloId, Participant]:
    return {
        silo: Participant(
            silo,
            identity=IDENTITIES[silo],
            roster=ROSTER,
            policy=policy_for(PAILLIER),
            workload=Work(bounded(ENCODING.length, 32, 4, slot)),
            keys=holder(silo) if silo in lost else having(silo),
        )
        for slot, silo in enumerate(SILOS)
    }


@pytest.mark.parametrize("lost", [{"a"}, {"a", "b"}, {"a", "b", "c"}, {"b", "d"}])
def test_silos_that_lost_their_key_take_part_in_the_round_that_needs_it(lost: set[SiloId]) -> None:
    coordinator = RoundCoordinator(
        ROSTER,
        terms=terms(),
        base=MODEL,
        adder=ADDER,
        desk=KeyDesk(ROSTER, KEY),
    )
    silos = participants(frozenset(lost))
    queue: list[Any] = list(coordinator.open(0.0).output.items())
    refusals = []
    while queue:
        silo, message = queue.pop(0)
        try:
            reply = silos[silo].receive(over_the_wire(message)).output or silos[silo].proceed()
        except UnexpectedMessage:
            continue
        if reply is not None:
            refusals += [silo] if isinstance(reply, Refused) else []
            queue += coordinator.receive(silo, over_the_wire(reply)).output.items()
            queue += coordinator.advance(0.0).output.items()
    assert refusals == []
    assert coordinator.outcome is not None
    assert coordinator.outcome.survivors == SILOS
    assert coordinator.losses == {}


def lied_to(*liars: SiloId) -> tuple[RoundCoordinator, Participant, list[SiloId]]:
    """Let silo "a" lack its key and ``liars`` seal another; return who was doubted, in order."""
    coordinator = RoundCoordinator(ROSTER, terms=terms(), base=MODEL, adder=ADDER, desk=KeyDesk(ROSTER, KEY))
    silos, doubted = participants(frozenset({"a"})), []
    queue: list[Any] = list(coordinator.open(0.0).output.items())
    while queue:
        silo, message = queue.pop(0)
        reply, _ = answer(silos[silo], wire.encode(message), lambda _: None)
        fault = silos[silo].doubted
        doubted += [] if fault is None else [fault.silo]
        if reply is not None:
            said: Any = wire.decode_from_silo(*reply)
            if isinstance(said, KeyForwarded) and silo in liars:
                said = replace(said, sealed=said.sealed[:-1] + bytes([said.sealed[-1] ^ 1]))
            queue += coordinator.receive(silo, said).output.items()
            queue += coordinator.advance(0.0).output.items()
    return coordinator, silos["a"], doubted


@pytest.mark.parametrize("liars", [("b",), ("b", "c"), ("d",)])
def test_holders_that_seal_something_else_keep_nobody_from_the_key(liars: tuple[SiloId, ...]) -> None:
    coordinator, _, doubted = lied_to(*liars)
    assert doubted == [silo for silo in liars if silo != "d"]  # Which is not asked.
    assert coordinator.outcome is not None
    assert coordinator.outcome.survivors == SILOS
    assert coordinator.losses == {}


def test_where_everybody_seals_something_else_the_silo_refuses_and_names_the_last() -> None:
    coordinator, _, doubted = lied_to("b", "c", "d")
    assert doubted == ["b", "c"]
    assert coordinator.losses == {"a": "refused: faulty silo or coordinator (names d)"}
    assert coordinator.outcome is not None
    assert coordinator.outcome.survivors == ("b", "c", "d")


def test_a_key_that_was_not_asked_for_is_not_asked_for_again() -> None:
    """A silo outside a round asks for nothing, whatever comes."""
    lacks, asks = wanted("a")
    desk = KeyDesk(ROSTER, KEY)
    forwarded = answered("b", desk.receive("a", asks).outbox["b"])
    passed: Any = desk.receive("b", replace(forwarded, sealed=forwarded.sealed + b"1")).outbox["a"]
    silo = participants(frozenset())["a"]
    silo._keys = lacks
    with pytest.raises(FaultySiloOrCoordinator) as fault:
        silo.receive(passed)
    assert (fault.value.silo, silo.doubted) == ("b", None)


def test_a_holder_that_is_lost_or_refuses_is_replaced_without_waiting_for_anybody() -> None:
    coordinator = RoundCoordinator(ROSTER, terms=terms(), base=MODEL, adder=ADDER, desk=KeyDesk(ROSTER, KEY))
    coordinator.open(0.0)
    assert list(coordinator.receive("a", wanted("a")[1]).output) == ["b"]
    assert list(coordinator.lose("b").output) == ["c"]
    assert list(coordinator.receive("c", Refused("min_silos")).output) == ["d"]
    assert coordinator.lose("d").output == {}
    ready: Any = having_ready("b")
    assert list(coordinator.receive("b", ready).output) == ["b"]


def having_ready(silo: SiloId) -> Ready:
    reply: Any = participants(frozenset())[silo].receive(TrainingOpened(terms(), 60.0)).output
    assert isinstance(reply, Ready)
    return reply


# --- a silo's keys -----------------------------------------------------------------------------------------


def test_a_cipher_is_given_for_a_key_that_is_held_and_not_too_old() -> None:
    assert having("a").cipher(terms()).key == KEY.document.key
    for keys, changes in (
        (holder("a"), {}),
        (having("a", clock=lambda: NOW + DEFAULT_LIFETIME), {}),
        (having("a"), {"scheme": Paillier(bits=2048).parameters(4, key=bytes(32))}),
        (having("a"), {"scheme": ThresholdPaillier(bits=2048).parameters(4, key=KEY.document.key)}),
    ):
        with pytest.raises(PolicyRefused) as refused:
            keys.cipher(terms(**changes))
        assert refused.value.rule == "key"


def test_a_key_that_fewer_silos_open_than_the_round_says_or_the_policy_demands_is_not_used() -> None:
    """The floors rose after the key was made: what the terms say of t binds nobody who has shares."""
    made = Ceremony.of("threshold-paillier")
    key = made.run().document
    assert key.threshold == 3
    strict = Policy(schemes=frozenset({"threshold-paillier"}), colluders=2)
    lax = Policy(schemes=frozenset({"threshold-paillier"}))

    def cipher(policy: Policy, **cohort: int) -> Any:
        scheme = ThresholdPaillier(bits=2048, **cohort).parameters(4, key=key.key)
        return holder("a", [made.held("a")], policy=policy).cipher(terms(scheme=scheme))

    assert cipher(lax).key == key.key
    for policy, cohort, why in (
        (strict, {"colluders": 2}, "3 is offered, 4 is the least"),
        (strict, {}, "3 is offered, 4 is the least"),
        (lax, {"colluders": 2}, "3 silos open with the key that the round names, and its t is 4"),
        (lax, {"threshold": 4}, "3 silos open with the key that the round names, and its t is 4"),
    ):
        with pytest.raises(PolicyRefused, match=why) as refused:
            cipher(policy, **cohort)
        assert refused.value.rule == "threshold"


@pytest.mark.parametrize("schemes", [{"ckks"}, {"threshold-paillier"}])
def test_a_key_of_a_scheme_that_is_not_allowed_any_more_is_not_used(schemes: set[str]) -> None:
    keys = having("a", policy=Policy(schemes=frozenset(schemes)))
    with pytest.raises(PolicyRefused) as refused:
        keys.cipher(terms())
    assert refused.value.rule == "scheme"


def test_a_clock_that_is_read_for_every_round() -> None:
    time = [NOW]
    keys = having("a", clock=lambda: time[0])
    keys.cipher(terms())
    time[0] = KEY.document.expires
    with pytest.raises(PolicyRefused, match="make a new one that replaces it"):
        keys.cipher(terms())


def test_a_silo_does_not_ask_for_what_its_policy_refuses_or_nobody_may_forward() -> None:
    with pytest.raises(PolicyRefused) as refused:
        holder("a", policy=Policy(schemes=frozenset({"ckks"}))).want(terms())
    assert refused.value.rule == "scheme"
    assert holder("a").want(terms(scheme=ThresholdPaillier(bits=2048).parameters(4, key=bytes(32)))) is None
    assert having("a").want(terms()) is None


def test_nothing_about_keys_is_taken_that_is_not_under_way() -> None:
    keys = holder("a")
    run = Ceremony()
    run.turn()
    announced = run.inbox[MAKER]
    assert isinstance(announced, SealingKeysAnnounced)
    run.turn()
    for message in (announced, run.inbox["a"], KeyPassed("b", bytes(32), bytes(32), *passed_fields())):
        with pytest.raises(UnexpectedMessage, match="outside a ceremony"):
            keys.receive(message)  # type: ignore[arg-type]  # No message about keys, on purpose.


def passed_fields() -> tuple[Any, ...]:
    good = answered("b", KeyAsked("a", KEY.document.key, wanted("a")[1].sealing))
    return good.sealing, good.sealed, good.box


def with_holder(keys: KeyHolder) -> Ceremony:
    """Return a ceremony in which "a" is ``keys``."""
    run = Ceremony()
    here: dict[SiloId, Any] = run.silos
    here["a"] = keys
    return run


def test_a_key_is_kept_before_anybody_is_told_that_it_is_held() -> None:
    """One that cannot be kept is not held, and no word of having it leaves."""

    class Full(Exception):
        pass

    def keep(key: HeldKey) -> None:
        raise Full

    keys = holder("a", keep=keep)
    run = with_holder(keys)
    run.turn()
    run.turn()
    with pytest.raises(Full):
        run.turn()
    assert keys.held == ()
    assert run.coordinator.outcome is None


def test_a_new_ceremony_takes_the_place_of_one_that_was_given_up() -> None:
    kept: list[HeldKey] = []
    keys = holder("a", keep=kept.append)
    with_holder(keys).turn()
    document = with_holder(keys).run().document
    assert list(keys.held) == kept
    assert [key.document for key in kept] == [document]


def test_a_key_that_is_made_here_is_kept_too() -> None:
    kept: list[HeldKey] = []
    run = Ceremony()
    here: dict[SiloId, Any] = run.silos
    here[MAKER] = holder(MAKER, keep=kept.append)
    document = run.run().document
    assert [key.document for key in kept] == [document]
