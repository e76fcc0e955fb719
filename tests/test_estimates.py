"""What a run is said to cost: bytes as real ones, seconds and memory as recorded, refusals with a way out."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import secagg
from secagg import measured
from secagg.ckks.limbs import plan_limbs
from secagg.ckks.parameters import RINGS
from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.costs import Party, has_shares, level_of, name_of
from secagg.errors import ParameterError, UsageError
from secagg.estimates import (
    BY_DEFAULT,
    check_memory,
    check_round_memory,
    duration,
    estimate,
    explain,
    machine_memory,
)
from secagg.explanation import explain as explain_error
from secagg.fixedpoint import Encoding, Segment
from secagg.learning.federation import Federation
from secagg.masking.params import Masking
from secagg.measured import Figure
from secagg.names import WordBits
from secagg.packing import Packing
from secagg.paillier.params import MOST_PARTIES, Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.report import SHARED_KEY, SchemeName, readers
from secagg.scheme import Scheme
from secagg.schemes import table
from secagg.terms import (
    CKKSParameters,
    MaskingParameters,
    PaillierParameters,
    PlainParameters,
    SchemeParameters,
    Terms,
    ThresholdPaillierParameters,
)
from secagg.topics import configuration
from secagg.wire import MAX_LENGTH
from tests.learners import Line
from tests.paillier_keys import secret_key

ROOT = Path(__file__).parents[1]
FIGURES = {name: value for name, value in vars(measured).items() if isinstance(value, Figure)}
EVERY_SCHEME = pytest.mark.parametrize("scheme", BY_DEFAULT, ids=name_of)
LIMIT = 10**9

schemes = st.sampled_from(BY_DEFAULT)
words = st.sampled_from(get_args(WordBits))


# --- bytes are those of the code that sends them -------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("scheme", [Masking(), Plain()], ids=name_of)
@pytest.mark.parametrize("word_bits", get_args(WordBits))
def test_a_round_sends_no_more_than_was_estimated(
    n: int, scheme: Masking | Plain, word_bits: WordBits
) -> None:
    length = 20_000
    names = [f"{i:02d}".rjust(64, "s") for i in range(n)]  # as long as a name may be
    vectors = {name: np.ones(length) for name in names}
    report = secagg.secure_sum(vectors, scheme=scheme, clip=1.0, word_bits=word_bits).report
    (cost,) = estimate(length, n, scheme=scheme, word_bits=word_bits).costs
    vector = length * word_bits // 8
    for real, party in ((report.bytes_up, cost.silo.sent), (report.bytes_down, cost.silo.received)):
        assert vector <= sum(real.values()) / n <= party < vector + n * 1400 + n * n * 300 + 100
    assert cost.coordinator.received == n * cost.silo.sent
    assert cost.coordinator.sent == n * cost.silo.received


@pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
@pytest.mark.parametrize(
    "scheme", [Paillier(bits=2048), ThresholdPaillier(bits=2048), CKKS(), CKKS(degree=4096)], ids=name_of
)
def test_a_round_of_ciphertexts_sends_no_more_than_was_estimated(scheme: Scheme) -> None:
    pytest.importorskip("gmpy2")
    pytest.importorskip("tenseal")
    length, n = 500, 3
    names = [f"{i:02d}".rjust(64, "s") for i in range(n)]
    report = secagg.secure_sum({name: np.ones(length) for name in names}, scheme=scheme, clip=1.0).report
    (cost,) = estimate(length, n, scheme=scheme).costs
    for real, bound, beside in (
        (report.bytes_up, cost.silo.sent, n * 1000),
        (report.bytes_down, cost.silo.received, n * 1600),
    ):
        assert bound - beside < sum(real.values()) / n <= bound
    assert f"phases     {', '.join(report.bytes_up)}\n" in table(report.scheme, width=200)


@pytest.mark.parametrize("bits", [2048, 3072])
@pytest.mark.parametrize("word_bits", get_args(WordBits))
def test_paillier_sends_the_ciphertexts_of_a_packed_vector(bits: int, word_bits: WordBits) -> None:
    key = secret_key(bits=bits).public
    length, n = 100_000, 5
    rows = Packing(word_bits, n, key.plaintext_bits).rows(length + 1)
    (cost,) = estimate(length, n, scheme=Paillier(bits=bits), word_bits=word_bits).costs
    beside = n * 1400
    assert 0 < cost.silo.sent - rows * key.ciphertext_size <= beside
    assert 0 < cost.silo.received - rows * key.ciphertext_size <= beside


def test_a_threshold_key_costs_all_uploads_and_all_parts_at_every_silo() -> None:
    shared, threshold = (
        estimate(100_000, 5, scheme=scheme).costs[0].silo for scheme in (Paillier(), ThresholdPaillier())
    )
    assert threshold.sent == pytest.approx(2 * shared.sent, rel=0.01)
    assert threshold.received == pytest.approx(5 * threshold.sent, rel=0.02)


@pytest.mark.parametrize("degree", RINGS)
@pytest.mark.parametrize("word_bits", get_args(WordBits))
def test_ckks_sends_the_chunks_of_every_limb(degree: int, word_bits: WordBits) -> None:
    public = pytest.importorskip("secagg.ckks.public")
    length, n = 100_000, 5
    limbs = plan_limbs(length + 1, word_bits=word_bits, cohort=n, degree=degree)
    assert limbs.count == word_bits // 32
    (cost,) = estimate(length, n, scheme=CKKS(degree=degree), word_bits=word_bits).costs
    upload, total = (8 * of(limbs.parameters) for of in (public.upload_words, public.sum_words))
    assert 0 < cost.silo.sent - upload <= n * 1000
    assert 0 < cost.silo.received - total <= n * 1400
    assert upload / length == pytest.approx(16.1 * limbs.count, rel=0.03)


# --- seconds and memory are those that were recorded ---------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_stands_in_its_record_as_it_stands_here(name: str) -> None:
    figure = FIGURES[name]
    rows = (ROOT / figure.record).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in row.split("|")] for row in rows if row.startswith("|")]
    assert any({*figure.recorded} <= {*row} for row in cells), figure.recorded
    assert figure.seconds > 0


def table_of(record: str, heading: str) -> list[list[str]]:
    """Return the rows of the table under ``heading``, their first cells being numbers."""
    text = (ROOT / record).read_text(encoding="utf-8")
    (part,) = [part for part in text.split("\n### ") if part.startswith(heading)]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in part.splitlines() if row[:1] == "|"
    ]
    return [row for row in rows if re.match(r"[\d]", row[0])]


@pytest.mark.parametrize(
    ("heading", "column"),
    [("One silo, ms of CPU", 9), ("Coordinator, ms of CPU", 9)],
    ids=["silo", "coordinator"],
)
def test_masking_takes_what_was_recorded_for_all_sizes(heading: str, column: int) -> None:
    compared = 0
    for row in table_of(measured.MASKING, heading):
        if row[2] != "0":
            continue
        (cost,) = estimate(int(float(row[0])), int(row[1]), scheme=Masking()).costs
        party = cost.silo if heading.startswith("One") else cost.coordinator
        assert 0.5 < 1e3 * party.seconds / float(row[column]) < 1.5, row
        compared += 1
    assert compared == 6


@pytest.mark.parametrize("heading", ["The coordinator's memory", "Growth"])
def test_the_coordinator_holds_what_was_recorded(heading: str) -> None:
    for row in table_of(measured.ROUND, heading):
        first = int(row[0].replace(",", ""))
        length, n = (10**7, first) if heading != "Growth" else (first, 3)
        (cost,) = estimate(length, n, scheme=Masking()).costs
        recorded = float(row[2]) * measured.MIB
        # Up to 16 MiB are there whatever the vector is.
        assert 0.9 * recorded < cost.coordinator.memory < 1.2 * recorded + 16 * measured.MIB, row


def test_ckks_holds_what_was_recorded() -> None:
    for row in table_of(measured.CKKS, "Memory of the process that adds"):
        (cost,) = estimate(int(float(row[0])), int(row[1]), scheme=CKKS()).costs
        assert float(row[4]) * measured.MIB < cost.coordinator.memory < 1.2 * float(row[4]) * measured.MIB


def test_a_million_parameters_take_what_is_known_of_them() -> None:
    found = estimate(1_000_000, 5)
    fuller = 93 / 76  # What a ciphertext holds, over what it held in the record.
    assert found["Paillier"].silo.seconds == pytest.approx((1e6 / 37030 + 1e6 / 8191) / fuller, rel=0.02)
    assert found["CKKS"].silo.seconds == pytest.approx(0.367 + 0.141, rel=0.02)
    assert found["ThresholdPaillier"].silo.seconds > 1e6 / 1100 / fuller
    assert found["Masking"].silo.seconds < 0.02
    assert [cost.name for cost in found.costs] == [*get_args(SchemeName)]


def test_a_larger_key_takes_longer_for_fewer_ciphertexts() -> None:
    small, usual, large = (
        estimate(100_000, 5, scheme=Paillier(bits=bits)).costs[0].silo.seconds for bits in (2048, 3072, 4096)
    )
    assert small < usual < large < 4 * usual


# --- more of anything never costs less -----------------------------------------------------------------


def figures(scheme: Scheme, parameters: int, n: int, word_bits: WordBits, rounds: int) -> list[float]:
    (cost,) = estimate(parameters, n, scheme=scheme, word_bits=word_bits, rounds=rounds).costs
    parties = [
        of
        for one in (cost.silo, cost.coordinator)
        for of in (one.sent, one.received, one.seconds, one.memory)
    ]
    return [*parties, cost.together]


@given(
    scheme=schemes,
    parameters=st.integers(1, 10**8),
    more=st.integers(1, 10**7),
    n=st.integers(3, MOST_PARTIES - 1),
    word_bits=words,
    rounds=st.integers(1, 100),
)
def test_more_silos_parameters_or_rounds_never_cost_less(
    scheme: Scheme, parameters: int, more: int, n: int, word_bits: WordBits, rounds: int
) -> None:
    base = figures(scheme, parameters, n, word_bits, rounds)
    assert min(base) > 0
    larger: list[Callable[[], list[float]]] = [
        lambda: figures(scheme, parameters + more, n, word_bits, rounds),
        lambda: figures(scheme, parameters, n + 1, word_bits, rounds),
        lambda: figures(scheme, parameters, n, word_bits, rounds + 1),
        lambda: figures(scheme, parameters, n, 64, rounds),
    ]
    for cost in larger:
        assert all(a <= b * (1 + 1e-12) for a, b in zip(base, cost(), strict=True))


def test_rounds_multiply_all_but_memory_and_what_is_done_once() -> None:
    for one, ten in zip(estimate(1000, 5).costs, estimate(1000, 5, rounds=10).costs, strict=True):
        assert ten.silo.sent == 10 * one.silo.sent
        assert ten.silo.memory == one.silo.memory
        once = sum(figure.seconds * times for figure, times in one.silo.steps if figure is measured.TABLE)
        assert ten.silo.seconds == pytest.approx(10 * one.silo.seconds - 9 * once)
        assert (once > 0) is (one.name in {"Paillier", "ThresholdPaillier"})


# --- what cannot be, is refused ------------------------------------------------------------------------


@EVERY_SCHEME
def test_numbers_out_of_range_are_refused(scheme: Scheme) -> None:
    for arguments in ({"parameters": 0}, {"silos": 0}, {"rounds": 0}, {"word_bits": 33}, {"silos": 2.5}):
        with pytest.raises(ParameterError):
            estimate(**({"parameters": 10, "silos": 5, "scheme": scheme} | arguments))
    if not isinstance(scheme, Plain):
        with pytest.raises(ParameterError, match="at least 3"):
            estimate(10, 2, scheme=scheme)


def test_two_silos_have_no_protection_to_choose() -> None:
    with pytest.raises(ParameterError, match="at least 3"):
        estimate(10, 2)
    assert estimate(10, 2, scheme=Plain()).costs[0].name == "Plain"


@pytest.mark.parametrize(
    ("scheme", "shown"),
    [
        ("ckks", "'ckks'"),
        ("threshold-paillier", "'threshold-paillier'"),
        (Masking, "the class Masking"),
        (5, "5"),
    ],
)
def test_what_is_no_scheme_is_refused_by_name(scheme: Any, shown: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: estimate(10, 5, scheme=scheme),
        lambda: explain(scheme, n=5),
        lambda: explain(scheme, n=5, c=1),
        lambda: check_memory(scheme, 10, 5),
    )
    for call in calls:
        with pytest.raises(
            ParameterError, match=rf"^scheme is {shown}, must be Masking\(\.\.\.\), "
        ) as error:
            call()
        assert error.value.__notes__[0].startswith("x SA-2001")


def test_what_so_many_silos_cannot_use_is_left_out_or_refused() -> None:
    assert has_shares(MOST_PARTIES)
    estimate(10, MOST_PARTIES, scheme=ThresholdPaillier())
    with pytest.raises(ParameterError, match=str(MOST_PARTIES)):
        estimate(10, MOST_PARTIES + 1, scheme=ThresholdPaillier())
    found = estimate(10, MOST_PARTIES + 1)
    assert [cost.name for cost in found.costs] == ["Masking", "Paillier", "CKKS", "Plain"]
    assert "ThresholdPaillier" not in found.text()
    with pytest.raises(KeyError):
        found["ThresholdPaillier"]


# --- in words ------------------------------------------------------------------------------------------


@given(
    scheme=schemes,
    parameters=st.integers(1, 10**12),
    n=st.integers(3, MOST_PARTIES),
    rounds=st.integers(1, 10**6),
)
@example(scheme=Masking(), parameters=4_597_360_139, n=34, rounds=983_010)
@example(scheme=Masking(), parameters=10**12, n=MOST_PARTIES, rounds=10**6)
def test_texts_fit_80_columns(scheme: Scheme, parameters: int, n: int, rounds: int) -> None:
    texts = (estimate(parameters, n, rounds=rounds).text(), explain(scheme, n=n, parameters=parameters))
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80


def test_the_table_says_where_its_figures_come_from() -> None:
    text = estimate(1_000_000, 5).text()
    joined = " ".join(text.split())
    assert "1,300 values a second and core" in joined
    for name in ("masking", "paillier", "ckks"):
        assert f"benchmarks/results/{name}-xeon-2-cores.md" in joined
    assert text.startswith("1,000,000 parameters of 32 bits, 5 silos, 1 round\n")
    assert "keys are made once, before the first round, and are not in it" in joined
    assert str(estimate(1_000_000, 5)) == f"{estimate(1_000_000, 5)}" == text
    only = estimate(1_000_000, 5, scheme=Masking()).text()
    assert "paillier" not in only.casefold()
    assert "L0" not in only
    assert "keys" not in only


@EVERY_SCHEME
def test_a_configuration_says_who_reads_and_what_it_costs(scheme: Scheme) -> None:
    text = explain(scheme, n=7, parameters=10_000)
    joined, name = " ".join(text.split()), name_of(scheme)
    assert ("L0" in text.splitlines()[0]) is (name in SHARED_KEY)
    assert f"{name}, 7 silos, 10,000 parameters" in text.splitlines()[0]
    assert "no differential privacy" in joined
    if isinstance(scheme, Plain):
        assert readers("Plain", colluders="", honest="") in joined
        assert "t =" not in text
        return
    cohort = scheme.cohort(7)
    assert (
        readers(name, colluders=f"{cohort.c} silos", honest=f"at least {cohort.min_survivors - cohort.c}")
        in joined
    )
    for label in (f"n = {cohort.n}", f"t = {cohort.t}", f"c = {cohort.c}", "k = 3"):
        assert f"  {label} " in text
    assert f"up to {cohort.max_dropouts} silos" in joined
    assert f"level {level_of(name)}: " in joined


def test_a_configuration_takes_its_own_number_of_colluders() -> None:
    assert "c = 2 " in explain(Masking(), n=5, c=2)
    assert "no silo, at any phase" in " ".join(explain(Masking(), n=3).split())
    assert explain(CKKS(), n=5) == explain(CKKS(), n=5, parameters=1_000_000)
    with pytest.raises(ParameterError, match="1 to n - 2"):
        explain(Masking(), n=5, c=4)
    with pytest.raises(ParameterError, match="no c"):
        explain(Plain(), n=5, c=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "< 0.1 ms"),
        (0.00009, "< 0.1 ms"),
        (0.0001, "0.1 ms"),
        (0.0094, "9.4 ms"),
        (0.51, "510 ms"),
        (0.9996, "1.0 s"),
        (27.2, "27 s"),
        (119.0, "119 s"),
        (150.0, "2.5 min"),
        (1140.0, "19 min"),
        (9000.0, "2.5 h"),
        (1e5, "28 h"),
        (1e6, "12 d"),
        (1e8, "3.17 y"),
        (1e13, "3.17e+05 y"),
    ],
)
def test_durations_have_a_unit_that_people_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- memory --------------------------------------------------------------------------------------------


def test_a_run_within_its_memory_is_not_refused() -> None:
    check_memory(Masking(), 1000, 5)
    check_memory(Plain(), 1000, 1)
    (cost,) = estimate(10**6, 5, scheme=CKKS()).costs
    check_memory(CKKS(), 10**6, 5, cost.together)
    with pytest.raises(ParameterError):
        check_memory(CKKS(), 10**6, 5, cost.together - 1)
    assert machine_memory() > 2**28


@pytest.mark.parametrize(("text", "least"), [("max\n", 2**28), ("268435456\n", 2**28)])
def test_a_container_has_what_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, least: int
) -> None:
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr("secagg.estimates._CONTAINER", tmp_path / "memory.max")
    assert machine_memory() >= least
    assert (machine_memory() == least) is text[0].isdigit()


def test_a_run_over_its_memory_is_refused_with_what_fits() -> None:
    with pytest.raises(ParameterError) as refused:
        check_memory(ThresholdPaillier(), 10**7, 5, LIMIT)
    text = str(refused.value)
    assert refused.value.parameter == "memory"
    assert explain_error(refused.value).code == "SA-2008"
    (needed,) = estimate(10**7, 5, scheme=ThresholdPaillier()).costs
    assert f"needs about {needed.together / 1e9:.3g} GB" in text
    assert "memory_limit is 1 GB" in text
    assert "Masking (L1, " in text
    assert "Plain" not in text, "no protection is no alternative"
    assert "CKKS" not in text, "it would not fit either"
    (most,) = re.findall(r"at most ([\d,]+) parameters", text)
    check_memory(ThresholdPaillier(), int(most.replace(",", "")), 5, LIMIT)
    with pytest.raises(ParameterError):
        check_memory(ThresholdPaillier(), int(1.02 * int(most.replace(",", ""))), 5, LIMIT)


def test_a_refusal_names_nothing_whose_messages_are_too_long() -> None:
    with pytest.raises(ParameterError) as refused:
        check_memory(CKKS(), 10**8, 5, LIMIT, holder="at the coordinator")
    assert estimate(10**8, 5)["ThresholdPaillier"].longest > MAX_LENGTH
    assert "ThresholdPaillier" not in str(refused.value)
    assert "too long   for one message under ThresholdPaillier" in estimate(10**8, 5).text(width=120)
    assert "too long" not in estimate(10**7, 5).text()


def test_where_nothing_fits_the_refusal_says_so() -> None:
    with pytest.raises(ParameterError, match="nothing fits"):
        check_memory(Masking(), 1000, 5, 1000)
    with pytest.raises(ParameterError, match="memory_limit"):
        check_memory(Masking(), 1000, 5, 0)


@given(
    scheme=schemes,
    parameters=st.integers(1, 10**9),
    n=st.integers(3, 20),
    limit=st.integers(1, 10**12),
    holder=st.sampled_from(["in one process", "at the coordinator", "at each silo"]),
)
def test_what_a_refusal_names_is_accepted(
    scheme: Scheme, parameters: int, n: int, limit: int, holder: Any
) -> None:
    try:
        check_memory(scheme, parameters, n, limit, holder=holder)
    except ParameterError as error:
        by_name = {name_of(one): one for one in BY_DEFAULT}
        for name in re.findall(r"(\w+) \(L\d, ", str(error)):
            check_memory(by_name[name], parameters, n, limit, holder=holder)
        for most in re.findall(r"at most ([\d,]+) parameters", str(error)):
            check_memory(scheme, int(most.replace(",", "")), n, limit, holder=holder)


@EVERY_SCHEME
def test_each_process_of_a_round_holds_what_its_limit_allows_and_no_more(scheme: Scheme) -> None:
    name = name_of(scheme)
    cohort = Cohort.of(5)
    parameters: dict[SchemeName, SchemeParameters] = {
        "Masking": MaskingParameters(cohort),
        "Paillier": PaillierParameters(cohort, bytes(32)),
        "ThresholdPaillier": ThresholdPaillierParameters(cohort, bytes(32)),
        "CKKS": CKKSParameters(cohort, bytes(32)),
        "Plain": PlainParameters(),
    }
    terms = Terms(
        federation="f",
        job="j",
        round=1,
        kind="sum",
        release=1,
        roster=bytes(32),
        base=bytes(32),
        scheme=parameters[name],
        encoding=Encoding(32, 5, (Segment("sum", 10**6, 1.0, 20),)),
        training=(),
    )
    (cost,) = estimate(10**6, 5, scheme=scheme).costs
    parties: dict[Literal["at the coordinator", "at each silo"], Party] = {
        "at the coordinator": cost.coordinator,
        "at each silo": cost.silo,
    }
    for holder, party in parties.items():
        check_round_memory(terms, measured.IDLE + party.memory, holder=holder)
        with pytest.raises(ParameterError, match=rf"^{name} .* {holder}, memory_limit") as refused:
            check_round_memory(terms, measured.IDLE + party.memory - 1, holder=holder)
        assert refused.value.parameter == "memory"


def test_the_protocol_holds_less_than_is_estimated() -> None:
    script = f"""
