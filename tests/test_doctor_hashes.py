"""Fingerprints: the same picture stays near, others are far, and all near pairs are found."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext.doctor import hashes

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Draw soft colored clouds: like photos, most of what they have is in low frequencies."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def reencoded(image: Image.Image, quality: int, scale: float) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def value(image: Image.Image) -> np.ndarray:
    return np.array([hashes.fingerprint(hashes.shrink(image))], np.uint64)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(40, 95), st.floats(0.5, 2.0))
@example(0, 40, 0.5)
def test_the_same_picture_at_another_quality_and_size_is_near(
    seed: int, quality: int, scale: float
) -> None:
    image = draw(seed)
    other = reencoded(image, quality, scale)
    assert hashes.distance(value(image), value(other))[0] <= hashes.RADIUS


@settings(max_examples=25, deadline=None)
@given(SEEDS, SEEDS)
def test_another_picture_is_far(one: int, other: int) -> None:
    if one != other:
        assert hashes.distance(value(draw(one)), value(draw(other)))[0] > hashes.RADIUS


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 2), (33, 31)])
def test_every_shape_has_a_fingerprint(size: tuple[int, int]) -> None:
    small = hashes.shrink(draw(1, size))
    assert small.size == (32, 32)
    assert 0 <= hashes.fingerprint(small) < 2**64


def test_brighter_is_the_same_and_mirrored_is_not() -> None:
    image = draw(5)
    brighter = image.point(lambda level: 40 + level * 0.8)
    assert hashes.distance(value(image), value(brighter))[0] <= 2
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert hashes.distance(value(image), value(mirrored))[0] > hashes.RADIUS


@pytest.mark.parametrize("radius", [0, 4, 8, 9])
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_near_pairs_are_those_of_comparing_all(radius: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 12, np.uint64)
    found = set(base.tolist())
    for start in base.tolist():
        for flips in (1, 4, 8, 9, 10):
            for bit in rng.choice(64, flips, replace=False).tolist():
                start ^= 1 << bit
            found.add(start)
    values = np.array(sorted(found), np.uint64)
    numbers = [int(number) for number in values]
    expected = [
        (i, j)
        for i, j in combinations(range(len(numbers)), 2)
        if (numbers[i] ^ numbers[j]).bit_count() <= radius
    ]
    assert [tuple(pair) for pair in hashes.near_pairs(values, radius=radius).tolist()] == expected


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.unique(np.random.default_rng(0).integers(0, 2**10, 300).astype(np.uint64))
    whole = hashes.near_pairs(values)
    monkeypatch.setattr(hashes, "_CHUNK", 7)
    np.testing.assert_array_equal(hashes.near_pairs(values), whole)
    assert len(whole) > 1000


@pytest.mark.parametrize("count", [0, 1])
def test_few_have_no_pairs(count: int) -> None:
    assert hashes.near_pairs(np.zeros(count, np.uint64)).shape == (0, 2)
