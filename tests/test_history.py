"""Round reports, history and progress: figures stand where they belong, in words people read."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import re
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from secagg.errors import InputRefused, MissingExtra, UsageError
from secagg.learning.history import History, Record
from secagg.learning.panel import panel
from secagg.learning.progress import Board, Observer, Progress, Silent, line
from secagg.report import METRIC_DIGITS, NO_DIFFERENTIAL_PRIVACY, RoundReport, SchemeName, metric_text, size

PHASES = ("Training", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking")
SILOS = ("a", "b", "c", "d", "e", "f")
ACCURACIES = (0.125, 0.5, 0.75, 0.875)


def report(round_number: int = 1, **changes: Any) -> RoundReport:
    full = RoundReport(
        round=round_number,
        scheme="Masking",
        n=6,
        c=1,
        t=4,
        survivors=SILOS,
        parameters=487_234,
        word_bits=32,
        headroom_bits=1.25,
        worst_error=1.5e-6,
        bytes_up={phase: 1000 * (i + 1) for i, phase in enumerate(PHASES)},
        bytes_down={phase: 10 * (i + 1) for i, phase in enumerate(PHASES)},
        seconds=dict.fromkeys(PHASES, 0.25),
    )
    return replace(full, **changes)


def losing(*silos: str) -> dict[str, Any]:
    return {
        "survivors": tuple(silo for silo in SILOS if silo not in silos),
        "dropouts": dict.fromkeys(silos, "MaskedInput"),
    }


@pytest.fixture
def history() -> History:
    reports = [
        report(1),
        report(2, **losing("b", "e")),
        report(3),
        report(4, kind="metrics", seconds={"Unmasking": 1.0}),
    ]
    records = [Record(i, {"accuracy": ACCURACIES[i], "loss": 1 / (1 + i)}, r) for i, r in enumerate(reports)]
    return History(np.arange(5.0), tuple(records))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Packages named in the list cannot be imported."""
    missing: list[str] = []
    real = builtins.__import__

    def refuse(name: str, *rest: object, **named: object) -> object:
        if name.partition(".")[0] in missing:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    return missing


# --- round report ----------------------------------------------------------------------------------


def test_k_is_survivors_less_colluders() -> None:
    assert report().k == 5
    assert report(**losing("b", "e")).k == 3
    assert report(c=2, survivors=("a", "b", "c", "d")).k == 2
    assert report(scheme="Plain", c=None, t=None).k is None


def test_masking_report_says_n_t_c_k_and_who_reads() -> None:
    text = report(3, **losing("b")).text()
    assert text.startswith("round 3: Masking, the sum of 5 of 6 silos was opened\n")
    for fact in (
        "  n = 6  ",
        "  t = 4  ",
        "  c = 1  ",
        "  k = 4  ",
        "b (MaskedInput)",
        NO_DIFFERENTIAL_PRIVACY,
    ):
        assert fact in text
    flat = " ".join(text.split())
    assert (
        "The coordinator together with up to 1 silo learns nothing beyond sums over at least 4 honest" in flat
    )
    assert "head-room 1.2 bits; worst error of the mean 1.5e-06" in flat
    assert "every update" not in flat


def test_plain_report_says_that_nothing_is_protected() -> None:
    text = report(scheme="Plain", c=None, t=None).text()
    flat = " ".join(text.split())
    assert "The coordinator reads every update, sample count and metric of every silo." in flat
    assert NO_DIFFERENTIAL_PRIVACY in flat
    assert "Nobody" not in flat
    assert not any(f"  {letter} = " in text for letter in "tck")


def test_optional_figures_appear_only_when_they_were_counted() -> None:
    bare = report().text()
    assert not any(word in bare for word in ("clipped", "out of range", "total weight", "attempts", "lost"))
    full = " ".join(
        report(clipped_share=0.25, saturated=1, total_weight=4027.0008, attempts=2, **losing("b"))
        .text()
        .split()
    )
    assert "total weight 4,027; 25 % of the entries clipped" in full
    short = report(total_weight=50.0, unmet_weight=1e9).text(width=200)
    assert "total weight 50, below the 1,000,000,000 that precision was planned for: lower least" in short
    assert "beware 1 metric value out of range: raise metric_bound" in full
    assert "attempts 2, each with new keys" in full


