"""[train] The same weights in torchvision, timm and torch.compile."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resnext import arch
from resnext.engines.backends import arithmetic
from resnext.errors import ConfigError, MissingExtraError, broken_extra, import_extra
from resnext.modules import filled
from resnext.network import ResNeXt
from resnext.preprocess import affine
from resnext.weights import LocalModel, read_tensors

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def open_rival(
    local: LocalModel, name: str, *, precision: str, threads: int | None = None
) -> Callable[[npt.NDArray[np.uint8]], object]:
    """Open a model in another library, as its users run it: channels last, a GPU if there is one.

    Args:
        local: The model.
        name: "torchvision", "timm" or "torch-compile".
        precision: "fp32", "bf16", "fp16", or on a GPU "tf32".
        threads: Processor threads; None for torch's choice.

    Returns:
        A function of (N, S, S, 3) prepared pixels, which normalizes and runs.

    Raises:
        ConfigError: The library has no such network.
        MissingExtraError: The library is not installed.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError("precision is 'tf32', which only GPUs have")
    dtype = _DTYPES.get(precision, torch.float32)
    model = _MAKERS[name](local).eval().to(device, dtype).to(memory_format=torch.channels_last)
    call: Any = model
    if name == "torch-compile":
        mode = "max-autotune" if device.type == "cuda" else "default"
        call = torch.compile(model, mode=mode)
    scale, shift = (
        torch.from_numpy(values.astype(np.float32)).reshape(1, -1, 1, 1).to(device)
        for values in affine(local.document.preprocess)
    )

    def run(batch_nhwc: npt.NDArray[np.uint8]) -> object:
        with (
            torch.inference_mode(),
            arithmetic(tf32=precision == "tf32"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            pixels = torch.from_numpy(batch_nhwc).to(device).permute(0, 3, 1, 2)
            return call((pixels.float() * scale + shift).to(dtype)).float().cpu().numpy()

    return run


def _own(local: LocalModel) -> nn.Module:
    spec = local.document.architecture
    cpu = torch.device("cpu")
    return filled(lambda: ResNeXt(spec), read_tensors(local), device=cpu, dtype=torch.float32)


def _torchvision(local: LocalModel) -> nn.Module:
    resnet = import_extra("torchvision.models.resnet", extra="train")
    spec = local.document.architecture
    model: nn.Module = resnet.ResNet(
        resnet.Bottleneck,
        list(arch.BLOCKS[spec.depth]),
        num_classes=spec.num_classes,
        groups=spec.cardinality,
        width_per_group=spec.base_width,
    )
    if _shapes(ResNeXt(spec)) != _shapes(model):
        raise ConfigError(f"torchvision has no {spec.name}")
    return _fill(model, local)


def _timm(local: LocalModel) -> nn.Module:
    try:  # no extra brings it: nothing but this comparison has a use for it
        resnet = importlib.import_module("timm.models.resnet")
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm is not installed", hint="pip install timm") from error
    except Exception as error:  # as in `import_extra`; timm imports torchvision
        raise broken_extra("timm", error) from error
    spec = local.document.architecture
    model: nn.Module = resnet.ResNet(
        resnet.Bottleneck,
        list(arch.BLOCKS[spec.depth]),
        num_classes=spec.num_classes,
        cardinality=spec.cardinality,
        base_width=spec.base_width,
    )
    if _shapes(ResNeXt(spec)) != _shapes(model):
        raise ConfigError(f"timm has {spec.name} only with other names of tensors")
    return _fill(model, local)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _fill(model: nn.Module, local: LocalModel) -> nn.Module:
    tensors = {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in
               read_tensors(local).items()}  # fmt: skip
    model.load_state_dict(tensors, strict=False)
    return model


_MAKERS = {"torchvision": _torchvision, "timm": _timm, "torch-compile": _own}
