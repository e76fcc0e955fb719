"""What the coordinator remembers of keys: their documents, in order, across processes, and never a secret."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from coordinator.keys import usable
from coordinator.store import DATABASE, Store
from secagg.errors import EnvironmentFault
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.document import DAY, SCHEMES
from secagg.terms import KeyScheme
from tests.ceremonies import NOW, SILOS, Ceremony


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


@cache
def made(scheme: KeyScheme = "paillier", seed: str = "key") -> tuple[Ceremony, EstablishedKey]:
    done = Ceremony.of(scheme, seed=seed)
    return done, done.run()


def test_keys_are_there_for_the_next_process_in_the_order_in_which_they_came(store: Store) -> None:
    keys = [made("paillier")[1], made("ckks")[1], made("paillier", "next")[1], made("threshold-paillier")[1]]
    assert store.keys() == ()
    for key in keys:
        store.add_key(key)
    store.close()
    again = Store(store.path.parent)
    assert again.keys() == tuple(keys)
    assert again.key("paillier") == keys[2]  # The last one is what rounds use.
    assert again.key("ckks") == keys[1]
    assert again.key("threshold-paillier") == keys[3]
    again.close()


def test_a_scheme_without_a_key_has_none(store: Store) -> None:
    store.add_key(made("ckks")[1])
    assert store.key("paillier") is None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_that_opens_is_on_the_coordinators_disk(scheme: KeyScheme, store: Store) -> None:
    done, key = made(scheme)
    store.add_key(key)
    store.close()
    disk = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert key.content[-64:] in disk  # The control: what was kept is there.
    for silo in SILOS:
        secret = done.held(silo).content
        assert secret[-64:] not in disk
        assert secret[40:104] not in disk


def test_a_secret_in_the_place_of_a_document_is_refused_when_it_is_read(store: Store) -> None:
    done, key = made()
    store.add_key(replace(key, content=done.held("a").content))
    for read in (store.keys, lambda: store.key("paillier")):
        with pytest.raises(EnvironmentFault) as fault:
            read()
        assert "secret" not in str(fault.value)
        assert done.held("a").content.hex()[80:112] not in repr(fault.value)


def test_a_damaged_document_is_said_so(store: Store) -> None:
    store.add_key(made()[1])
    with sqlite3.connect(store.path.parent / DATABASE) as connection:
        connection.execute("UPDATE keys SET document = substr(document, 1, 100)")
    with pytest.raises(EnvironmentFault, match="damaged"):
        store.keys()


def test_a_key_is_usable_to_the_end_of_its_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    key = made()[1]
    for now, expected in ((NOW, True), (key.document.expires - 1, True), (key.document.expires, False)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert usable(key) == expected
    assert key.document.expires == NOW + 90 * DAY