def test_traffic_is_listed_by_phase_and_totalled() -> None:
    lines = report().text().splitlines()
    assert [row.split()[0] for row in lines[-7:-1]] == list(PHASES)
    assert lines[-4].split() == ["MaskedInput", "4", "kB", "40", "B", "0.250"]
    assert lines[-1].split() == ["all", "phases", "21", "kB", "210", "B", "1.500"]
    assert len({len(row) for row in lines[-8:]}) == 1


@pytest.mark.parametrize("width", [60, 80, 100])
def test_report_fits_the_width(width: int) -> None:
    text = report(clipped_share=0.1, saturated=7, total_weight=1e6, **losing("b", "c")).text(width=width)
    assert max(map(len, text.splitlines())) <= width


def test_terminal_report_carries_the_same_facts() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(panel(report(**losing("b"))))
    drawn = " ".join(console.export_text().split())
    for sentence in (
        "k = 4",
        "b (MaskedInput)",
        NO_DIFFERENTIAL_PRIVACY,
        "also if it lies",
        "all phases 21 kB",
    ):
        assert sentence in drawn


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1949, "1.95 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (48_200_000, "48.2 MB"),
        (5 * 10**9, "5 GB"),
        (2 * 10**15, "2 PB"),
        (2 * 10**24, "2e+06 EB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.5007, 8.6e-4, "0.50"),
        (0.5007, 2.5e-4, "0.501"),
        (0.5007, 5e-5, "0.5007"),
        (0.50074, 1e-12, "0.5007"),
        (0.50074, None, "0.5007"),
        (0.50074, 0.0, "0.5007"),
        (12.34, 0.2, "12"),
        (123.4, 3.0, "120"),
        (0.5, 2.0, "0"),
        (-0.0004, 8.6e-4, "0.00"),
        (-0.5007, 8.6e-4, "-0.50"),
        (0.0000123, 1e-12, "0.000012"),
        (0.0000123, 1e-5, "0.0000"),
        (0.0, 1e-12, "0.0000"),
        (float("nan"), float("inf"), "nan"),
        (0.5, float("inf"), "unknown"),
    ],
)
def test_a_metric_has_the_digits_that_its_error_allows(value: float, error: float | None, text: str) -> None:
    assert metric_text(value, error) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-12, 1e3), st.floats(-1, 1))
def test_a_shown_metric_is_off_by_one_of_its_last_digit_at_the_most(
    true: float, error: float, share: float
) -> None:
    text = metric_text(true + share * error, error)
    after = len(text.partition(".")[2])
    # Where tens are rounded, how many is read off the error.
    unit = 10.0**-after if after else max(1.0, 10.0 ** math.ceil(math.log10(2 * error)))
    assert abs(float(text) - true) <= unit * (1 + 1e-9) + 1e-9 * abs(true)
    assert after <= METRIC_DIGITS or abs(float(text)) < 0.001


# --- history ------------------------------------------------------------------------------------------


def test_length_counts_rounds_and_the_last_metrics_are_the_final_models(history: History) -> None:
    assert len(history) == 3
    assert len(history.records) == 4
    assert history.final_metrics == {"accuracy": 0.875, "loss": 0.25}
    assert history.series("accuracy") == ((0, 0.125), (1, 0.5), (2, 0.75), (3, 0.875))


def test_without_the_metrics_only_sum_nothing_is_called_final(history: History) -> None:
    short = History(history.model, history.records[:3])
    assert len(short) == 3
    assert short.final_metrics == {}


def test_an_empty_history_has_no_rounds() -> None:
    empty = History(np.ones(2), ())
    assert (len(empty), empty.final_metrics, empty.report()) == (0, {}, "no round was opened")


