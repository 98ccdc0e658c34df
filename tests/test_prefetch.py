"""`prefetch`: order, bounds, slow and failing sources."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext import prefetch


def double(_position: int, item: int) -> int:
    return 2 * item


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 20))
def test_every_result_comes_once_and_in_order(count: int, batch_size: int, more: int) -> None:
    found = list(
        prefetch.batches(
            range(count), double, batch_size=batch_size, ahead=batch_size + more, patience=60
        )
    )
    assert list(itertools.chain(*found)) == [2 * item for item in range(count)]
    assert all(len(batch) == batch_size for batch in found[:-1])
    assert all(0 < len(batch) <= batch_size for batch in found)


def test_order_does_not_depend_on_how_long_an_item_takes() -> None:
    def work(position: int, item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item

    found = prefetch.batches(range(20), work, batch_size=4, ahead=12)
    assert list(itertools.chain(*found)) == list(range(20))


def test_an_endless_source_is_taken_from_only_so_far() -> None:
    source = itertools.count()
    found = prefetch.batches(source, double, batch_size=4, ahead=10)
    assert next(found) == [0, 2, 4, 6]
    found.close()  # type: ignore[attr-defined]
    for _ in range(100):
        time.sleep(0.02)
        if not [t.name for t in threading.enumerate() if t.name.startswith("resnext-")]:
            break
    else:
        pytest.fail("threads are left behind")
    assert next(source) <= 4 + 10 + 2


def test_a_slow_source_is_answered_without_a_full_batch() -> None:
    more = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        more.wait(30)
        yield 2

    found = prefetch.batches(slow(), double, batch_size=8, ahead=16, patience=0.02)
    assert next(found) == [2]
    more.set()
    assert list(found) == [[4]]


def test_a_source_that_fails_does_so_after_what_it_gave() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2, 3)
        raise ValueError("the source broke")

    found = prefetch.batches(failing(), double, batch_size=2, ahead=8)
    assert next(found) == [2, 4]
    assert next(found) == [6]
    with pytest.raises(ValueError, match="the source broke"):
        next(found)


def test_work_that_fails_does_so_in_its_place() -> None:
    def work(position: int, item: int) -> float:
        return 1 / (item - 2)

    found = prefetch.batches(range(9), work, batch_size=4, ahead=8)
    assert next(found) == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_slow_item_does_not_hold_back_those_before_it() -> None:
    release = threading.Event()

    def work(position: int, item: int) -> int:
        if item == 3:
            release.wait(30)
        return item

    found = prefetch.batches(range(6), work, batch_size=4, ahead=8, patience=0.02)
    assert next(found) == [0, 1, 2]
    release.set()
    assert list(itertools.chain(*found)) == [3, 4, 5]


def test_leaving_does_not_wait_for_work() -> None:
    release = threading.Event()

    def work(position: int, item: int) -> int:
        if item:
            release.wait(30)
        return item

    found = prefetch.batches(range(6), work, batch_size=1, ahead=4)
    assert next(found) == [0]
    start = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10
    release.set()


def test_a_source_is_closed_when_its_reader_leaves() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    found = prefetch.batches(source(), double, batch_size=2, ahead=4)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert closed.wait(10)
