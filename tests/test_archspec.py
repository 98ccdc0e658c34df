"""`archspec`: the numbers of a network and its name, one from the other."""

from __future__ import annotations

from typing import Any

import pytest

from resnext import arch, archspec
from resnext.archspec import ArchSpec
from resnext.errors import ConfigError, ModelNotFoundError


def test_it_is_had_from_arch_as_well() -> None:
    assert arch.ArchSpec is ArchSpec
    assert arch.parse is archspec.parse


def test_the_parts_of_a_name() -> None:
    assert archspec.parse("seresnextaa201t_32x8d") == ArchSpec(
        depth=201, cardinality=32, base_width=8, variant="t", attention="se", antialias=True
    )
    assert archspec.parse("skresnext50d_2x40d", num_classes=7) == ArchSpec(
        depth=50, cardinality=2, base_width=40, variant="d", attention="sk", num_classes=7
    )


@pytest.mark.parametrize(
    "name",
    ["", "resnext50", "resnext50_32x4", "resnext18_32x4d", "resnext50_0x4d", "resnext29d_8x64d",
     "ResNeXt50_32x4d", "resnext50_32x4d\n", "resnext50_032x4d", "resnext50_٣x4d",
     "resnext50e_32x4d", "aaresnext50_32x4d", "skseresnext50_32x4d", "skresnextaa50_32x4d",
     "seresnext29_8x64d", "resnextaa29_8x64d", "ecaresnext50t_32x4d"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is no architecture; expected resnext"):
        archspec.parse(name)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean resnext50_32x4d"):
        archspec.parse("resnex50_32x4d")


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 18), ("cardinality", 0), ("base_width", -4), ("num_classes", 0), ("in_chans", True),
     ("cardinality", 2.5), ("variant", "e"), ("attention", "eca")],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    options = {"depth": 50, "cardinality": 32, "base_width": 4, field: value}
    with pytest.raises(ConfigError, match=f"{field} is"):
        ArchSpec(**options)


@pytest.mark.parametrize(
    ("field", "options"),
    [("variant", {"depth": 29, "variant": "d"}), ("attention", {"depth": 29, "attention": "se"}),
     ("antialias", {"depth": 29, "antialias": True}),
     ("antialias", {"depth": 50, "antialias": True, "attention": "sk"})],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{field} is"):
        ArchSpec(cardinality=32, base_width=4, **options)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnext50_32x4d", (64,)), ("resnext29_8x64d", (64,)), ("resnext50d_32x4d", (32, 32, 64)),
     ("seresnext26t_32x4d", (24, 32, 64)), ("seresnextaa201d_32x8d", (64, 64, 128)),
     ("resnext201t_32x8d", (48, 64, 128))],
)  # fmt: skip
def test_channels_of_the_stem(name: str, channels: tuple[int, ...]) -> None:
    assert archspec.parse(name).stem_channels == channels