def test_a_history_whose_model_is_at_the_silos_is_shown_without_it(history: History) -> None:
    for records in ((), history.records):
        sealed = History(None, records)
        assert sealed.sealed
        assert repr(sealed).startswith(f"History(rounds={len(sealed)}, model at the silos")
        assert sealed.report()
        assert sealed._repr_html_()
        with pytest.raises(UsageError, match="at its silos alone"):
            _ = sealed.model


def test_model_is_read_only_and_the_history_keeps_its_own() -> None:
    mine = np.ones(3)
    kept = History(mine, ()).model
    mine[0] = 9.0
    assert kept[0] == 1.0
    assert not kept.flags.writeable
    with pytest.raises(InputRefused):
        History(np.array([np.nan]), ())


def test_records_out_of_order_are_refused(history: History) -> None:
    first, second, third, last = history.records
    for records in (
        (second, first),
        (first, third),
        (replace(last, completed=0), replace(first, completed=1)),
    ):
        with pytest.raises(UsageError, match="in order"):
            History(history.model, records)


def test_plot_puts_metrics_over_completed_rounds(history: History) -> None:
    mpl.use("agg")
    from matplotlib import pyplot

    axes = history.plot("accuracy")
    (drawn,) = axes.get_lines()
    assert np.asarray(drawn.get_xdata()).tolist() == [0, 1, 2, 3]
    assert np.asarray(drawn.get_ydata()).tolist() == list(ACCURACIES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("completed rounds", "accuracy")
    assert history.plot("loss", ax=axes) is axes
    assert len(axes.get_lines()) == 2
    legend = history.plot().get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["accuracy", "loss"]
    pyplot.close("all")


def test_plot_of_an_unknown_metric_names_the_known_ones(history: History) -> None:
    mpl.use("agg")
    with pytest.raises(UsageError, match="no metric 'acuracy'; there are accuracy, loss"):
        history.plot("acuracy")
    with pytest.raises(UsageError, match="no trainer returns metrics"):
        History(np.ones(1), ()).series("accuracy")


def test_dataframe_has_one_row_for_each_record(history: History) -> None:
    frame = history.to_dataframe()
    assert list(frame.index) == [0, 1, 2, 3]
    assert frame.index.name == "completed_rounds"
    assert list(frame["accuracy"]) == list(ACCURACIES)
    assert list(frame["survivors"]) == [6, 4, 6, 6]
    assert list(frame["k"]) == [5, 3, 5, 5]
    assert list(frame["sum"]) == ["train", "train", "train", "metrics"]
    assert list(frame["seconds"]) == [1.5, 1.5, 1.5, 1.0]


def test_a_metric_keeps_its_column_when_a_figure_has_its_name() -> None:
    frame = History(np.ones(1), (Record(0, {"k": 0.5}, report()),)).to_dataframe()
    assert (frame["k"][0], frame["k_of_sum"][0]) == (0.5, 5)


@pytest.mark.parametrize(("package", "call"), [("matplotlib", "plot"), ("pandas", "to_dataframe")])
def test_missing_extras_are_named_with_the_command(
    history: History, without: list[str], package: str, call: str
) -> None:
    without.append(package)
    with pytest.raises(
        MissingExtra, match=rf"{package} is not installed. Type: pip install 'secagg\[plot\]'"
    ):
        getattr(history, call)()


def test_run_report_tells_metrics_losses_and_the_weakest_sum(history: History) -> None:
    text = history.report()
    flat = " ".join(text.split())
    assert text.startswith("3 rounds completed: Masking, 6 silos\n")
    assert "4 silos were in the smallest sum" in flat
    assert "sums over at least 3 honest silos" in flat
    assert "lost b (MaskedInput) in round 2; e (MaskedInput) in round 2" in flat
    assert NO_DIFFERENTIAL_PRIVACY in flat
    assert "84 kB up, 840 B down" in flat
    assert "MaskedInput 0.75" in flat
    assert "Unmasking 1.75" in flat
    table = [row.split() for row in text.splitlines()[2:7]]
    assert table[0] == ["completed", "accuracy", "loss", "silos"]
    assert table[2] == ["1", "0.5000", "0.5000", "4", "of", "6"]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("scheme", "first"),
    [
        ("Paillier", "L0: 1 round completed: Paillier, 6 silos"),
        ("CKKS", "L0: 1 round completed: CKKS, 6 silos"),
        ("ThresholdPaillier", "1 round completed: ThresholdPaillier, 6 silos"),
    ],
)
def test_the_first_line_of_a_run_says_l0_where_silos_share_the_key(scheme: SchemeName, first: str) -> None:
    shared = History(np.ones(1), (Record(0, {}, replace(report(), scheme=scheme)),))
    assert shared.report().splitlines()[0] == first


