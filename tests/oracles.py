"""The same networks built by torchvision and timm, to compare ours with; needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import timm
import torch
from networks import Tensors
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck, ResNet

from resnext.arch import ArchSpec
from resnext.preprocess import PreprocessSpec

Array = npt.NDArray[np.float64]
Model = TypeVar("Model", bound=torch.nn.Module)


class CifarResNet(ResNet):
    """The paper's CIFAR network from torchvision's parts: 3x3 stem, three stages."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(
            Bottleneck,
            [*spec.blocks, 1],
            num_classes=spec.num_classes,
            groups=spec.cardinality,
            width_per_group=spec.base_width,
        )
        self.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.maxpool = torch.nn.Identity()
        self.layer4 = torch.nn.Identity()
        self.fc = torch.nn.Linear(1024, spec.num_classes)


def peer(spec: ArchSpec, **options: Any) -> torch.nn.Module:
    """Build a network with weights of its own: torchvision's where it has it, else timm's.

    Args:
        spec: The network.
        options: Of timm's constructor, such as `output_stride`; with any, timm's is built.
    """
    if spec.stem == "cifar":
        return CifarResNet(spec)
    if options or spec.variant or spec.attention or spec.antialias:
        return timm_peer(spec, **options)
    return ResNet(
        Bottleneck,
        list(spec.blocks),
        num_classes=spec.num_classes,
        groups=spec.cardinality,
        width_per_group=spec.base_width,
    )


def registered(name: str, source: str) -> torch.nn.Module:
    """Build the model that torchvision or timm has under a name, without memory for it."""
    with torch.device("meta"):
        model: torch.nn.Module
        model = get_model(name) if source == "torchvision" else timm.create_model(name)
    return model


def timm_peer(spec: ArchSpec, **options: Any) -> torch.nn.Module:
    """Build timm's model of that name, or of its parts where it has none."""
    options = {"num_classes": spec.num_classes, "in_chans": spec.in_chans, **options}
    if timm.is_model(spec.name):
        model: torch.nn.Module = timm.create_model(spec.name, **options)
        return model
    if spec.variant:
        tiered = spec.variant == "t"
        options |= {"stem_type": "deep_tiered" if tiered else "deep", "avg_down": True}
        options["stem_width"] = 64 if spec.depth == 201 else 32
    if spec.antialias:
        options["aa_layer"] = torch.nn.AvgPool2d
    block = timm.models.resnet.Bottleneck
    if spec.attention == "se":
        options["block_args"] = {"attn_layer": "se"}
    elif spec.attention == "sk":
        block = timm.models.sknet.SelectiveKernelBottleneck
        kernels = {"rd_ratio": 1 / 16, "rd_divisor": 32, "split_input": False}
        options["block_args"] = {"sk_kwargs": kernels}
    return timm.models.resnet.ResNet(
        block, spec.blocks, cardinality=spec.cardinality, base_width=spec.base_width, **options
    )


def oracle(spec: ArchSpec, tensors: Tensors) -> torch.nn.Module:
    """Build a network in eval mode with the given weights.

    Args:
        spec: The network, built by `peer`.
        tensors: Loaded strictly.
    """
    return load(lambda: peer(spec), tensors)


def load(build: Callable[[], Model], tensors: Tensors) -> Model:
    """Build a network in eval mode with these weights and no others, drawing none."""
    with torch.device("meta"):
        model = build()
    state = {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}
    for key in model.state_dict():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
    model.to_empty(device="cpu").load_state_dict(state)
    return model.eval()


def run_oracle(
    model: torch.nn.Module, batch_nhwc: npt.NDArray[np.uint8], preprocess: PreprocessSpec
) -> tuple[Array, Array]:
    """Return logits and pooled features, normalized as torchvision's transforms do."""
    dtype = next(model.parameters()).dtype
    pooled: list[torch.Tensor] = []
    head = model.get_submodule("fc")
    hook = head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    images = torch.from_numpy(batch_nhwc).permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = (
        torch.tensor(values, dtype=dtype)[:, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    with torch.inference_mode():
        logits = model((images - mean) / std)
    hook.remove()
    return logits.double().numpy(), pooled[0].double().numpy()