import numpy as np, secagg
from pathlib import Path
from secagg.estimates import estimate
def most(): return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
vectors = {{str(silo): np.ones({2 * 10**6}) for silo in range(5)}}
secagg.secure_sum(vectors, clip=1.0)
(cost,) = estimate({2 * 10**6}, 5, scheme=secagg.Masking()).costs
print(most() / cost.together)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from /proc")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 1


@EVERY_SCHEME
def test_a_call_over_its_memory_is_refused_before_anything_is_made(scheme: Scheme) -> None:
    vectors = {silo: np.ones(100_000) for silo in ("a", "b", "c")}
    weights = dict.fromkeys(vectors, 1.0)
    for limit, problem in ((10**6, "memory_limit is 1 MB"), (0, "memory_limit is 0")):
        with pytest.raises(ParameterError, match=problem):
            secagg.secure_sum(vectors, scheme=scheme, clip=1.0, memory_limit=limit)
        with pytest.raises(ParameterError, match=problem):
            secagg.secure_mean(vectors, weights=weights, scheme=scheme, clip=1.0, memory_limit=limit)


def test_a_federation_over_its_memory_is_refused_before_anybody_trains() -> None:
    trainers = {silo: Line(slot) for slot, silo in enumerate(("a", "b", "c"))}
    federation = Federation(trainers, metrics=(), memory_limit=10**6)
    with pytest.raises(ParameterError, match=r"memory_limit is 1 MB; (what|nothing) fits") as refused:
        federation.run(1, progress=False)
    assert refused.value.parameter == "memory"
    assert all(trainer.trained == [] for trainer in trainers.values())
    for limit in (0, 2.5, "1 GB"):
        with pytest.raises(ParameterError, match="memory_limit"):
            Federation(trainers, memory_limit=limit)  # type: ignore[arg-type]  # On purpose: it is refused.


