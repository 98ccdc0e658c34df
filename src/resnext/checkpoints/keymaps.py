"""Tensor names of other code bases, renamed to torchvision's.

torchvision's names are also timm's and FAIR's (WSL, SSL, SWSL). The others:

mmpretrain  backbone.layer1.0.conv1, head.fc                       MMPretrain, MMClassification
nvidia      layers.0.0.conv1 for layer1.0.conv1                    DeepLearningExamples
cadene      features.4.0.0.0.0.0 for layer1.0.conv1, last_linear   pretrained-models.pytorch
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from resnext.errors import ModelFileError

KeyLayout = Literal["torchvision", "mmpretrain", "nvidia", "cadene"]

# What DataParallel, torch.compile and Lightning put in front; it may be there twice.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.|model\.)+")
# Counters of training steps, no part of the function that is computed.
_COUNTERS = re.compile(r"(?:.*\.)?(?:num_batches_tracked|n_averaged)")

# Torch7's tree of containers, as the conversion numbered it. A block is
# [ConcatTable[[[conv1, bn1, relu, conv2, bn2, relu], conv3, bn3], [conv, bn]], add, relu].
_CADENE_TOP = {"features.0": "conv1", "features.1": "bn1", "last_linear": "fc"}
_CADENE_BLOCK = re.compile(r"features\.([4-7])\.(\d+)\.0\.(\d+(?:\.\d+)*)")
_CADENE_PARTS = {
    "0.0.0": "conv1",
    "0.0.1": "bn1",
    "0.0.3": "conv2",
    "0.0.4": "bn2",
    "0.1": "conv3",
    "0.2": "bn3",
    "1.0": "downsample.0",
    "1.1": "downsample.1",
}


def detect(keys: Iterable[str]) -> KeyLayout:
    """Tell whose names these are; "torchvision" where they are nobody else's."""
    bare = {_WRAPPERS.sub("", key, count=1) for key in keys}
    if any(key.startswith("backbone.") for key in bare):
        return "mmpretrain"
    if any(key.startswith("layers.") for key in bare):
        return "nvidia"
    if "features.0.weight" in bare:
        return "cadene"
    return "torchvision"


def to_torchvision(keys: Iterable[str]) -> dict[str, str]:
    """Map torchvision's name of each tensor to the name it has here.

    Wrapper prefixes are stripped and counters left out; a name that belongs to no part of
    a ResNeXt stays as it is, for the comparison with the architecture to report.

    Raises:
        ModelFileError: Two tensors would get the same name.
    """
    keys = [key for key in keys if not _COUNTERS.fullmatch(key)]
    layout = detect(keys)
    renamed: dict[str, str] = {}
    for key in keys:
        match = _WRAPPERS.match(key)
        name = _rename(key[match.end() :] if match else key, layout)
        if name in renamed:
            raise ModelFileError(f"{key} and {renamed[name]} are both {name}")
        renamed[name] = key
    return renamed


def _rename(key: str, layout: KeyLayout) -> str:
    if layout == "mmpretrain":
        return key.removeprefix("backbone.").removeprefix("head.")
    if layout == "nvidia":
        return re.sub(r"^layers\.(\d+)", lambda match: f"layer{int(match[1]) + 1}", key)
    if layout == "cadene":
        module, _, parameter = key.rpartition(".")
        return f"{_cadene(module)}.{parameter}"
    return key


def _cadene(module: str) -> str:
    match = _CADENE_BLOCK.fullmatch(module)
    if match is None or match[3] not in _CADENE_PARTS:
        return _CADENE_TOP.get(module, module)
    return f"layer{int(match[1]) - 3}.{match[2]}.{_CADENE_PARTS[match[3]]}"
