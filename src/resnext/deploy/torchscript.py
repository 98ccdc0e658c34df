"""[torch] The network for programs that have torch and not this package."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnext.files import atomic
from resnext.modelfile import ModelDocument, Tensors
from resnext.modules import filled
from resnext.network import ResNeXt
from resnext.preprocess import affine

FACTS = "resnext.json"  # the extra file inside, with classes and preprocessing

Outputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class Portable(nn.Module):
    """A network that takes prepared pixels as they are, and normalizes them itself.

    Args:
        document: What the model says of itself.
        tensors: Its `state_dict`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, document: ModelDocument, tensors: Tensors) -> None:
        super().__init__()
        cpu = torch.device("cpu")
        self.network = filled(
            lambda: ResNeXt(document.architecture), tensors, device=cpu, dtype=torch.float32
        )
        scale, shift = affine(document.preprocess)
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32))[:, None, None])
        self.register_buffer("shift", torch.from_numpy(shift.astype(np.float32))[:, None, None])
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Classify prepared pictures.

        Args:
            image: (N, S, S, 3) uint8, what `preprocess.apply` gives.

        Returns:
            Logits (N, K) and features (N, D).
        """
        pixels = image.permute(0, 3, 1, 2).to(self.scale.dtype)
        maps = self.network.forward_features(pixels * self.scale + self.shift)
        embedding = self.network.forward_head(maps, pre_logits=True)
        return self.network.fc(embedding), embedding


def save_script(path: Path, document: ModelDocument, tensors: Tensors, facts: Any) -> None:
    """Write a TorchScript file, for `torch.jit.load` and C++.

    Args:
        path: The file.
        document: What the model says of itself.
        tensors: Its `state_dict`.
        facts: JSON values to put inside, as the extra file `resnext.json`.

    Raises:
        OutputError: The file cannot be written.
    """
    module = Portable(document, tensors)
    with torch.no_grad(), warnings.catch_warnings():
        # torch asks for torch.export, which C++ programs cannot load as easily.
        warnings.simplefilter("ignore")
        script = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, _example(document), check_trace=False
        )
        with atomic(path) as file:
            torch.jit.save(script, file, _extra_files={FACTS: json.dumps(facts)})


def save_program(path: Path, document: ModelDocument, tensors: Tensors, facts: Any) -> None:
    """Write an exported program, for `torch.export.load` and AOTInductor.

    Args:
        path: The file, with the ending `.pt2`.
        document: What the model says of itself.
        tensors: Its `state_dict`.
        facts: JSON values to put inside, as the extra file `resnext.json`.

    Raises:
        OutputError: The file cannot be written.
    """
    module = Portable(document, tensors)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecated parts
        program = torch.export.export(
            module, (_example(document),), dynamic_shapes={"image": {0: batch}}
        )
        with atomic(path) as file:
            torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})


def run(path: Path, batch: npt.NDArray[np.uint8]) -> Outputs:
    """Run what one of the two wrote.

    Args:
        path: The file.
        batch: (N, S, S, 3) prepared pixels.

    Returns:
        Logits (N, K) and features (N, D).
    """
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any
        if path.suffix == ".pt2":
            loaded = torch.export.load(path).module()
        else:
            loaded = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        logits, embedding = loaded(torch.from_numpy(batch))
        return logits.numpy(), embedding.numpy()


def read_facts(path: Path) -> Mapping[str, Any]:
    """Return the JSON values inside a file of `save_script` or `save_program`."""
    inside: dict[str, Any] = {FACTS: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".pt2":
            torch.export.load(path, extra_files=inside)
        else:
            torch.jit.load(path, _extra_files=inside)  # type: ignore[no-untyped-call]
    found: dict[str, Any] = json.loads(inside[FACTS])
    return found


def _example(document: ModelDocument) -> Tensor:
    size = document.preprocess.input_size
    return torch.zeros(2, size, size, 3, dtype=torch.uint8)
