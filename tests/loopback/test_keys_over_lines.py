"""A key ceremony over real streams: silos make the key, the coordinator remembers what is public of it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.keys import Keys
from coordinator.runs import Runs
from coordinator.store import Store
from secagg import wire
from secagg.errors import (
    ParameterError,
    PolicyRefused,
    SecaggError,
    TooFewSilos,
    UnexpectedMessage,
    exit_code,
)
from secagg.keys.document import KeyDocument, document_fault
from secagg.keys.holder import KeyHolder
from secagg.keys.keyring import HeldKey
from secagg.messages import KeyDealt, KeyTaken, Refused
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.rounds.silo import refusal
from tests.ceremonies import IDENTITIES, NOW, POLICY, ROSTER, SILOS, maker
from tests.loopback.world import Service, Speaker, serving, speak


class Site:
    """A silo's process, as far as keys go; what it kept is there when it starts again."""

    def __init__(self, silo: SiloId, policy: Policy = POLICY, seed: str = "key") -> None:
        self.kept: list[HeldKey] = []
        self.seed = seed
        self.holder = KeyHolder(
            silo,
            identity=IDENTITIES[silo],
            roster=ROSTER,
            policy=policy,
            clock=lambda: NOW,
            keep=self.kept.append,
            make=lambda *asked, **named: maker(self.seed)(*asked, **named),
        )
        self.change: Callable[[Frame], Frame | None] = lambda frame: frame

    def deliver(self, frame: Frame) -> Frame | None:
        message: Any = wire.decode_from_coordinator(*frame)
        try:
            reply = self.holder.receive(message).output
        except UnexpectedMessage:
            return None
        except PolicyRefused as error:
            return wire.encode(refusal(error))
        return None if reply is None else self.change(wire.encode(reply))


class World:
    """The coordinator's keys and its silos."""

    def __init__(self, service: Service, folder: Path, sites: dict[SiloId, Site]) -> None:
        self.service = service
        self.sites = sites
        self.store = Store(folder)
        self.runs = Runs(self.store, service.lines, folder / "runs", federation="federation")
        self.keys = Keys(self.store, service.lines, self.runs, federation="federation")
        self.speakers: dict[SiloId, Speaker] = speak(service, ROSTER, sites)

    async def everybody(self) -> None:
        while self.service.lines.connected != frozenset(self.sites):
            await self.service.lines.change()


@asynccontextmanager
async def world(folder: Path, sites: dict[SiloId, Site] | None = None) -> Any:
    sites = {silo: Site(silo) for silo in SILOS} if sites is None else sites
    async with serving(ROSTER, folder) as service:
        here = World(service, folder, sites)
        try:
            await here.everybody()
            yield here
        finally:
            here.store.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


