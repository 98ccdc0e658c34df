"""`layers`: shapes and names of the tensors of each part."""

from __future__ import annotations

import pytest

from resnext.layers import Block, Conv, Linear, Pool, SelectiveKernel, SqueezeExcite, merge


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 2), (3, 4, 4), (7, 1, 3)]
)
def test_padding_keeps_the_size(kernel_size: int, dilation: int, padding: int) -> None:
    conv = Conv("conv", "bn", 8, 8, kernel_size, dilation=dilation)
    assert conv.padding == padding
    assert 2 * conv.padding == dilation * (kernel_size - 1)


def test_tensors_of_a_convolution_are_its_weight_and_its_batch_norm() -> None:
    conv = Conv("layer1.0.conv2", "layer1.0.bn2", 128, 256, 3, stride=2, groups=32)
    assert conv.tensor_shapes() == {
        "layer1.0.conv2.weight": (256, 4, 3, 3),
        "layer1.0.bn2.weight": (256,),
        "layer1.0.bn2.bias": (256,),
        "layer1.0.bn2.running_mean": (256,),
        "layer1.0.bn2.running_var": (256,),
    }


def test_tensors_of_squeeze_and_excitation_are_two_biased_convolutions() -> None:
    assert SqueezeExcite("layer1.0.se", 256, 16).tensor_shapes() == {
        "layer1.0.se.fc1.weight": (16, 256, 1, 1),
        "layer1.0.se.fc1.bias": (16,),
        "layer1.0.se.fc2.weight": (256, 16, 1, 1),
        "layer1.0.se.fc2.bias": (256,),
    }


def test_a_selective_kernel_selects_each_channel_of_each_path() -> None:
    paths = tuple(Conv(f"paths.{index}.conv", f"paths.{index}.bn", 8, 24, 3) for index in range(3))
    part = SelectiveKernel("conv2", paths, Conv("attn.fc_reduce", "attn.bn", 24, 4, 1))
    assert part.channels == 24
    assert part.select_shape == (72, 4, 1, 1)
    shapes = part.tensor_shapes()
    assert shapes["conv2.attn.fc_select.weight"] == part.select_shape
    assert len(shapes) == 4 * 5 + 1  # four convolutions with batch norm, one without


def test_a_block_has_the_tensors_of_body_and_shortcut_but_none_of_pools() -> None:
    conv, down = Conv("conv1", "bn1", 4, 8, 1), Conv("downsample.1", "downsample.2", 4, 8, 1)
    block = Block("layer1.0", (conv, Pool("avg", 2, 2)), (Pool("avg_ceil", 2, 2), down))
    assert block.tensor_shapes() == conv.tensor_shapes() | down.tensor_shapes()
    assert list(block.tensor_shapes())[0] == "conv1.weight"


def test_tensors_of_the_classifier() -> None:
    shapes = Linear("fc", 2048, 10).tensor_shapes()
    assert shapes == {"fc.weight": (10, 2048), "fc.bias": (10,)}


def test_merging_keeps_the_order() -> None:
    merged = merge([{"b": (1,), "a": (2,)}, {}, {"c": (3,)}])
    assert list(merged.items()) == [("b", (1,)), ("a", (2,)), ("c", (3,))]
