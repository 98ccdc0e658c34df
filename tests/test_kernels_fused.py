"""A grouped 3x3 and a 1x1 convolution in one kernel, against float64 and against two."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
here = pytest.importorskip("kernels_here")

from resnext.errors import ConfigError  # noqa: E402

grouped, pointwise, kernel = (
    here.load(f"resnext.kernels.{name}") for name in ("grouped", "pointwise", "fused")
)
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DTYPES = (
    torch.float32,
    torch.bfloat16,
    pytest.param(torch.float16, marks=pytest.mark.slow),
)


def _make(
    shape: tuple[int, int, int],
    groups: int,
    width: int,
    outs: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    torch.manual_seed(sum(shape) + groups + width + outs)
    channels = groups * width
    return {
        "x": here.random(*shape, channels, dtype=dtype),
        "filters": here.random(channels, width, 3, 3, dtype=dtype, scale=(9 * width) ** -0.5),
        "bias3": here.random(channels),
        "weight1": here.random(outs, channels, dtype=dtype, scale=channels**-0.5),
        "bias1": here.random(outs),
    }


def _fused(given: dict[str, Any], groups: int, **options: Any) -> Any:
    packed = grouped.pack(given["filters"], groups=groups)
    rest = {name: value for name, value in given.items() if name != "filters"}
    return kernel.grouped_pointwise(packed=packed, groups=groups, **rest, **options)


def _assert_right(given: dict[str, Any], groups: int, *, stride: int = 1, **options: Any) -> None:
    """Compare with float64, which rounds between the two as a kernel would."""
    x = given["x"]
    between = here.expected(x, given["filters"], given["bias3"], groups=groups, stride=stride)
    wanted = here.expected(between, given["weight1"][:, :, None, None], given["bias1"], **options)
    found = _fused(given, groups, stride=stride, **options)
    assert found.dtype == x.dtype
    # What lies between has an error of a unit as well, and these add up to about one more.
    tolerance = here.TOLERANCES[x.dtype]
    torch.testing.assert_close(
        found.cpu().double(), wanted, rtol=2 * tolerance, atol=1.5 * tolerance
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 7), (10, 6), (1, 1)])
def test_sizes_strides_and_types(dtype: torch.dtype, stride: int, size: tuple[int, int]) -> None:
    _assert_right(_make((3, *size), 16, 4, 96, dtype), 16, stride=stride)


@pytest.mark.parametrize(
    ("groups", "width", "outs"),
    [
        (32, 4, 256),
        (4, 32, 128),
        *(
            pytest.param(*stage, marks=pytest.mark.slow)
            for stage in ((32, 8, 256), (64, 4, 256), (8, 16, 512), (2, 64, 256))
        ),
    ],
)
def test_first_stages_of_the_networks(groups: int, width: int, outs: int) -> None:
    given = _make((1, 7, 9), groups, width, outs)
    residual = here.random(1, 7, 9, outs)
    _assert_right(given, groups, residual=residual)


@pytest.mark.parametrize(
    ("groups", "width"), [(3, 12), (2, 48), (5, 6), pytest.param(2, 96, marks=pytest.mark.slow)]
)
def test_channels_that_fill_no_tile(groups: int, width: int) -> None:
    _assert_right(_make((2, 5, 5), groups, width, 72), groups)


@pytest.mark.parametrize("relu", [True, False])
def test_a_residual_is_added_before_the_last_relu(relu: bool) -> None:
    given = _make((1, 5, 5), 8, 4, 64)
    _assert_right(given, 8, residual=here.random(1, 5, 5, 64), relu=relu)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_it_equals_one_kernel_after_the_other(dtype: torch.dtype) -> None:
    given = _make((2, 7, 7), 32, 4, 256, dtype)
    between = grouped.grouped3x3(
        given["x"], grouped.pack(given["filters"], groups=32), given["bias3"], groups=32
    )
    wanted = pointwise.pointwise(between, given["weight1"], given["bias1"])
    torch.testing.assert_close(_fused(given, 32), wanted, rtol=here.TOLERANCES[dtype], atol=1e-3)


@pytest.mark.parametrize("columns", [256, pytest.param(512, marks=pytest.mark.slow)])
def test_every_configuration_computes_the_same(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _make((1, 6, 11), 8, 4, 40)
    for config in kernel.configs(10**6, columns):
        one = config | {"BLOCK_N": 64}
        monkeypatch.setattr(kernel, "configs", lambda *_, one=one: [one])
        _assert_right(given, 8)


def test_it_says_what_it_is_meant_for() -> None:
    stages = [(128, 256), (256, 512), (512, 1024), (1024, 2048)]
    meant = [kernel.fits(*stage, groups=32, dtype=torch.bfloat16) for stage in stages]
    assert meant == [True, True, False, False]
    assert kernel.fits(256, 256, groups=32, dtype=torch.float16)
    assert not kernel.fits(128, 256, groups=32, dtype=torch.float32)
    assert not kernel.fits(128, 256, groups=32, dtype=torch.int8)
    assert not kernel.fits(128, 256, groups=1, dtype=torch.float16)
    assert not kernel.fits(130, 256, groups=32, dtype=torch.float16)


def test_no_pictures_give_no_pictures() -> None:
    assert _fused(_make((0, 4, 4), 8, 4, 64), 8, stride=2).shape == (0, 2, 2, 64)


def test_int8_is_refused() -> None:
    given = _make((1, 4, 4), 8, 4, 64)
    with pytest.raises(ConfigError, match="the input is .*int8; expected"):
        _fused(given | {"x": given["x"].to(torch.int8)}, 8)


@pytest.mark.parametrize("name", ["bias3", "weight1", "bias1", "residual"])
def test_tensors_of_other_shapes_are_refused(name: str) -> None:
    given = _make((1, 4, 4), 8, 4, 64) | {name: here.random(3, 5)}
    with pytest.raises(ConfigError, match=f"{name} is "):
        _fused(given, 8)