def test_run_report_names_a_loss_once_however_many_rounds_it_took() -> None:
    reports = [report(i, **losing("b")) for i in range(1, 101)]
    history = History(np.ones(1), tuple(Record(i, {}, r) for i, r in enumerate(reports)))
    assert "lost b (MaskedInput) in 100 sums, round 1 to round 100 rounding" in " ".join(
        history.report().split()
    )


def test_run_report_bounds_updates_and_metrics_apart() -> None:
    reports = (
        report(1, worst_error=1e-5, metric_error=2e-3),
        report(2, worst_error=3e-5, metric_error=1e-3),
        report(3, kind="metrics", worst_error=4e-1, metric_error=4e-4),
    )
    history = History(np.ones(1), tuple(Record(i, {"loss": 1.0}, r) for i, r in enumerate(reports)))
    flat = " ".join(history.report().split())
    assert "rounding 3.0e-05 at the most in an entry of a mean update, 2.0e-03 in a metric" in flat
    assert "beware" not in flat
    assert "clipped" not in flat


def test_run_report_warns_of_what_was_cut() -> None:
    reports = (
        report(1, clipped_share=0.0),
        report(2, saturated=6, clipped_share=0.25),
        report(3, saturated=1),
    )
    history = History(np.ones(1), tuple(Record(i, {"loss": 1.0}, r) for i, r in enumerate(reports)))
    flat = " ".join(history.report().split())
    assert "clipped 25 % of the update entries at the most in a round" in flat
    assert "beware 7 metric values out of range: raise metric_bound; first seen in round 2" in flat


def test_repr_is_short(history: History) -> None:
    assert repr(history) == "History(rounds=3, parameters=5, accuracy=0.8750, loss=0.2500)"


@pytest.fixture
def coarse() -> History:
    """Two rounds whose metrics are known to two digits, and a final sum that knows them well."""
    reports = [report(i, metric_error=8.6e-4) for i in (1, 2)]
    reports += [report(3, kind="metrics", metric_error=1e-10)]
    return History(np.ones(1), tuple(Record(i, {"accuracy": 0.5007}, r) for i, r in enumerate(reports)))


def test_no_text_shows_more_of_a_metric_than_is_certain(coarse: History) -> None:
    table = [row.split() for row in coarse.report().splitlines()[2:6]]
    assert table[0] == ["completed", "accuracy", "±", "error", "silos"]
    assert [row[1:3] for row in table[1:]] == [["0.50", "8.6e-04"]] * 2 + [["0.5007", "1.0e-10"]]
    html = coarse._repr_html_()
    assert html.count("<td>0.50</td><td>8.6e-04</td>") == 2
    assert html.count("<td>0.5007</td><td>1.0e-10</td>") == 1
    assert "accuracy=0.5007" in repr(coarse)
    lines = [line(record.report, record.metrics, rounds=2) for record in coarse.records]
    assert lines[0].endswith("at the start: accuracy 0.50 (± 8.6e-04)")
    assert lines[2].endswith("after round 2: accuracy 0.5007")


def test_points_stand_below_each_other(coarse: History) -> None:
    rows = coarse.report().splitlines()[3:6]
    assert len({row.index("0.50") for row in rows}) == 1
    assert len({len(row) for row in rows}) == 1


def test_a_run_without_known_errors_has_no_column_for_them(history: History) -> None:
    assert "±" not in history.report() + history._repr_html_()


