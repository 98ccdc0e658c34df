"""What a model file says of itself: its document, and the schema of that.

`docs/model-file.md` has it key by key. `modelfile` puts the document into a file, and takes
it out; nothing else reads, writes or validates it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resnext import archspec
from resnext.archspec import ArchSpec
from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError, closest, counted
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec
from resnext.quantization import Quantization

SCHEMA_VERSION = 3  # with rounded weights; 2 with ranges alone, 1 without `quantization`
MIN_TEMPERATURE = 0.01  # a hundredfold either way is no calibration any more


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDocument:
    """What a model file says about its tensors.

    Args:
        name: Name of the model, such as `starter`.
        architecture: The network the tensors belong to.
        labels: Names of the classes, in the order of the logits.
        preprocess: How a picture becomes the input.
        temperature: Logits are divided by it before the softmax; 0.01 to 100.
        reject_threshold: Below this top-1 probability (0 to 1) the answer is "unknown".
        license: SPDX identifier where there is one.
        provenance: Where the weights come from: recipe, data, software, seed, source.
        metrics: Measured or published figures, with what they were measured on.
        quantization: How the network is computed in 8 bits, or None where it never is.

    Raises:
        ModelFileError: A value is out of range or the label count is not the class count.
    """

    name: str
    architecture: ArchSpec
    labels: Labels
    preprocess: PreprocessSpec
    temperature: float = 1.0
    reject_threshold: float | None = None
    license: str = "unknown"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        count, expected = len(self.labels.class_names), self.architecture.num_classes
        if count != expected:
            raise ModelFileError(
                f"{counted(count, 'class name')} for {counted(expected, 'logit')}; expected as many"
            )
        if not MIN_TEMPERATURE <= self.temperature <= 1 / MIN_TEMPERATURE:
            raise ModelFileError(
                f"temperature is {_brief(self.temperature)}; expected {MIN_TEMPERATURE} to"
                f" {1 / MIN_TEMPERATURE:.0f}"
            )
        if self.reject_threshold is not None and not 0 <= self.reject_threshold <= 1:
            raise ModelFileError(f"reject_threshold is {self.reject_threshold}; expected 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """Return the document as plain JSON values, with its schema version."""
        synset_ids, eight_bits = self.labels.synset_ids, self.quantization
        return {
            "schema_version": 1 if eight_bits is None else 3 if eight_bits.weights else 2,
            "name": self.name,
            "architecture": {
                "name": self.architecture.name,
                "num_classes": self.architecture.num_classes,
                "in_chans": self.architecture.in_chans,
            },
            "class_names": list(self.labels.class_names),
            "synset_ids": None if synset_ids is None else list(synset_ids),
            "preprocess": self.preprocess.to_json(),
            "temperature": self.temperature,
            "reject_threshold": self.reject_threshold,
            "license": self.license,
            "provenance": dict(self.provenance),
            "metrics": dict(self.metrics),
            **({} if eight_bits is None else {"quantization": eight_bits.to_json()}),
        }


def document_from_json(document: object) -> ModelDocument:
    """Validate a JSON document.

    Args:
        document: What `json.loads` gave.

    Raises:
        ModelFileError: A newer schema, an unknown or missing key, a value of another type.
    """
    if not isinstance(document, dict):
        raise ModelFileError(f"the model document is a {type(document).__name__}, not an object")
    check_version(document.get("schema_version"))
    given, expected = set(document) - {"schema_version"}, set(_FIELDS)
    eight_bits = document.get("quantization")
    if document["schema_version"] >= 2:
        given.discard("quantization")
    if unknown := sorted(given - expected):
        near = closest(unknown[0], expected)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise ModelFileError(f"unknown key {unknown[0]!r} in the model document", hint=hint)
    if missing := sorted(expected - given):
        raise ModelFileError(f"the model document lacks {', '.join(missing)}")
    for key, (accepts, expectation) in _FIELDS.items():
        if not accepts(document[key]):
            raise ModelFileError(f"{key} is {_brief(document[key])}; expected {expectation}")
    synset_ids = document["synset_ids"]
    try:
        return ModelDocument(
            name=document["name"],
            architecture=_architecture(document["architecture"]),
            labels=Labels(
                class_names=tuple(document["class_names"]),
                synset_ids=None if synset_ids is None else tuple(synset_ids),
            ),
            preprocess=PreprocessSpec.from_json(document["preprocess"]),
            temperature=document["temperature"],
            reject_threshold=document["reject_threshold"],
            license=document["license"],
            provenance=document["provenance"],
            metrics=document["metrics"],
            quantization=None if eight_bits is None else Quantization.from_json(eight_bits),
        )
    except (ConfigError, ModelNotFoundError) as error:
        raise ModelFileError(f"the model document is not valid: {error.message}") from error


def parse_document(text: str) -> dict[str, Any]:
    """Read the text of a document as a JSON object, not validated yet.

    Raises:
        ModelFileError: It is none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the model document is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelFileError(f"the model document is a {type(document).__name__}, not an object")
    return document


def check_version(version: object) -> None:
    """Refuse a schema that this package does not know.

    Raises:
        ModelFileError: It is newer, or no version.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(f"schema_version is {version!r}; expected a whole number from 1")
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"the file has schema version {version}; this package reads up to {SCHEMA_VERSION}",
            hint="install a newer version of this package",
        )


def _architecture(document: dict[str, Any]) -> ArchSpec:
    if set(document) != {"name", "num_classes", "in_chans"} or not isinstance(
        document["name"], str
    ):
        raise ModelFileError("architecture: expected name, num_classes and in_chans")
    return replace(
        archspec.parse(document["name"]),
        num_classes=document["num_classes"],
        in_chans=document["in_chans"],
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "text"),
    "architecture": (lambda value: isinstance(value, dict), "an object"),
    "class_names": (_is_texts, "a list of texts"),
    "synset_ids": (lambda value: value is None or _is_texts(value), "null or a list of texts"),
    "preprocess": (lambda value: isinstance(value, dict), "an object"),
    "temperature": (_is_number, "a number"),
    "reject_threshold": (lambda value: value is None or _is_number(value), "null or a number"),
    "license": (lambda value: isinstance(value, str), "text"),
    "provenance": (lambda value: isinstance(value, dict), "an object"),
    "metrics": (lambda value: isinstance(value, dict), "an object"),
}


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
