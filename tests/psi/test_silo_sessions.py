"""A silo's session: killed at whatever moment it goes on to the same result, and it leaves nothing behind."""

from __future__ import annotations

import fcntl
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.errors import FaultySilo, InputRefused, ParameterError
from secagg.names import SiloId
from secagg.psi.identifiers import Key
from silo.psi.session import Session, abandon, folder_of
from silo.storage import StateFault
from tests.psi.silos import Silo, run

BANK, INSURER, SHOP = range(100), range(50, 150), range(60, 90)


class Killed(Exception):
    """Every process ends here."""


def silos(folder: Path, *sets: Any) -> list[Silo]:
    return [Silo(folder, name, ids) for name, ids in zip(("bank", "insurer", "shop"), sets, strict=False)]


def killed_at(frames: int) -> Callable[..., None]:
    left = iter(range(frames))

    def watch(*_: object) -> None:
        if next(left, None) is None:
            raise Killed

    return watch


def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every party draw the same seed in each test, so that results can be compared."""
    original = Session.__init__

    def init(self: Session, state: Path, name: str, **named: Any) -> None:
        original(self, state, name, **named, random=lambda size: state.name.encode().ljust(size))

    monkeypatch.setattr(Session, "__init__", init)


@pytest.mark.parametrize("sets", [(BANK, INSURER), (BANK, INSURER, SHOP)], ids=["two", "three"])
def test_killed_at_every_message_it_goes_on_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: Sequence[Any]
) -> None:
    fixed(monkeypatch)
    frames: list[object] = []
    undisturbed = silos(tmp_path / "undisturbed", *sets)
    run(undisturbed, watch=lambda *frame: frames.append(frame))
    here = silos(tmp_path / "killed", *sets)
    for at in range(len(frames)):
        with pytest.raises(Killed):
            run(here, watch=killed_at(at))
    found = run(here)
    assert len(frames) >= 9
    for calm, killed in zip(undisturbed, here, strict=True):
        one, other = calm.kept[-1], killed.kept[-1]
        assert one is not None
        assert other is not None
        assert one.digest == other.digest
        assert one.rows is not None
        assert other.rows is not None
        np.testing.assert_array_equal(one.rows, other.rows)
    assert {each.outcome.count for each in found.values() if each.outcome} == {
        len(set.intersection(*map(set, sets)))
    }


def test_nothing_is_left_of_a_session_that_ended(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    run(here)
    for silo in here:
        left = sorted(str(path.relative_to(silo.state)) for path in silo.state.rglob("*"))
        assert left == ["ledger", "ledger/queries", "psi"]


def test_what_is_kept_is_for_this_user_alone(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(6))
    found = [path for silo in here for path in (silo.state, *silo.state.rglob("*"))]
    assert len([path for path in found if path.is_file()]) >= 6
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("changing", [0, 1, 2])
def test_a_partner_that_changes_its_set_is_named(tmp_path: Path, changing: int) -> None:
    here = silos(tmp_path, BANK, INSURER, SHOP)
    with pytest.raises(Killed):
        run(here, watch=killed_at(18))
    here[changing].cheat("march", [*here[changing].ids, 7_000])
    with pytest.raises(FaultySilo, match="something else than before") as caught:
        run(here)
    assert caught.value.silo == here[changing].name


def test_our_own_file_that_changed_is_refused(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(3))
    changed: list[list[Key]] = [[*BANK, 7_000], list(reversed(BANK)), list(range(99))]
    for ids in changed:
        here[0].ids = ids
        with pytest.raises(
            InputRefused, match=r"customers.csv has not the identifiers any more with which march"
        ):
            run(here)
    here[0].ids = list(BANK)
    run(here)


def test_other_options_are_refused(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(3))
    here[1].options = {"reveal": "count"}
    with pytest.raises(ParameterError, match="march was begun with other parties or options"):
        run(here)


def test_before_partners_are_met_file_and_options_may_be_corrected(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    here[1].options = {"case": "keep"}
    with pytest.raises(FaultySilo, match="it was started otherwise"):
        run(here)
    here[1].options = {}
    here[0].ids = list(range(40, 90))
    found = run(here)
    assert {each.outcome.count for each in found.values() if each.outcome} == {40}


def test_whoever_was_killed_before_it_kept_whom_it_met_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, met = silos(tmp_path, BANK, INSURER), Session.meet

    def meet(self: Session, proposals: Mapping[SiloId, bytes]) -> None:
        if self._folder == folder_of(here[1].state, self.name):
            raise Killed
        met(self, proposals)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "meet", meet)
        with pytest.raises(Killed):
            run(here)
    run(here)


def test_a_partner_that_begins_anew_is_named(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(5))
    here[1].abandon("march")
    with pytest.raises(
        FaultySilo, match=r"begins march anew or otherwise.*silo psi march --abandon"
    ) as caught:
        run(here)
    assert caught.value.silo == "insurer"
    for silo in here:
        silo.abandon("march")
    run(here)


def test_a_partner_that_wants_another_role_in_a_session_that_goes_on_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one exponent would serve under two terms."""
    fixed(monkeypatch)
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(3))
    here[1].abandon("march")  # It draws the same again, as one would that leaves our program.
    here[1].options = {"first": True}
    with pytest.raises(FaultySilo, match="anew or otherwise") as caught:
        run(here)
    assert caught.value.silo == "insurer"


