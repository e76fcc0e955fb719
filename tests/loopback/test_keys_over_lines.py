"""A key ceremony over real streams: silos make the key, the coordinator remembers what is public of it."""

from __future__ import annotations

import asyncio
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
from secagg.errors import ParameterError, PolicyRefused, TooFewSilos, UnexpectedMessage
from secagg.keys.document import KeyDocument, document_fault
from secagg.keys.holder import KeyHolder
from secagg.keys.keyring import HeldKey
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
        self.change: Callable[[Frame], Frame] = lambda frame: frame

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


def refused(tmp_path: Path, sites: dict[SiloId, Site], named: str, why: str) -> None:
    async def work() -> None:
        async with world(tmp_path, sites) as here:
            with pytest.raises(TooFewSilos) as few:
                await here.keys.make("paillier", size=2048, maker="b", by="operator:lee")
            assert few.value.missing == (named,)
            assert why in few.value.__notes__[0].replace("\n           ", " ")
            assert here.keys.all() == ()

    run(work)


def test_a_silo_whose_policy_refuses_is_named_with_its_rule(tmp_path: Path) -> None:
    sites = {silo: Site(silo) for silo in SILOS}
    sites["c"] = Site("c", policy=replace(POLICY, schemes=frozenset({"ckks"})))
    refused(tmp_path, sites, "c", "c (refused: scheme)")


def test_a_silo_that_is_not_connected_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.keys.PHASE_SECONDS", 1.0)
    refused(tmp_path, {silo: Site(silo) for silo in SILOS if silo != "d"}, "d", "d (not connected)")


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
