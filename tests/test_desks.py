"""What a silo lacks in a round it gets from a peer; one that is silent holds nobody up."""

from __future__ import annotations

import pytest
from msgspec import structs

from secagg.errors import FaultySilo, UnexpectedMessage
from secagg.hazmat.agreement import AgreementKey
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.desk import MOST_REQUESTS, KeyDesk
from secagg.keys.joiner import KeyJoiner, forward_key
from secagg.messages import (
    BaseAsked,
    BaseForwarded,
    BaseRequested,
    BaseSealed,
    BaseSent,
    BaseWanted,
    FromSilo,
    KeyAsked,
    KeyForwarded,
    KeyPassed,
    KeyTaken,
    KeyWanted,
)
from secagg.names import SiloId
from secagg.patience import Patience
from secagg.payload import Payload
from secagg.rounds.base_desk import MAX_BASES, BaseDesk
from secagg.rounds.bases import sign_base_wanted
from secagg.session import Outbox
from tests.ceremonies import IDENTITIES, MAKER, NOW, POLICY, ROSTER, Ceremony
from tests.federations import roster_of

BASE = bytes(range(32))
NOBODY: frozenset[SiloId] = frozenset()


# --- waits -------------------------------------------------------------------------------------------------


def test_a_wait_counts_from_the_next_look_at_the_clock() -> None:
    patience = Patience(10.0)
    patience.begin("a")
    assert patience.alarm is None
    assert patience.lasts("a")
    assert patience.over(100.0) == []
    assert patience.alarm == 110.0
    patience.begin("b")
    assert patience.over(109.0) == []
    assert patience.over(110.0) == ["a"]
    assert not patience.lasts("a")
    assert patience.alarm == 119.0
    patience.begin("b")  # Anew.
    assert patience.over(119.0) == []
    assert patience.over(129.0) == ["b"]
    patience.begin("c")
    patience.end("c")
    patience.end("nobody")
    assert patience.over(10**9) == []
    assert patience.alarm is None


# --- the base ----------------------------------------------------------------------------------------------


def key(number: int = 1) -> AgreementKey:
    return AgreementKey.from_private_bytes(bytes([number]) * 32)


def wanted(silo: SiloId = "a", number: int = 1, base: bytes = BASE) -> BaseWanted:
    return sign_base_wanted(IDENTITIES[silo], silo, base, key(number).public)


def sealed(silo: SiloId = "a", number: int = 1, base: bytes = BASE) -> BaseSealed:
    """Return an answer to ``wanted`` with the same arguments."""
    content = Payload.over("u1", 16, memoryview(bytes(16)))
    return BaseSealed(base, silo, key(number).public, key(99).public, content)


def at_silos(*ready: SiloId) -> BaseDesk:
    """Return a desk of a round whose model silos alone have; ``ready`` hold it."""
    desk = BaseDesk(ROSTER, BASE, None, seconds=10.0)
    for silo in ready:
        desk.ready(silo)
    assert desk.ask(absent=NOBODY) == {}
    return desk


def asked(outbox: Outbox) -> dict[SiloId, SiloId]:
    """Return who is asked for whom; nothing else is sent."""
    found = {}
    for holder, message in outbox.items():
        assert isinstance(message, BaseAsked)
        found[holder] = message.silo
    return found


def test_a_model_that_is_here_is_sent() -> None:
    model = Payload.over("f8", 1, memoryview(bytes(8)))
    desk = BaseDesk(ROSTER, BASE, model, seconds=10.0)
    for message in (BaseRequested(BASE), wanted()):
        assert desk.receive("a", message, absent=NOBODY) == {"a": BaseSent(BASE, model)}
    for other in (BaseRequested(bytes(32)), wanted(base=bytes(32))):
        with pytest.raises(UnexpectedMessage, match="does not start from"):
            desk.receive("a", other, absent=NOBODY)
    for _ in range(MAX_BASES - 2):
        desk.receive("a", BaseRequested(BASE), absent=NOBODY)
    with pytest.raises(UnexpectedMessage, match=f"{MAX_BASES} times"):
        desk.receive("a", BaseRequested(BASE), absent=NOBODY)
    assert desk.alarm is None


def test_the_holder_that_was_ready_last_is_asked_with_what_the_silo_signed() -> None:
    message = wanted(number=7)
    outbox = at_silos("b", "c").receive("a", message, absent=NOBODY)
    assert outbox == {"c": BaseAsked(BASE, "a", message.box, message.signature)}


