"""What processes leave in the machine that they run on: no listener at a silo, no file anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.world import World

LISTENS = "0A"  # State of a socket in /proc/net/tcp, proc(5).


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Processes by the commands that operators type; their trainers write nothing."""
    with World(tmp_path_factory.mktemp("plain") / "w", ordered=False, diaries=False) as world:
        yield world


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process listens, in any family, and its bound UDP and UNIX sockets."""
    own = {
        str(file.readlink()).removeprefix("socket:[").rstrip("]")
        for file in Path(f"/proc/{pid}/fd").iterdir()
        if str(file.readlink()).startswith("socket:")
    }
    found = set()
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own and (fields[3] == LISTENS or family.startswith("udp")):
                found.add(fields[1])
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in own and len(fields) > 7:  # It has a name, so it can be found.
            found.add(fields[7])
    return found


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below ``folder``, with when it was changed and its size."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


def test_nothing_listens_at_a_silo_and_one_port_at_the_coordinator(plain: World) -> None:
    plain.check(plain.begin(1), 1)
    for silo in plain.silos:
        assert listening(plain[silo].pid) == set()
    port = int(plain.listen.rpartition(":")[2])
    assert {address.rpartition(":")[2] for address in listening(plain["coordinator"].pid)} == {f"{port:04X}"}


def test_nothing_is_written_but_in_the_state_folders_and_no_temporary_file_is_left(plain: World) -> None:
    before = files(plain.folder)
    run = plain.begin(2)
    plain.check(run, 2)
    for name in ("coordinator", *plain.silos):
        plain.end(name)
    after = files(plain.folder)
    folders = [plain.state(name) for name in ("coordinator", *plain.silos)]
    folders += [plain.home(silo) / "ledger" for silo in plain.silos]
    states = tuple(str(folder.relative_to(plain.folder)) for folder in folders)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed
    assert not {path for path in changed if not path.startswith(states)}
    for folder in ("home", "tmp", "cwd"):
        assert not list((plain.folder / folder).iterdir())
    for silo in plain.silos:
        assert {path.name for path in plain.state(silo).iterdir()} == {"journal.sqlite3", "lock", "vector"}
        kept = {path.name for path in (plain.home(silo) / "ledger").iterdir()}
        assert kept == {"data.ledger", "data.lock"}
    assert {path.name for path in plain.state("coordinator").iterdir()} == {
        "state.sqlite3",
        "lock",
        "runs",
        "spool",
    }
    assert not list((plain.state("coordinator") / "spool").iterdir())
    assert {path.name for path in plain.runs(run.run).iterdir()} == {
        "checkpoint.safetensors",
        "model.safetensors",
        "model.card.json",
    }