def test_silos_make_a_key_and_the_coordinator_remembers_its_document(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            with capture_logs() as logs:
                key = await here.keys.make("paillier", size=2048, maker="b", by="operator:lee")
            document = key.document
            assert (document.scheme, document.size, document.maker) == ("paillier", 2048, "b")
            assert document.replaces is None
            assert [site.kept[0].document for site in here.sites.values()] == [document] * len(SILOS)
            assert here.keys.all() == (key,)
            secret = here.sites["a"].kept[0].content
            said = repr(logs)
            assert document.key.hex()[:16] in said
            assert secret.hex()[80:112] not in said
            assert repr(secret[40:56])[2:-1] not in said

    run(work)


def test_a_key_that_is_made_again_replaces_the_last_of_its_scheme_which_silos_keep(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            first = await here.keys.make("paillier", size=2048, by="operator:lee")
            other = await here.keys.make("ckks", size=4096, by="operator:lee")
            for site in here.sites.values():
                site.seed = "next"
            second = await here.keys.make("paillier", size=2048, lifetime=3600, by="operator:lee")
            assert other.document.replaces is None
            assert second.document.replaces == first.document.key != second.document.key
            assert second.document.lifetime == 3600
            assert [key.document for key in here.sites["d"].kept] == [
                first.document,
                other.document,
                second.document,
            ]
            assert here.store.key("paillier") == second

    run(work)


def test_the_makers_key_is_checked_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arithmetic would keep every line waiting."""
    threads = []

    def fault(document: KeyDocument, roster: Roster) -> str | None:
        threads.append(threading.current_thread())
        return document_fault(document, roster)

    monkeypatch.setattr("secagg.keys.coordinator.document_fault", fault)

    async def work() -> None:
        async with world(tmp_path) as here:
            await here.keys.make("paillier", size=2048, by="operator:lee")
        assert threads
        assert threading.current_thread() not in threads

    run(work)


def test_a_threshold_that_is_not_given_is_the_least_of_the_roster(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            key = await here.keys.make("threshold-paillier", size=2048, by="operator:lee")
            assert key.document.threshold == 3
            assert len({site.kept[0].content for site in here.sites.values()}) == len(SILOS)

    run(work)


def no_key(tmp_path: Path, sites: dict[SiloId, Site], kind: type[SecaggError]) -> SecaggError:
    caught: list[SecaggError] = []

    async def work() -> None:
        async with world(tmp_path, sites) as here:
            with pytest.raises(kind) as error:
                await here.keys.make("paillier", size=2048, maker="b", by="operator:lee")
            assert here.keys.all() == ()
            caught.append(error.value)

    run(work)
    return caught[0]


def refused(tmp_path: Path, sites: dict[SiloId, Site], named: str, why: str) -> None:
    few = no_key(tmp_path, sites, TooFewSilos)
    assert isinstance(few, TooFewSilos)
    assert few.missing == (named,)
    note = few.__notes__[0].replace("\n           ", " ")
    assert note.startswith("x SA-4104  no key was made: 3 of 4 silos took part, and it takes all of them\n")
    assert why in note
    assert not re.search("masked|round|threshold", note)


def only(*schemes: str) -> Policy:
    return replace(POLICY, schemes=frozenset(schemes))


def test_all_silos_whose_policy_refuses_are_named_with_what_to_add(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS} | {silo: Site(silo, policy=only("ckks")) for silo in "acd"}
    error = no_key(tmp_path, sites, PolicyRefused)
    assert exit_code(error) == 6
    assert error.__notes__ == [
        """\
x SA-6014  no key was made: a, c, d refused it by policy
  cause    1 of 4 silos took part: a, c and d (refused: scheme)
  safe     yes: no data is touched when a key is made, and a key that there is
           stays in use
  you can  type it again once they allow it, or make a key that all of them
           allow
  they can a, c, d: add "paillier" to schemes in [policy] of silo.toml, then
           start the silo again                                           exit 6"""
    ]


def test_a_silo_that_refuses_by_another_rule_is_named_with_it(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS}
    sites["c"] = Site("c", policy=only("ckks"))
    sites["d"] = Site("d", policy=replace(POLICY, min_silos=5))
    note = no_key(tmp_path, sites, PolicyRefused).__notes__[0]
    assert "cause    2 of 4 silos took part: c (refused: scheme), d (refused: min_silos)\n" in note
    assert "they can c, d: change the rule in [policy] of silo.toml" in note


def test_a_refusal_is_told_though_another_silo_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.keys.HEARING_SECONDS", 0.1)
    sites = {silo: Site(silo) for silo in SILOS}
    sites["c"] = Site("c", policy=only("ckks"))
    sites["d"].change = lambda _: None
    error = no_key(tmp_path, sites, PolicyRefused)
    assert "3 of 4 silos took part: c (refused: scheme)\n" in error.__notes__[0]


def test_a_silo_that_cannot_make_the_key_refuses_by_no_policy(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS}
    sites["c"].change = lambda _: wire.encode(Refused("error"))
    refused(tmp_path, sites, "c", "c (refused: error)")


def test_a_silo_that_is_not_connected_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.keys.AWAY_SECONDS", 0.5)
    with capture_logs() as logs:
        refused(tmp_path, {silo: Site(silo) for silo in SILOS if silo != "d"}, "d", "d (not connected)")
    assert [said["missing"] for said in logs if said["event"] == "a key waits for silos"] == ["d"]


def test_a_silo_that_refuses_and_one_that_is_away_are_both_named(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS if silo != "d"} | {"c": Site("c", policy=only("ckks"))}
    note = no_key(tmp_path, sites, PolicyRefused).__notes__[0]
    assert "2 of 4 silos took part: c (refused: scheme), d (not connected)\n" in note


def test_a_silo_that_comes_in_time_takes_part(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path, {silo: Site(silo) for silo in SILOS if silo != "d"}) as here:
            making = asyncio.create_task(here.keys.make("paillier", size=2048, maker="b", by="operator:lee"))
            await asyncio.sleep(0.5)
            assert not making.done()
            late = Site("d")
            speak(here.service, ROSTER, {"d": late})
            assert (await making).document == late.kept[0].document

    run(work)


@pytest.mark.parametrize("goes", ["a", "b"])
def test_a_silo_that_goes_while_the_key_is_made_ends_it_soon(
    goes: SiloId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.keys.AWAY_SECONDS", 0.2)
    monkeypatch.setattr("coordinator.lines.GRACE", 0.2)

    async def work() -> None:
        async with world(tmp_path) as here:
            dealing = asyncio.Event()
            loop = asyncio.get_running_loop()

            def deal(frame: Frame) -> Frame | None:
                if not isinstance(wire.decode_from_silo(*frame), KeyDealt):
                    return frame
                loop.call_soon_threadsafe(dealing.set)
                return None if goes == "b" else frame

            here.sites["b"].change = deal
            if goes == "a":
                here.sites["a"].change = lambda frame: (
                    None if isinstance(wire.decode_from_silo(*frame), KeyTaken) else frame
                )
            making = asyncio.create_task(here.keys.make("paillier", size=2048, maker="b", by="operator:lee"))
            await dealing.wait()
            await here.speakers[goes].stop()
            with pytest.raises(TooFewSilos) as few:
                await making
            assert few.value.missing == (goes,)
            assert f"{goes} (not connected)" in few.value.__notes__[0]

    run(work)


def test_a_silo_that_restarts_while_the_key_is_made_is_named_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            dealing = asyncio.Event()
            loop = asyncio.get_running_loop()

            def deal(frame: Frame) -> Frame | None:
                if not isinstance(wire.decode_from_silo(*frame), KeyDealt):
                    return frame
                loop.call_soon_threadsafe(dealing.set)
                return None

            here.sites["b"].change = deal
            making = asyncio.create_task(here.keys.make("paillier", size=2048, maker="b", by="operator:lee"))
            await dealing.wait()
            await here.speakers["d"].stop()
            here.speakers["d"].boot()
            here.speakers["d"].start()
            with pytest.raises(TooFewSilos) as few:
                await making
            assert few.value.missing == ("d",)
            assert "d (it restarted)" in few.value.__notes__[0]

    run(work)


def test_a_silo_that_says_something_else_is_named(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS}
    sites["c"].change = lambda _: (b"\x01nonsense", None)
    refused(tmp_path, sites, "c", "c (faulty: ")


def test_there_are_no_such_keys_before_anybody_is_asked(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            for named in ({"size": 1024}, {"maker": "z"}, {"threshold": 2}, {"lifetime": 367 * 24 * 3600}):
                with pytest.raises(ParameterError):
                    await here.keys.make("paillier", by="operator:lee", **named)
            assert all(site.kept == [] for site in here.sites.values())

    run(work)


def test_a_silo_that_restarts_while_sealing_keys_are_gathered_is_invited_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with world(tmp_path) as here:
            muted = asyncio.Event()
            loop = asyncio.get_running_loop()

            def mute(_: Frame) -> Any:
                loop.call_soon_threadsafe(muted.set)

            here.sites["c"].change = mute
            making = asyncio.create_task(here.keys.make("paillier", size=2048, maker="b", by="operator:lee"))
            await muted.wait()
            await here.speakers["c"].stop()
            here.sites["c"].change = lambda frame: frame
            here.speakers["c"].boot()
            here.speakers["c"].start()
            key = await making
            assert here.sites["c"].kept[0].document == key.document

    run(work)
