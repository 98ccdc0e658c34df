"""`featureinfo`: the maps of a network, and how some of them are chosen."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence

import pytest

from resnext import arch
from resnext.errors import ConfigError
from resnext.featureinfo import FeatureInfo, describe

STAGES = ["layer1", "layer2", "layer3", "layer4"]


def info(name: str = "resnext50_32x4d", output_stride: int = 32) -> FeatureInfo:
    return describe(arch.parse(name), output_stride)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnext50_32x4d", 64),
        ("resnext50d_32x4d", 64),
        ("seresnext26t_32x4d", 64),
        ("skresnext50_32x4d", 64),
        ("seresnextaa201d_32x8d", 128),
    ],
)
def test_maps_of_the_imagenet_networks(name: str, stem: int) -> None:
    maps = info(name)
    assert maps.channels() == [stem, 256, 512, 1024, 2048]
    assert maps.reduction() == [2, 4, 8, 16, 32]
    assert maps.module_name() == ["relu", *STAGES]


def test_maps_of_the_cifar_networks() -> None:
    maps = info("resnext29_8x64d")
    assert maps.channels() == [64, 256, 512, 1024]
    assert maps.reduction() == [1, 1, 2, 4]
    assert maps.module_name() == ["relu", *STAGES[:3]]


def test_facts_of_some_maps() -> None:
    maps = info()
    assert maps.channels(-1) == 2048
    assert maps.reduction([1, 3]) == [4, 16]
    assert maps.module_name((0,)) == ["relu"]
    assert maps.get("num_chs", 1) == 256
    assert maps.get_dicts() == list(maps)
    maps.get_dicts()[0]["num_chs"] = 0
    assert maps.channels(0) == 64


def test_it_knows_which_maps_of_the_network_they_are() -> None:
    assert info().out_indices == (0, 1, 2, 3, 4)
    assert FeatureInfo([info()[2], info()[4]], [2, 4]).out_indices == (2, 4)


@pytest.mark.parametrize(("stride", "last"), [(16, [8, 16, 16]), (8, [8, 8, 8])])
def test_output_stride_bounds_the_reduction(stride: int, last: list[int]) -> None:
    assert info(output_stride=stride).reduction() == [2, 4, *last]


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [
        (None, [0, 1, 2, 3, 4]),
        (2, [3, 4]),
        (5, [0, 1, 2, 3, 4]),
        ([0], [0]),
        ((-1,), [4]),
        ([-2, 1], [1, 3]),
        ([4, 2, 2, -1], [2, 4]),
    ],
)
def test_a_choice_comes_in_order_and_once(
    indices: int | Sequence[int] | None, chosen: list[int]
) -> None:
    assert info().select(indices) == chosen


@pytest.mark.parametrize("indices", [[], [5], [0, -6], 0, 6, -1])
def test_maps_that_are_not_there_are_refused(indices: int | Sequence[int]) -> None:
    with pytest.raises(ConfigError, match=r"feature maps .*asked for; there are"):
        info().select(indices)


def test_it_is_a_sequence_of_entries() -> None:
    maps = info()
    assert len(maps) == 5
    assert maps[-1] == {"num_chs": 2048, "reduction": 32, "module": "layer4"}
    assert [entry["module"] for entry in maps[1:]] == STAGES
    assert "'reduction': 16" in repr(maps)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda maps: pickle.loads(pickle.dumps(maps))]
)
def test_it_can_be_copied(duplicate: Callable[[FeatureInfo], FeatureInfo]) -> None:
    assert list(duplicate(info())) == list(info())