def test_plot_draws_the_error_as_a_band(coarse: History) -> None:
    mpl.use("agg")
    from matplotlib import pyplot

    axes = coarse.plot("accuracy")
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    for completed, error in ((0, 8.6e-4), (1, 8.6e-4), (2, 1e-10)):
        edge = corners[corners[:, 0] == completed, 1]
        assert (edge.min(), edge.max()) == pytest.approx((0.5007 - error, 0.5007 + error), abs=1e-12)
    pyplot.close("all")


def test_an_unknown_error_does_not_spoil_a_plot() -> None:
    mpl.use("agg")
    from matplotlib import pyplot

    reports = [report(i, metric_error=error) for i, error in enumerate((1e-3, math.inf, 1e-3), start=1)]
    records = zip(range(3), (0.25, math.nan, 0.75), reports, strict=True)
    axes = History(
        np.ones(1), tuple(Record(completed, {"loss": loss}, r) for completed, loss, r in records)
    ).plot("loss")
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    assert (low > 0.2, high < 0.8) == (True, True)
    pyplot.close("all")


def test_dataframe_has_the_error_beside_the_metrics(coarse: History) -> None:
    frame = coarse.to_dataframe()
    assert list(frame["accuracy"]) == [0.5007] * 3
    assert list(frame["metric_error"]) == [8.6e-4, 8.6e-4, 1e-10]


def test_html_table_escapes_names(history: History) -> None:
    assert history._repr_html_().count("<tr>") == 5
    assert "<td>4 of 6</td>" in history._repr_html_()
    hostile = History(np.ones(1), (Record(0, {"<script>": 1.0}, report()),))._repr_html_()
    assert "<script>" not in hostile
    assert "&lt;script&gt;" in hostile


# --- progress -------------------------------------------------------------------------------------------


def play(observer: Observer, silos: tuple[str, ...] = SILOS) -> None:
    with observer:
        observer.run_started(silos, PHASES, rounds=2)
        for number in (1, 2, 3):
            observer.round_started(number)
            for phase in PHASES:
                for silo in silos:
                    observer.silo_phase(silo, phase, "working")
                    observer.silo_phase(silo, phase, "done")
            kind = "metrics" if number == 3 else "train"
            observer.round_finished(
                report(number, kind=kind, n=len(silos), survivors=silos), {"accuracy": 0.5}
            )


def draw(board: Board, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(board)
    return console.export_text().splitlines()


def test_a_file_gets_one_line_for_each_sum() -> None:
    out = io.StringIO()
    play(Progress(Console(file=out, width=40)))
    assert out.getvalue().splitlines() == [
        "round 1/2  6 of 6 silos  21 kB up  1.50 s  at the start: accuracy 0.5000",
        "round 2/2  6 of 6 silos  21 kB up  1.50 s  after round 1: accuracy 0.5000",
        "final      6 of 6 silos  21 kB up  1.50 s  after round 2: accuracy 0.5000",
    ]


def test_a_terminal_that_shows_ascii_only_gets_the_lines() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    play(Progress(Console(file=out, width=80, force_terminal=True, legacy_windows=False)))
    out.seek(0)
    assert len(out.read().splitlines()) == 3


def test_a_terminal_keeps_the_lines_and_takes_the_table_away() -> None:
    out = io.StringIO()
    play(Progress(Console(file=out, width=80, force_terminal=True, _environ={"TERM": "xterm"})))
    drawn = out.getvalue()
    assert "Consistency" in drawn
    assert "at the start: accuracy" in drawn
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # The cursor comes back.


def test_an_error_gives_the_terminal_back() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=80, force_terminal=True, _environ={"TERM": "xterm"}))
    with contextlib.suppress(UsageError), progress:
        progress.run_started(SILOS, PHASES, rounds=2)
        assert "\x1b[?25l" in out.getvalue()  # The cursor is hidden while the table is drawn.
        raise UsageError("stop")
    assert out.getvalue().count("\x1b[?25h") == 1


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    play(Silent())
    assert capsys.readouterr() == ("", "")


LONG = {"accuracy": 0.5, "loss": 0.6931, "balanced accuracy": 0.25}


