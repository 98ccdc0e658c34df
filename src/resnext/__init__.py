"""The front door: the public names, each loaded when it is first used.

`import resnext` loads nothing but the standard library; a name then brings what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext.classifier import Classifier
    from resnext.errors import (
        ConfigError,
        DatasetError,
        EngineError,
        ImageError,
        MissingExtraError,
        ModelFileError,
        ModelNotFoundError,
        OutputError,
        ParityError,
        ResNeXtError,
        WeightsCorruptError,
        WeightsUnavailableError,
    )
    from resnext.modelfile import ModelDocument
    from resnext.predictions import ImageResult, Prediction
    from resnext.preprocess import PreprocessSpec

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
    "OutputError",
    "ParityError",
    "Prediction",
    "PreprocessSpec",
    "ResNeXtError",
    "WeightsCorruptError",
    "WeightsUnavailableError",
    "__version__",
]

_HOMES = {
    "Classifier": "classifier",
    "ImageResult": "predictions",
    "ModelDocument": "modelfile",
    "Prediction": "predictions",
    "PreprocessSpec": "preprocess",
}  # every other name is an error


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'resnext' has no attribute {name!r}")
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("resnext")
    else:
        module = importlib.import_module(f"resnext.{_HOMES.get(name, 'errors')}")
        value = getattr(module, name)
    globals()[name] = value  # the next use does not come through here
    return value


def __dir__() -> list[str]:
    return list(__all__)
