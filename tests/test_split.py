"""`split`: the laws of the automatic split, and which pictures are copies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.training.listing import Entry, FileSlice
from resnext.training.split import find_copies, split

SHARES = st.floats(0, 0.95)
SEEDS = st.integers(0, 2**63 - 1)


def _entries(*classes: tuple[str, ...]) -> list[Entry]:
    return [Entry(f"{number}.jpg", "", names) for number, names in enumerate(classes)]


@st.composite
def grouped(draw: st.DrawFn, max_labels: int = 1) -> tuple[list[Entry], list[int]]:
    """Draw pictures with labels, some of them copies of earlier ones."""
    labels = st.lists(st.sampled_from("abcde"), min_size=max_labels == 1, max_size=max_labels)
    entries = _entries(*[tuple(names) for names in draw(st.lists(labels, min_size=1, max_size=60))])
    same: list[int] = []
    for number in range(len(entries)):
        copied = draw(st.integers(0, max(number, 0) * 4))
        same.append(same[copied] if copied < number else number)
    return entries, same


def _alone(entries: list[Entry]) -> list[int]:
    return list(range(len(entries)))


@given(grouped(max_labels=3) | grouped(), SEEDS, SHARES)
def test_every_picture_is_in_one_part_and_copies_in_the_same(
    drawn: tuple[list[Entry], list[int]], seed: int, share: float
) -> None:
    entries, same = drawn
    train, val = split(entries, same, seed=seed, val_share=share)
    assert sorted(train + val) == list(range(len(entries)))
    assert not {same[number] for number in train} & {same[number] for number in val}
    assert train == sorted(train) and val == sorted(val)


@given(grouped(max_labels=3) | grouped(), SEEDS, SHARES)
def test_every_class_keeps_a_picture_to_learn_from(
    drawn: tuple[list[Entry], list[int]], seed: int, share: float
) -> None:
    entries, same = drawn
    train, _ = split(entries, same, seed=seed, val_share=share)
    assert {name for number in train for name in entries[number].classes} == {
        name for entry in entries for name in entry.classes
    }


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), SEEDS, SHARES)
def test_each_class_gives_its_share_to_the_nearest_picture(
    sizes: list[int], seed: int, share: float
) -> None:
    entries = _entries(*[(str(name),) for name, size in enumerate(sizes) for _ in range(size)])
    _, val = split(entries, _alone(entries), seed=seed, val_share=share)
    counts = Counter(entries[number].classes[0] for number in val)
    for name, size in enumerate(sizes):
        assert counts[str(name)] == min(round(size * share), size - 1)


@given(grouped(max_labels=3), SEEDS)
def test_the_split_follows_from_names_and_seed_alone(
    drawn: tuple[list[Entry], list[int]], seed: int
) -> None:
    entries, _ = drawn
    train, _ = split(entries, _alone(entries), seed=seed, val_share=0.3)
    turned = entries[::-1]
    again, _ = split(turned, _alone(turned), seed=seed, val_share=0.3)
    assert {entries[n].name for n in train} == {turned[n].name for n in again}


def test_another_seed_gives_another_split() -> None:
    entries = _entries(*[("a",), ("b",)] * 50)
    splits = {tuple(split(entries, _alone(entries), seed=n, val_share=0.2)[1]) for n in range(10)}
    assert len(splits) == 10
    assert all(len(val) == 20 for val in splits)


def test_pictures_that_are_added_move_few_of_the_others() -> None:
    entries = _entries(*[("a",)] * 1000)
    _, before = split(entries[:900], _alone(entries[:900]), seed=0, val_share=0.2)
    _, after = split(entries, _alone(entries), seed=0, val_share=0.2)
    assert len(set(before) - set(after)) < 20


def test_pictures_of_no_class_are_shared_out_too() -> None:
    entries = _entries(*[()] * 50, *[("a", "b")] * 50)
    _, val = split(entries, _alone(entries), seed=0, val_share=0.2)
    assert Counter(entries[number].classes for number in val) == {(): 10, ("a", "b"): 10}


def test_a_split_does_not_change_with_versions() -> None:
    entries = _entries(*[("a",), ("b",)] * 6)
    assert split(entries, _alone(entries), seed=7, val_share=0.34)[1] == [0, 4, 7, 11]


def test_copies_are_found_by_their_bytes_alone(tmp_path: Path) -> None:
    large = bytes(range(256)) * 100
    contents = {
        "a": b"one",
        "b": b"two",  # as long
        "c": b"one",
        "d": large,
        "e": large[:-1] + b"x",  # differs at the end only
        "f": b"x" + large[1:],  # at the start
        "g": large[:12800] + b"x" + large[12801:],  # in the middle
        "h": large,
        "i": b"",
        "j": b"",
    }
    entries = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        entries.append(Entry(name, str(tmp_path / name), ("x",)))
    assert find_copies(entries) == [0, 1, 0, 3, 4, 5, 6, 3, 8, 8]


def test_copies_inside_larger_files_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(b"..one..two..one")
    (tmp_path / "file").write_bytes(b"one")
    pack = str(tmp_path / "pack")
    entries = [Entry(str(n), FileSlice(str(n), pack, n, 3), ("x",)) for n in (2, 7, 12)]
    entries.append(Entry("file", str(tmp_path / "file"), ("x",)))
    assert find_copies(entries) == [0, 1, 0, 0]


def test_what_cannot_be_read_is_like_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"")
    missing = [Entry(str(n), str(tmp_path / f"no{n}"), ("x",)) for n in range(2)]
    gone = [Entry(f"g{n}", FileSlice("g", str(tmp_path / "gone"), 0, 9), ("x",)) for n in range(2)]
    assert find_copies(missing + gone) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
def test_any_number_of_pictures_is_looked_at(tmp_path: Path, count: int) -> None:
    (tmp_path / "a").write_bytes(b"abcabd")
    entries = [
        Entry(str(n), FileSlice("", str(tmp_path / "a"), 3 * (n % 2), 3), ()) for n in range(count)
    ]
    assert find_copies(entries) == [n % 2 for n in range(count)]
