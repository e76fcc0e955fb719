"""``LocalDPSGD`` and ``DistributedDP``, in Python, in ``job.toml`` and in a request to a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from coordinator.job_file import JobFile, PrivacyTable
from secagg.errors import ParameterError
from secagg.learning.request import RunRequest, asked_of, asked_privacy, privacy_mode
from secagg.plain import Plain
from secagg.privacy.calibration import Privacy
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.terms import LocalNoise, RecordNoise, SiloNoise
from tests.test_coordinator_config import JOB
from tests.test_request import MODEL, ROSTER, keep, request

TARGET = Privacy(epsilon=3.0, delta=1e-5, rounds=2)
RECORDS: dict[str, Any] = {"unit": "record", "sampling_rate": 1.0, "batch_size": 32}
MODES: tuple[PrivacyMode, ...] = (
    LocalDPSGD(TARGET, l2_clip_norm=0.5, sampling_rate=1.0),
    DistributedDP(TARGET, l2_clip_norm=0.5),
    DistributedDP(TARGET, l2_clip_norm=0.5, **RECORDS),
)


# --- in Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [0, -1.0, float("nan"), float("inf"), "1", None, True, 1e300, 1e-300])
@pytest.mark.parametrize("kind", [LocalDPSGD, DistributedDP])
def test_a_clip_norm_is_a_number_above_0_that_is_of_use(kind: Any, norm: Any) -> None:
    with pytest.raises(ParameterError, match="l2_clip_norm"):
        kind(TARGET, l2_clip_norm=norm)


@pytest.mark.parametrize("target", [None, 3.0, (3.0, 1e-5, 2), {"epsilon": 3.0}])
@pytest.mark.parametrize("kind", [LocalDPSGD, DistributedDP])
def test_a_target_is_a_privacy(kind: Any, target: Any) -> None:
    with pytest.raises(ParameterError, match=r"must be Privacy\(epsilon=..., delta=..., rounds=...\)"):
        kind(target)


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan"), float("inf"), "0.1", True])
def test_a_rate_is_above_0_and_at_most_1(rate: Any) -> None:
    with pytest.raises(ParameterError, match="sampling_rate"):
        LocalDPSGD(TARGET, sampling_rate=rate)
    with pytest.raises(ParameterError, match="sampling_rate"):
        DistributedDP(TARGET, unit="record", sampling_rate=rate, batch_size=32)


@pytest.mark.parametrize("batch", [0, -1, float("nan"), float("inf"), "32"])
def test_a_batch_is_a_number_above_0(batch: Any) -> None:
    with pytest.raises(ParameterError, match="batch_size"):
        DistributedDP(TARGET, unit="record", sampling_rate=0.1, batch_size=batch)


@pytest.mark.parametrize("unit", ["user", "", None, 1, "Silo"])
def test_a_unit_is_a_silo_or_a_record(unit: Any) -> None:
    with pytest.raises(ParameterError, match='must be "silo" or "record"'):
        DistributedDP(TARGET, unit=unit)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sampling_rate": 0.1}, "silos are not sampled"),
        ({"batch_size": 32}, "silos are not sampled"),
        ({"unit": "record"}, "needs sampling_rate"),
        ({"unit": "record", "sampling_rate": 0.1}, "needs sampling_rate"),
        ({"unit": "record", "batch_size": 32}, "needs sampling_rate"),
    ],
)
def test_arguments_of_the_other_unit_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        DistributedDP(TARGET, **arguments)


def test_numbers_are_kept_as_floats() -> None:
    mode = DistributedDP(TARGET, unit="record", l2_clip_norm=2, sampling_rate=1, batch_size=32)
    assert (mode.l2_clip_norm, mode.sampling_rate, mode.batch_size) == (2.0, 1.0, 32.0)
    assert all(type(value) is float for value in (mode.l2_clip_norm, mode.sampling_rate, mode.batch_size))


# --- in job.toml --------------------------------------------------------------------------------------------


def job(folder: Path, text: str) -> JobFile:
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return JobFile.load(folder / "job.toml")


HEAD = "[privacy]\nepsilon = 3.0\ndelta = 1e-5\n"


@pytest.mark.parametrize(
    ("lines", "mode"),
    [
        ('mode = "local"\n', LocalDPSGD(Privacy(3.0, 1e-5, 3))),
        ('mode = "local"\nsampling_rate = 0.5\n', LocalDPSGD(Privacy(3.0, 1e-5, 3), sampling_rate=0.5)),
        ('mode = "distributed"\n', DistributedDP(Privacy(3.0, 1e-5, 3))),
        (
            'mode = "distributed"\nrounds = 9\nl2_clip_norm = 2.0\n',
            DistributedDP(Privacy(3.0, 1e-5, 9), l2_clip_norm=2.0),
        ),
        (
            'mode = "distributed"\nunit = "record"\nsampling_rate = 0.5\nbatch_size = 64\n',
            DistributedDP(Privacy(3.0, 1e-5, 3), unit="record", sampling_rate=0.5, batch_size=64),
        ),
    ],
)
def test_a_job_asks_for_a_mode(tmp_path: Path, lines: str, mode: PrivacyMode) -> None:
    table = job(tmp_path, JOB + HEAD + lines).privacy
    assert table is not None
    assert table.privacy(3) == mode


def test_a_job_without_the_table_has_no_privacy(tmp_path: Path) -> None:
    assert job(tmp_path, JOB).privacy is None


def test_what_the_table_does_not_say_is_as_in_python() -> None:
    table = PrivacyTable(mode="distributed", epsilon=3.0, delta=1e-5)
    assert table.privacy(3) == DistributedDP(Privacy(3.0, 1e-5, 3))


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("", r"privacy\.mode is missing"),
        ('mode = "central"\n', r"privacy\.mode"),
        ('mode = "local"\nunit = "record"\n', 'mode "local" takes no unit'),
        ('mode = "local"\nbatch_size = 8\n', 'mode "local" takes no batch_size'),
        ('mode = "distributed"\nunit = "user"\n', r"privacy\.unit"),
        ('mode = "distributed"\nsampling_rate = 0.1\n', "silos are not sampled"),
        ('mode = "distributed"\nunit = "record"\n', "needs sampling_rate"),
        ('mode = "local"\nsampling_rate = 1.5\n', "sampling_rate is 1.5"),
        ('mode = "local"\nl2_clip_norm = 0\n', r"privacy\.l2_clip_norm"),
        ('mode = "local"\nl2_clip_norm = inf\n', r"privacy\.l2_clip_norm"),
        ('mode = "local"\nrounds = 0\n', r"privacy\.rounds"),
        ('mode = "local"\nnoise_multiplier = 1.0\n', r"noise_multiplier is no key of \[privacy\]"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, lines: str, text: str) -> None:
    with pytest.raises(ParameterError, match=text) as caught:
        job(tmp_path, JOB + HEAD + lines)
    assert f"{tmp_path / 'job.toml'}, line " in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("epsilon = 3.0", "epsilon = 0", r"privacy\.epsilon"),
        ("epsilon = 3.0", "epsilon = nan", r"privacy\.epsilon"),
        ("epsilon = 3.0\n", "", r"privacy\.epsilon is missing"),
        ("delta = 1e-5", "delta = 1.0", "delta is 1.0"),
        ("delta = 1e-5", "delta = 0", r"privacy\.delta"),
        ("delta = 1e-5\n", "", r"privacy\.delta is missing"),
    ],
)
def test_a_target_out_of_range_is_refused(tmp_path: Path, old: str, new: str, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        job(tmp_path, JOB + HEAD.replace(old, new) + 'mode = "distributed"\n')


def test_metrics_are_refused_beside_noise(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="metrics would leave without noise"):
        job(tmp_path, JOB + 'metrics = ["loss"]\n' + HEAD + 'mode = "distributed"\n')


# --- in a request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: type(mode).__name__)
def test_a_mode_comes_back_as_it_went(mode: PrivacyMode) -> None:
    asked = request(privacy=asked_privacy(mode), metrics=())
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=RunRequest)
    assert back == asked
    assert back.privacy is not None
    assert privacy_mode(back.privacy) == mode
    terms = back.run(ROSTER, MODEL, federation="f", job="job-1", keep=keep).terms()
    match mode:
        case LocalDPSGD():
            assert isinstance(terms.privacy, LocalNoise)
        case DistributedDP(unit="silo"):
            assert isinstance(terms.privacy, SiloNoise)
        case _:
            assert isinstance(terms.privacy, RecordNoise)
    assert terms.privacy.l2_clip_norm == 0.5
    assert terms.privacy.delta == 1e-5


def test_a_request_without_privacy_stays_without() -> None:
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(request()), type=RunRequest)
    assert back.privacy is None
    assert back.run(ROSTER, MODEL, federation="f", job="job-1", keep=keep).terms().privacy is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"privacy": asked_privacy(MODES[1]), "metrics": ("loss",)}, "metrics would leave without noise"),
        (
            {"privacy": asked_privacy(MODES[1]), "rounds": 3},
            "3 rounds are asked for, and the privacy target is",
        ),
        ({"privacy": asked_privacy(MODES[1]), "scheme": asked_of(Plain())}, "without protection"),
        ({"privacy": asked_privacy(MODES[2]), "scheme": asked_of(Plain())}, "without protection"),
    ],
)
def test_a_coordinator_refuses_what_a_federation_would(changes: dict[str, Any], text: str) -> None:
    asked = request(**({"metrics": ()} | changes))
    with pytest.raises(ParameterError, match=text):
        asked.run(ROSTER, MODEL, federation="f", job="job-1", keep=keep)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"rounds": 0},
        {"l2_clip_norm": -1.0},
        {"l2_clip_norm": 1e300},
        {"sampling_rate": 0.5},
        {"batch_size": 3.0},
    ],
)
def test_a_request_with_numbers_that_no_mode_has_is_refused(change: dict[str, Any]) -> None:
    asked = msgspec.structs.replace(asked_privacy(MODES[1]), **change)
    with pytest.raises(ParameterError):
        request(privacy=asked, metrics=()).run(ROSTER, MODEL, federation="f", job="job-1", keep=keep)


def test_a_request_with_a_mode_that_there_is_not_is_no_request() -> None:
    raw = msgspec.to_builtins(request(privacy=asked_privacy(MODES[1]), metrics=()))
    msgspec.convert(raw, RunRequest)
    for name, value in (("type", "central"), ("unit", "user"), ("noise", 0.0)):
        wrong = raw | {"privacy": raw["privacy"] | {name: value}}
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, RunRequest)


def test_a_table_out_of_its_file_refuses_too() -> None:
    with pytest.raises((ValidationError, ParameterError)):
        PrivacyTable(mode="local", epsilon=-1.0, delta=1e-5)
