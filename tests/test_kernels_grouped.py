"""Grouped 3x3 convolutions and the packing of their filters, against float64."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
here = pytest.importorskip("kernels_here")

from resnext.errors import ConfigError  # noqa: E402

kernel = here.load("resnext.kernels.grouped")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = (
    torch.float32,
    torch.bfloat16,
    pytest.param(torch.float16, marks=pytest.mark.slow),
)
# Groups and channels of one, in the four stages of each public network.
NETWORKS = {"32x4d": 32, "32x8d": 32, "64x4d": 64, "32x16d": 32, "32x32d": 32, "32x48d": 32}
STAGES = [
    (groups, int(name.partition("x")[2][:-1]) << stage)
    for name, groups in NETWORKS.items()
    for stage in range(4)
]


def _make(
    shape: tuple[int, int, int], groups: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any, Any]:
    torch.manual_seed(sum(shape) + groups + width)
    channels = groups * width
    return (
        here.random(*shape, channels, dtype=dtype),
        here.random(channels, width, 3, 3, dtype=dtype, scale=(9 * width) ** -0.5),
        here.random(channels),
    )


def _assert_right(x: Any, filters: Any, bias: Any, groups: int, **options: Any) -> None:
    packed = kernel.pack(filters, groups=groups)
    found = kernel.grouped3x3(x, packed, bias, groups=groups, **options)
    assert found.dtype == x.dtype
    here.assert_close(found, here.expected(x, filters, bias, groups=groups, **options))


@pytest.mark.parametrize(
    "width",
    [
        pytest.param(width, marks=[pytest.mark.slow] * (width > 48))
        for width in sorted({width for _, width in STAGES})
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_group_widths_of_every_network(width: int, stride: int) -> None:
    # Enough groups for two tiles, and the last tile not full where groups share one.
    groups = max(2, 64 // width)
    _assert_right(*_make((1, 7, 7), groups, width), groups, stride=stride)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "width"), sorted({stage for stage in STAGES if stage[0] * stage[1] <= 2048})
)
def test_stages_of_every_network(groups: int, width: int) -> None:
    _assert_right(*_make((1, 7, 7), groups, width, torch.bfloat16), groups)


@pytest.mark.parametrize(
    "width", [1, 3, 6, 12, 20, 24, 40, 48, pytest.param(100, marks=pytest.mark.slow)]
)
def test_group_widths_that_are_no_power_of_two(width: int) -> None:
    _assert_right(*_make((1, 4, 5), 3, width), 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (10, 6), (1, 1), (1, 8), (9, 1), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_of_pictures(dtype: torch.dtype, size: tuple[int, int], stride: int) -> None:
    _assert_right(*_make((3, *size), 8, 4, dtype), 8, stride=stride)


@pytest.mark.parametrize("relu", [True, False])
def test_the_relu_is_optional(relu: bool) -> None:
    _assert_right(*_make((1, 5, 5), 8, 8), 8, relu=relu)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=[pytest.mark.slow] * (index > 1), id=str(config))
        for index, config in enumerate(kernel.configs(10**6))
    ],
)
def test_every_configuration_computes_the_same(
    config: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "configs", lambda _: [config])
    _assert_right(*_make((2, 9, 11), 8, 8), 8)


@pytest.mark.gpu
def test_tensors_of_more_than_two_to_the_31_elements() -> None:
    here.skip_without_memory(gigabytes=12)
    x, filters, bias = _make((1, 64, 64), 16, 4, torch.bfloat16)
    many, packed = x.expand(8200, -1, -1, -1).contiguous(), kernel.pack(filters, groups=16)
    found = kernel.grouped3x3(many, packed, bias, groups=16)
    assert found.numel() > 2**31
    torch.testing.assert_close(found[-1:], kernel.grouped3x3(x, packed, bias, groups=16))


@pytest.mark.parametrize(("groups", "width"), [(8, 4), (3, 12), (2, 96)])
def test_nan_stays_in_its_group_and_its_neighbourhood(groups: int, width: int) -> None:
    x, filters, bias = _make((2, 5, 5), groups, width)
    x[0, 2, 2, width] = float("nan")
    found = kernel.grouped3x3(x, kernel.pack(filters, groups=groups), bias, groups=groups)
    nans = found.isnan()
    if kernel.Layout(groups * width, groups).exact and width < kernel.NARROW:
        # Groups of one tile share it: what multiplies NaN by 0 is NaN.
        assert nans[0, 1:4, 1:4].all()
    else:
        assert nans[0, 1:4, 1:4, width : 2 * width].all()
    assert not nans[1].any()
    assert not nans[0, 0].any()


@pytest.mark.parametrize(
    ("groups", "width"),
    [(16, 4), (4, 32), (3, 12), pytest.param(2, 96, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_int8_is_scaled_by_channel_and_rounded(groups: int, width: int, stride: int) -> None:
    x, filters, bias = _make((2, 5, 6), groups, width)
    steps, step, out_step = filters.abs().amax((1, 2, 3)) / 127, 4 / 127, 4 / 127
    each = steps[:, None, None, None]
    x, filters = (
        (values / size).round().clamp(-127, 127).to(torch.int8)
        for values, size in ((x, step), (filters, each))
    )
    found = kernel.grouped3x3(
        x,
        kernel.pack(filters, groups=groups),
        bias / out_step,
        groups=groups,
        stride=stride,
        scale=step * steps / out_step,
    )
    exact = here.expected(
        x.double() * step, filters.double() * each, bias, groups=groups, stride=stride
    )
    assert found.dtype == torch.int8
    # Half a step, and what float32 adds where a value is between two.
    assert ((found.cpu() * out_step - exact.clamp(max=4)).abs() < 0.501 * out_step).all()
    assert found.max() > 40


def test_packing_is_block_diagonal_and_loses_nothing() -> None:
    filters = torch.arange(1.0, 64 * 4 * 9 + 1).reshape(64, 4, 3, 3)
    packed = kernel.pack(filters, groups=16)
    assert packed.shape == (2, 9, 32, 32)
    assert packed.count_nonzero() == filters.numel()
    assert packed[1, 4, 5, 4:8].tolist() == filters[37, :, 1, 1].tolist()
    assert packed[1, 4, 5, :4].tolist() == [0, 0, 0, 0]


def test_wide_groups_are_split_by_output_channel() -> None:
    layout = kernel.Layout(2 * 96, 2)
    assert (layout.tile, layout.parts, layout.tiles, layout.window) == (32, 3, 6, 96)
    filters = torch.randn(192, 96, 3, 3)
    packed = kernel.pack(filters, groups=2)
    assert packed[4, 8, 3].equal(filters[131, :, 2, 2])  # group 1, part 1, its channel 3


@pytest.mark.parametrize(("groups", "width"), sorted(set(STAGES)))
def test_public_networks_need_little_padding(groups: int, width: int) -> None:
    layout = kernel.Layout(groups * width, groups)
    assert layout.exact or width == 48


def test_no_pictures_give_no_pictures() -> None:
    x, filters, bias = _make((0, 4, 4), 8, 4)
    found = kernel.grouped3x3(x, kernel.pack(filters, groups=8), bias, groups=8, stride=2)
    assert found.shape == (0, 2, 2, 32)


def test_what_does_not_fit_is_refused() -> None:
    x, filters, bias = _make((1, 4, 4), 8, 4)
    packed = kernel.pack(filters, groups=8)
    with pytest.raises(ConfigError, match="32 channels do not divide into 5 groups"):
        kernel.pack(filters, groups=5)
    with pytest.raises(ConfigError, match=r"the filters are \(32, 4, 3, 3\); expected"):
        kernel.pack(filters, groups=4)
    with pytest.raises(ConfigError, match="packed is"):
        kernel.grouped3x3(x, filters, bias, groups=8)
    with pytest.raises(ConfigError, match="packed is .*bfloat16"):
        kernel.grouped3x3(x, packed.bfloat16(), bias, groups=8)
    with pytest.raises(ConfigError, match="stride is 4"):
        kernel.grouped3x3(x, packed, bias, groups=8, stride=4)
