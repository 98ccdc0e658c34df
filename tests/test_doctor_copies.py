"""Copies: who belongs together, and what is said of each."""

from __future__ import annotations

import numpy as np
import pytest

from resnext.doctor import copies, facts
from resnext.doctor.facts import THUMBNAIL, Table
from resnext.doctor.intake import Intake
from resnext.training.features import FeatureStore
from resnext.training.listing import Entry


def make_table(count: int, store: FeatureStore | None = None) -> Table:
    """Return a table of pictures that have nothing in common."""
    rng = np.random.default_rng(0)
    records = np.zeros(count, facts._RECORD)
    records["readable"], records["spread"] = True, 255
    records["dark"], records["light"] = 20, 230
    records["hash"] = rng.integers(0, 2**64, count, np.uint64)
    records["thumbnail"] = rng.integers(0, 256, records["thumbnail"].shape, np.uint8)
    for number in range(count):
        records["content"][number, :4] = np.frombuffer(number.to_bytes(4, "big"), np.uint8)
        records["pixels"][number, :4] = records["content"][number, :4]
    entries = tuple(Entry(f"{number}.jpg", f"{number}.jpg", ("a",)) for number in range(count))
    intake = Intake(place="/data", entries=entries, parts=np.zeros(count, np.int8), labelled=True)
    return Table(intake=intake, records=records, problems={}, store=store)


def make_near(table: Table, one: int, other: int, *, noise: float = 3.0, bits: int = 4) -> None:
    """Make one picture look like another."""
    rng = np.random.default_rng(one)
    flips = sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False))
    table.records["hash"][one] = int(table["hash"][other]) ^ flips
    pixels = table["thumbnail"][other] + rng.normal(0, noise, (THUMBNAIL, THUMBNAIL, 3))
    table.records["thumbnail"][one] = np.clip(pixels, 0, 255)


def test_strangers_are_no_group() -> None:
    assert copies.find_groups(make_table(50)) == []


def test_copies_of_copies_are_one_group() -> None:
    table = make_table(9)
    table.records["content"][4] = table["content"][1]
    table.records["pixels"][4] = table["pixels"][1]
    table.records["pixels"][6] = table["pixels"][1]
    make_near(table, 8, 6)
    for field in ("hash", "thumbnail"):
        table.records[field][[1, 4]] = table.records[field][6]
    assert copies.find_groups(table) == [[1, 4, 6, 8]]
    found = copies.check_copies(table, [[1, 4, 6, 8]])
    assert [(one.problem, one.path, one.other) for one in found] == [
        ("duplicate", "4.jpg", "1.jpg"),
        ("duplicate", "6.jpg", "1.jpg"),
        ("near-duplicate", "8.jpg", "1.jpg"),
    ]
    assert [one.detail.rpartition(" ")[0] for one in found] == [
        "has the same bytes as", "has the same pixels as", "looks like",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "bits", "is_near"), [(3.0, 8, True), (3.0, 10, False), (60.0, 2, False)]
)
def test_near_copies_have_to_agree_twice(noise: float, bits: int, is_near: bool) -> None:
    table = make_table(5)
    make_near(table, 3, 1, noise=noise, bits=bits)
    assert copies.near_pairs(table).tolist() == ([[1, 3]] if is_near else [])


@pytest.mark.parametrize(("levels", "is_near"), [(20, True), (28, False)])
def test_the_same_in_another_light_is_near_only_up_to_a_shade(levels: int, is_near: bool) -> None:
    table = make_table(3)
    table.records["thumbnail"] = 50 + table["thumbnail"] // 2
    make_near(table, 2, 0, noise=0.0)
    table.records["thumbnail"][2] += np.uint8(levels)
    first, second = (table["thumbnail"][[n]].astype(np.float32) for n in (0, 2))
    assert float(copies.correlation(first, second)[0]) > 0.999
    assert copies.near_pairs(table).tolist() == ([[0, 2]] if is_near else [])


@pytest.mark.parametrize("same", [True, False])
def test_the_network_decides_where_there_is_a_doubt(same: bool, tmp_path: object) -> None:
    store = FeatureStore(tmp_path / "store", 4)  # type: ignore[operator]
    table = make_table(3, store)
    make_near(table, 2, 0, noise=17.0)
    first, second = (table["thumbnail"][[n]].astype(np.float32) for n in (0, 2))
    alike = float(copies.correlation(first, second)[0])
    assert copies.MAYBE_ALIKE <= alike < copies.SURELY_ALIKE
    rows = np.eye(4, dtype=np.float32)
    for number in range(3):
        row = rows[0] if same and number == 2 else rows[number]
        store.add(table["content"][number].tobytes(), row)
    assert len(copies.near_pairs(table)) == same


def test_many_with_one_fingerprint_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(3000)
    table.records["hash"] = 7
    compared: list[int] = []
    agree = copies._agree

    def counted(table: Table, pairs: np.ndarray) -> np.ndarray:
        compared.append(len(pairs))
        return agree(table, pairs)

    monkeypatch.setattr(copies, "_agree", counted)
    assert len(copies.near_pairs(table)) == 0
    assert sum(compared) < 4 * 3000


def test_blank_pictures_are_no_copies_of_each_other() -> None:
    table = make_table(4)
    table.records["hash"], table.records["thumbnail"] = 5, table["thumbnail"][0]
    assert copies.find_groups(table) == [[0, 1, 2, 3]]
    table.records["spread"] = 0
    assert copies.find_groups(table) == []


def test_one_whose_label_is_unknown_is_no_conflict() -> None:
    table = make_table(2)
    table.records["pixels"][1] = table["pixels"][0]
    entries = (table.entries[0], Entry("1.jpg", "1.jpg", ()))
    intake = Intake(place="/data", entries=entries, parts=np.array([0, 2], np.int8), labelled=True)
    table = Table(intake=intake, records=table.records, problems={})
    assert [one.problem for one in copies.check_copies(table, [[0, 1]])] == ["leak"]


def test_what_is_in_two_parts_is_a_leak_from_the_first() -> None:
    table = make_table(5)
    for field in ("content", "pixels"):
        table.records[field][:] = table[field][0]
    parts = np.array([0, 1, 1, 2, 2], np.int8)
    intake = Intake(place="/data", entries=table.entries, parts=parts, labelled=True)
    table = Table(intake=intake, records=table.records, problems={})
    found = copies.check_copies(table, [[0, 1, 2, 3, 4]])
    assert [(one.problem, one.part, one.path, one.other) for one in found] == [
        ("leak", "train", "0.jpg", "1.jpg"),
        ("leak", "val", "1.jpg", "3.jpg"),
        ("leak", "val", "2.jpg", "3.jpg"),
        ("duplicate", "val", "2.jpg", "1.jpg"),
        ("duplicate", "test", "4.jpg", "3.jpg"),
    ]
    assert found[1].detail == "has the same bytes as 3.jpg in test"
