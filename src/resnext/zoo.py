"""[torch] Names to networks with weights, and to their preprocessing.

The verbs of PyTorch Hub and timm: `create_model`, `create_transform`,
`resolve_data_config`, `parameter_groups`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnext import arch, catalogue, images, preprocess
from resnext import weights as weight_files
from resnext.arch import ArchSpec, OutputStride
from resnext.checkpoints import timmconfig
from resnext.checkpoints.reader import Tensors, suffix_of
from resnext.errors import ConfigError, counted, import_extra
from resnext.layers import Block
from resnext.modelfile import ModelDocument
from resnext.modules import filled
from resnext.network import ResNeXt, ResNeXtFeatures
from resnext.preprocess import PreprocessSpec

NO_DECAY_DIMENSIONS = 1  # batch norms and biases: decaying them only shrinks the scale


def create_model(
    name: str | os.PathLike[str],
    pretrained: bool = False,
    *,
    weights: Any = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: tuple[int, ...] | list[int] | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    output_stride: OutputStride = 32,
    zero_init_last: bool = False,
    offline: bool | None = None,
) -> ResNeXt:
    """Build a network, with weights or fresh.

    With weights it comes in eval mode, fresh in training mode. `model.document` and
    `model.pretrained_cfg` say what is known of the weights, class names included.

    Args:
        name: Architecture, weights of the catalogue (`resnext50_32x4d.tv2_in1k`), an alias
            (`tv_resnext50_32x4d`), a checkpoint, or `hf-hub:owner/repository`.
        pretrained: Whether to load weights; for a bare architecture the most accurate ones
            whose licence allows commercial use (`resnext models`).
        weights: Which ones, which implies `pretrained`: a tag (`tv2_in1k`), torchvision's
            name (`IMAGENET1K_V2`, `DEFAULT`) or enum member, or a checkpoint of the
            architecture `name`, given as a path with a suffix.
        num_classes: Number of logits; None as the weights have it, else 1000 (CIFAR: 10).
            Any other number keeps the body and gives it a fresh classifier; 0 leaves it off.
        in_chans: Channels of a picture; None as the weights have it, else 3. Pretrained
            filters of RGB are adapted: for 1 channel their sum, for more their channels in
            turn, scaled by 3 / in_chans.
        features_only: Build `ResNeXtFeatures`, which gives a list of feature maps.
        out_indices: Which maps: 0 is the stem's, 1 to 4 those of the stages; None for all.
        drop_rate: Dropout before the classifier, in training.
        drop_path_rate: Stochastic depth, in training.
        output_stride: 32, 16 or 8 input pixels per pixel of the last map.
        zero_init_last: Start every block as its shortcut.
        offline: True never touches the network; None follows `RESNEXT_OFFLINE` and
            `HF_HUB_OFFLINE`.

    Raises:
        ModelNotFoundError: Nothing has this name, or it has no such weights.
        WeightsUnavailableError: The weights cannot be fetched.
        ModelFileError: The checkpoint is refused.
        ConfigError: An option is out of range, or the weights are another network's.

    Example:
        >>> model = create_model("starter", pretrained=True)
        >>> model(torch.zeros(1, 3, 96, 96)).shape
        torch.Size([1, 200])
    """
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices is given; expected features_only=True with it")
    document, tensors = None, None
    if pretrained or weights is not None:
        local = _locate(name, weights, offline=offline)
        document, tensors = local.document, weight_files.read_tensors(local)
        spec = document.architecture
    else:
        spec = weight_files.describe(name).architecture
    built = _sized(spec, in_chans=in_chans, num_classes=None if tensors else num_classes)
    network: type[ResNeXt] = ResNeXtFeatures if features_only else ResNeXt
    own = {"out_indices": out_indices} if features_only else {"drop_rate": drop_rate}
    build = partial(
        network, built, drop_path_rate=drop_path_rate, output_stride=output_stride, **own
    )
    if document is None or tensors is None:
        model = build()
        if zero_init_last:
            model.initialize(zero_init_last=True)
    else:
        model = filled(build, _adapt_channels(tensors, built.in_chans)).eval()
        model.document, model.pretrained_cfg = document, describe_weights(document)
    if num_classes is not None and num_classes != model.num_classes and not features_only:
        model.reset_classifier(num_classes)
    return model


def describe_weights(document: ModelDocument) -> dict[str, Any]:
    """Return what is known of weights under timm's names of a `pretrained_cfg`."""
    spec, labels = document.preprocess, document.labels
    config = {
        "name": document.name,
        "architecture": document.architecture.name,
        "tag": document.name.partition(".")[2],
        "num_classes": document.architecture.num_classes,
        **data_config(spec),
        "license": document.license,
        "label_names": list(labels.class_names),
        "synset_ids": None if labels.synset_ids is None else list(labels.synset_ids),
    }
    return {**config, **document.metrics, **document.provenance}