# --- the commands --------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from secagg.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_table() -> None:
    done = run("estimate", "--parameters", "1000000", "--silos", "5", "--rounds", "10", "--word-bits", "64")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == estimate(1_000_000, 5, rounds=10, word_bits=64).text(width=80) + "\n"


def test_the_command_explains_a_configuration() -> None:
    done = run("explain", "threshold", "paillier", "--silos", "5", "--colluders", "2", "--parameters", "5000")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == explain(ThresholdPaillier(), n=5, c=2, parameters=5000) + "\n"
    for scheme in BY_DEFAULT:
        assert configuration(name_of(scheme).upper(), silos=5) == explain(scheme, n=5)
    with pytest.raises(
        UsageError, match="no scheme; there are masking, paillier, threshold-paillier, ckks, "
    ):
        configuration("lock", silos=5)
    for words, named in (
        (["ckks"], "ckks"),
        (["threshold", "paillier"], "threshold paillier"),
        ([], "masking"),
    ):
        done = run("explain", *words, "--parameters", "10")
        assert f"secagg explain {named} --silos 5" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["estimate", "--parameters", "10", "--silos", "2"], "SA-2002"),
        (["estimate", "--parameters", "0", "--silos", "5"], "SA-2001"),
        (["estimate", "--parameters", "10", "--silos", "5", "--word-bits", "16"], "SA-2001"),
        (["explain", "paillier", "--silos", "5", "--colluders", "4"], "SA-2003"),
        (["explain", "paillier", "--colluders", "1"], "SA-2101"),
        (["explain", "--silos", "5"], "SA-2101"),
        (["explain", "plain", "--silos", "5", "--colluders", "1"], "SA-2003"),
    ],
)
def test_a_wrong_call_is_refused_with_its_code(arguments: list[str], code: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"x {code}")


def test_estimates_need_no_extra() -> None:
    script = (
        "import sys\n"
        "for name in ('gmpy2', 'tenseal', 'torch'): sys.modules[name] = None\n"
        "import secagg\n"
        "secagg.estimate(10, 5).text()\n"
        "secagg.explain(secagg.CKKS(), n=5)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