def test_where_nobody_holds_it_yet_the_first_that_is_ready_is_asked() -> None:
    desk = at_silos()
    assert desk.receive("a", wanted(), absent=NOBODY) == {}
    desk.ready("b")
    assert asked(desk.ask(absent=NOBODY)) == {"b": "a"}
    desk.ready("c")
    assert desk.ask(absent=NOBODY) == {}


def test_absent_holders_are_not_asked() -> None:
    desk = at_silos("b", "c")
    assert asked(desk.receive("a", wanted(), absent={"c"})) == {"b": "a"}


def test_a_silent_holder_holds_nobody_up() -> None:
    desk = at_silos("b", "c", "d")

    def at(now: float) -> dict[SiloId, SiloId]:
        desk.advance(now)
        return asked(desk.ask(absent=NOBODY))

    assert asked(desk.receive("a", wanted(), absent=NOBODY)) == {"d": "a"}
    assert at(100.0) == {}
    assert desk.alarm == 110.0
    assert at(109.9) == {}
    assert at(110.0) == {"c": "a"}
    assert at(110.0) == {}
    assert at(120.0) == {"b": "a"}
    assert at(120.0) == {}
    assert at(130.0) == {}, "everybody was asked"
    assert desk.alarm is None


@pytest.mark.parametrize("first", ["c", "d"])
def test_whichever_answers_first_is_passed_on_and_the_others_are_late(first: SiloId) -> None:
    desk = at_silos("c", "d")
    desk.receive("a", wanted(), absent=NOBODY)
    desk.advance(0.0)
    desk.advance(10.0)
    assert asked(desk.ask(absent=NOBODY)) == {"c": "a"}
    answer = sealed()
    passed = desk.receive(first, answer, absent=NOBODY)
    assert passed == {"a": BaseForwarded(BASE, first, answer.box, answer.sealed)}
    with pytest.raises(UnexpectedMessage, match="not asked for"):
        desk.receive("cd".replace(first, ""), sealed(), absent=NOBODY)
    assert desk.alarm is None


def test_what_nobody_asked_for_is_not_passed_on() -> None:
    desk = at_silos("b", "c")
    for message in (sealed("a"), sealed("c")):
        with pytest.raises(UnexpectedMessage, match="not asked for"):
            desk.receive("b", message, absent=NOBODY)
    desk.receive("a", wanted(), absent=NOBODY)
    for sender, message in (("b", sealed()), ("c", sealed(base=bytes(32))), ("c", sealed("d"))):
        with pytest.raises(UnexpectedMessage, match="not asked for"):
            desk.receive(sender, message, absent=NOBODY)


def test_a_request_that_its_silo_did_not_sign_and_a_key_of_low_order_name_their_sender() -> None:
    desk = at_silos("c")
    for message in (wanted("b"), structs.replace(wanted(), box=key(2).public)):
        with pytest.raises(FaultySilo) as refused:
            desk.receive("a", message, absent=NOBODY)
        assert refused.value.silo == "a"
    desk.receive("a", wanted(), absent=NOBODY)
    with pytest.raises(FaultySilo) as refused:
        desk.receive("c", structs.replace(sealed(), box=bytes(32)), absent=NOBODY)
    assert refused.value.silo == "c"


def test_each_holder_works_for_one_silo_at_a_time() -> None:
    desk = at_silos("d")
    assert asked(desk.receive("a", wanted(), absent=NOBODY)) == {"d": "a"}
    assert desk.receive("b", wanted("b"), absent=NOBODY) == {}
    outbox = desk.receive("d", sealed(), absent=NOBODY)
    assert isinstance(outbox["a"], BaseForwarded)
    assert asked({"d": outbox["d"]}) == {"d": "b"}


def test_for_a_holder_that_is_lost_another_is_asked_at_once() -> None:
    desk = at_silos("b", "c")
    desk.receive("a", wanted(), absent=NOBODY)
    desk.lose("c")
    assert asked(desk.ask(absent={"c"})) == {"b": "a"}
    desk.lose("b")
    assert desk.ask(absent={"b", "c"}) == {}
    assert asked(desk.ask(absent={"b"})) == {"c": "a"}


