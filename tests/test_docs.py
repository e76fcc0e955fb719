"""What the README, docs/ and examples/ tell a reader to type, typed.

```bash and ```console blocks run as they stand; in a console block the lines after ``$`` are typed, and
what stands below them must be printed (``...`` stands for anything). Make targets that ``.ci/run`` runs
itself are not run twice. ```python blocks of one page run in order as one script. What is not meant to run
is ```text. docs/operations.md is one session: its commands run in order in one folder, and those that end
with ``&`` go on beside the others.
"""

from __future__ import annotations

import datetime
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import secagg
from examples.processes import free_port

ROOT = Path(__file__).parents[1]
# Not those of benchmarks/, whose commands measure for minutes.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/*.md")])
SESSION = ROOT / "docs" / "operations.md"
SECONDS = 180.0
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN_BY_CI = {line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()}
ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Pictures are drawn without a screen, and the terminal is 110 wide.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "MPLBACKEND": "Agg",
    "COLUMNS": "110",
}


@dataclass(frozen=True)
class Command:
    """One thing to type, and what must then be printed (None: anything)."""

    page: Path
    text: str
    printed: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0]}"


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def commands(page: Path) -> Iterator[Command]:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in {"bash", "sh", "shell"}:
            yield Command(page, block.strip())
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                typed, _, printed = part.partition("\n")
                yield Command(page, typed, printed if printed.strip() else None)


def left_to_run(command: Command) -> bool:
    lines = (line.split("#")[0].strip() for line in command.text.splitlines())
    return not all(line in RUN_BY_CI for line in lines if line)


def as_shown(command: Command, printed: str) -> bool:
    return doctest.OutputChecker().check_output(command.printed or "", printed, ALIKE)


@pytest.mark.full
@pytest.mark.parametrize(
    "command", [c for page in PAGES if page != SESSION for c in commands(page) if left_to_run(c)], ids=str
)
def test_command(command: Command) -> None:
    # Packages are found and resolved, but this environment stays as it is.
    typed = command.text.replace("pip install ", "pip install --dry-run ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if command.printed is None:
        assert done.returncode == 0, done.stdout
    else:  # what is shown may be an error, so the text decides and not the exit code
        assert as_shown(command, done.stdout), f"shown:\n{command.printed}\nprinted:\n{done.stdout}"


class Session:
    """One page's commands, typed in order in one folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = str(port)
        self._beside: list[subprocess.Popen[str]] = []
        self._environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}

    def type(self, command: Command) -> None:
        text, printed = (
            part and part.replace("7443", self._port) for part in (command.text, command.printed)
        )
        assert text is not None
        command = Command(
            command.page, text.replace("develop ", f"develop --listen 127.0.0.1:{self._port} "), printed
        )
        if command.text.endswith(" &"):
            self._start(command)
        else:
            self._run(command)

    def _run(self, command: Command) -> None:
        locks = re.findall(r"\$\(cat (\S+)\)", command.text)
        ended = {int(file.read_text()) for lock in locks for file in self._folder.glob(lock)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.text],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        for process in self._beside:
            if process.pid in ended:
                process.wait(SECONDS)
        shown = command.printed is None and done.returncode == 0
        assert shown or as_shown(command, done.stdout), (
            f"{command.text}\n{command.printed}\n---\n{done.stdout}"
        )

    def _start(self, command: Command) -> None:
        with (self._folder / f"{len(self._beside)}.log").open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command.text.removesuffix('&')}"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._beside.append(process)
        printed = ""
        for line in process.stdout or () if command.printed else ():
            printed += line
            if as_shown(command, printed):
                return
        assert not command.printed, f"{command.text}\n{command.printed}\n---\n{printed}"

    def end(self) -> None:
        for process in self._beside:
            process.kill()
            process.communicate()


@pytest.mark.full
def test_the_session_of_an_operator(tmp_path: Path) -> None:
    session = Session(tmp_path, free_port())
    try:
        for command in commands(SESSION):
            session.type(command)
    finally:
        session.end()


@pytest.mark.full
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(blocks(page, "python"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_blocks(page: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_changelog_dates_every_version_down_from_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    dates = {}
    for heading in released:
        entry = re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", heading)
        assert entry, heading
        dates[entry[1]] = datetime.date.fromisoformat(entry[2])
    assert next(iter(dates)) == secagg.__version__
    assert list(dates.values()) == sorted(dates.values(), reverse=True)


def test_no_block_is_left_without_a_language() -> None:
    bare = [
        str(p.relative_to(ROOT))
        for p in PAGES
        for language, _ in FENCE.findall(p.read_text())
        if not language
    ]
    assert not bare, "a block without a language is neither run nor excused: write ```text"
