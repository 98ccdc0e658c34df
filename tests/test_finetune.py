"""A last layer for other classes: an ordinary, honest model file, or a clear refusal."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: resnext[finetune]")

from resnext import modelfile, predictions, testing, weights
from resnext.classifier import Classifier
from resnext.engines import tuning
from resnext.errors import ConfigError, DatasetError
from resnext.hub import cache
from resnext.predictions import Labels
from resnext.training import finetune
from resnext.training.data import Data, open_data
from resnext.training.features import open_as_made, open_store
from resnext.training.finetune import Tuned, tune_head
from resnext.training.samples import SampleSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 15 pictures each, and another class beside them."""
    top = tmp_path_factory.mktemp("pictures")
    testing.write_pictures(top / "all", classes=("red", "green", "blue", "pink"), per_class=15)
    shutil.move(top / "all" / "pink", top / "pink")
    return top / "all"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


@pytest.fixture(scope="module")
def network(tiny: Path) -> Iterator[Classifier]:
    with Classifier(tiny, precision="fp32") as classifier:
        yield classifier


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache in which the features of `pets` are."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def tuned(network: Classifier, folder: Path, home: Path) -> Tuned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNEXT_HOME", str(home))
        return tune_head(network, open_data(folder), home / "pets.safetensors")


@pytest.fixture
def pets(tuned: Tuned, tmp_path: Path) -> Tuned:
    """A model for the three classes, in a file of the test's own."""
    return dataclasses.replace(tuned, path=Path(shutil.copy(tuned.path, tmp_path)))


def test_the_file_is_an_ordinary_model_that_predicts_as_the_metrics_say(
    pets: Tuned, folder: Path
) -> None:
    data = open_data(folder)
    assert data.val is not None
    with Classifier(pets.path, precision="fp32") as classifier:
        results = list(classifier.predict([sample.source for sample in data.val.samples]))
    names = data.val.labels.class_names
    right = [
        result.predictions[0].label == names[sample.labels[0]]
        for result, sample in zip(results, data.val.samples, strict=True)
    ]
    metrics = pets.document.metrics
    assert (metrics["pictures"], metrics["right"]) == (len(right), sum(right)) == (9, 9)
    assert metrics["top1"] == metrics["top5"] == 100.0
    assert metrics["class_pictures"] == metrics["class_right"] == [3, 3, 3]
    assert metrics["class_learned"] == [12, 12, 12]
    assert metrics["data"] == "9 pictures not learned from"
    assert not any(result.rejected for result in results)
    # The head is fitted outside the engine; inside it must mean the same.
    shares = [
        next(one.probability for one in result.predictions if one.index == sample.labels[0])
        for result, sample in zip(results, data.val.samples, strict=True)
    ]
    assert -np.log(shares).mean() == pytest.approx(metrics["nll"], abs=1e-3)


def test_the_document_says_where_the_model_comes_from(
    pets: Tuned, network: Classifier, folder: Path
) -> None:
    document, sha256 = modelfile.verify(pets.path)
    assert (document, sha256) == (pets.document, pets.sha256)
    base = network.document
    assert document.name == "pets"
    assert document.labels == Labels(("blue", "green", "red"))
    assert document.architecture == dataclasses.replace(base.architecture, num_classes=3)
    assert document.preprocess == base.preprocess
    assert document.license == base.license == "apache-2.0"
    provenance = document.provenance
    assert provenance["recipe"] == "head-only"
    assert provenance["base"] == {
        "name": "tiny",
        "sha256": network.local.sha256,
        "license": "apache-2.0",
    }
    assert provenance["dataset"]["split"] == json.loads(json.dumps(open_data(folder).split))
    assert provenance["dataset"]["left_out"] == provenance["seed"] == 0
    assert provenance["engine"] == "openvino"
    assert "scikit-learn" in provenance["software"]
    assert str(folder) not in json.dumps(document.to_json())  # nobody's paths


def test_only_the_last_layer_differs_and_the_type_stays(pets: Tuned, tiny: Path) -> None:
    (_, before), (_, after) = modelfile.read(tiny), modelfile.read(pets.path)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert after["fc.weight"].dtype == before["fc.weight"].dtype == np.float16
    assert after["fc.weight"].shape == (3, 1024)


