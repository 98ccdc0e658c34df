"""The folded network against the float64 reference: every variant, every type."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from networks import preprocessing, random_batch, random_tensors, relative_error

from resnext import arch
from resnext.arch import ArchSpec
from resnext.deploy.reference import Reference
from resnext.engines import folding
from resnext.errors import ModelFileError, import_extra

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
folded = import_extra("resnext.engines.folded", extra="torch")

SIZE = 64
# Each kind of stem, shortcut, attention and stride; ResNet, whose 3x3 has no groups.
NAMES = [
    "resnext26_4x2d",
    "resnext26d_4x2d",
    "resnext26t_2x3d",
    "resnext29_2x4d",
    "resnext26_1x64d",
    "seresnext26_4x2d",
    "skresnext26_4x2d",
    "seresnextaa26d_4x2d",
]
BATCH = random_batch(3, SIZE, seed=1)


@cache
def network(name: str) -> tuple[ArchSpec, Any]:
    spec = arch.parse(name, num_classes=7)
    return spec, random_tensors(spec, seed=0)


@cache
def expected(name: str) -> Any:
    spec, tensors = network(name)
    return Reference(spec, tensors, preprocessing(SIZE)).run(BATCH)


def build(name: str, dtype: Any, *, exact: bool, **options: Any) -> Any:
    spec, tensors = network(name)
    weights = folded.fold(spec, preprocessing(SIZE), tensors, exact=exact)
    return folded.FoldedNetwork(
        spec, weights, folded.Operations(), device=torch.device("cpu"), dtype=dtype, **options
    )


def run(module: Any, pixels: Any = BATCH) -> list[Any]:
    with torch.inference_mode():
        return [part.numpy() for part in module(torch.from_numpy(pixels))]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_reference_does(name: str, exact: bool) -> None:
    logits, embedding = run(build(name, torch.float32, exact=exact))
    assert relative_error(logits, expected(name)[0]) < 2e-6
    assert relative_error(embedding, expected(name)[1]) < 2e-6


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [("bfloat16", 0.02), pytest.param("float16", 0.002, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", NAMES)
def test_few_digits_stay_near(name: str, dtype: str, limit: float) -> None:
    logits, embedding = run(build(name, getattr(torch, dtype), exact=False))
    assert logits.dtype == embedding.dtype == np.float32
    assert 1e-5 < relative_error(logits, expected(name)[0]) < limit
    assert relative_error(embedding, expected(name)[1]) < limit


def test_pixels_lose_nothing_in_bfloat16() -> None:
    """All 256 values and the ones, less the centers: whole numbers of at most 8 bits."""
    module = build(NAMES[0], torch.bfloat16, exact=False)
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    with torch.inference_mode():
        prepared = module._prepare(torch.from_numpy(pixels))
    assert prepared.shape == (1, 16, 16, 4) and prepared.dtype == torch.bfloat16
    ones = np.ones((1, 16, 16, 1))
    whole = np.concatenate([pixels, ones], axis=3) - module.centers.float().numpy()
    np.testing.assert_array_equal(prepared.float().numpy(), whole)


def test_weights_that_meet_them_are_rounded_for_photographs_in_bfloat16_alone() -> None:
    exact, rounded, half = (
        build(NAMES[0], dtype, exact=False).body[0].weight.double().numpy()
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
    np.testing.assert_array_equal(rounded, folding.round_stem(exact))
    np.testing.assert_array_equal(half, exact.astype(np.float16))


@pytest.mark.parametrize("name", ["resnext26_4x2d", "resnext29_2x4d"])
def test_maps_come_out_as_everywhere(name: str) -> None:
    _, embedding, maps = run(build(name, torch.float32, exact=True, feature_maps=True))
    assert maps.shape[:2] == embedding.shape and maps.shape[2] == maps.shape[3]
    assert maps.flags.c_contiguous
    np.testing.assert_allclose(maps.mean((2, 3)), embedding, rtol=1e-4, atol=1e-6)


def test_maps_are_contiguous_all_the_way() -> None:
    """The kernels take nothing else."""
    seen: list[tuple[int, ...]] = []

    class Watching(folded.Operations):  # type: ignore[misc, name-defined]
        def convolve(self, conv: Any, x: Any, *rest: Any) -> Any:
            y = super().convolve(conv, x, *rest)
            assert x.is_contiguous() and y.is_contiguous(), conv
            assert all(part is None or part.is_contiguous() for part in rest[2:]), conv
            seen.append(tuple(y.shape))
            return y

    for name in NAMES:
        spec, tensors = network(name)
        weights = folded.fold(spec, preprocessing(SIZE), tensors, exact=False)
        options = {"device": torch.device("cpu"), "dtype": torch.float32}
        run(folded.FoldedNetwork(spec, weights, Watching(), **options))
    assert (3, 2, 2, 2048) in seen


def test_weights_that_do_not_fit_are_refused() -> None:
    spec, tensors = network(NAMES[0])
    gamma = "layer1.0.bn1.weight"
    for factor, dtype, message in (
        (1e6, torch.float16, r"layer1\.0\.conv1\.weight holds .*e\+0\d, which float16 cannot"),
        (np.nan, torch.float32, r"layer1\.0\.conv1\.weight is not finite"),
    ):
        changed = {**tensors, gamma: tensors[gamma] * np.float32(factor)}
        with pytest.raises(ModelFileError, match=message):
            weights = folded.fold(spec, preprocessing(SIZE), changed, exact=False)
            folded.FoldedNetwork(
                spec, weights, folded.Operations(), device=torch.device("cpu"), dtype=dtype
            )


@pytest.mark.parametrize(
    "key", ["conv1.weight", "layer1.0.se.fc1.bias", "fc.bias", "layer4.1.bn3.running_var"]
)
def test_a_tensor_that_is_missing_is_named(key: str) -> None:
    spec, tensors = network("seresnext26_4x2d")
    fewer = {name: value for name, value in tensors.items() if name != key}
    with pytest.raises(ModelFileError, match=f"the weights lack {key}"):
        folded.fold(spec, preprocessing(SIZE), fewer, exact=True)
