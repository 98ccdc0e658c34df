"""The front door: the public names, each loaded when it is first used.

`import resnext` loads nothing but the standard library; a name then brings what it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext.catalogue import list_models
    from resnext.classifier import Classifier
    from resnext.errors import (
        ConfigError,
        DatasetError,
        EngineError,
        ImageError,
        MissingExtraError,
        ModelFileError,
        ModelNotFoundError,
        OutOfMemoryError,
        OutputError,
        ParityError,
        ResNeXtError,
        TrainingError,
        WeightsCorruptError,
        WeightsUnavailableError,
    )
    from resnext.modelfile import ModelDocument
    from resnext.predictions import ImageResult, Prediction
    from resnext.preprocess import PreprocessSpec
    from resnext.zoo import (
        create_model as create_model,
    )
    from resnext.zoo import (
        create_transform as create_transform,
    )
    from resnext.zoo import (
        parameter_groups as parameter_groups,
    )
    from resnext.zoo import (
        resolve_data_config as resolve_data_config,
    )

# What the base installation has: `from resnext import *` works without torch.
__all__ = [
    "Classifier",
    "ConfigError",
    "DatasetError",
    "EngineError",
    "ImageError",
    "ImageResult",
    "MissingExtraError",
    "ModelDocument",
    "ModelFileError",
    "ModelNotFoundError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "Prediction",
    "PreprocessSpec",
    "ResNeXtError",
    "TrainingError",
    "WeightsCorruptError",
    "WeightsUnavailableError",
    "__version__",
    "list_models",
]

_TORCH = ("create_model", "create_transform", "parameter_groups", "resolve_data_config")

_HOMES = {
    "Classifier": "classifier",
    "ImageResult": "predictions",
    "ModelDocument": "modelfile",
    "Prediction": "predictions",
    "PreprocessSpec": "preprocess",
    "list_models": "catalogue",
}  # every other name is an error


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _TORCH:
        raise AttributeError(f"module 'resnext' has no attribute {name!r}")
    if name in _TORCH:
        errors = importlib.import_module("resnext.errors")
        value: Any = getattr(errors.import_extra("resnext.zoo", extra="torch"), name)
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("resnext")
    else:
        module = importlib.import_module(f"resnext.{_HOMES.get(name, 'errors')}")
        value = getattr(module, name)
    globals()[name] = value  # the next use does not come through here
    return value


def __dir__() -> list[str]:
    # Where they would only raise, `help(resnext)` must not find them.
    has_torch = importlib.util.find_spec("torch") is not None
    return sorted((*__all__, *_TORCH)) if has_torch else list(__all__)
