"""The keys and the base model that a silo keeps on disk: whole or not at all, for this user alone."""

from __future__ import annotations

import os
import traceback
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg.errors import MalformedMessage, PolicyRefused
from secagg.keys.document import DAY, SCHEMES
from secagg.keys.keyring import HeldKey, Keyring
from secagg.learning.model import GlobalModel
from secagg.learning.workload import Pin
from secagg.messages import Opened
from secagg.terms import KeyScheme
from silo.journal import Journal
from silo.key_files import KeyFiles
from silo.storage import StateFault
from tests.ceremonies import NOW, ROSTER, Ceremony
from tests.test_silo_journal import files_end_at

EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


@cache
def held(scheme: KeyScheme = "paillier") -> HeldKey:
    done = Ceremony.of(scheme)
    done.run()
    return done.held("a")


def older(key: HeldKey, seconds: int) -> HeldKey:
    """Return a key that says it was made before."""
    document = replace(key.document, made=key.document.made - seconds)
    return HeldKey(document, key.content, slot=key.slot)


def files(folder: Path) -> KeyFiles:
    return KeyFiles(folder / "keys")


# --- keys --------------------------------------------------------------------------------------------------


@EVERY_SCHEME
def test_a_key_that_was_kept_is_there_for_the_next_process(scheme: KeyScheme, tmp_path: Path) -> None:
    assert files(tmp_path).read() == ()
    files(tmp_path).keep(held(scheme))
    [again] = files(tmp_path).read()
    assert (again.document, again.slot, again.content) == (
        held(scheme).document,
        held(scheme).slot,
        held(scheme).content,
    )
    assert Keyring("a", ROSTER, [again]).held(again.document.key, scheme=scheme, now=NOW) is again


def test_keys_come_back_oldest_first_and_a_replaced_one_stays(tmp_path: Path) -> None:
    old, new = older(held("ckks"), DAY), held("paillier")
    for key in (new, old):
        files(tmp_path).keep(key)
    assert [key.document for key in files(tmp_path).read()] == [old.document, new.document]
    keyring = Keyring("a", ROSTER, files(tmp_path).read())
    assert keyring.held(old.document.key, scheme="ckks", now=NOW).document == old.document
    with pytest.raises(PolicyRefused, match="past its lifetime"):
        keyring.held(old.document.key, scheme="ckks", now=old.document.expires)


def test_only_this_user_may_read_a_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files(tmp_path).keep(held())
    finally:
        os.umask(before)
    [path] = (tmp_path / "keys").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert held().document.key.hex().startswith(path.stem)
    path.chmod(0o644)
    files(tmp_path).keep(held())
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_half_written_is_no_key_and_in_nobodys_way(tmp_path: Path) -> None:
    files(tmp_path).keep(held("ckks"))
    half = tmp_path / "keys" / f"{held().document.key.hex()[:32]}.new"
    half.write_bytes(held().to_bytes()[:100])
    half.chmod(0o644)
    assert [key.document.scheme for key in files(tmp_path).read()] == ["ckks"]
    files(tmp_path).keep(held())
    assert len(files(tmp_path).read()) == 2
    assert not half.exists()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_of_a_key_that_a_crash_kept_from_its_place_nothing_is_left(tmp_path: Path) -> None:
    """Its secret would lie there for ever: the ceremony that made it was never told that it is held."""
    files(tmp_path).tidy()  # Without a folder too.
    files(tmp_path).keep(held("ckks"))
    whole = tmp_path / "keys" / f"{held().document.key.hex()[:32]}.new"
    whole.write_bytes(held().to_bytes())
    assert len(files(tmp_path).read()) == 1
    assert whole.exists(), "another process may be writing it"
    files(tmp_path).tidy()
    assert not whole.exists()
    assert [key.document.scheme for key in files(tmp_path).read()] == ["ckks"]


def test_what_cannot_be_taken_away_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys" / "folder.new").mkdir(parents=True)
    with pytest.raises(StateFault, match=r"folder\.new cannot be taken away"):
        files(tmp_path).tidy()


def test_a_key_that_cannot_be_written_is_not_there_and_leaves_the_old_one(tmp_path: Path) -> None:
    files(tmp_path).keep(held())
    with files_end_at(64), pytest.raises(StateFault, match="the key was not taken"):
        files(tmp_path).keep(held("ckks"))
    with files_end_at(64), pytest.raises(StateFault, match="the key was not taken"):
        files(tmp_path).keep(held())
    assert [key.content for key in files(tmp_path).read()] == [held().content]
    assert not list((tmp_path / "keys").glob("*.new"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"")
    with pytest.raises(StateFault, match="the key was not taken"):
        files(tmp_path).keep(held())


@EVERY_SCHEME
@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "secret", "first", "document"])
def test_a_damaged_key_is_named_with_what_to_do_and_nothing_of_it_is_shown(
    scheme: KeyScheme, damage: str, tmp_path: Path
) -> None:
    files(tmp_path).keep(held(scheme))
    [path] = (tmp_path / "keys").iterdir()
    data = path.read_bytes()
    middle = len(data) - len(held(scheme).content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:-1],
            "longer": data + b"\0",
            "secret": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "first": bytes([data[0] ^ 1]) + data[1:],
            "document": data[:30] + bytes([data[30] ^ 0xFF]) + data[31:],
        }[damage]
    )
    with pytest.raises(StateFault) as fault:
        files(tmp_path).read()
    assert str(fault.value) == (
        f"{path} is damaged: take it away; a peer sends the key again, unless it is a share"
    )
    check_hidden("".join(traceback.format_exception(fault.value)), held(scheme))


