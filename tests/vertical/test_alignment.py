"""What parties bring, and which of their rows are one record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secagg.conversation import Side, say, together
from secagg.errors import FaultySilo, InputRefused, ParameterError, PolicyRefused
from secagg.messages import Part
from secagg.psi import IntersectionPolicy
from secagg.vertical import Party, align
from secagg.vertical.checkpoints import InMemory, agreed_step


def party(name: str, ids: list[str], **more: Any) -> Party:
    return Party(name, np.arange(2.0 * len(ids)).reshape(-1, 2), ids, **more)


def test_rows_of_two_and_of_three_parties_are_one_record_in_one_order() -> None:
    ids = {"bank": ["d", "a", "b", "x"], "insurer": ["A ", "b", "c", "d"], "shop": ["b", "d", "y", "a"]}
    for names in (["bank", "insurer"], ["bank", "insurer", "shop"]):
        parties = [party(name, ids[name], y=[0, 1, 0, 1] if name == "bank" else None) for name in names]
        alignment = align(parties)
        assert alignment.count == 3
        assert alignment.names == tuple(names)
        assert alignment.label_party == "bank"
        assert len(alignment.digest) == 32
        records = {name: [ids[name][row].strip().lower() for row in alignment.rows[name]] for name in names}
        assert len({tuple(records[name]) for name in names}) == 1
        assert sorted(records["bank"]) == ["a", "b", "d"]
        for name, each in zip(names, parties, strict=True):
            np.testing.assert_array_equal(alignment.features(name), each.X[alignment.rows[name]])
        np.testing.assert_array_equal(alignment.labels(), np.array([0.0, 1, 0, 1])[alignment.rows["bank"]])


def test_a_policy_keeps_back_what_is_too_small() -> None:
    parties = [party("bank", ["a", "b"]), party("insurer", ["b", "c"])]
    with pytest.raises(PolicyRefused):
        align(parties, policy=IntersectionPolicy(smallest_intersection=2))


def test_labels_stand_at_one_party_at_most() -> None:
    with pytest.raises(ParameterError, match="one party has the labels; here bank and insurer do"):
        align([party("bank", ["a"], y=[1]), party("insurer", ["a"], y=[0])])
    alignment = align([party("bank", ["a"]), party("insurer", ["a"])])
    with pytest.raises(ParameterError, match="no party has labels"):
        _ = alignment.label_party
    with pytest.raises(ParameterError, match="no party has labels"):
        alignment.labels()


def test_two_parties_of_one_name_are_refused() -> None:
    with pytest.raises(ParameterError, match="one name"):
        align([party("bank", ["a"]), party("bank", ["a"])])


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"X": [[1.0], [np.nan]]}, InputRefused, "not a finite number"),
        ({"X": [["a"], ["b"]]}, InputRefused, "must be numbers"),
        ({"X": [1.0, 2.0]}, InputRefused, "must be .rows, columns."),
        ({"ids": ["a"]}, InputRefused, "1 identifiers for 2 rows"),
        ({"y": [1.0]}, InputRefused, "y has shape"),
        ({"y": [1.0, np.inf]}, InputRefused, "not a finite number"),
        ({"columns": ["a", "b"]}, ParameterError, "1 columns need as many names"),
        ({"name": "a bank"}, ParameterError, "silo name"),
    ],
)
def test_what_no_party_can_bring_is_refused(given: dict[str, Any], error: type[Exception], text: str) -> None:
    good: dict[str, Any] = {"name": "bank", "X": [[1.0], [2.0]], "ids": ["a", "b"]}
    Party(**good)
    with pytest.raises(error, match=text):
        Party(**{**good, **given})


def test_what_a_party_holds_is_its_own_and_is_not_shown() -> None:
    given = np.array([[123456.0]])
    bank = Party("bank", given, ["id-987"], y=[1.0])
    given[0, 0] = 0
    assert bank.X[0, 0] == 123456.0
    assert not bank.X.flags.writeable
    assert repr(bank) == "Party('bank', rows=1, columns=1, labels=True)"
    shown = repr(align([bank, Party("insurer", [[2.0]], ["id-987"])]))
    assert "123456" not in shown
    assert "987" not in shown


def test_two_steps_are_kept() -> None:
    kept = InMemory()
    for step in (1, 2, 3):
        kept.save(step, bytes([step]))
    assert kept.load() == {2: b"\x02", 3: b"\x03"}
    kept.save(2, b"again")  # Gone on from step 1, which another party had last.
    assert kept.load() == {2: b"again"}


@pytest.mark.parametrize(
    ("a", "b", "step"), [(0, 0, 0), (1, 0, 0), (3, 3, 3), (3, 4, 3), (4, 3, 3), (3, 5, 0)]
)
def test_parties_go_on_from_the_last_step_that_all_have(a: int, b: int, step: int) -> None:
    kept = {"a": InMemory(), "b": InMemory()}
    for name, last in (("a", a), ("b", b)):
        for at in range(1, last + 1):
            kept[name].save(at, f"{name}{at}".encode())
    agreed = together(
        {
            "a": agreed_step(bytes(32), ["b"], kept["a"]),
            "b": agreed_step(bytes(32), ["a"], kept["b"]),
        }
    )
    for name in "ab":
        assert agreed[name] == (step, f"{name}{step}".encode() if step else None)


def test_other_terms_are_refused_by_name() -> None:
    sides = {
        "a": agreed_step(bytes(32), ["b"], InMemory()),
        "b": agreed_step(bytes(31) + b"\x01", ["a"], InMemory()),
    }
    with pytest.raises(FaultySilo, match=r"[ab]: it agreed on other records"):
        together(sides)


def test_garbage_is_no_standing() -> None:
    class Other(Part, frozen=True, tag=True):
        pass

    def rubbish() -> Side[tuple[int, bytes | None]]:
        yield from say("a", Other())
        return 0, None

    with pytest.raises(FaultySilo, match=r"^b: it did not say what was due"):
        together({"a": agreed_step(bytes(32), ["b"], InMemory()), "b": rubbish()})
