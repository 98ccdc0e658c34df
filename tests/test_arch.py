"""`arch`: names, structure and counts, against published numbers and the peers."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext import arch
from resnext.errors import ModelFileError, ModelNotFoundError
from resnext.layers import Block, Conv, GlobalPool, Layer, Pool, SelectiveKernel, merge

# Parameters: torchvision's and timm 1.0.31's own counts; GMACs: torchvision's Weights.meta.
COUNTS = {
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "resnext50d_32x4d": (25_048_136, None),
    "resnext101_32x4d": (44_177_704, None),
    "resnext101_32x16d": (194_026_792, None),
    "resnext101_32x32d": (468_530_472, None),
    "resnext101_32x48d": (828_411_176, None),
    "seresnext26d_32x4d": (16_809_512, None),
    "seresnext26t_32x4d": (16_806_976, None),
    "seresnext50_32x4d": (27_559_896, None),
    "seresnext101_32x4d": (48_955_416, None),
    "seresnext101_32x8d": (93_569_048, None),
    "seresnext101_64x4d": (88_232_984, None),
    "seresnext101d_32x8d": (93_588_280, None),
    "seresnextaa101d_32x8d": (93_588_280, None),
    "seresnextaa201d_32x8d": (149_394_904, None),
    "skresnext50_32x4d": (27_479_784, None),
    "resnext26_1x64d": (15_995_176, None),
    "resnext26t_1x64d": (16_011_872, None),
    "resnextaa50_1x64d": (25_557_032, None),
    "seresnext152d_1x64d": (66_841_080, None),
    "resnext50_1x64d": (25_557_032, 4.089),
    "resnext101_1x64d": (44_549_160, 7.801),
    "resnext152_1x64d": (60_192_808, 11.514),
    "resnext50_1x128d": (68_883_240, 11.398),  # wide_resnet50_2
    "resnext101_1x128d": (126_886_696, 22.753),
}

# GMACs and millions of activations at an input size, from timm's
# results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv (repository
# huggingface/pytorch-image-models). It counts 2 more for each activation, for batch norm.
TIMM_GMACS = {
    "resnext50d_32x4d": (224, 4.50, 15.2),
    "resnext101_32x4d": (288, 13.24, 35.09),
    "resnext101_32x32d": (224, 87.29, 91.12),
    "seresnext26d_32x4d": (224, 2.73, 10.19),
    "seresnext26t_32x4d": (288, 4.46, 16.68),
    "seresnext50_32x4d": (224, 4.26, 14.42),
    "seresnext101_64x4d": (224, 15.53, 31.25),
    "seresnext101d_32x8d": (288, 27.64, 52.95),
    "seresnextaa101d_32x8d": (224, 17.25, 34.16),
    "seresnextaa201d_32x8d": (384, 101.11, 199.72),
    "skresnext50_32x4d": (224, 4.50, 17.18),
    "resnextaa50_1x64d": (288, 8.52, 19.24),
}

# Every model of timm 1.0.31 that is one of the family, by our name.
TIMM = dict.fromkeys(
    "resnext50_32x4d resnext50d_32x4d resnext101_32x4d resnext101_32x8d resnext101_32x16d"
    " resnext101_32x32d resnext101_64x4d seresnext26d_32x4d seresnext26t_32x4d"
    " seresnext50_32x4d seresnext101_32x4d seresnext101_32x8d seresnext101_64x4d"
    " seresnext101d_32x8d seresnextaa101d_32x8d seresnextaa201d_32x8d skresnext50_32x4d".split()
)
TIMM_RESNETS = {
    "resnext50_1x128d": "wide_resnet50_2",
    "resnext101_1x128d": "wide_resnet101_2",
    **{
        f"{name.replace('net', 'next')}_1x64d": name
        for name in "resnet26 resnet26d resnet26t resnet50 resnet50d resnet50t resnet101 resnet101d"
        " resnet152 resnet152d resnetaa50 resnetaa50d resnetaa101d seresnet50 seresnet50t"
        " seresnet101 seresnet152 seresnet152d seresnetaa50d".split()
    },
}
DEFAULT_TIMM = (  # the others differ in sizes only, and are slow
    "resnext50_32x4d",
    "resnext50d_32x4d",
    "seresnext26t_32x4d",
    "skresnext50_32x4d",
    "seresnextaa101d_32x8d",
    "resnext26_1x64d",
)

widths = st.tuples(st.integers(1, 64), st.integers(1, 64))
plain_names = st.builds(
    lambda attention, antialias, depth, variant, sizes: (
        f"{attention}resnext{antialias}{depth}{variant}_{sizes[0]}x{sizes[1]}d"
    ),
    st.sampled_from(["", "se"]),
    st.sampled_from(["", "aa"]),
    st.sampled_from([26, 50, 101, 152, 201]),
    st.sampled_from(["", "d", "t"]),
    widths,
)
selective_names = st.builds(
    lambda depth, variant, sizes: f"skresnext{depth}{variant}_{sizes[0]}x{sizes[1]}d",
    st.sampled_from([26, 50, 101, 152, 201]),
    st.sampled_from(["", "d", "t"]),
    widths,
)
cifar_names = widths.map(lambda sizes: f"resnext29_{sizes[0]}x{sizes[1]}d")
names = st.one_of(plain_names, selective_names, cifar_names)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_published_ones(name: str) -> None:
    params, gmacs = COUNTS[name]
    spec = arch.parse(name)
    assert arch.num_params(spec) == params
    if gmacs is not None:
        assert arch.num_macs(spec) / 1e9 == pytest.approx(gmacs, abs=0.0006)


@pytest.mark.parametrize(
    ("name", "millions"), [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)]
)
def test_cifar_counts_equal_table_7_of_the_paper(name: str, millions: float) -> None:
    spec = arch.parse(name)
    assert spec.num_classes == 10
    assert int(arch.num_params(spec) / 1e5) / 10 == millions


@pytest.mark.parametrize("name", ["1x64d", "2x40d", "4x24d", "8x14d", "32x4d"])
def test_table_3_of_the_paper_keeps_the_complexity(name: str) -> None:
    spec = arch.parse(f"resnext50_{name}")
    assert 3.9e9 < arch.num_macs(spec) < 4.4e9
    assert 24.5e6 < arch.num_params(spec) < 26e6


@pytest.mark.parametrize("name", TIMM_GMACS)
def test_macs_equal_the_table_of_timm(name: str) -> None:
    size, gmacs, activations = TIMM_GMACS[name]
    macs = arch.num_macs(arch.parse(name), size) + 2 * activations * 1e6
    assert macs / 1e9 == pytest.approx(gmacs, abs=0.0051)


@given(names)
def test_a_name_says_everything(name: str) -> None:
    spec = arch.parse(name)
    assert spec.name == name
    others = [
        replace(spec, **{field: value})
        for field, value in [("cardinality", spec.cardinality + 1), ("base_width", 65)]
    ]
    if spec.stem != "cifar":
        others.append(replace(spec, depth=26 if spec.depth != 26 else 50))
        others.append(replace(spec, variant="t" if spec.variant != "t" else ""))
        others.append(replace(spec, attention="se" if spec.attention != "se" else ""))
    assert all(other.name != name and arch.parse(other.name) == other for other in others)


@given(names, st.integers(1, 1200), st.integers(1, 6))
def test_tensors_say_everything_but_antialiasing(
    name: str, num_classes: int, in_chans: int
) -> None:
    spec = replace(arch.parse(name), num_classes=num_classes, in_chans=in_chans)
    assert arch.infer(arch.tensor_shapes(spec)) == replace(spec, antialias=False)


@given(names.filter(lambda name: "resnext29" not in name), st.sampled_from([8, 16]))
def test_output_stride_changes_no_tensor(name: str, output_stride: arch.OutputStride) -> None:
    spec = arch.parse(name)
    table = arch.layers(spec, output_stride=output_stride)
    parts = [layer for layer in table if not isinstance(layer, Pool | GlobalPool)]
    assert merge(layer.tensor_shapes() for layer in parts) == arch.tensor_shapes(spec)
    assert _downscaling(table) == output_stride
    assert _downscaling(arch.layers(spec)) == 32


def _downscaling(table: tuple[Layer, ...]) -> int:
    """Multiply the strides from the input to the last map."""
    parts: list[Layer] = []
    for layer in table:
        parts += layer.body if isinstance(layer, Block) else [layer]
    # All paths of a selective kernel have the same stride.
    parts = [part.paths[0] if isinstance(part, SelectiveKernel) else part for part in parts]
    return math.prod(part.stride for part in parts if isinstance(part, Conv | Pool))


@given(names)
def test_body_and_shortcut_of_a_block_end_alike(name: str) -> None:
    for block in arch.layers(arch.parse(name)):
        if not isinstance(block, Block):
            continue
        channels, strides = [], []
        for parts in (block.body, block.shortcut or block.body):
            last = [part for part in parts if isinstance(part, Conv)][-1]
            channels.append(last.out_channels)
            strides.append(_downscaling(parts))
        assert channels[0] == channels[1] and strides[0] == strides[1]


@given(names)
def test_params_are_the_sizes_of_the_tensors(name: str) -> None:
    spec = arch.parse(name)
    total = 0
    for key, shape in arch.tensor_shapes(spec).items():
        if "running" not in key:
            size = 1
            for side in shape:
                size *= side
            total += size
    assert arch.num_params(spec) == total


def test_macs_follow_the_input_size() -> None:
    spec = arch.parse("resnext50_32x4d")
    fc = 2048 * 1000
    assert (arch.num_macs(spec, 448) - fc) == 4 * (arch.num_macs(spec, 224) - fc)


def test_strides_are_pools_in_an_antialiased_network() -> None:
    table = arch.layers(arch.parse("seresnextaa101d_32x8d"))
    assert table[3] == Pool("avg", 2, 2)
    pools = {
        layer.name: part
        for layer in table
        if isinstance(layer, Block)
        for part in layer.body
        if isinstance(part, Pool)
    }
    firsts = ["layer2.0", "layer3.0", "layer4.0"]
    assert pools == dict.fromkeys(firsts, Pool("avg", 2, 2))
    blocks = {layer.name: layer for layer in table if isinstance(layer, Block)}
    convs = [blocks[name].body[1] for name in firsts]
    assert [conv.stride for conv in convs if isinstance(conv, Conv)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "hidden"),
    # Width / 16 as the nearest multiple of 32, but not below 0.9 of it: 752 / 16 is 47.
    [("skresnext50_32x4d", [32, 32, 32, 64]), ("skresnext50_32x8d", [32, 32, 64, 128]),
     ("skresnext50_1x94d", [32, 32, 32, 64])],
)  # fmt: skip
def test_hidden_channels_of_selective_kernels(name: str, hidden: list[int]) -> None:
    found = [
        part.reduce.out_channels
        for layer in arch.layers(arch.parse(name))
        if isinstance(layer, Block) and layer.name.endswith(".0")
        for part in layer.body
        if isinstance(part, SelectiveKernel)
    ]
    assert found == hidden


def test_infer_refuses_other_networks() -> None:
    with pytest.raises(ModelFileError, match="not a ResNeXt"):
        arch.infer({"conv1.weight": (64, 3, 7, 7)})
    shapes = arch.tensor_shapes(arch.parse("resnext50_32x4d"))
    del shapes["layer2.0.bn1.bias"]
    with pytest.raises(ModelFileError, match=r"1 missing: layer2\.0\.bn1\.bias"):
        arch.infer(shapes)


def test_summary_adds_up() -> None:
    spec = arch.parse("resnext101_32x8d")
    rows = arch.summarize(spec)
    assert [row.name for row in rows] == ["stem", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert [row.num_blocks for row in rows] == [0, 3, 4, 23, 3, 0]
    assert [row.output_size for row in rows] == [56, 56, 28, 14, 7, 1]
    assert [row.channels for row in rows] == [64, 256, 512, 1024, 2048, 1000]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("resnext50_32x4d", "resnext50_32x4d"), ("resnext101_32x8d", "resnext101_32x8d"),
     ("resnext101_64x4d", "resnext101_64x4d"), ("resnext50_1x64d", "resnet50"),
     ("resnext101_1x64d", "resnet101"), ("resnext152_1x64d", "resnet152")],
)  # fmt: skip
def test_keys_and_shapes_equal_torchvision(ours: str, theirs: str) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        peer = torchvision.models.get_model(theirs).state_dict()
    expected = {k: tuple(v.shape) for k, v in peer.items() if "num_batches" not in k}
    assert list(arch.tensor_shapes(arch.parse(ours)).items()) == list(expected.items())


@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in DEFAULT_TIMM else pytest.mark.slow)
        for name in {**TIMM, **TIMM_RESNETS}
    ],
)
def test_keys_shapes_and_macs_equal_timm(name: str) -> None:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        peer = timm.create_model(TIMM_RESNETS.get(name, name)).eval()
    spec = arch.parse(name)
    expected = {k: tuple(v.shape) for k, v in peer.state_dict().items() if "num_batches" not in k}
    assert list(arch.tensor_shapes(spec).items()) == list(expected.items())
    assert arch.num_params(spec) == sum(parameter.numel() for parameter in peer.parameters())
    for size in (224, 256 if spec.antialias else 97):  # odd maps have no half
        assert arch.num_macs(spec, size) == _macs_of(peer, size)


def _macs_of(module: Any, size: int) -> int:
    """Count those of a module on the meta device, by its weights and output shapes."""
    import torch

    counts: list[int] = []

    def count(layer: Any, _: Any, output: Any) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = torch.nn.Conv2d | torch.nn.Linear
    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, layers)]
    module(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.torch
def test_timm_has_no_other_network_of_the_family() -> None:
    timm = pytest.importorskip("timm")
    found = set()
    for name in timm.list_models("*resnext*"):
        with contextlib.suppress(ModelNotFoundError):
            found.add(arch.parse(name).name)
    assert found <= set(TIMM)