def test_what_is_abandoned_stays_counted(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(5))
    before = here[1].asked("bank")
    assert before == 104
    here[1].abandon("march")
    assert not folder_of(here[1].state, "march").exists()
    assert here[1].asked("bank") == before


def test_a_resumed_session_is_not_counted_twice(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER, SHOP)
    for at in (4, 12, 17, 20):
        with pytest.raises(Killed):
            run(here, watch=killed_at(at))
    run(here)
    # All learn, so the leader's query tells every follower of so many records.
    assert [here[1].asked(name) for name in ("bank", "shop")] == [104, 104]
    assert [here[0].asked(name) for name in ("insurer", "shop")] == [104, 64]


def test_there_is_nothing_to_abandon(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="there is no session april"):
        abandon(tmp_path, "april")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 65, "../other"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="a session's name"):
        folder_of(tmp_path, name)


def test_a_session_is_one_process_at_a_time(tmp_path: Path) -> None:
    (silo,) = silos(tmp_path, BANK)
    with silo.open("march", ["bank", "insurer"]):
        code = (
            "from pathlib import Path; from silo.psi.session import abandon; "
            f"abandon(Path({str(silo.state)!r}), 'march')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StateFault: march is under way in process" in done.stderr


def test_a_session_that_ends_while_another_process_comes_is_not_had_by_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (silo,) = silos(tmp_path, BANK)
    first = silo.open("march", ["bank", "insurer"])
    taken: list[int] = []
    first.keep(bytes(32), bytes(64))
    original = fcntl.lockf

    def late(file: int, how: int) -> None:
        if not taken:  # It is opened; now it is taken away, and then it is locked.
            taken.append(file)
            first.end()
        original(file, how)

    monkeypatch.setattr("silo.storage.fcntl.lockf", late)
    with silo.open("march", ["bank", "insurer"]) as second:
        assert second.load(bytes(32)) is None
        second.keep(bytes(32), bytes(96))
        assert second.load(bytes(32)) == bytes(96)
        code = (
            "from pathlib import Path; from silo.psi.session import abandon; "
            f"abandon(Path({str(silo.state)!r}), 'march')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert taken
    assert "StateFault: march is under way in process" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"damaged"])
def test_a_damaged_session_is_refused_and_can_be_abandoned(tmp_path: Path, content: bytes) -> None:
    (silo,) = silos(tmp_path, BANK)
    silo.open("march", ["bank", "insurer"]).close()
    (folder_of(silo.state, "march") / "session").write_bytes(content)
    with pytest.raises(StateFault, match=r"is damaged.*--abandon"):
        silo.open("march", ["bank", "insurer"])
    silo.abandon("march")
    silo.open("march", ["bank", "insurer"]).close()


def test_a_damaged_bucket_is_computed_again(tmp_path: Path) -> None:
    here = silos(tmp_path, BANK, INSURER)
    with pytest.raises(Killed):
        run(here, watch=killed_at(6))
    for silo in here:
        for path in folder_of(silo.state, "march").glob("powers/*"):
            data = bytearray(path.read_bytes())
            data[-40] ^= 1
            path.write_bytes(data)
    found = run(here)
    assert {each.outcome.count for each in found.values() if each.outcome} == {50}


def test_what_cannot_be_written_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = silos(tmp_path, BANK, INSURER)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("silo.psi.session.replace_file", full)
    with pytest.raises(StateFault, match="full"):
        run(here)


def test_a_folder_that_cannot_be_made_is_said_and_not_tried_for_ever() -> None:
    # What the kernel shows of itself says of a new folder that it is not found.
    with pytest.raises(StateFault, match="cannot be written"):
        Silo(Path("/proc"), "bank", BANK).open("march", ["bank", "insurer"])


def test_its_repr_shows_nothing(tmp_path: Path) -> None:
    (silo,) = silos(tmp_path, BANK)
    with silo.open("march", ["bank", "insurer"]) as session:
        assert repr(session._kept) == "_Kept()"
        assert session._kept.seed.hex() not in repr(vars(session))
