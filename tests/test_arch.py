"""`arch`: names, structure and counts, against published numbers and the peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext import arch
from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError

# Parameters: torchvision's and timm's own counts; GMACs: torchvision's Weights.meta.
COUNTS = {
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "resnext50d_32x4d": (25_048_136, None),
    "resnext101_32x16d": (194_026_792, None),
    "resnext101_32x32d": (468_530_472, None),
    "resnext101_32x48d": (828_411_176, None),
    "resnext50_1x64d": (25_557_032, 4.089),
    "resnext101_1x64d": (44_549_160, 7.801),
    "resnext152_1x64d": (60_192_808, 11.514),
}

names = st.builds(
    lambda depth, variant, cardinality, width: f"resnext{depth}{variant}_{cardinality}x{width}d",
    st.sampled_from([26, 50, 101, 152]),
    st.sampled_from(["", "d"]),
    st.integers(1, 64),
    st.integers(1, 64),
)


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


@given(names)
def test_name_and_structure_are_the_same_thing(name: str) -> None:
    spec = arch.parse(name)
    assert spec.name == name
    assert arch.infer(arch.tensor_shapes(spec)) == spec


@given(names, st.integers(1, 1200), st.integers(1, 6))
def test_classes_and_channels_are_inferred(name: str, num_classes: int, in_chans: int) -> None:
    base = arch.parse(name)
    spec = arch.ArchSpec(
        depth=base.depth,
        cardinality=base.cardinality,
        base_width=base.base_width,
        variant=base.variant,
        num_classes=num_classes,
        in_chans=in_chans,
    )
    assert arch.infer(arch.tensor_shapes(spec)) == spec


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


@pytest.mark.parametrize(
    "name",
    ["", "resnext50", "resnext50_32x4", "resnext18_32x4d", "resnext50_0x4d", "resnext29d_8x64d",
     "ResNeXt50_32x4d", "resnext50_32x4d\n", "resnext50_032x4d", "resnext50_٣x4d"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is no architecture; expected resnext"):
        arch.parse(name)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean resnext50_32x4d"):
        arch.parse("resnex50_32x4d")


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 18), ("cardinality", 0), ("base_width", -4), ("num_classes", 0), ("in_chans", True),
     ("cardinality", 2.5), ("variant", "e")],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    options = {"depth": 50, "cardinality": 32, "base_width": 4, field: value}
    with pytest.raises(ConfigError, match=f"{field} is"):
        arch.ArchSpec(**options)


def test_infer_refuses_other_networks() -> None:
    with pytest.raises(ModelFileError, match="not a ResNeXt"):
        arch.infer({"conv1.weight": (64, 3, 7, 7)})
    shapes = arch.tensor_shapes(arch.parse("resnext50_32x4d"))
    del shapes["layer2.0.bn1.bias"]
    with pytest.raises(ModelFileError, match=r"1 are missing .*layer2\.0\.bn1\.bias"):
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
    ["resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d",
     "resnext101_32x16d", "resnext101_32x32d", "resnext101_64x4d"],
)  # fmt: skip
def test_keys_and_shapes_equal_timm(name: str) -> None:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        peer = timm.create_model(name).state_dict()
    expected = {k: tuple(v.shape) for k, v in peer.items() if "num_batches" not in k}
    assert arch.tensor_shapes(arch.parse(name)) == expected