@pytest.mark.parametrize("width", [80, 100, 72])
def test_a_terminal_wraps_a_long_line_under_the_metrics(width: int) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=width, force_terminal=True, highlight=False))
    progress.round_finished(report(2, saturated=3, **losing("b", "e")), LONG)
    lines = out.getvalue().splitlines()
    start = lines[0].index("after round 1:")
    assert len(lines) > 1
    assert max(map(len, lines)) <= width
    assert all(row[:start].isspace() and row[start] != " " for row in lines[1:])
    whole = line(report(2, saturated=3, **losing("b", "e")), LONG, rounds=0)
    assert " ".join(" ".join(lines).split()) == " ".join(whole.split())
    assert any("accuracy 0.5000" in row for row in lines), "a metric stays with its value"


def test_a_file_gets_one_line_of_any_length_and_a_narrow_terminal_a_small_indent() -> None:
    out = io.StringIO()
    Progress(Console(file=out, width=40)).round_finished(report(2, saturated=3), LONG)
    assert out.getvalue() == line(report(2, saturated=3), LONG, rounds=0) + "\n"
    assert "\N{NO-BREAK SPACE}" not in out.getvalue()
    narrow = line(report(2, saturated=3), LONG, rounds=2, width=40).splitlines()
    assert max(map(len, narrow)) <= 40
    assert all(re.match(r"  \S", row) for row in narrow[1:])
    short = line(report(2), {"accuracy": 0.5}, rounds=2)
    assert line(report(2), {"accuracy": 0.5}, rounds=2, width=80) == short


def test_lost_silos_stand_at_the_end_of_the_line() -> None:
    text = line(report(7, **losing("b", "e")), {}, rounds=10)
    assert text == "round  7/10  4 of 6 silos  21 kB up  1.50 s  lost b, e"


def test_metrics_out_of_range_are_said_on_the_line() -> None:
    text = line(report(7, saturated=1), {"loss": 100.0}, rounds=10)
    assert text.endswith("after round 6: loss 100.0000  1 metric value out of range: raise metric_bound")
    assert "range" not in line(report(7, saturated=0), {"loss": 1.0}, rounds=10)


def test_board_fits_80_columns_with_long_names() -> None:
    silos = ("university-medical-center-of-the-east", "b")
    board = Board(silos, PHASES, rounds=3)
    board.begin(1, 2)
    for phase in PHASES:
        board.move(silos[0], phase, "done")
        board.move("b", phase, "done" if phase == "Training" else "lost")
    rows = draw(board)
    assert max(map(len, rows)) <= 80
    whole = "\n".join(rows)
    assert all(word in whole for word in ("Advertise", "Consistency", "Unmasking", "round 1 of 3, attempt 2"))
    (first,) = [row for row in rows if row.startswith(" university")]
    assert first.count("✓") == 6


def test_a_lost_silo_is_awaited_no_more() -> None:
    board = Board(("a", "b"), PHASES, rounds=1)
    board.begin(1, 1)
    board.move("a", "Training", "done")
    board.move("a", "AdvertiseKeys", "lost")
    rows = {row.split()[0]: row for row in draw(board) if row.strip()}
    assert rows["a"].split() == ["a", "✓", "✗", "lost"]
    assert rows["b"].count("·") == 6


def test_many_silos_are_counted_in_two_rows() -> None:
    silos = tuple(f"s{i}" for i in range(30))
    board = Board(silos, PHASES, rounds=1)
    board.begin(1, 1)
    for i, silo in enumerate(silos):
        board.move(silo, "Training", "lost" if i == 4 else "done")
    rows = [row.split() for row in draw(board)]
    assert ["30", "silos", "29", "0", "0", "0", "0", "0"] in rows
    assert ["lost", "1"] in rows


def test_the_bar_counts_finished_rounds_and_a_new_attempt_clears_the_table() -> None:
    board = Board(("a",), PHASES, rounds=4)
    board.begin(1, 1)
    board.move("a", "Training", "done")
    board.finish(report(1))
    board.begin(2, 1)
    whole = "\n".join(draw(board))
    assert "round 2 of 4" in whole
    assert " 1/4 " in whole
    assert "✓" not in whole
    board.begin(5, 1)
    assert "final metrics" in "\n".join(draw(board))