def data_config(spec: PreprocessSpec) -> dict[str, Any]:
    """Return a preprocessing under timm's names.

    Returns:
        `input_size` (channels, height, width), `interpolation`, `mean` and `std` per channel
        of pixels in 0 to 1, `crop_mode`, `crop_pct`, the share of the resized short side
        that the crop keeps, and `resize`, that side in pixels: `input_size / crop_pct`
        rounded down, as timm has it.
    """
    modes = {"crop": "center", "squash": "squash", "letterbox": "border"}
    return {
        "input_size": (3, spec.input_size, spec.input_size),
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "crop_mode": modes[spec.mode],
        "crop_pct": timmconfig.crop_pct(spec),
        "resize": spec.resize,
    }


def resolve_data_config(model: nn.Module | str | os.PathLike[str]) -> dict[str, Any]:
    """Return the preprocessing that a model was made for, under timm's names.

    Args:
        model: What `create_model` returned, also compiled or wrapped for several devices,
            or a name it takes; nothing is downloaded.

    Returns:
        `input_size` (channels, height, width), `interpolation`, `mean` and `std` per channel
        of pixels in 0 to 1, `crop_mode`, `crop_pct` and `resize`, the short side in pixels.

    Raises:
        ConfigError: The module is none of ours.
        ModelNotFoundError: Nothing has this name.
    """
    spec = data_config(_spec_of(model))
    network = unwrapped(model)
    if isinstance(network, ResNeXt):
        spec["input_size"] = (network.spec.in_chans, *spec["input_size"][1:])
    return spec


def create_transform(
    model: nn.Module | str | os.PathLike[str], *, train: bool = False
) -> Callable[[Any], Tensor]:
    """Return what turns one picture into the input of a model.

    Args:
        model: What `create_model` returned, or a name it takes; nothing is downloaded.
        train: False for the exact preprocessing of the weights; True for random crops and
            flips to train with, which needs the extra `train`.

    Returns:
        A function of a path, address, bytes, file object, PIL image or (H, W, 3) uint8
        array; it returns (3, S, S) float32, normalized.

    Raises:
        ConfigError: The module is none of ours, or takes other than 3 channels.
        ModelNotFoundError: Nothing has this name.
        MissingExtraError: `train` without torchvision.
    """
    spec = _spec_of(model)
    network = unwrapped(model)
    if isinstance(network, ResNeXt) and network.spec.in_chans != 3:
        raise ConfigError(
            f"the model takes {counted(network.spec.in_chans, 'channel')}; expected 3, pictures"
            " are RGB",
            hint="prepare them yourself, by the sizes of resolve_data_config(model)",
        )
    if train:
        augment = import_extra("resnext.training.augment", extra="train")
        random: Callable[[Any], Tensor] = augment.RandomCropTransform(spec)
        return random
    return EvalTransform(spec)


