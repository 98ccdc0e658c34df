"""`order`: the laws of which picture comes when."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resnext.errors import ConfigError
from resnext.training.order import Draw, Order

SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def orders(draw: st.DrawFn, **options: int) -> Order:
    """Draw an order of a small set."""
    count = draw(st.integers(1, 60))
    batch_size = draw(st.integers(1, count))
    return Order(count=count, batch_size=batch_size, seed=draw(SEEDS), **options)


def _epoch(order: Order, epoch: int) -> list[Draw]:
    return [one for step in range(order.steps) for one in order.batch(epoch, step)]


@given(orders(), st.integers(0, 1000))
def test_an_epoch_has_no_picture_twice_and_leaves_less_than_a_batch(
    order: Order, epoch: int
) -> None:
    indices = [draw.index for draw in _epoch(order, epoch)]
    assert len(set(indices)) == len(indices) == order.steps * order.batch_size
    assert set(indices) <= set(range(order.count))
    assert order.count - len(indices) < order.batch_size


@given(SEEDS, st.integers(0, 1000))
def test_an_epoch_that_divides_is_a_permutation(seed: int, epoch: int) -> None:
    order = Order(count=24, batch_size=6, seed=seed)
    assert sorted(draw.index for draw in _epoch(order, epoch)) == list(range(24))


@settings(max_examples=25)
@given(SEEDS)
def test_what_fills_no_batch_differs_from_epoch_to_epoch(seed: int) -> None:
    order = Order(count=11, batch_size=4, seed=seed)
    seen = {draw.index for epoch in range(40) for draw in _epoch(order, epoch)}
    assert seen == set(range(11))


@given(st.data(), orders(), st.integers(0, 1000))
def test_shares_of_processes_are_disjoint_and_join_to_the_batch(
    data: st.DataObject, order: Order, epoch: int
) -> None:
    world_size = data.draw(st.sampled_from([n for n in range(1, 9) if order.batch_size % n == 0]))
    step = data.draw(st.integers(0, order.steps - 1))
    shares = [
        order.share(epoch, step, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    joined = [draw for row in zip(*shares, strict=True) for draw in row]
    assert joined == order.batch(epoch, step)


@settings(max_examples=25)
@given(SEEDS)
def test_no_two_appearances_share_a_key(seed: int) -> None:
    order = Order(count=40, batch_size=10, seed=seed)
    keys = [draw.key for epoch in range(12) for draw in _epoch(order, epoch)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)


@settings(max_examples=25)
@given(SEEDS, SEEDS)
def test_seeds_give_different_orders(first: int, second: int) -> None:
    assume(first != second)
    one, other = (
        [d for epoch in range(3) for d in _epoch(Order(count=32, batch_size=8, seed=seed), epoch)]
        for seed in (first, second)
    )
    assert [draw.index for draw in one] != [draw.index for draw in other]
    assert not {draw.key for draw in one} & {draw.key for draw in other}


@given(SEEDS)
def test_epochs_differ(seed: int) -> None:
    order = Order(count=32, batch_size=8, seed=seed)
    for one, other in pairwise([_epoch(order, epoch) for epoch in range(4)]):
        assert [draw.index for draw in one] != [draw.index for draw in other]


@given(st.data(), orders(), st.integers(0, 3))
def test_a_run_continues_from_any_step_as_if_it_had_not_stopped(
    data: st.DataObject, order: Order, epoch: int
) -> None:
    unbroken = [order.batch(epoch, step) for step in range(order.steps)]
    start = data.draw(st.integers(0, order.steps - 1))
    again = Order(count=order.count, batch_size=order.batch_size, seed=order.seed)
    rest = [again.batch(epoch, step) for step in range(start, again.steps)]
    assert rest == unbroken[start:]


@given(st.integers(1, 6), SEEDS, st.integers(0, 20))
def test_repeats_come_in_a_row_each_with_a_key_of_its_own(
    repeats: int, seed: int, epoch: int
) -> None:
    order = Order(count=60, batch_size=12, seed=seed, repeats=repeats)
    draws = _epoch(order, epoch)
    counts = Counter(draw.index for draw in draws)
    assert set(list(counts.values())[:-1]) <= {repeats}
    assert counts[draws[-1].index] <= repeats
    assert len(counts) == -(-60 // repeats)
    places = {index: [n for n, d in enumerate(draws) if d.index == index] for index in counts}
    assert all(one + 1 == other for row in places.values() for one, other in pairwise(row))
    assert len({draw.key for draw in draws}) == 60


def test_repeats_of_a_picture_go_to_neighbouring_processes() -> None:
    order = Order(count=16, batch_size=8, seed=5, repeats=2)
    first, second = (order.share(0, 0, rank=rank, world_size=2) for rank in range(2))
    assert [draw.index for draw in first] == [draw.index for draw in second]
    assert not {draw.key for draw in first} & {draw.key for draw in second}


def test_weights_say_how_often_a_picture_is_drawn() -> None:
    order = Order(count=400, batch_size=100, seed=1, weights=(0.0, 3.0) + (1.0,) * 398)
    counts = Counter(draw.index for epoch in range(50) for draw in _epoch(order, epoch))
    assert counts[0] == 0
    assert sum(counts.values()) == 50 * 400
    # 20,000 draws: 149.6 expected of the heavy one and 49.9 of each other, within 5 sigma.
    assert abs(counts[1] - 3 * 20000 / 401) < 5 * 150**0.5
    assert all(abs(counts[n] - 20000 / 401) < 5 * 50**0.5 for n in range(2, 400))


def test_weights_are_drawn_repeatably_and_shared_out() -> None:
    order = Order(count=12, batch_size=6, seed=3, weights=tuple(range(1, 13)))
    shares = [order.share(1, 1, rank=rank, world_size=3) for rank in range(3)]
    assert [draw for row in zip(*shares, strict=True) for draw in row] == order.batch(1, 1)
    assert order.batch(0, 0) != order.batch(1, 0)


def test_keys_do_not_change_with_versions() -> None:
    keys = [draw.key for draw in Order(count=3, batch_size=3, seed=7).batch(epoch=2, step=0)]
    assert keys == [3503911343099496218, 556223377253395946, 6816112958334108735]


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 9; expected at most 8"):
        Order(count=8, batch_size=9, seed=0)


def test_a_batch_that_does_not_divide_among_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 8; expected a multiple of 3"):
        Order(count=8, batch_size=8, seed=0).share(0, 0, rank=0, world_size=3)
