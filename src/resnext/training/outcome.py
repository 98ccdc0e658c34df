"""[train] The model file of a run: weights, classes, pixels, origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnext import modelfile
from resnext.modelfile import ModelDocument
from resnext.network import ResNeXt
from resnext.provenance import software
from resnext.training import augment
from resnext.training.state import Run

_PACKAGES = ("resnext", "torch", "torchvision", "numpy", "pillow")


def write_model(
    path: Path,
    model: ResNeXt,
    run: Run,
    *,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write a network of a run as a model file that every command takes.

    Args:
        path: Where to; its folder names the model.
        model: The network.
        run: What was trained and on what.
        metrics: Figures and what they were measured on.
        provenance: What to record beside config, seed, data and software.

    Raises:
        OutputError: It cannot be written; what was there is as it was.
        ModelFileError: A weight is not finite.
    """
    modelfile.write(path, describe(path, model, run, metrics, provenance), tensors_of(model))


def describe(
    path: Path,
    model: ResNeXt,
    run: Run,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> ModelDocument:
    """Return the document of a model file of a run; arguments as for `write_model`."""
    config, origin = run.config, model.document
    return ModelDocument(
        name=path.resolve().parent.name or "model",
        architecture=replace(model.spec, num_classes=run.train.num_classes),
        labels=run.train.labels,
        preprocess=augment.test_spec(config.data),
        license="unknown" if origin is None else origin.license,
        metrics=dict(metrics),
        provenance={
            "recipe": config.recipe,
            "pretrained": "" if origin is None else origin.name,
            "seed": config.seed,
            "software": software(*_PACKAGES),
            **provenance,
            "config": config.to_json(),
        },
    )


def tensors_of(model: ResNeXt) -> dict[str, NDArray[np.float32]]:
    """Return the weights as float32 arrays, without what is no part of the function."""
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
