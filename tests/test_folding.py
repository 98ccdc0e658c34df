"""Folding: batch norms and normalization into weights, narrow groups into wide ones."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import random_tensors

from resnext import arch
from resnext.engines import folding
from resnext.errors import ModelFileError
from resnext.layers import Conv

TINY = arch.parse("resnext29_1x1d", num_classes=2)
Array = npt.NDArray[Any]


def test_batch_norm_is_folded_in_float64() -> None:
    conv = Conv("conv1", "bn1", 3, 64, 3)
    tensors = random_tensors(TINY, seed=7)
    weight, bias = folding.fold(conv, tensors)
    assert weight.dtype == bias.dtype == np.float64
    pictures = np.random.default_rng(0).normal(size=(3, 3, 3))
    plain = (tensors["conv1.weight"].astype(np.float64) * pictures).sum(axis=(1, 2, 3))
    norm = {key: tensors[f"bn1.{key}"].astype(np.float64) for key in ("weight", "bias")}
    mean, variance = tensors["bn1.running_mean"], tensors["bn1.running_var"].astype(np.float64)
    expected = (plain - mean) / np.sqrt(variance + 1e-5) * norm["weight"] + norm["bias"]
    np.testing.assert_allclose((weight * pictures).sum(axis=(1, 2, 3)) + bias, expected)


@given(
    groups=st.integers(1, 12),
    ins=st.integers(1, 9),
    outs=st.integers(1, 5),
    width=st.integers(1, 70),
)
def test_joined_groups_compute_the_same(groups: int, ins: int, outs: int, width: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (groups * outs, ins, 1, 1))
    values = rng.integers(-3, 4, (groups * ins,))
    joined, fewer = folding.join_groups(weight, groups, width=width)

    def apply(weight: Array, groups: int) -> Array:
        parts = values.reshape(groups, -1)
        rows = weight.reshape(groups, -1, parts.shape[1])
        return np.einsum("goi,gi->go", rows, parts).ravel()

    np.testing.assert_array_equal(apply(joined, fewer), apply(weight, groups))
    assert groups % fewer == 0
    assert fewer == groups or joined.shape[1] <= width


def test_what_does_not_fit_is_named() -> None:
    tensors = random_tensors(TINY, seed=7)
    with pytest.raises(ModelFileError, match=r"the weights lack fc\.scale \(2,\)"):
        folding.take(tensors, "fc.scale", (2,))
    with pytest.raises(ModelFileError, match=r"fc\.bias has shape \(2,\); expected \(3,\)"):
        folding.take(tensors, "fc.bias", (3,))
    with pytest.raises(ModelFileError, match="x is not finite"):
        folding.narrow("x", np.array([1e300]))
    assert folding.narrow("x", np.array([1e30])).dtype == np.float32


def test_the_first_convolution_takes_pixels_as_they_are() -> None:
    """Of whole numbers and ones it makes what it makes of normalized pixels."""
    conv = Conv("conv1", "bn1", 3, 64, 3)
    tensors = random_tensors(TINY, seed=8)
    scale, shift = np.array([0.017, 0.018, 0.02]), np.array([-2.1, -2.0, -1.8])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 3))
    weight, bias, centers = folding.fold_stem(folding.fold(conv, tensors), scale, shift)
    whole = np.concatenate([pixels, np.ones((1, 3, 3))]) - centers[:, None, None]
    plain, plain_bias = folding.fold(conv, tensors)
    normalized = pixels * scale[:, None, None] + shift[:, None, None]
    expected = (plain * normalized).sum(axis=(1, 2, 3)) + plain_bias
    np.testing.assert_allclose((weight * whole).sum(axis=(1, 2, 3)) + bias, expected)
    np.testing.assert_array_equal(centers, np.round(centers))


@pytest.mark.parametrize("shape", [(64, 4, 7, 7), (32, 4, 3, 3), (8, 2, 3, 3)])
def test_smooth_pictures_notice_little_of_the_rounding(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    rounded = folding.round_stem(weight)
    nearest = weight.astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(rounded, rounded.astype(ml_dtypes.bfloat16))
    assert np.abs(rounded - weight).max() < 16 * np.abs(nearest - weight).max()
    # Slopes of every direction, in grey levels about 0, and ones.
    steps = np.arange(shape[2]) - shape[2] // 2
    slopes = rng.normal(size=(50, 2))
    planes = slopes[:, :1, None] * steps[:, None] + slopes[:, 1:, None] * steps + 40
    patches = np.repeat(planes[:, None], shape[1], axis=1)
    patches[:, -1] = 1
    better, worse = (
        np.einsum("ochw,nchw->no", found - weight, patches) for found in (rounded, nearest)
    )
    assert np.sqrt((better**2).mean()) < 0.5 * np.sqrt((worse**2).mean())
