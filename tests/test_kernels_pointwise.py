"""1x1 convolutions as matrix products, against float64."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
here = pytest.importorskip("kernels_here")

from resnext.errors import ConfigError  # noqa: E402

kernel = here.load("resnext.kernels.pointwise")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _make(
    shape: tuple[int, int, int, int], outs: int, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any, Any]:
    torch.manual_seed(sum(shape) + outs)
    ins = shape[-1]
    return (
        here.random(*shape, dtype=dtype),
        here.random(outs, ins, dtype=dtype, scale=ins**-0.5),
        here.random(outs),
    )


def _assert_right(x: Any, weight: Any, bias: Any, **options: Any) -> None:
    found = kernel.pointwise(x, weight, bias, **options)
    assert found.dtype == x.dtype
    here.assert_close(found, here.expected(x, weight[:, :, None, None], bias, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_products_equal_those_of_float64(dtype: torch.dtype, stride: int) -> None:
    _assert_right(*_make((3, 10, 6, 64), 128, dtype), stride=stride)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (14, 14), (10, 6), (1, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_of_pictures(size: tuple[int, int], stride: int) -> None:
    _assert_right(*_make((3, *size, 32), 64), stride=stride)


@pytest.mark.parametrize("ins", [1, 16, 24, 100, 320])
@pytest.mark.parametrize("outs", [1, 10, 48, 136])
def test_channels_that_fill_no_tile(ins: int, outs: int) -> None:
    _assert_right(*_make((1, 3, 5, ins), outs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [True, False])
def test_a_residual_is_added_before_the_relu(dtype: torch.dtype, relu: bool) -> None:
    x, weight, bias = _make((1, 7, 7, 32), 80, dtype)
    residual = here.random(1, 7, 7, 80, dtype=dtype)
    _assert_right(x, weight, bias, residual=residual, relu=relu)


def test_more_tiles_than_a_band_has_are_each_computed_once() -> None:
    # 11 row tiles of 128 make a full band of 8 and a rest of 3; 3 column tiles.
    _assert_right(*_make((1, 40, 35, 16), 300))


def test_every_configuration_computes_the_same() -> None:
    x, weight, bias = _make((1, 9, 15, 72), 136)
    wanted = kernel.pointwise(x, weight, bias)
    all_configs = kernel.configs(10**6, 72, 2048, element_size=2)
    assert len(all_configs) == len(kernel._TILES)
    for config in all_configs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "configs", lambda *_, one=config, **__: [one])
            torch.testing.assert_close(kernel.pointwise(x, weight, bias), wanted)


@pytest.mark.gpu
def test_tensors_of_more_than_two_to_the_31_elements() -> None:
    here.skip_without_memory(gigabytes=15)
    x, weight, bias = _make((1, 64, 64, 64), 64, torch.bfloat16)
    many = x.expand(8200, -1, -1, -1).contiguous()
    found = kernel.pointwise(many, weight, bias, residual=many)
    assert found.numel() > 2**31
    wanted = kernel.pointwise(x, weight, bias, residual=x)
    torch.testing.assert_close(found[-1:], wanted)


def test_nan_is_not_made_zero_and_stays_in_its_row() -> None:
    x, weight, bias = _make((1, 2, 2, 16), 16)
    x[0, 1, 0, 3] = float("nan")
    found = kernel.pointwise(x, weight, bias)
    assert found[0, 1, 0].isnan().all()
    assert found.isnan().sum() == 16


def test_no_pictures_give_no_pictures() -> None:
    x, weight, bias = _make((0, 4, 4, 16), 32)
    assert kernel.pointwise(x, weight, bias, stride=2).shape == (0, 2, 2, 32)


def test_few_rows_get_small_tiles() -> None:
    large, small = (
        kernel.configs(rows, 512, 2048, element_size=2)[0]["BLOCK_M"] for rows in (802816, 49)
    )
    assert small <= 64 < large


def test_float32_has_half_the_depth_for_the_same_shared_memory() -> None:
    depths = [kernel.configs(10**5, 64, 256, element_size=size)[0]["BLOCK_K"] for size in (2, 4)]
    assert depths[0] == 2 * depths[1]


def _quantized(values: Any, scale: Any) -> Any:
    return (values / scale).round().clamp(-127, 127).to(torch.int8)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
def test_int8_is_scaled_by_channel_and_rounded(stride: int, relu: bool) -> None:
    x, weight, bias = _make((2, 10, 6, 100), 72)
    residual = here.random(2, *((10, 6) if stride == 1 else (5, 3)), 72)
    steps, step = weight.abs().amax(1, keepdim=True) / 127, 4 / 127
    x, weight, residual = (
        _quantized(*pair) for pair in ((x, step), (weight, steps), (residual, step))
    )
    scale, out_step = step * steps[:, 0], 6 / 127
    options = {"relu": relu, "stride": stride}
    found = kernel.pointwise(
        x,
        weight,
        bias / out_step,
        residual=residual,
        scale=scale / out_step,
        residual_scale=step / out_step,
        **options,
    )
    exact = here.expected(
        x.double() * step,
        (weight.double() * steps)[:, :, None, None],
        bias,
        residual=residual.double() * step,
        **options,
    )
    assert found.dtype == torch.int8
    # Half a step, and what float32 adds where a value is between two.
    assert ((found.cpu() * out_step - exact.clamp(max=6, min=-6)).abs() < 0.501 * out_step).all()
    assert found.max() == 127 or found.max() > 60


def test_int8_saturates() -> None:
    x, weight = torch.full((1, 1, 1, 64), 127, dtype=torch.int8), torch.ones(32, 64)
    weight = (weight * 127).to(torch.int8).to(here.DEVICE)
    for sign, wanted in ((1, 127), (-1, -127)):
        scale = torch.full((32,), float(sign), device=here.DEVICE)
        found = kernel.pointwise(
            x.to(here.DEVICE), weight, torch.zeros_like(scale), scale=scale, relu=False
        )
        assert (found == wanted).all()


def test_int8_needs_scales_and_nothing_else_takes_them() -> None:
    x, weight, bias = _make((1, 4, 4, 16), 32)
    with pytest.raises(ConfigError, match="there are scales for torch.float32"):
        kernel.pointwise(x, weight, bias, scale=bias)
    with pytest.raises(ConfigError, match="there are no scales for torch.int8"):
        kernel.pointwise(x.to(torch.int8), weight.to(torch.int8), bias)
    with pytest.raises(ConfigError, match=r"scale is \(31,\)"):
        kernel.pointwise(x.to(torch.int8), weight.to(torch.int8), bias, scale=bias[:31])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (1, 4, 16)}, r"the input is \(1, 4, 16\)"),
        ({"weight": (32, 15)}, r"weight is \(32, 15\) .*expected \(32, 16\)"),
        ({"bias": (31,)}, r"bias is \(31,\)"),
        ({"residual": (1, 4, 4, 16)}, r"residual is .*expected \(1, 4, 4, 32\)"),
    ],
)
def test_tensors_of_other_shapes_are_refused(
    change: dict[str, tuple[int, ...]], message: str
) -> None:
    shapes = {"x": (1, 4, 4, 16), "weight": (32, 16), "bias": (32,)} | change
    given = {name: here.random(*shape) for name, shape in shapes.items()}
    with pytest.raises(ConfigError, match=message):
        kernel.pointwise(**given)


def test_layout_type_and_stride_are_looked_at() -> None:
    x, weight, bias = _make((1, 4, 4, 16), 16)
    with pytest.raises(ConfigError, match="not contiguous"):
        kernel.pointwise(x.transpose(1, 3), weight, bias)
    with pytest.raises(ConfigError, match="weight is .*bfloat16"):
        kernel.pointwise(x, weight.bfloat16(), bias)
    with pytest.raises(ConfigError, match="float64"):
        kernel.pointwise(x.double(), weight.double(), bias)
    with pytest.raises(ConfigError, match="stride is 3"):
        kernel.pointwise(x, weight, bias, stride=3)