def test_a_silo_that_is_ready_wants_nothing_any_more() -> None:
    desk = at_silos("c")
    desk.receive("a", wanted(), absent=NOBODY)
    desk.ready("a")
    with pytest.raises(UnexpectedMessage, match="not asked for"):
        desk.receive("c", sealed(), absent=NOBODY)
    desk.advance(0.0)
    desk.advance(100.0)
    assert desk.ask(absent=NOBODY) == {}


def test_who_asks_again_with_another_key_is_answered_for_that_one() -> None:
    desk = at_silos("b", "c")
    desk.receive("a", wanted(number=1), absent=NOBODY)
    again = wanted(number=2)
    assert desk.receive("a", again, absent={"b"}) == {"c": BaseAsked(BASE, "a", again.box, again.signature)}
    with pytest.raises(UnexpectedMessage, match="not asked for"):
        desk.receive("c", sealed(number=1), absent=NOBODY)
    assert isinstance(desk.receive("c", sealed(number=2), absent=NOBODY)["a"], BaseForwarded)


def test_who_could_not_open_what_it_was_sent_is_sent_it_by_everybody_else_first() -> None:
    """A holder that had its turn is asked again when all others that are there had theirs."""
    desk = at_silos("b", "c")
    assert asked(desk.receive("a", wanted(), absent=NOBODY)) == {"c": "a"}
    desk.receive("c", sealed(), absent=NOBODY)
    assert asked(desk.receive("a", wanted(number=2), absent=NOBODY)) == {"b": "a"}
    desk.receive("b", sealed(number=2), absent=NOBODY)
    assert desk.receive("a", wanted(number=3), absent=NOBODY) == {}, "d may come to hold it"
    desk.advance(0.0)
    desk.advance(100.0)
    assert desk.ask(absent=NOBODY) == {}
    assert asked(desk.ask(absent={"d"})) == {"c": "a"}


def test_a_silent_holder_had_its_turn_too() -> None:
    desk = at_silos("b", "c", "d")
    desk.receive("a", wanted(), absent=NOBODY)
    desk.advance(0.0)
    desk.advance(10.0)
    assert asked(desk.ask(absent=NOBODY)) == {"c": "a"}
    desk.receive("c", sealed(), absent=NOBODY)
    assert asked(desk.receive("a", wanted(number=2), absent=NOBODY)) == {"b": "a"}


def test_two_that_could_not_open_it_do_not_wait_for_each_other() -> None:
    desk = at_silos("d")
    for silo in ("a", "b"):
        assert asked(desk.receive(silo, wanted(silo), absent={"c"})) == {"d": silo}
        desk.receive("d", sealed(silo), absent={"c"})
    assert desk.receive("a", wanted(number=2), absent={"c"}) == {}, "b may hold it"
    assert asked(desk.receive("b", wanted("b", number=2), absent={"c"})) == {"d": "a"}


def test_a_silo_that_was_lost_may_be_sent_it_by_the_same_holder() -> None:
    desk = at_silos("b", "c")
    desk.receive("a", wanted(), absent=NOBODY)
    desk.receive("c", sealed(), absent=NOBODY)
    desk.lose("a")
    assert asked(desk.receive("a", wanted(number=2), absent=NOBODY)) == {"c": "a"}


def test_in_a_large_roster_every_other_silo_may_be_asked() -> None:
    roster, identities = roster_of(MAX_BASES + 4)
    joiner, *others = roster.silos
    desk = BaseDesk(roster, BASE, None, seconds=10.0)
    for silo in others:
        desk.ready(silo)
    holders: list[SiloId] = []
    for number, _ in enumerate(others, 1):
        message = sign_base_wanted(identities[joiner], joiner, BASE, key(number).public)
        holders += desk.receive(joiner, message, absent=NOBODY)
        desk.receive(holders[-1], sealed(joiner, number), absent=NOBODY)
    assert sorted(holders) == sorted(others)


# --- the key -----------------------------------------------------------------------------------------------


def made() -> tuple[Ceremony, EstablishedKey, KeyDesk]:
    done = Ceremony.of("paillier")
    key = done.run()
    return done, key, KeyDesk(ROSTER, key, seconds=10.0)


def joining(silo: SiloId, key: EstablishedKey) -> tuple[KeyJoiner, KeyWanted]:
    joiner = KeyJoiner(
        silo,
        key=key.document.key,
        scheme="paillier",
        identity=IDENTITIES[silo],
        roster=ROSTER,
        policy=POLICY,
        now=NOW,
    )
    message = joiner.open().output
    assert isinstance(message, KeyWanted)
    return joiner, message


