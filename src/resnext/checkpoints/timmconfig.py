"""timm's `config.json`, as it lies beside weights on the hub, read.

Pictures are prepared at timm's test size, not at its training size, where it has both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from resnext import catalogue
from resnext.arch import ArchSpec
from resnext.checkpoints import timmnames
from resnext.errors import ConfigError, ModelFileError
from resnext.modelfile import ModelDocument
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Arguments of timm's constructor that do not change the function, or show in the shapes.
_HARMLESS_ARGUMENTS = timmnames.STRUCTURE | frozenset(
    "num_classes in_chans global_pool drop_rate drop_path_rate drop_block_rate"
    " zero_init_last".split()
)
_SYNSET_ID = re.compile(r"n\d{8}", re.ASCII)


def document(config: Mapping[str, Any], spec: ArchSpec) -> ModelDocument:
    """Describe a model by timm's configuration and the architecture its tensors have.

    Args:
        config: What `config.json` says.
        spec: What the tensors say. Of anti-aliasing they say nothing, so for that the name in
            the configuration counts.

    Raises:
        ModelFileError: The configuration is of another network than the tensors, or asks
            for a preprocessing we cannot do exactly.
    """
    try:
        _check_arguments(config)
        spec = _architecture(config, spec)
        settings = config.get("pretrained_cfg", config)
        return ModelDocument(
            name=_name(config, settings, spec),
            architecture=spec,
            labels=_labels(config, spec.num_classes),
            preprocess=_preprocess(settings),
            license=str(settings.get("license") or "unknown"),
            provenance={"read_from": "timm's config.json"},
        )
    except ModelFileError:
        raise
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"timm's config.json cannot be used: {error}") from error


def numbered(count: int) -> Labels:
    """Return names for classes whose names nobody knows: class_0, class_1, ..."""
    return Labels(tuple(f"class_{index}" for index in range(count)))


def _architecture(config: Mapping[str, Any], spec: ArchSpec) -> ArchSpec:
    # The tensors alone do not tell: `resnetblur50` has those of `resnet50` and blurs in
    # between. So a name that we do not know is refused even where the tensors fit.
    name = str(config.get("architecture", ""))
    known = timmnames.from_timm(name, config.get("model_args") or {})
    if replace(known, antialias=False).name != spec.name:
        raise ModelFileError(f"config.json says {name}, the tensors are {spec.name}'s")
    return replace(spec, antialias=known.antialias)


def _check_arguments(config: Mapping[str, Any]) -> None:
    arguments = config.get("model_args") or {}
    if unknown := sorted(set(arguments) - _HARMLESS_ARGUMENTS):
        # Another activation or output stride leaves no trace in the tensors.
        raise ModelFileError(f"timm's model_args has {', '.join(unknown)}: not a known ResNeXt")
    for place in (config, arguments):
        if place.get("global_pool", "avg") != "avg":
            raise ModelFileError(f"global_pool is {place['global_pool']!r}; expected 'avg'")


def _name(config: Mapping[str, Any], settings: Mapping[str, Any], spec: ArchSpec) -> str:
    tag, arguments = settings.get("tag"), config.get("model_args") or {}
    # With another structure the architecture's name would promise the published weights.
    name = spec.name if timmnames.STRUCTURE & set(arguments) else config["architecture"]
    return f"{name}.{tag}" if tag else spec.name


def _preprocess(settings: Mapping[str, Any]) -> PreprocessSpec:
    channels, height, width = settings.get("test_input_size") or settings["input_size"]
    if height != width or channels != 3:
        raise ModelFileError(f"the input is {channels}x{height}x{width}; expected 3 square planes")
    crop_pct = float(settings.get("test_crop_pct") or settings.get("crop_pct") or 0.875)
    crop_mode = settings.get("crop_mode") or "center"
    mode: Literal["crop", "squash"] = "squash" if crop_mode == "squash" else "crop"
    if crop_mode not in ("center", "squash") or (mode == "squash" and crop_pct != 1):
        raise ModelFileError(f"crop_mode {crop_mode!r} with crop_pct {crop_pct} is not known here")
    return PreprocessSpec(
        input_size=height,
        resize=math.floor(height / crop_pct),
        interpolation=settings.get("interpolation") or "bilinear",
        mode=mode,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def _labels(config: Mapping[str, Any], count: int) -> Labels:
    names = config.get("label_names")
    if not names:
        return catalogue.imagenet1k() if count == 1000 else numbered(count)
    if isinstance(names, dict):  # {"0": "cat"}, or {"cat": 0}
        keyed = {int(k): v for k, v in names.items()} if _by_index(names) else _inverse(names)
        names = [keyed[index] for index in range(len(keyed))]
    texts = tuple(str(name) for name in names)
    if not all(_SYNSET_ID.fullmatch(text) for text in texts):
        return Labels(texts)
    described = config.get("label_descriptions") or {}
    return Labels(tuple(str(described.get(text, text)) for text in texts), texts)


def _by_index(names: Mapping[str, Any]) -> bool:
    return all(str(key).isdecimal() for key in names)


def _inverse(names: Mapping[str, Any]) -> dict[int, str]:
    return {int(index): name for name, index in names.items()}
