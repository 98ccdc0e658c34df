"""`deploy.reference`: the float64 network against loops written out, and against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from networks import preprocessing, random_batch, random_tensors

from resnext import arch
from resnext.deploy import reference
from resnext.deploy.reference import Array, Reference
from resnext.errors import import_extra
from resnext.layers import Conv, Pool


def _draw(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(
    "conv",
    [
        Conv("c", "n", 4, 6, 1),
        Conv("c", "n", 4, 6, 1, stride=2),
        Conv("c", "n", 4, 6, 3, stride=2, groups=2),
        Conv("c", "n", 4, 6, 3, dilation=2),
        Conv("c", "n", 4, 6, 7, stride=2),
    ],
    ids=lambda conv: f"{conv.kernel_size}-{conv.stride}-{conv.groups}-{conv.dilation}",
)
def test_a_convolution_is_the_sum_it_is_defined_as(conv: Conv) -> None:
    x, weight = _draw(2, 4, 7, 6), _draw(*conv.weight_shape)
    found = reference.convolve(x, weight, conv)
    edge, ins, outs = conv.padding, 4 // conv.groups, 6 // conv.groups
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    for n, out, row, column in np.ndindex(*found.shape):
        expected = sum(
            weight[out, i, a, b]
            * padded[
                n,
                out // outs * ins + i,
                row * conv.stride + a * conv.dilation,
                column * conv.stride + b * conv.dilation,
            ]
            for i, a, b in itertools.product(range(ins), *[range(conv.kernel_size)] * 2)
        )
        assert found[n, out, row, column] == pytest.approx(expected, abs=1e-12)
    assert found.shape[2:] == (-(-7 // conv.stride), -(-6 // conv.stride))  # "same" padding


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Pool("max", 3, 2, 1), [[-6, -7, -9], [-11, -12, -14], [-21, -22, -24]]),
        (Pool("avg", 2, 2), [[-9, -11], [-19, -21]]),
        (Pool("avg_ceil", 2, 2), [[-9, -11, -12.5], [-19, -21, -22.5], [-26.5, -28.5, -30]]),
    ],
    ids=lambda value: value.kind if isinstance(value, Pool) else "",
)
def test_pools_count_nothing_beyond_the_border(layer: Pool, expected: list[list[float]]) -> None:
    """All values are below zero: a zero from the border would show."""
    x = -6 - np.arange(25.0).reshape(1, 1, 5, 5)
    assert reference.pool(layer, x).tolist() == [[expected]]


def test_a_batch_is_its_pictures() -> None:
    spec = arch.ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=5)
    batch = random_batch(2, 32, seed=1)
    network = Reference(spec, random_tensors(spec, seed=1), preprocessing(32))
    logits, embedding = network.run(batch)
    assert (logits.shape, embedding.shape) == ((2, 5), (2, 1024))
    assert (logits.dtype, embedding.dtype) == (np.float64, np.float64)
    for index in range(2):
        for row, found in zip((logits, embedding), network.run(batch[index, None]), strict=True):
            np.testing.assert_allclose(found[0], row[index], rtol=1e-12, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("seresnext26t_2x4d", 33),  # an odd side: the average pool of the shortcut rounds up
        ("skresnext26_2x4d", 33),
        ("resnextaa26_2x1d", 32),
        ("resnext29_2x1d", 32),
    ],
)
def test_it_is_what_torch_computes_in_float64(name: str, size: int) -> None:
    torch = import_extra("torch", extra="torch")
    network = import_extra("resnext.network", extra="torch")
    modules = import_extra("resnext.modules", extra="torch")
    spec, setting = arch.parse(name, num_classes=7), preprocessing(size)
    tensors, batch = random_tensors(spec, seed=2), random_batch(2, size, seed=2)
    model = modules.filled(lambda: network.ResNeXt(spec), tensors, dtype=torch.float64).eval()
    images = ((batch / 255 - setting.mean) / setting.std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        maps = model.forward_features(torch.from_numpy(images))
        expected = model.forward_head(maps), model.forward_head(maps, pre_logits=True)
    for found, wanted in zip(Reference(spec, tensors, setting).run(batch), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-10, atol=1e-10)
