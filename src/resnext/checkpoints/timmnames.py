"""timm's names for the family, arguments where it has none; both ways.

timm builds every network of ours but the CIFAR ones: from the function of a near relative,
whose arguments `config.json` can replace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resnext import arch
from resnext.arch import ArchSpec, Variant
from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError

# Networks that timm has a function for; `skresnet50` is another one than `skresnext50_1x64d`.
_KNOWN = """
resnext50_32x4d resnext50d_32x4d resnext101_32x4d resnext101_32x8d resnext101_32x16d
resnext101_32x32d resnext101_64x4d
resnext26_1x64d resnext26d_1x64d resnext26t_1x64d resnext50_1x64d resnext50d_1x64d
resnext50t_1x64d resnext101_1x64d resnext101d_1x64d resnext152_1x64d resnext152d_1x64d
resnext50_1x128d resnext101_1x128d
seresnext26d_32x4d seresnext26t_32x4d seresnext50_32x4d seresnext101_32x4d
seresnext101_32x8d seresnext101d_32x8d seresnext101_64x4d
seresnext50_1x64d seresnext50t_1x64d seresnext101_1x64d seresnext152_1x64d seresnext152d_1x64d
resnextaa50_1x64d resnextaa50d_1x64d resnextaa101d_1x64d
seresnextaa50d_1x64d seresnextaa101d_32x8d seresnextaa201d_32x8d
skresnext50_32x4d
""".split()

_RESNET = re.compile(r"(se|)resnet(aa|)(26|50|101|152)([dt]?)", re.ASCII)
_WIDE_RESNET = re.compile(r"wide_resnet(50|101)_2", re.ASCII)
_STEM_TYPES: dict[Variant, str] = {"": "", "d": "deep", "t": "deep_tiered"}


def to_timm(spec: ArchSpec) -> tuple[str, dict[str, Any]]:
    """Return the name of timm's function that builds a network, and what to call it with.

    Args:
        spec: The network.

    Raises:
        ModelFileError: timm cannot build it.
    """
    if spec.stem == "cifar":
        raise ModelFileError(
            f"timm cannot build {spec.name}: it has no CIFAR networks",
            hint="--to safetensors writes the tensors alone",
        )
    needed = _arguments(spec)
    choices = []
    for known in map(arch.parse, _KNOWN):
        if (known.attention, known.antialias) == (spec.attention, spec.antialias):
            given = _arguments(known)
            changed = {key: value for key, value in needed.items() if value != given[key]}
            choices.append((known.depth != spec.depth, len(changed), _timm_name(known), changed))
    _, _, name, changed = min(choices, key=lambda choice: choice[:2])
    return name, changed


def from_timm(name: str, arguments: Mapping[str, Any]) -> ArchSpec:
    """Return the network that a function of timm builds.

    Args:
        name: Of the function, such as `wide_resnet50_2`.
        arguments: What it is called with; those that are not in `STRUCTURE` are left alone.

    Raises:
        ModelFileError: It is none of the family.
    """
    given = {key: value for key, value in arguments.items() if key in STRUCTURE}
    try:
        known = arch.parse(_our_name(name))
        wanted = {**_arguments(known), **given}
        depths = [
            depth for depth, counts in arch.BLOCKS.items() if list(counts) == wanted["layers"]
        ]
        variants = [key for key, value in _STEM_TYPES.items() if value == wanted["stem_type"]]
        spec = replace(
            known,
            depth=depths[0],
            variant=variants[0],
            cardinality=wanted["cardinality"],
            base_width=wanted["base_width"],
        )
        if _arguments(spec) != wanted:
            raise ConfigError(f"{spec.name} has other arguments")
    except (ModelNotFoundError, ConfigError, IndexError) as error:
        called = f" with {given}" if given else ""
        raise ModelFileError(
            f"timm's architecture {name!r}{called} is not a known ResNeXt"
        ) from error
    return spec


def _arguments(spec: ArchSpec) -> dict[str, Any]:
    """Return what timm's constructor calls the structure of a network."""
    return {
        "layers": list(spec.blocks),
        "cardinality": spec.cardinality,
        "base_width": spec.base_width,
        "stem_type": _STEM_TYPES[spec.variant],
        "stem_width": spec.stem_channels[1] if spec.stem == "deep" else arch.PLANES,
        "avg_down": spec.variant != "",
    }


# Arguments that change the structure, and nothing that the shapes of the tensors do not show.
STRUCTURE = frozenset(_arguments(arch.parse(_KNOWN[0])))


def _timm_name(spec: ArchSpec) -> str:
    if (spec.cardinality, spec.base_width) == (1, 64):
        aa = "aa" if spec.antialias else ""
        return f"{spec.attention}resnet{aa}{spec.depth}{spec.variant}"
    if (spec.cardinality, spec.base_width) == (1, 128):
        return f"wide_resnet{spec.depth}_2"
    return spec.name


def _our_name(name: str) -> str:
    if match := _RESNET.fullmatch(name):
        attention, antialias, depth, variant = match.groups()
        return f"{attention}resnext{antialias}{depth}{variant}_1x64d"
    if match := _WIDE_RESNET.fullmatch(name):
        return f"resnext{match[1]}_1x128d"
    return name
