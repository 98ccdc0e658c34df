"""`modules`: each part against its formula, written out."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from resnext import layers
from resnext.errors import import_extra
from resnext.layers import Conv, Pool

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
modules = import_extra("resnext.modules", extra="torch")

MAP = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5)  # 1 to 5 in the first row


def seeded(module: Any) -> Any:
    """Give a module weights and statistics that do something, and put it in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def noise(*shape: int, seed: int = 1) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_convolution_is_that_of_the_table() -> None:
    table = Conv("conv", "bn", 8, 16, 3, stride=2, groups=4, dilation=2)
    conv = modules.make_conv(table)
    assert conv.weight.shape == table.weight_shape
    assert conv.bias is None
    assert (conv.stride, conv.padding, conv.dilation, conv.groups) == ((2, 2), (2, 2), (2, 2), 4)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # Windows reach one pixel beyond the border, where nothing is.
        (Pool("max", 3, 2, 1), [[7, 9, 10], [17, 19, 20], [22, 24, 25]]),
        (Pool("avg", 2, 2), [[4, 6], [14, 16]]),
        # The mean of what is there: (5 + 10) / 2, (21 + 22) / 2, 25.
        (Pool("avg_ceil", 2, 2), [[4, 6, 7.5], [14, 16, 17.5], [21.5, 23.5, 25]]),
    ],
)
def test_a_pool_is_that_of_the_table(pool: Pool, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(modules.make_pool(pool)(MAP)[0, 0], expected)


def test_the_same_pool_counts_zeros_beyond_the_bottom_and_the_right() -> None:
    found = modules.make_pool(Pool("avg_same", 2, 1))(MAP)[0, 0]
    assert found.shape == (5, 5)
    assert found[0, 0] == (1 + 2 + 6 + 7) / 4
    assert found[0, 4] == (5 + 10) / 4
    assert found[4, 0] == (21 + 22) / 4
    assert found[4, 4] == 25 / 4


@pytest.mark.parametrize("relu", [True, False])
def test_convolution_and_norm(relu: bool) -> None:
    block = seeded(modules.ConvNorm(Conv("conv", "bn", 3, 4, 1, relu=relu)))
    x = noise(2, 3, 5, 5)
    y = torch.einsum("oi,nihw->nohw", block.conv.weight[:, :, 0, 0], x)
    mean, variance, scale, shift = (
        tensor[:, None, None]
        for tensor in (block.bn.running_mean, block.bn.running_var, block.bn.weight, block.bn.bias)
    )
    y = (y - mean) / torch.sqrt(variance + 1e-5) * scale + shift
    torch.testing.assert_close(block(x), y.clamp(min=0) if relu else y)


def test_squeeze_and_excitation() -> None:
    excite = seeded(modules.SqueezeExcite(layers.SqueezeExcite("se", 6, 2)))
    excite.fc1.weight.data[0] *= -1  # so that the ReLU cuts something
    x = noise(2, 6, 5, 5).abs()
    hidden = x.mean((2, 3)) @ excite.fc1.weight[:, :, 0, 0].T + excite.fc1.bias
    assert (hidden < 0).any() and (hidden > 0).any()
    gate = hidden.clamp(min=0) @ excite.fc2.weight[:, :, 0, 0].T + excite.fc2.bias
    expected = x / (1 + torch.exp(-gate))[:, :, None, None]
    torch.testing.assert_close(excite(x), expected)


def test_a_selective_kernel() -> None:
    paths = tuple(Conv(f"p{i}.conv", f"p{i}.bn", 4, 4, 3, groups=2, dilation=i) for i in (1, 2))
    table = layers.SelectiveKernel("conv2", paths, Conv("reduce", "bn", 4, 3, 1))
    kernel = seeded(modules.SelectiveKernel(table))
    x = noise(2, 4, 7, 7)
    first, second = (path(x) for path in kernel.paths)
    attention = kernel.attn
    hidden = attention.fc_reduce((first + second).mean((2, 3), keepdim=True))
    scores = attention.fc_select(attention.bn(hidden).clamp(min=0))
    assert scores.shape == (2, 8, 1, 1)
    # With two paths, a softmax is a sigmoid of the difference.
    share = torch.sigmoid(scores[:, :4] - scores[:, 4:])
    torch.testing.assert_close(kernel(x), share * first + (1 - share) * second)
    assert not torch.allclose(first, second)


def test_drop_path_drops_whole_pictures_and_keeps_the_mean() -> None:
    x = torch.ones(4000, 2, 3, 3)
    torch.manual_seed(0)
    y = modules.DropPath(0.25).train()(x)
    kept = y[:, 0, 0, 0]
    np.testing.assert_allclose(y, kept[:, None, None, None].expand_as(y))
    assert set(kept.tolist()) == {0, float(torch.tensor(1 / 0.75))}
    assert y.mean() == pytest.approx(1, abs=0.03)  # three standard deviations
    assert x.eq(1).all(), "its input must stay as it is"


def test_drop_path_does_nothing_in_eval_mode() -> None:
    x = noise(2, 3, 4, 4)
    assert modules.DropPath(0.9).eval()(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_drop_path_keeps_the_type(dtype: Any) -> None:
    assert modules.DropPath(0.5).train()(torch.ones(2, 1, 1, 1, dtype=dtype)).dtype == dtype


def norm_tensors() -> dict[str, Any]:
    values = {"weight": 2, "bias": 3, "running_mean": 4, "running_var": 5}
    return {key: np.full(6, value, np.float32) for key, value in values.items()}


def test_filling_builds_nothing_twice() -> None:
    built = []

    def build() -> Any:
        built.append(torch.nn.BatchNorm2d(6))
        assert built[-1].weight.is_meta
        return built[-1]

    tensors = norm_tensors()
    norm = modules.filled(build, tensors | {"more": np.zeros(1)})
    assert len(built) == 1 and norm.training
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(norm.state_dict()[key], tensor)
    assert norm.num_batches_tracked == 0
    assert norm.weight.requires_grad and not norm.weight.is_meta


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_filling_takes_any_float_type(dtype: Any) -> None:
    tensors = {key: tensor.astype(dtype) for key, tensor in norm_tensors().items()}
    norm = modules.filled(lambda: torch.nn.BatchNorm2d(6), tensors)
    assert norm.weight.dtype == torch.float32
    assert norm.running_var.tolist() == [5] * 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_filling_gives_the_type_asked_for(dtype: Any) -> None:
    norm = modules.filled(lambda: torch.nn.BatchNorm2d(6), norm_tensors(), dtype=dtype)
    assert norm.weight.dtype == norm.running_var.dtype == dtype
    assert norm.num_batches_tracked.dtype == torch.int64
    assert norm.running_var.tolist() == [5] * 6


def test_filling_on_the_meta_device_fills_nothing() -> None:
    norm = modules.filled(lambda: torch.nn.BatchNorm2d(6), {}, device=torch.device("meta"))
    assert norm.weight.is_meta and norm.num_batches_tracked.is_meta


def test_filling_needs_every_tensor() -> None:
    tensors = norm_tensors()
    del tensors["bias"]
    with pytest.raises(KeyError, match="bias"):
        modules.filled(lambda: torch.nn.BatchNorm2d(6), tensors)


def test_filling_shares_no_memory_with_the_arrays() -> None:
    tensors = norm_tensors()
    norm = modules.filled(lambda: torch.nn.BatchNorm2d(6), tensors)
    norm.weight.data.zero_()
    assert tensors["weight"].all()