class EvalTransform:
    """The exact preprocessing of some weights, one picture to (3, S, S) float32.

    Args:
        spec: Which.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec

    def __call__(self, image: Any) -> Tensor:
        """Prepare one picture: path, bytes, PIL image or (H, W, 3) uint8 array.

        Raises:
            ImageError: It cannot be read.
        """
        rgb = images.open_rgb(image, orientation=self.spec.orientation)
        pixels = preprocess.normalize(preprocess.apply(rgb, self.spec), self.spec)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def __repr__(self) -> str:
        return f"EvalTransform({self.spec})"


def parameter_groups(
    model: ResNeXt,
    *,
    lr: float,
    weight_decay: float = 0.0,
    norm_weight_decay: float = 0.0,
    decay_biases: bool = False,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for an optimizer.

    Args:
        model: What `create_model` returned.
        lr: Learning rate of the classifier.
        weight_decay: Of convolutions and the classifier.
        norm_weight_decay: Of batch norms, and of biases.
        decay_biases: Biases of convolutions and the classifier take `weight_decay` instead.
        layer_decay: Factor on the learning rate for each step down: from the classifier
            over the blocks, one by one, to the stem.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `depth`, 0 for the stem.

    Raises:
        ConfigError: A value is out of range.
    """
    if not 0 < layer_decay <= 1 or lr < 0 or weight_decay < 0:
        raise ConfigError(
            f"lr is {lr}, weight_decay {weight_decay}, layer_decay {layer_decay}; expected at"
            " least 0, at least 0, and above 0 and at most 1"
        )
    blocks = [part.name for part in arch.layers(model.spec) if isinstance(part, Block)]
    depths = {name: index for index, name in enumerate(blocks, 1)}
    head = len(blocks) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    biases = {
        f"{name}.bias"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = ".".join(name.split(".")[:2])
        depth = head if name.startswith("fc.") else depths.get(block, 0)
        decays = parameter.ndim > NO_DECAY_DIMENSIONS or (decay_biases and name in biases)
        group = groups.setdefault(
            (depth, decays),
            {
                "params": [],
                "lr": lr * layer_decay ** (head - depth),
                "weight_decay": weight_decay if decays else norm_weight_decay,
                "depth": depth,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _locate(
    name: str | os.PathLike[str], weights: Any, *, offline: bool | None
) -> weight_files.LocalModel:
    if weights is None:
        local = weight_files.locate(name, offline=offline)
        _warn_of_assumptions(local.document)
        return local
    text = str(weights)  # torchvision's enum members print as ResNeXt50_32X4D_Weights.IMAGENET1K_V1
    wanted = weight_files.describe(name).architecture.name
    if suffix_of(text):
        return weight_files.locate(text, offline=offline, architecture=wanted)
    row = catalogue.find(text if "." in text else f"{os.fspath(name)}.{text}")
    if row.architecture != wanted:
        raise ConfigError(f"weights are {row.name}; expected some of {wanted}")
    return weight_files.locate(row.name, offline=offline)


def _warn_of_assumptions(document: ModelDocument) -> None:
    structure = document.provenance.get("assumed", {}).get("architecture", "")
    # Only of networks with squeeze-and-excitation are there public weights of both kinds.
    if "also those of" in structure and document.architecture.attention == "se":
        warnings.warn(
            f"{document.name} is taken for a {document.architecture.name}, {structure}; to say"
            " which it is: create_model(ARCHITECTURE, weights=PATH)",
            stacklevel=4,
        )


def _sized(spec: ArchSpec, *, in_chans: int | None, num_classes: int | None) -> ArchSpec:
    return replace(
        spec,
        in_chans=spec.in_chans if in_chans is None else in_chans,
        num_classes=num_classes or spec.num_classes,
    )


def _adapt_channels(tensors: Tensors, in_chans: int) -> Tensors:
    key = "conv1.weight" if "conv1.weight" in tensors else "conv1.0.weight"
    weight = tensors[key].astype(np.float32)
    have = weight.shape[1]
    if in_chans == have:
        return tensors
    if have != 3:
        raise ConfigError(f"in_chans is {in_chans}; expected {have}, as the weights have it")
    if in_chans == 1:
        adapted = weight.sum(axis=1, keepdims=True)
    else:
        adapted = weight[:, np.arange(in_chans) % have] * (have / in_chans)
    return {**tensors, key: adapted}


def unwrapped(model: Any) -> Any:
    """Return what torch.compile, DataParallel and DistributedDataParallel wrap."""
    for name in ("_orig_mod", "module"):
        if isinstance(model, nn.Module) and not isinstance(model, ResNeXt):
            model = getattr(model, name, model)
    return model


def _spec_of(model: nn.Module | str | os.PathLike[str]) -> PreprocessSpec:
    if isinstance(model, str | os.PathLike):
        return weight_files.describe(model).preprocess
    model = unwrapped(model)
    if not isinstance(model, ResNeXt):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected what create_model returned, or a name"
        )
    if model.document is not None:
        return model.document.preprocess
    return preprocess.usual(model.spec.input_size)
