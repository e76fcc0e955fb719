"""The command ``secagg`` as a process, and what it makes of errors that its commands raise."""

from __future__ import annotations

import subprocess
import sys
from typing import Protocol

import numpy as np
import pytest

import secagg
import secagg.sums
from secagg import cli
from secagg.console import EXIT_BUG
from secagg.errors import FaultyCoordinator, MissingExtra, PolicyRefused, SecaggError, TooFewSilos, exit_code
from secagg.explanation import CATALOGUE


class FailingDemo(Protocol):
    def __call__(self, error: BaseException, *options: str) -> tuple[int, str, str]: ...


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from secagg.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def failing_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FailingDemo:
    """Return a function that runs ``secagg [options] demo`` with a ``secure_sum`` that raises."""

    def call(error: BaseException, *options: str) -> tuple[int, str, str]:
        def raises(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(secagg.sums, "secure_sum", raises)
        monkeypatch.setattr(sys, "argv", ["secagg", *options, "demo", "--length", "8"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(str(ended.value.code)), captured.out, captured.err

    return call


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "explain" in done.stdout
    assert "estimate" in done.stdout
    assert run().returncode == 2, "nothing to do is a usage error"


def test_version_is_the_version_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"secagg {secagg.__version__}\n")


def test_demo_opens_the_sum_of_those_that_stayed() -> None:
    done = run("demo", "--length", "1000")
    assert done.returncode == 0, done.stderr
    assert "the sum of 5 of 6 silos was opened" in done.stdout
    assert "docklands (MaskedInput), forest (Unmasking)" in done.stdout
    assert "sum of airport, borough, central, eastside, forest\n" in done.stdout
    opened, clear = (
        line.removeprefix(label).split()
        for label in ("  opened", "  in clear")
        for line in done.stdout.splitlines()
        if line.startswith(label)
    )
    assert len(opened) == len(clear) == 7
    assert [float(x) for x in opened[:6]] == pytest.approx([float(x) for x in clear[:6]], abs=2e-6)


def test_demo_in_a_terminal_says_the_same_in_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "argv", ["secagg", "demo", "--length", "8"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "\x1b[1m" in shown
    assert all(
        word in shown for word in ("docklands (MaskedInput)", "honest silos", "all phases", "in clear")
    )


HIDES_EXTRAS = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "matplotlib", "pandas", "sklearn", "scipy", "safetensors"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
from secagg.cli import main
main()
"""


def test_demo_needs_no_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDES_EXTRAS, "demo", "--length", "10"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout


def test_demo_fails_when_the_opened_sum_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = secagg.sums.secure_sum

    def wrong(*arguments: object, **options: object) -> secagg.sums.SumResult:
        result = right(*arguments, **options)  # type: ignore[arg-type]
        shifted = result.total + np.eye(1, len(result.total), k=3)[0] * 2 * result.report.worst_error
        return secagg.sums.SumResult(shifted, result.survivors, result.report)

    monkeypatch.setattr(secagg.sums, "secure_sum", wrong)
    monkeypatch.setattr(sys, "argv", ["secagg", "demo", "--length", "8"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == EXIT_BUG
    assert "the opened sum is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["SA-4102", "sa-4102", "4102"])
def test_explain_finds_a_code_however_it_is_typed(code: str) -> None:
    done = run("explain", code)
    assert done.returncode == 0
    assert done.stdout.startswith("x SA-4102")
    assert all(label in done.stdout for label in ("cause", "safe", "you can", "they can", "exit 4"))


def test_explain_alone_lists_every_code_and_word_without_open_names() -> None:
    done = run("explain")
    known = {line.split()[0] for line in done.stdout.splitlines() if line and line[0] != " "}
    assert known == {*CATALOGUE, "errors", "schemes", "strategies", "terms"}
    assert "{" not in done.stdout


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["masking"], "Masking: "),
        (["PLAIN"], "Plain: "),
        (["threshold", "Paillier"], "ThresholdPaillier: "),
        (["pairwise", "mask"], "pairwise mask"),
    ],
)
def test_explain_knows_schemes_and_terms(words: list[str], first: str) -> None:
    done = run("explain", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(first)


def test_an_unknown_word_is_a_usage_error_that_names_the_nearest() -> None:
    done = run("explain", "treshold")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("x SA-2101")
    assert "near it: threshold" in done.stderr


def test_an_unknown_code_is_a_usage_error_in_the_shape_of_all_errors() -> None:
    done = run("explain", "SA-4999")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("x SA-2101")
    assert "SA-4102" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["demo", "--length", "0"], ["demo", "--lenght", "3"], ["dmeo"]])
def test_a_mistyped_call_exits_with_2_and_does_nothing(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MissingExtra("plot", "matplotlib"),
        TooFewSilos(3, 4, "Unmasking", ("east", "west")),
        FaultyCoordinator("two announcements differ"),
        PolicyRefused("threshold", "t = 2 is offered, 4 is the floor"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_shown_in_one_shape_and_its_class_is_the_exit_code(
    failing_demo: FailingDemo, error: SecaggError
) -> None:
    code, out, err = failing_demo(error)
    assert code == exit_code(error)
    assert out == ""
    assert err.startswith("x SA-")
    assert err.rstrip().endswith(f"exit {code}")
    assert "Traceback" not in err


def test_debug_shows_the_traceback_before_the_same_text(failing_demo: FailingDemo) -> None:
    error = TooFewSilos(3, 4, "Unmasking")
    code, _, err = failing_demo(error)
    code_in_debug, _, err_in_debug = failing_demo(error, "--debug")
    assert code == code_in_debug
    assert err_in_debug.startswith("Traceback")
    assert err_in_debug.endswith(err)


def test_a_foreign_error_shows_its_class_and_never_its_text(failing_demo: FailingDemo) -> None:
    code, _, err = failing_demo(ValueError("patient 4711"))
    assert code == EXIT_BUG
    assert "ValueError" in err
    assert "4711" not in err
    assert "Traceback" not in err
    assert "ValueError: patient 4711" in failing_demo(ValueError("patient 4711"), "--debug")[2]


def test_ctrl_c_exits_with_130(failing_demo: FailingDemo) -> None:
    assert failing_demo(KeyboardInterrupt())[0] == 130
