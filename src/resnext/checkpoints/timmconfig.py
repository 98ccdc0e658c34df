"""timm's `config.json`, as it lies beside weights on the hub, both ways.

Pictures are prepared at timm's test size, not at its training size, where it has both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from resnext import catalogue
from resnext.arch import ArchSpec
from resnext.checkpoints import timmnames
from resnext.errors import ConfigError, ModelFileError, counted
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


def to_config(document: ModelDocument) -> dict[str, Any]:
    """Return timm's configuration of a model, the opposite of `document`.

    Args:
        document: What is known of the model.

    Raises:
        ModelFileError: timm cannot build the network, or not prepare pictures the same way.
    """
    spec = document.architecture
    name, arguments = timmnames.to_timm(spec)
    settings = {
        "tag": _tag(document.name, (name, spec.name)),
        "custom_load": False,
        **_preprocess_settings(document.preprocess, spec.in_chans),
        "fixed_input_size": False,
        "num_classes": spec.num_classes,
        "first_conv": "conv1.0" if spec.stem == "deep" else "conv1",
        "classifier": "fc",
        "license": document.license,
        "origin_url": document.provenance.get("origin_url"),
    }
    config = {
        "architecture": name,
        "num_classes": spec.num_classes,
        "num_features": spec.embedding_size,
        "global_pool": "avg",
        **_label_names(document.labels),
        "model_args": arguments,
        "pretrained_cfg": {key: value for key, value in settings.items() if value is not None},
    }
    return {key: value for key, value in config.items() if value != {}}


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
    share = float(settings.get("test_crop_pct") or settings.get("crop_pct") or 0.875)
    crop_mode = settings.get("crop_mode") or "center"
    mode: Literal["crop", "squash"] = "squash" if crop_mode == "squash" else "crop"
    if crop_mode not in ("center", "squash") or (mode == "squash" and share != 1):
        raise ModelFileError(f"crop_mode {crop_mode!r} with crop_pct {share} is not known here")
    return PreprocessSpec(
        input_size=height,
        resize=math.floor(height / share),
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


def _tag(name: str, architectures: Sequence[str]) -> str | None:
    for architecture in architectures:
        name = name.removeprefix(f"{architecture}.")
    return None if name in architectures else name


def _preprocess_settings(spec: PreprocessSpec, in_chans: int) -> dict[str, Any]:
    if spec.mode == "letterbox" or in_chans != 3:
        found = "letterbox" if in_chans == 3 else f"{counted(in_chans, 'input channel')}"
        raise ModelFileError(
            f"timm's config.json has no exact word for {found}; expected a crop or squash of"
            " RGB pictures",
            hint="--to safetensors writes the tensors alone",
        )
    return {
        "input_size": [in_chans, spec.input_size, spec.input_size],
        "interpolation": spec.interpolation,
        "crop_pct": crop_pct(spec),
        "crop_mode": "squash" if spec.mode == "squash" else "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def crop_pct(spec: PreprocessSpec) -> float:
    """Return the shortest decimal from which timm computes exactly our `resize`."""
    size, resize = spec.input_size, spec.resize
    # Cut off, not rounded, as timm's own 0.965 for 224 of 232: rounded up it would be 231.
    shares = (size * 10**digits // resize / 10**digits for digits in range(1, 16))
    exact = (share for share in shares if share and math.floor(size / share) == resize)
    return next(exact, math.nextafter(size / resize, 0))


def _label_names(labels: Labels) -> dict[str, Any]:
    names, ids = labels.class_names, labels.synset_ids
    if labels == numbered(len(names)) and len(names) != 1000:
        return {}  # without names, 1000 classes are taken for ImageNet's
    if ids is None or len(set(ids)) < len(ids) or not all(map(_SYNSET_ID.fullmatch, ids)):
        return {"label_names": list(names)}
    return {"label_names": list(ids), "label_descriptions": dict(zip(ids, names, strict=True))}
