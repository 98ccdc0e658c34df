"""`document`: what a model file says of itself, to JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnext import archspec, document, modelfile
from resnext.errors import ModelFileError
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

DOCUMENT = document.ModelDocument(
    name="tiny",
    architecture=archspec.ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=3),
    labels=Labels(("cat", "dog \u2603", 'a "quoted" one'), ("n1", "n2", "n3")),
    preprocess=PreprocessSpec(input_size=32, resize=36, interpolation="bicubic"),
    temperature=1.25,
    reject_threshold=0.3,
    license="mit",
    provenance={"seed": 1},
    metrics={"top1": 50.0},
)


def test_it_is_had_from_modelfile_as_well() -> None:
    assert modelfile.ModelDocument is document.ModelDocument
    assert modelfile.document_from_json is document.document_from_json


def test_a_document_comes_back_from_its_text() -> None:
    text = json.dumps(DOCUMENT.to_json())
    assert document.document_from_json(document.parse_document(text)) == DOCUMENT


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is not JSON"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("3", "is a int")],
)
def test_a_text_that_is_no_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        document.parse_document(text)


@pytest.mark.parametrize(("version", "message"), [(0, "from 1"), (True, "from 1"), (4, "up to 3")])
def test_an_unknown_schema_is_refused(version: object, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        document.check_version(version)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(DOCUMENT.to_json())), json_values, min_size=1))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_document_raises_anything_else(changes: dict[str, Any]) -> None:
    try:
        document.document_from_json({**DOCUMENT.to_json(), **changes})
    except ModelFileError:
        pass


def test_labels_and_classes_must_agree() -> None:
    with pytest.raises(ModelFileError, match="1 class name for 3 logits"):
        replace(DOCUMENT, labels=Labels(("cat",)))


@pytest.mark.parametrize(
    "name", ["seresnextaa101d_32x8d", "skresnext50_32x4d", "resnext26t_2x4d", "resnext29_8x64d"]
)
def test_every_part_of_an_architecture_comes_back(name: str) -> None:
    spec = archspec.parse(name, num_classes=3)
    changed = replace(DOCUMENT, architecture=spec)
    assert document.document_from_json(changed.to_json()).architecture == spec
