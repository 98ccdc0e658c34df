"""Files for torch: TorchScript and torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import modelfile, preprocess, testing, weights
from resnext.deploy import export as exporting
from resnext.deploy import golden
from resnext.weights import LocalModel


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    path = testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")
    return weights.locate(path)


def prepared(local: LocalModel) -> Any:
    image = golden.scene(90, 70)
    return preprocess.apply(image, local.document.preprocess)[None]


@pytest.mark.torch
@pytest.mark.parametrize("name", ["a.pt", "a.pt2"])
def test_torch_s_files_answer_and_say_what_they_are(
    name: str, tiny: LocalModel, tmp_path: Path
) -> None:
    torchscript: Any = pytest.importorskip("resnext.deploy.torchscript")
    done = exporting.export(tiny, tmp_path / name)
    assert done.checked_with == "torch"
    facts = torchscript.read_facts(tmp_path / name)
    assert modelfile.document_from_json(dict(facts)) == tiny.document
    logits, features = torchscript.run(tmp_path / name, prepared(tiny).repeat(3, axis=0))
    assert logits.shape == (3, len(tiny.document.labels))
    assert np.ptp(features, axis=0).max() < 1e-5