def test_the_same_pictures_and_seed_give_the_same_model_without_computing(
    pets: Tuned, network: Classifier, folder: Path, tmp_path: Path
) -> None:
    first, again = (
        tune_head(network, open_data(folder), tmp_path / "pets.safetensors") for _ in range(2)
    )
    assert (first.num_computed, again.num_computed) == (45, 0)
    assert first.document == pets.document
    assert again.document == pets.document
    other = tune_head(network, open_data(folder, seed=1), tmp_path / "pets.safetensors", seed=1)
    assert other.document.provenance["dataset"] != pets.document.provenance["dataset"]


def test_without_pictures_held_out_the_cross_validation_counts(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    tuned = tune_head(network, open_data(folder, val_share=0), tmp_path / "a.safetensors")
    assert (tuned.num_train, tuned.num_held_out) == (45, 0)
    assert tuned.document.metrics["pictures"] == 45
    assert tuned.document.metrics["data"].startswith("cross-validation over 45 pictures")
    assert dict(tuned.summary())["cross-validated top-1"] == "100.00 %, 45 of 45 pictures"


def test_copies_do_not_make_the_cross_validation_look_better(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    """Two classes of all colors: what is right was seen before."""
    for color in ("red", "green", "blue"):
        for number in range(15):
            place = tmp_path / "data" / ("even", "odd")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(3):
                name = f"{number:04d}.png"
                shutil.copy(folder / color / name, place / f"{color}-{copy}-{name}")
    data = open_data(tmp_path / "data", val_share=0)
    tuned = tune_head(network, data, tmp_path / "a.safetensors")
    assert tuned.document.metrics["pictures"] == 135
    assert tuned.document.metrics["top1"] < 70


def test_a_class_of_one_picture_many_times_is_refused(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for number in range(1, 15):
        shutil.copy(copy / "red" / "0000.png", copy / "red" / f"{number:04d}.png")
    with pytest.raises(DatasetError, match=r"red \(1\); expected at least 2 different ones"):
        tune_head(network, open_data(copy), tmp_path / "a.safetensors")


def test_a_class_is_added_without_the_pictures_of_the_others(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    first = tune_head(network, open_data(copy), tmp_path / "first.safetensors")
    shutil.rmtree(copy)
    pink = folder.parent / "pink"
    with Classifier(first.path, precision="fp32") as classifier:
        more = tune_head(classifier, None, tmp_path / "more.safetensors", added=[("pink", pink)])
    assert more.document.labels.class_names == ("blue", "green", "red", "pink")
    assert more.num_computed == 15
    assert (more.num_train, more.num_held_out) == (48, 12)
    assert more.document.metrics["class_pictures"] == [3, 3, 3, 3]
    assert more.document.metrics["right"] == 12
    assert more.document.provenance["base"] == first.document.provenance["base"]
    assert more.document.provenance["dataset"]["added"] == [
        {"class": "pink", "pictures": 15, "val": 3}
    ]
    with Classifier(more.path, precision="fp32") as classifier:
        results = list(classifier.predict([pink / "0003.png", folder / "red" / "0003.png"]))
        assert [result.predictions[0].label for result in results] == ["pink", "red"]
        third = tune_head(
            classifier,
            None,
            tmp_path / "third.safetensors",
            added=[("rose", folder / "red")],
        )
    assert third.document.labels.class_names[-2:] == ("pink", "rose")
    assert more.notes == ()
    assert third.notes == ("15 pictures are the same in red and rose",)


def test_a_class_is_added_whatever_is_fastest_by_now(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "first.safetensors", tmp_path / "more.safetensors"
    tune_head(network, open_data(folder), path)
    fastest = tuning.Choice(
        engine="onnxruntime", precision="fp32", batch_size=1, images_per_s=1.0, gpu=False
    )
    local = weights.locate(path)
    tuning.remember(local, [fastest])
    pink = [("pink", folder.parent / "pink")]
    with Classifier(path) as classifier:
        assert classifier.engine.name == "onnxruntime"
        with pytest.raises(DatasetError, match="are not in") as raised:
            tune_head(classifier, None, out, added=pink)
        assert "those of openvino and fp32: open the model with these" in raised.value.hint
    with open_as_made(path, offline=True) as classifier:
        assert (classifier.engine.name, classifier.engine.precision) == ("openvino", "fp32")
        assert tune_head(classifier, None, out, added=pink).num_computed == 15
    with open_as_made(path, engine="onnxruntime") as classifier:  # as one says
        assert classifier.engine.name == "onnxruntime"
    cache.remove("all")
    tuning.remember(local, [fastest])
    with open_as_made(path) as classifier:
        assert classifier.engine.name == "onnxruntime"


def test_a_class_beside_the_data_is_as_one_more_folder(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    added = [("pink", folder.parent / "pink")]
    tuned = tune_head(network, open_data(folder), tmp_path / "a.safetensors", added=added)
    whole = shutil.copytree(folder, tmp_path / "whole")
    shutil.copytree(folder.parent / "pink", whole / "pink")
    expected = tune_head(network, open_data(whole), tmp_path / "b.safetensors")
    assert set(tuned.document.labels.class_names) == set(expected.document.labels.class_names)
    assert tuned.document.metrics["right"] == expected.document.metrics["right"] == 12
    none = tune_head(
        network, open_data(folder, val_share=0), tmp_path / "c.safetensors", added=added
    )
    assert none.num_held_out == 0


def _parts(network: Classifier, tuned: Tuned) -> set[tuple[str, bytes, bool]]:
    store = open_store(network, weights.read_tensors(network.local))
    table = store.load_set(tuned.document.provenance["dataset"]["set"])
    assert table is not None
    names = [tuned.document.labels.class_names[label] for label in table.labels]
    return set(zip(names, table.keys, table.held_out.tolist(), strict=True))


def test_a_class_is_added_as_the_file_was_made_unless_told_otherwise(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    pink = [("pink", folder.parent / "pink")]
    whole = shutil.copytree(folder, tmp_path / "whole")
    shutil.copytree(folder.parent / "pink", whole / "pink")
    split: dict[str, Any] = {"seed": 5, "val_share": 0.4}
    fit: dict[str, Any] = {"seed": 5, "class_weights": "balanced"}
    first = tune_head(network, open_data(folder, **split), tmp_path / "first.safetensors", **fit)
    at_once = tune_head(network, open_data(whole, **split), tmp_path / "whole.safetensors", **fit)
    beside = tune_head(
        network, open_data(folder, **split), tmp_path / "beside.safetensors", added=pink, **fit
    )
    with Classifier(first.path, precision="fp32") as classifier:
        more = tune_head(classifier, None, tmp_path / "more.safetensors", added=pink)
        other = tune_head(
            classifier,
            None,
            tmp_path / "other.safetensors",
            added=pink,
            seed=1,
            val_share=0.2,
            class_weights="none",
        )
    for tuned in (at_once, beside, more):
        provenance = tuned.document.provenance
        assert (provenance["seed"], provenance["class_weights"]) == (5, "balanced")
        assert tuned.document.metrics["class_learned"] == [9, 9, 9, 9]
        assert _parts(network, tuned) == _parts(network, at_once)
    assert other.document.metrics["class_learned"] == [9, 9, 9, 12]
    provenance = other.document.provenance
    assert (provenance["seed"], provenance["class_weights"]) == (1, "none")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"seed": -1}, "seed is -1; expected a whole number"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"dataset": {"split": {"val_share": 1}}}, "val_share is 1; expected 0 to below 1"),
        ({"dataset": {"split": {"seed": None}}}, "split_seed is None"),
        ({"class_weights": "some"}, "class_weights is 'some'"),
    ],
)
def test_what_a_file_says_of_its_making_is_not_trusted(
    pets: Tuned, home: Path, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RESNEXT_HOME", str(home))
    document, tensors = modelfile.read(pets.path)
    before = document.provenance
    dataset = {**before["dataset"], **made.get("dataset", {})}
    changed = dataclasses.replace(document, provenance={**before, **made, "dataset": dataset})
    modelfile.write(tmp_path / "odd.safetensors", changed, tensors, dtype="float16")
    added = [("pink", folder.parent / "pink")]
    with (
        Classifier(tmp_path / "odd.safetensors", precision="fp32") as classifier,
        pytest.raises(ConfigError, match=message),
    ):
        tune_head(classifier, None, tmp_path / "out.safetensors", added=added)


def test_adding_to_what_was_not_made_here_asks_for_the_pictures(
    network: Classifier, pets: Tuned, folder: Path, tmp_path: Path
) -> None:
    pink = [("pink", folder.parent / "pink")]
    out = tmp_path / "out.safetensors"
    with pytest.raises(ConfigError, match="was not made by `resnext finetune --head-only`"):
        tune_head(network, None, out, added=pink)
    cache.remove("all")
    with Classifier(pets.path, precision="fp32") as classifier:
        with pytest.raises(DatasetError, match="are not in") as raised:
            tune_head(classifier, None, out, added=pink)
        assert "finetune DATA --add-class pink" in raised.value.hint
        tune_head(classifier, open_data(folder), out, added=pink)
    assert out.exists()


@pytest.mark.parametrize(
    ("added", "error", "message"),
    [
        ([], ConfigError, "there is nothing to learn"),
        ([("red", "pink")], ConfigError, "there is a class 'red' already"),
        ([("pink", "pink"), ("pink", "pink")], ConfigError, "there is a class 'pink' already"),
        ([("pink", "nowhere")], DatasetError, "nowhere is no folder"),
    ],
)
def test_a_class_that_cannot_be_added(
    pets: Tuned,
    folder: Path,
    tmp_path: Path,
    added: list[tuple[str, str]],
    error: type[Exception],
    message: str,
) -> None:
    engine = testing.ConstantEngine([0] * 3, input_size=32, embedding_size=1024)
    classifier = Classifier(pets.path, engine=engine)
    pairs = [(name, folder.parent / place) for name, place in added]
    data = open_data(folder) if added else None
    with pytest.raises(error, match=message):
        tune_head(classifier, data, tmp_path / "out.safetensors", added=pairs)
    assert not (tmp_path / "out.safetensors").exists()


def test_pictures_that_cannot_be_read_are_named_and_left_out(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "red" / "0000.png").write_bytes(b"nonsense")
    data = open_data(copy)
    tuned = tune_head(network, data, tmp_path / "a.safetensors")
    [problem] = tuned.problems
    assert problem.name == "red/0000.png"
    assert tuned.num_train + tuned.num_held_out == 44
    dataset = tuned.document.provenance["dataset"]
    assert dataset["left_out"] == 1
    assert dataset["split"]["train"]["pictures"] == tuned.num_train
    assert dataset["split"]["val"]["pictures"] == tuned.num_held_out
    assert dataset["split"]["seed"] == data.split["seed"]
    assert tuned.to_json()["left_out"][0]["source"] == "red/0000.png"
    assert dict(tuned.summary())["left out"] == "1 that cannot be read"


def test_too_few_pictures_are_refused_by_the_name_of_the_class(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for number in range(1, 15):
        (copy / "red" / f"{number:04d}.png").write_bytes(b"nonsense")
    with pytest.raises(
        DatasetError, match=r"red \([01]\); expected at least 2 .* 14 could not be read: red/0001"
    ):
        tune_head(network, open_data(copy), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_several_labels_are_refused(network: Classifier, folder: Path, tmp_path: Path) -> None:
    train = open_data(folder).train
    several = SampleSet(samples=train.samples, labels=train.labels, multi_label=True)
    with pytest.raises(DatasetError, match="several labels"):
        tune_head(network, Data(train=several, val=None, split={}), tmp_path / "a.safetensors")


def test_an_interrupted_run_leaves_no_file(
    network: Classifier, folder: Path, tmp_path: Path
) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_head(network, open_data(folder), tmp_path / "a.safetensors", progress=stop)
    assert not list(tmp_path.iterdir())
    assert (
        tune_head(network, open_data(folder), tmp_path / "a.safetensors").num_computed < 45
    )  # what was computed is kept


def test_balanced_weights_reach_the_head(
    network: Classifier, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    fit = finetune.fit_head

    def spy(*arguments: Any, **options: Any) -> Any:
        given.update(options)
        return fit(*arguments, **options)

    monkeypatch.setattr(finetune, "fit_head", spy)
    path = tmp_path / "a.safetensors"
    tuned = tune_head(network, open_data(folder), path, class_weights="balanced", seed=3)
    assert given.pop("copies").tolist() == list(range(36))
    assert given == {"num_classes": 3, "class_weights": "balanced", "seed": 3}
    assert tuned.document.provenance["class_weights"] == "balanced"


def test_metrics_are_of_the_weights_as_they_are_stored(pets: Tuned, network: Classifier,
                                                       folder: Path) -> None:  # fmt: skip
    data = open_data(folder)
    assert data.val is not None
    _, tensors = modelfile.read(pets.path)
    embedded = network.embed([sample.source for sample in data.val.samples])
    logits = embedded @ tensors["fc.weight"].astype(np.float32).T + tensors["fc.bias"]
    shares = predictions.probabilities(logits, temperature=pets.document.temperature)
    labels = [sample.labels[0] for sample in data.val.samples]
    loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
    assert loss == pytest.approx(pets.document.metrics["nll"], abs=1e-4)


@pytest.mark.slow
def test_no_torch_is_loaded() -> None:
    code = "import sys, resnext.training.finetune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
