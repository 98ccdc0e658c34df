"""The model file: round trips, and every refusal."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from resnext import arch, modelfile
from resnext.errors import ConfigError, ModelFileError, OutputError
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

SPEC = arch.ArchSpec(depth=29, cardinality=2, base_width=1, num_classes=3)
DOCUMENT = modelfile.ModelDocument(
    name="tiny",
    architecture=SPEC,
    labels=Labels(("cat", "dog \u2603", 'a "quoted" one'), ("n1", "n2", "n3")),
    preprocess=PreprocessSpec(input_size=32, resize=36, interpolation="bicubic"),
    temperature=1.25,
    reject_threshold=0.3,
    license="mit",
    provenance={"seed": 1, "text": '"resnext.sha256":"' + "a" * 64},
    metrics={"top1": 50.0},
)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        key: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for key, shape in arch.tensor_shapes(SPEC).items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    modelfile.write(path, DOCUMENT, tensors(), dtype="float16")
    return path.read_bytes()


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 23), ("float16", 10), ("bfloat16", 7)])
def test_round_trip(tmp_path: Path, dtype: str, bits: int) -> None:
    path = tmp_path / "model.safetensors"
    digest = modelfile.write(path, DOCUMENT, tensors(), dtype=dtype)
    document, read = modelfile.read(path)
    assert document == DOCUMENT
    assert modelfile.verify(path) == (DOCUMENT, digest)
    for key, tensor in tensors().items():
        assert read[key].dtype.name == (dtype if tensor.ndim > 1 else "float32")
        np.testing.assert_allclose(read[key].astype(np.float32), tensor, rtol=2.0 ** -(bits + 1))


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    modelfile.write(path, DOCUMENT, tensors())
    assert set(safetensors.numpy.load_file(path)) == set(arch.tensor_shapes(SPEC))
    metadata = modelfile.read_metadata(path)
    assert metadata["format"] == "pt"
    assert json.loads(metadata["resnext"])["schema_version"] == 1 < modelfile.SCHEMA_VERSION
    assert modelfile.is_model_file(path)


def test_every_flipped_bit_is_refused(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "model.safetensors"
    rng = random.Random(0)
    header = 8 + int.from_bytes(written[:8], "little")
    places = [rng.randrange(header) for _ in range(150)]
    places += [rng.randrange(header, len(written)) for _ in range(50)]
    for place in places:
        broken = bytearray(written)
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(ModelFileError, match=r"model\.safetensors: "):
            modelfile.verify(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, written: bytes, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(written[:length])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        modelfile.verify(path)


def test_a_huge_header_length_is_refused(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + written[8:])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        modelfile.verify(path)


def test_overlapping_offsets_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        modelfile.verify(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        with pytest.raises(ModelFileError, match="no such file, or not a regular one"):
            modelfile.verify(path)


def test_a_plain_checkpoint_is_not_a_model_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path)
    assert not modelfile.is_model_file(path)
    with pytest.raises(ModelFileError, match="without a `resnext` document"):
        modelfile.verify(path)


def rewrite(path: Path, **changes: Any) -> None:
    """Write a file whose document was changed behind the writer's back, hash correct."""
    document = {**DOCUMENT.to_json(), **changes}
    document = {key: value for key, value in document.items() if value is not ...}
    metadata = {"resnext": json.dumps(document), "resnext.sha256": "0" * 64}
    content = bytearray(safetensors.numpy.save(tensors(), metadata=metadata))
    start, end = modelfile._hash_span(content)
    digest = modelfile.hashlib.sha256(content).hexdigest()
    content[start:end] = digest.encode()
    path.write_bytes(content)


def test_a_newer_schema_is_refused_with_its_version(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    rewrite(path, schema_version=7, something_new=1)
    with pytest.raises(ModelFileError, match=r"schema version 7; .* reads up to 3"):
        modelfile.verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": "1"}, "schema_version is '1'"),
        ({"name": 3}, "name is 3; expected text"),
        ({"name": ...}, "lacks name"),
        ({"temprature": 1}, "unknown key 'temprature'.*\n\nhint: did you mean 'temperature'"),
        ({"temperature": 0}, "temperature is 0; expected 0.01 to 100"),
        ({"temperature": 10**400}, "temperature is 1000.*; expected 0.01 to 100"),
        ({"temperature": 5e-324}, "temperature is 5e-324; expected 0.01 to 100"),
        (
            {
                "architecture": {
                    "name": f"resnext26_{'9' * 5000}x4d",
                    "num_classes": 3,
                    "in_chans": 3,
                }
            },
            "no architecture",
        ),
        ({"temperature": "hot"}, "temperature is 'hot'; expected a number"),
        ({"reject_threshold": 2}, "reject_threshold is 2; expected 0 to 1"),
        ({"class_names": ["a"], "synset_ids": None}, "1 class name for 3 logits"),
        ({"class_names": "abc"}, "class_names is 'abc'; expected a list of texts"),
        ({"synset_ids": ["n1"]}, "1 synset_ids for 3 class_names"),
        ({"architecture": {"name": "vgg", "num_classes": 3, "in_chans": 3}}, "no architecture"),
        ({"architecture": {"name": "resnext29_2x1d"}}, "expected name, num_classes"),
        ({"preprocess": {}}, "not valid"),
    ],
)
def test_a_document_that_is_not_valid_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match=message):
        modelfile.verify(path)


def test_tensors_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    wrong = tensors()
    del wrong["conv1.weight"]
    wrong["extra"] = np.zeros(1)
    wrong["fc.bias"] = np.zeros(7)
    message = (
        r"1 missing: conv1\.weight; 1 unexpected: extra; "
        r"1 of another shape: fc\.bias \(7,\) instead of \(3,\)"
    )
    with pytest.raises(ModelFileError, match=message):
        modelfile.write(tmp_path / "model.safetensors", DOCUMENT, wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    wrong = tensors()
    wrong["bn1.bias"][0] = value
    with pytest.raises(ModelFileError, match=r"1 tensor holds NaN or infinity: bn1\.bias"):
        modelfile.write(tmp_path / "model.safetensors", DOCUMENT, wrong)


def test_a_value_that_overflows_float16_is_refused(tmp_path: Path) -> None:
    wide = tensors()
    wide["fc.weight"][0, 0] = 1e6
    wide["bn1.running_var"][0] = 1e6  # vectors stay float32
    with pytest.raises(ModelFileError, match=r"fc\.weight does not fit float16"):
        modelfile.write(tmp_path / "model.safetensors", DOCUMENT, wide, dtype="float16")
    modelfile.write(tmp_path / "model.safetensors", DOCUMENT, wide, dtype="bfloat16")
    assert modelfile.read(tmp_path / "model.safetensors")[1]["bn1.running_var"][0] == 1e6


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is 'int8'; expected one of float32"):
        modelfile.write(tmp_path / "m", DOCUMENT, tensors(), dtype="int8")


def test_the_output_is_looked_at_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    modelfile.check_output(path)
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is there already") as raised:
        modelfile.check_output(path)
    assert "--force" in raised.value.hint
    modelfile.check_output(path, force=True)
    with pytest.raises(ConfigError, match=r"expected \*\.safetensors"):
        modelfile.check_output(tmp_path / "a.pth")
    with pytest.raises(OutputError, match="there is no folder"):
        modelfile.check_output(tmp_path / "missing" / "a.safetensors")
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(ConfigError, match="is not a regular file"):
        modelfile.check_output(tmp_path / "b.safetensors", force=True)
