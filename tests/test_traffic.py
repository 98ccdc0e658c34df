"""The roofline's counts: products as everywhere, bytes by hand, all variants."""

from __future__ import annotations

import pytest

from resnext import arch
from resnext.deploy import traffic
from resnext.deploy.traffic import Kernel

NAMES = [
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext50d_32x4d",
    "resnext29_8x64d",
    "seresnext50_32x4d",
    "skresnext50_32x4d",
    "resnextaa50d_32x4d",
]


@pytest.mark.parametrize("whole_blocks", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_products_and_weights_are_those_of_the_network(name: str, whole_blocks: bool) -> None:
    spec = arch.parse(name)
    work = traffic.kernels(spec, 224, whole_blocks=whole_blocks)
    assert sum(one.macs for one in work) == arch.num_macs(spec, 224)
    # Biases and batch norms are left out, a few thousandths.
    weights = sum(one.weights for one in work)
    assert 0.99 < weights / arch.num_params(spec) < 1
    assert all(one.elements > 0 for one in work)


def test_a_block_is_counted_as_by_hand() -> None:
    """The first of ResNeXt-50: 64 channels in, 128 in the middle, 256 out, 56 by 56 pixels."""
    work = {one.name: one for one in traffic.kernels(arch.parse("resnext50_32x4d"), 224)}
    pixels = 56 * 56
    for name, kind, channels, weights in (
        ("layer1.0.conv1", "1x1", 64 + 128, 64 * 128),
        ("layer1.0.conv2", "3x3", 128 + 128, 128 * 4 * 9),
        ("layer1.0.downsample.0", "1x1", 64 + 256, 64 * 256),
        ("layer1.0.conv3", "1x1", 128 + 256 + 256, 128 * 256),  # and what is added
    ):
        found = work[name]
        assert (found.kind, found.elements, found.weights) == (kind, channels * pixels, weights)
    # With a stride, a 1x1 convolution reads a quarter.
    assert work["layer2.0.downsample.0"].elements == (256 + 512) * 28 * 28
    assert work["layer2.0.conv2"].elements == 256 * (pixels + 28 * 28)
    whole = {
        one.name: one
        for one in traffic.kernels(arch.parse("resnext50_32x4d"), 224, whole_blocks=True)
    }
    assert whole["layer1.0"].elements == (64 + 256) * pixels
    assert whole["layer2.0"].elements == 256 * pixels + 512 * 28 * 28


def test_the_longer_of_products_and_bytes_counts() -> None:
    kernel = Kernel(name="x", kind="1x1", macs=100, elements=10, weights=20)
    assert kernel.seconds(5, 100.0, 1e9, 2) == 5.0
    assert kernel.seconds(5, 1e9, 10.0, 2) == 14.0
    rate = traffic.images_per_s([kernel, kernel], 5, peak=100.0, bandwidth=1e9, width=2)
    assert rate == 0.5


def test_variants_cost_what_they_add() -> None:
    def elements(name: str) -> int:
        return sum(one.elements for one in traffic.kernels(arch.parse(name), 224))

    plain = elements("resnext50_32x4d")
    assert plain < elements("seresnext50_32x4d") < 2 * plain
    assert plain < elements("skresnext50_32x4d") < 2 * plain