def answer(done: Ceremony, holder: SiloId, outbox: Outbox) -> FromSilo:
    asked = outbox[holder]
    assert isinstance(asked, KeyAsked)
    step = forward_key(
        asked, done.keyring(holder), silo=holder, identity=IDENTITIES[holder], roster=ROSTER, now=NOW
    )
    assert step.output is not None
    return step.output


def at(desk: KeyDesk, now: float, *absent: SiloId) -> Outbox:
    """Return what is asked at ``now``."""
    desk.advance(now)
    return desk.ask(absent=frozenset(absent))


def test_a_silent_holder_of_the_key_holds_nobody_up() -> None:
    done, key, desk = made()
    joiner, message = joining("a", key)
    first = desk.receive("a", message).outbox
    assert [*first] == [MAKER]
    assert desk.alarm is None
    assert at(desk, 50.0) == {}
    assert desk.alarm == 60.0
    assert at(desk, 59.9) == {}
    second = at(desk, 60.0)
    assert [*second] == ["c"]
    late = answer(done, MAKER, first)
    assert isinstance(late, KeyForwarded)
    with pytest.raises(UnexpectedMessage):
        desk.receive(MAKER, late)
    forwarded = answer(done, "c", second)
    assert isinstance(forwarded, KeyForwarded)
    passed = desk.receive("c", forwarded).outbox["a"]
    assert isinstance(passed, KeyPassed)
    taken = joiner.receive(passed).output
    assert isinstance(taken, KeyTaken)
    helped = desk.receive("a", taken)
    assert helped.holders == {"a"}
    assert desk.alarm is None
    assert at(desk, 10**9) == {}


def test_those_that_took_too_long_are_asked_last() -> None:
    _, key, desk = made()
    found = [*desk.receive("a", joining("a", key)[1]).outbox]
    at(desk, 0.0)
    for now in (10.0, 20.0, 30.0):
        found += at(desk, now)
        at(desk, now)  # The wait counts from here.
    assert found == [MAKER, "c", "d", MAKER]


def test_a_joiner_that_does_not_take_its_key_may_ask_again() -> None:
    done, key, desk = made()
    _, message = joining("a", key)
    forwarded = answer(done, MAKER, desk.receive("a", message).outbox)
    assert isinstance(forwarded, KeyForwarded)
    desk.receive(MAKER, forwarded)
    assert at(desk, 0.0) == {}
    assert at(desk, 10.0) == {}
    assert desk.alarm is None
    _, message = joining("a", key)
    assert [*desk.receive("a", message).outbox] == ["c"]
    for _ in range(MOST_REQUESTS - 2):
        desk.receive("a", message)
    with pytest.raises(UnexpectedMessage, match=f"{MOST_REQUESTS} times"):
        desk.receive("a", message)


def test_who_could_not_open_its_key_is_sent_it_by_everybody_else_first() -> None:
    done, key, desk = made()
    holders: list[SiloId] = []
    for _ in range(4):
        outbox = desk.receive("a", joining("a", key)[1]).outbox
        holders += outbox
        forwarded = answer(done, holders[-1], outbox)
        assert isinstance(forwarded, KeyForwarded)
        desk.receive(holders[-1], forwarded)
    assert holders == [MAKER, "c", "d", MAKER]
    desk.lose("a")
    assert [*desk.receive("a", joining("a", key)[1]).outbox] == [MAKER]
    assert [*desk.receive("a", joining("a", key)[1], absent={MAKER, "c"}).outbox] == ["d"]


def test_two_that_lack_the_key_wait_for_two_holders_and_never_for_each_other() -> None:
    _, key, desk = made()
    assert [*desk.receive("a", joining("a", key)[1]).outbox] == [MAKER]
    assert [*desk.receive("d", joining("d", key)[1]).outbox] == ["c"]
    at(desk, 0.0)
    assert {*at(desk, 10.0)} == {MAKER, "c"}


def test_a_forged_request_names_its_sender() -> None:
    _, key, desk = made()
    _, message = joining("a", key)
    signature = bytearray(message.sealing.signature)
    signature[0] ^= 1
    forged = structs.replace(message.sealing, signature=bytes(signature))
    with pytest.raises(FaultySilo) as refused:
        desk.receive("a", structs.replace(message, sealing=forged))
    assert refused.value.silo == "a"
    assert desk.alarm is None