def check_hidden(shown: str, key: HeldKey) -> None:
    """No run of the secret is in a text, as bytes, digits or numbers."""
    content = key.content
    for start in range(64, len(content) - 16, 16):  # It begins with the name of its format.
        part = content[start : start + 16]
        if part.count(0) < 8:
            assert part.hex() not in shown
            assert repr(part)[2:-1] not in shown
            assert str(int.from_bytes(part, "big"))[:20] not in shown


@given(st.data())
def test_a_key_of_which_one_bit_changed_is_refused(data: st.DataObject) -> None:
    key = held(data.draw(st.sampled_from(("paillier", "ckks"))))
    content = bytearray(key.to_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MalformedMessage) as refused:
        HeldKey.from_bytes(bytes(content))
    check_hidden("".join(traceback.format_exception(refused.value)), key)


@EVERY_SCHEME
def test_nothing_that_is_printed_of_a_key_is_secret(scheme: KeyScheme) -> None:
    key = held(scheme)
    for shown in (repr(key), str(key), f"{[key]}", repr(key.secret), str(key.document)):
        check_hidden(shown, key)
    assert repr(key) == f"HeldKey({scheme}, id {key.document.key.hex()[:16]})"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys" / "folder.key").mkdir(parents=True)
    with pytest.raises(StateFault, match=r"folder\.key cannot be read"):
        files(tmp_path).read()


# --- the base ----------------------------------------------------------------------------------------------

JOB = ("brains", "job-1")


def model(number: int, *, state: bool = False) -> GlobalModel:
    weights = np.linspace(-1.0, number, 50)
    return GlobalModel(number, weights, (weights * 2,) if state else ())


def pin_of(base: GlobalModel, job: tuple[str, str] = JOB) -> Pin:
    return Pin(*job, base.round, base.digest)


def journal(folder: Path) -> Journal:
    return Journal(folder / "state", roster=bytes(32))


@pytest.mark.parametrize("state", [False, True])
def test_the_base_that_was_kept_comes_back_with_what_it_is(state: bool, tmp_path: Path) -> None:
    base = model(3, state=state)
    with journal(tmp_path) as opened:
        assert opened.held() == (None, None)
        opened.keep_base(pin_of(base), base)
        opened.keep(pin_of(base))
    with journal(tmp_path) as opened:
        pin, found = opened.held()
        assert pin == pin_of(base)
        assert found is not None
        assert (found.round, found.digest) == (3, base.digest)
        assert (opened.folder / "base").stat().st_mode & 0o077 == 0


def test_a_crash_between_the_base_and_its_pin_leaves_the_later_one(tmp_path: Path) -> None:
    first, second = model(3), model(4)
    with journal(tmp_path) as opened:
        opened.keep_base(pin_of(first), first)
        opened.keep(pin_of(first))
        opened.keep_base(pin_of(second), second)
    with journal(tmp_path) as opened:
        pin, found = opened.held()
        assert pin == pin_of(second)
        assert found is not None
        assert found.digest == second.digest


def test_what_was_said_of_a_sum_is_kept_with_the_model_and_no_earlier(tmp_path: Path) -> None:
    first, second = model(3), model(4)
    said = Pin(*JOB, 4, second.digest, Opened(bytes(32), second.digest, ("west", "east"), ("east",)))
    with journal(tmp_path) as kept:
        kept.keep_base(pin_of(first), first)
        kept.keep(pin_of(first))
        assert kept.held()[0] == pin_of(first)
        kept.keep_base(said, second)
    for _ in range(2):  # Before and after what the model was is written too.
        with journal(tmp_path) as kept:
            pin, found = kept.held()
            assert pin == said
            assert found is not None
            kept.keep(pin)


@pytest.mark.parametrize(
    "kept",
    [
        pin_of(model(5)),  # Two rounds later than what is pinned.
        pin_of(model(2)),  # Earlier.
        pin_of(model(4), ("brains", "job-2")),
        pin_of(model(4), ("hearts", "job-1")),
    ],
)
def test_a_base_of_another_round_or_job_is_not_held(kept: Pin, tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.keep(pin_of(model(3)))
        opened.keep_base(kept, model(kept.round))
        assert opened.held() == (pin_of(model(3)), None)


def test_a_base_without_any_pin_is_not_held(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.keep_base(pin_of(model(3)), model(3))
        assert opened.held() == (None, None)


def test_a_base_that_is_not_what_its_header_says_is_not_held(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.keep(pin_of(model(3)))
        opened.keep_base(pin_of(model(3)), model(4))
        assert opened.held() == (pin_of(model(3)), None)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_base_counts_as_absent(damage: str, tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.keep_base(pin_of(model(3)), model(3))
        opened.keep(pin_of(model(3)))
        path = opened.folder / "base"
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data[:-9] if damage == "cut" else data[:200] + b"\x55\xaa" + data[202:])
        assert opened.held() == (pin_of(model(3)), None)


def test_a_base_without_space_leaves_the_old_one(tmp_path: Path) -> None:
    large = GlobalModel(4, np.zeros(100_000), ())
    with journal(tmp_path) as opened:
        opened.keep_base(pin_of(model(3)), model(3))
        opened.keep(pin_of(model(3)))
        with files_end_at(64 * 1024), pytest.raises(StateFault):
            opened.keep_base(pin_of(large), large)
        pin, found = opened.held()
        assert pin == pin_of(model(3))
        assert found is not None
        assert not list(opened.folder.glob("*.new"))


def test_a_base_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        (opened.folder / "base").mkdir()
        with pytest.raises(StateFault):
            opened.held()
