"""Values side by side in one plaintext: no sum leaves its lane."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError, UsageError
from secagg.shared_sums.lanes import Lanes


def numbers(lanes: Lanes, records: list[list[int]]) -> list[int]:
    """Sums of the plaintexts, as adding ciphertexts gives them."""
    rows = [int.from_bytes(row.tobytes(), "little") for row in lanes.pack(records)]
    return [sum(rows[at :: lanes.plaintexts]) for at in range(lanes.plaintexts)]


@given(st.data())
def test_sums_of_packed_records_are_sums_of_their_columns(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 40))
    largest = data.draw(st.integers(1, 2**70))
    lanes = Lanes(columns=columns, largest=largest, records=100, plaintext_bits=2047)
    value = st.one_of(st.integers(0, largest), st.sampled_from([0, largest]))
    records = data.draw(st.lists(st.lists(value, min_size=columns, max_size=columns), max_size=4))
    records += [[largest] * columns] * data.draw(st.sampled_from([0, 1, 100 - len(records)]))
    sums = numbers(lanes, records)
    assert all(each < 2**2047 for each in sums)
    wanted = tuple(map(sum, zip(*records, strict=True))) or (0,) * columns
    assert lanes.unpack(sums, records=len(records)) == wanted


def test_lanes_that_a_plaintext_has_no_room_for_take_another() -> None:
    lanes = Lanes(columns=5, largest=2**60 - 1, records=2**10, plaintext_bits=143)
    assert (lanes.bits, lanes.lanes, lanes.plaintexts) == (70, 2, 3)
    assert numbers(lanes, [[1, 2, 3, 4, 5]] * 2) == [2 + (4 << 70), 6 + (8 << 70), 10]
    with pytest.raises(ParameterError, match="no room in a plaintext of 143 bits"):
        Lanes(columns=1, largest=2**140, records=2**10, plaintext_bits=143)


@pytest.mark.parametrize("record", [[1], [1, 2, 3], [-1, 2], [1, 11]])
def test_other_values_are_not_packed(record: list[int]) -> None:
    with pytest.raises(UsageError, match="2 values from 0 to 10"):
        Lanes(columns=2, largest=10, records=4, plaintext_bits=2047).pack([record])


@pytest.mark.parametrize("plaintext", [21, 1 << 12, 21 << 6])
def test_what_is_no_sum_of_so_many_values_is_not_unpacked(plaintext: int) -> None:
    lanes = Lanes(columns=2, largest=10, records=4, plaintext_bits=2047)
    assert lanes.unpack([20 | 20 << 6], records=2) == (20, 20)
    with pytest.raises(MalformedMessage, match="no sum of"):
        lanes.unpack([plaintext], records=2)
