from __future__ import annotations

import itertools
from typing import Any

import pytest

from resnext import arch
from resnext.arch import ArchSpec
from resnext.checkpoints import timmnames
from resnext.errors import ConfigError, ModelFileError


def every_spec() -> list[ArchSpec]:
    found = []
    parts = itertools.product(
        ["", "se", "sk"], [False, True], [26, 50, 101, 152, 201], ["", "d", "t"],
        [(1, 64), (1, 128), (2, 4), (32, 8)],
    )  # fmt: skip
    for attention, antialias, depth, variant, (cardinality, base_width) in parts:
        try:
            spec = ArchSpec(
                depth=depth,
                cardinality=cardinality,
                base_width=base_width,
                variant=variant,  # type: ignore[arg-type]
                attention=attention,  # type: ignore[arg-type]
                antialias=antialias,
            )
        except ConfigError:
            continue  # selective kernels have no anti-aliasing
        found.append(spec)
    return found


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("resnext50_1x64d", "resnet50"),
        ("resnext26t_1x64d", "resnet26t"),
        ("resnext50_1x128d", "wide_resnet50_2"),
        ("seresnext152d_1x64d", "seresnet152d"),
        ("seresnextaa50d_1x64d", "seresnetaa50d"),
        ("seresnextaa101d_32x8d", "seresnextaa101d_32x8d"),
        ("skresnext50_32x4d", "skresnext50_32x4d"),
    ],
)
def test_names_that_timm_has(ours: str, name: str):
    assert timmnames.to_timm(arch.parse(ours)) == (name, {})
    assert timmnames.from_timm(name, {}) == arch.parse(ours)


@pytest.mark.parametrize(
    ("ours", "name", "arguments"),
    [
        ("resnext26_32x4d", "resnet26", {"cardinality": 32, "base_width": 4}),
        ("resnext152_32x4d", "resnet152", {"cardinality": 32, "base_width": 4}),
        (
            "skresnext26t_32x4d",
            "skresnext50_32x4d",
            {
                "layers": [2, 2, 2, 2],
                "stem_type": "deep_tiered",
                "stem_width": 32,
                "avg_down": True,
            },
        ),
    ],
)
def test_a_relative_with_arguments_where_it_has_none(ours: str, name: str, arguments: Any):
    assert timmnames.to_timm(arch.parse(ours)) == (name, arguments)


def test_every_network_comes_back():
    for spec in every_spec():
        assert timmnames.from_timm(*timmnames.to_timm(spec)) == spec


def test_other_arguments_are_left_alone():
    assert timmnames.from_timm("resnet50", {"drop_rate": 0.1}).name == "resnext50_1x64d"


@pytest.mark.parametrize(
    "name",
    ["resnetblur50", "resnet50c", "resnet50s", "resnet18", "skresnet50", "vit", "",
     "resnet50_2", "wide_resnet50", "ecaresnext50t_32x4d", "resnet200d", "senet154"],
)  # fmt: skip
def test_lookalikes_are_refused(name: str):
    with pytest.raises(ModelFileError, match=f"timm's architecture {name!r} is not a known"):
        timmnames.from_timm(name, {})


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers": [1, 1, 1, 1]},
        {"layers": 3},
        {"layers": None},
        {"cardinality": 0},
        {"cardinality": "2"},
        {"base_width": 1.5},
        {"stem_type": "deep"},  # without the pools in the shortcuts: a ResNet-C
        {"avg_down": True},
        {"stem_width": 32},
        {"stem_type": "deep", "avg_down": True},  # of twice the width
        {"stem_type": []},
    ],
)
def test_arguments_of_other_networks_are_refused(arguments: Any):
    with pytest.raises(ModelFileError, match=r"'resnet50' with .* is not a known ResNeXt"):
        timmnames.from_timm("resnet50", arguments)


def test_timm_has_no_cifar_network():
    with pytest.raises(ModelFileError, match="timm cannot build resnext29_8x64d"):
        timmnames.to_timm(arch.parse("resnext29_8x64d"))


@pytest.mark.torch
@pytest.mark.slow
def test_timm_builds_networks_with_our_tensors():
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    known = map(arch.parse, timmnames._KNOWN)
    others = (spec for spec in every_spec() if spec.cardinality == 2 and spec.depth in (26, 201))
    for spec in (*known, *others):
        name, arguments = timmnames.to_timm(spec)
        with torch.device("meta"):
            state = timm.create_model(name, **arguments).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        found = {key: shape for key, shape in shapes.items() if "num_batches" not in key}
        assert found == arch.tensor_shapes(spec), (spec.name, name, arguments)
