"""Whole evaluations without a report: the figures are scikit-learn's, runs go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext import images, modelfile, testing
from resnext.errors import ConfigError, DatasetError, OutputError
from resnext.evaluation import evaluate as evaluation
from resnext.evaluation import run, wording
from resnext.evaluation.evaluate import Question, evaluate
from resnext.evaluation.journal import GROUPS, LOCK, LOGITS, RUN
from resnext.evaluation.judge import judge
from resnext.evaluation.matching import Matching
from resnext.hub.cache import cache_home
from resnext.predictions import Labels
from resnext.training.features import FeatureStore, FeatureTable, identify_picture
from resnext.training.listing import Entry

NAMES = ("red", "green", "blue", "black", "white", "grey")
COLORS = NAMES[:3]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_pictures(tmp_path_factory.mktemp("photos"), classes=COLORS, per_class=15)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A model whose answers to the photos differ: its last layer looks at what differs."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    testing.write_tiny_model(path, class_names=NAMES)
    with resnext.Classifier(path, precision="fp32", threads=1) as classifier:
        features = classifier.embed(sorted(map(str, photos.rglob("*.png"))))
    document, tensors = modelfile.read(path)
    weight = np.random.default_rng(1).normal(size=(len(NAMES), features.shape[1]))
    weight /= 0.5 * features.std(axis=0).max() * np.sqrt(features.shape[1])
    changed = {"fc.weight": weight, "fc.bias": -weight @ features.mean(axis=0)}
    modelfile.write(path, document, {**tensors, **changed}, dtype="float32")
    return path


@pytest.fixture(scope="module")
def classifier(tiny: Path) -> resnext.Classifier:
    return resnext.Classifier(tiny, precision="fp32", threads=1)


def constant(tiny: Path, logits: list[float]) -> resnext.Classifier:
    return resnext.Classifier(tiny, engine=testing.ConstantEngine(logits))


@pytest.mark.parametrize("restrict", [False, True])
def test_the_figures_are_those_of_scikit_learn(
    restrict: bool, classifier: resnext.Classifier, photos: Path
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    with evaluate(classifier, Question(data=photos, restrict=restrict)) as found:
        figures, judged = found.figures, found.judged
        logits = np.array(judged.logits)
    paths = sorted(photos.rglob("*.png"))
    targets = np.array([NAMES.index(path.parent.name) for path in paths])
    chosen = sorted(set(targets.tolist())) if restrict else list(range(len(NAMES)))
    every = np.array(list(classifier.logits_each([str(path) for path in paths])))
    expected = every[:, chosen]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    answers = np.array(chosen)[expected.argmax(axis=1)]
    assert len(set(answers.tolist())) > 1, "all the same would test little"
    top1 = metrics.accuracy_score(targets, answers)
    assert figures["top1"]["accuracy"] == pytest.approx(top1, abs=1e-12)
    assert figures["top1"]["error"] == pytest.approx(1 - top1, abs=1e-12)
    assert figures["top1"]["low"] < top1 < figures["top1"]["high"]
    k = min(5, len(chosen))
    numbered = [chosen.index(target) for target in targets]
    if k < len(chosen):
        top5 = metrics.top_k_accuracy_score(numbered, expected, k=k, labels=range(len(chosen)))
        assert figures["top5"]["accuracy"] == pytest.approx(top5, abs=1e-12)
    else:
        assert figures["top5"]["accuracy"] == 1
    of_data = sorted(set(targets.tolist()))
    for kind in ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(
            targets, answers, labels=of_data, average=kind, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), values, strict=False):
            assert figures["averages"][f"{kind}_{name}"]["value"] == pytest.approx(value, abs=1e-9)
    shares = np.exp(expected - expected.max(axis=1, keepdims=True), dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    loss = metrics.log_loss(numbered, shares, labels=range(len(chosen)))
    assert figures["calibration"]["nll"] == pytest.approx(loss, rel=1e-5)
    assert figures["answers"] == ("classes of the data" if restrict else "all classes")
    other = every if restrict else every[:, of_data]
    right = [of_data, list(range(len(NAMES)))][restrict]
    best = np.array(right)[other.argmax(axis=1)]
    assert figures["other_choice"]["top1"]["accuracy"] == pytest.approx((best == targets).mean())
    json.dumps(figures, allow_nan=False)


def test_the_answers_are_those_of_predict(classifier: resnext.Classifier, photos: Path) -> None:
    with evaluate(classifier, Question(data=photos)) as found:
        judged = found.judged
    results = list(classifier.predict([str(photos / entry.name) for entry in judged.entries]))
    for place, result in enumerate(results):
        indices = [prediction.index for prediction in result.predictions]
        assert judged.best[place].tolist() == indices
        shares = [prediction.probability for prediction in result.predictions]
        np.testing.assert_allclose(judged.shares[place], shares, rtol=1e-4)


def test_a_constant_engine_is_right_where_its_class_is(tiny: Path, photos: Path) -> None:
    with evaluate(constant(tiny, [0, 5, 0, 0, 0, 0]), Question(data=photos)) as found:
        figures = found.figures
    assert figures["top1"]["right"] == 15
    assert figures["top5"]["right"] == 45  # of equal logits the first count: 0, 2, 3, 4
    assert [row["recall"] for row in figures["classes"]] == [0, 1, 0]
    assert {(row["class"], row["answer"]) for row in figures["confused"]} == {
        ("red", "green"), ("blue", "green")
    }  # fmt: skip
    shown = dict(wording.describe(figures))
    assert shown["error"].startswith("66.67 / 0.00")
    assert shown["top-1"].startswith("33.33 % (")
    assert shown["data"] == "45 pictures in 3 classes"


def test_no_class_of_the_model_but_one(tiny: Path, tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, classes=["green"], per_class=1)
    for restrict in (False, True):
        question = Question(data=tmp_path, restrict=restrict)
        with evaluate(constant(tiny, [5, 0, 0, 0, 0, 0]), question) as found:
            figures = found.figures
        assert figures["top1"]["accuracy"] == float(restrict)
        assert figures["data"]["classes"] == 1
        json.dumps(figures, allow_nan=False)


def test_unreadable_pictures_are_named_and_left_out(tiny: Path, tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, classes=COLORS, per_class=3)
    for name in ("red/0001.png", "green/0000.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with evaluate(constant(tiny, [5, 0, 0, 0, 0, 0]), Question(data=tmp_path)) as found:
        assert sorted(problem.name for problem in found.problems) == [
            "green/0000.png", "red/0001.png"
        ]  # fmt: skip
        assert found.figures["top1"]["right"] == 2
        assert found.figures["top1"]["pictures"] == 7
        assert found.figures["data"]["unreadable"].keys() == {"green/0000.png", "red/0001.png"}
        assert found.figures["computed"]["pictures"] == 7
        assert dict(wording.describe(found.figures))["time"].startswith("7 pictures in ")
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="none of the 9 pictures can be read: blue/0000.png"):
        with evaluate(constant(tiny, [0.0] * 6), Question(data=tmp_path)):
            pass


def test_a_class_without_a_picture_that_counts_is_in_no_average(tiny: Path, tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, classes=("red", "green"), per_class=2)
    for path in (tmp_path / "green").iterdir():
        path.write_bytes(b"no picture")
    with evaluate(constant(tiny, [5, 0, 0, 0, 0, 0]), Question(data=tmp_path)) as found:
        figures = found.figures
    assert {name: one["value"] for name, one in figures["averages"].items()} == dict.fromkeys(
        figures["averages"], 1.0
    )
    assert figures["data"]["without_pictures"] == ["green"]
    [red, green] = figures["classes"]
    assert (red["recall"], green["recall"], green["low"], green["pictures"]) == (1, None, None, 0)
    shown = dict(wording.describe(figures))
    assert shown["data"] == "2 pictures in 2 classes; 2 cannot be read; none of green"
    assert shown["macro"] == "precision 100.00 %, recall 100.00 %, F1 100.00 %"
    assert shown["worst classes"] == "red 100 %"


def test_a_class_that_is_only_ever_second_is_in_no_average(tiny: Path, tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,red|blue\nb.png,red|blue\n")
    with evaluate(constant(tiny, [9, 0, 5, 0, 0, 0]), Question(data=table)) as found:
        figures = found.figures
    assert figures["averages"]["macro_recall"]["value"] == 1
    assert figures["data"]["without_pictures"] == ["blue"]


def test_the_confusion_has_every_answer_once(classifier: resnext.Classifier, photos: Path) -> None:
    for restrict in (False, True):
        with evaluate(classifier, Question(data=photos, restrict=restrict)) as found:
            cells, judged = found.figures["confusion"], found.judged
        expected: dict[tuple[int, int], int] = {}
        for target, answer in zip(judged.targets, judged.answers, strict=True):
            key = int(judged.classes[target]), int(judged.classes[answer])
            expected[key] = expected.get(key, 0) + 1
        keys = zip(cells["target"], cells["answer"], strict=True)
        assert dict(zip(keys, cells["pictures"], strict=True)) == expected


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A table of pictures with several labels, or none."""
    path = tmp_path_factory.mktemp("several") / "t.csv"
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for picture in sorted(photos.rglob("*.png")):
        own = rng.choice(NAMES[:5], rng.integers(0, 4), replace=False)
        lines.append(f"{picture},{'|'.join(own)}")
    path.write_text("\n".join(lines))
    return path


def trained_on_several(tiny: Path, path: Path) -> resnext.Classifier:
    document, tensors = modelfile.read(tiny)
    trained = {"dataset": {"multi_label": True}, "config": {"loss": {"kind": "bce"}}}
    modelfile.write(path, replace(document, provenance=trained), tensors, dtype="float32")
    return resnext.Classifier(path, precision="fp32", threads=1)


@pytest.mark.parametrize("restrict", [False, True])
def test_a_model_of_several_labels_is_judged_class_by_class(
    restrict: bool, tiny: Path, several: Path, tmp_path: Path
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    classifier = trained_on_several(tiny, tmp_path / "several.safetensors")
    with evaluate(classifier, Question(data=several, restrict=restrict)) as found:
        figures, judged = found.figures, found.judged
        logits = np.array(judged.logits)
    assert figures["data"]["evaluated"] == 45, "those without a label count too"
    assert figures["top1"]["pictures"] < 45
    yes = logits > 0
    targets = judged.right_sets
    present = targets.any(axis=0)
    assert present.sum() == 5
    precision = metrics.average_precision_score(
        targets[:, present], logits[:, present], average="macro"
    )
    averages = {name: one["value"] for name, one in figures["averages"].items()}
    micro = metrics.f1_score(targets, yes, average="micro")
    macro = metrics.f1_score(targets[:, present], yes[:, present], average="macro", zero_division=0)
    assert averages == {
        "mean_average_precision": pytest.approx(precision),
        "micro_f1": pytest.approx(micro),
        "macro_f1": pytest.approx(macro),
    }
    assert not {"calibration", "conformal", "selective", "suggested"} & set(figures)
    assert not {"confused", "confusion"} & set(figures)
    assert judged.confidence[0] == pytest.approx(1 / (1 + np.exp(-logits[0].max())), rel=1e-6)
    assert [row["pictures"] for row in figures["classes"]] == targets[:, present].sum(0).tolist()
    shown = dict(wording.describe(figures))
    assert shown["mAP"] == wording.with_interval(figures["averages"]["mean_average_precision"])
    assert figures["averages"]["micro_f1"]["low"] < micro < figures["averages"]["micro_f1"]["high"]
    assert shown["F1"].endswith("yes is above 50 %")
    assert "calibration" not in shown
    json.dumps(figures, allow_nan=False)
    with pytest.raises(ConfigError, match="answers yes or no of each class|restricted"):
        evaluation.calibrate(classifier, found, tmp_path / "x.safetensors", force=False)


def test_what_is_chosen_from_the_logits_is_in_no_file(
    classifier: resnext.Classifier, photos: Path, tmp_path: Path
) -> None:
    question = Question(data=photos, restrict=True)
    with evaluate(classifier, question, output=tmp_path) as found:
        others = {path for path in (tmp_path / "journal").iterdir() if path.name != LOGITS}
        assert all(path.stat().st_size != 45 * 3 * 4 for path in others)
        assert found.judged.logits.shape == (45, 3)
        assert np.isfinite(found.judged.logits).all()


def test_a_full_disk_is_an_error_with_a_name(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    logits = np.zeros((4000, 3), np.float32)
    entries = [Entry(str(number), "", ("a",)) for number in range(len(logits))]
    matching = Matching(index={"a": 0, "b": 1}, rules={})
    labels = Labels(("a", "b", "c"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            judge(logits, entries, matching, labels, restrict=True, scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "restrict"), [("b", False), ("b", True), ("bc", False), ("bc", True)]
)
def test_of_a_folder_left_out_no_row_is_taken_for_another(
    data: str, restrict: bool, tmp_path: Path
) -> None:
    """The first folder is left out, so the rows that count are none of the first ones."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(40, 3 if data == "b" else 2)).astype(np.float32)
    names = ["out"] * 15 + [data[number % len(data)] for number in range(25)]
    entries = [Entry(str(number), "", (name,)) for number, name in enumerate(names)]
    index = {"out": None, **{name: number for number, name in enumerate(data)}}
    labels = Labels(tuple("bcd"[: logits.shape[1]]))
    found = judge(
        logits, entries, Matching(index=index, rules={}), labels,
        restrict=restrict, temperature=0.5, scratch=tmp_path,
    )  # fmt: skip
    rows, targets = logits[15:].astype(np.float64), np.array(["bcd".index(n) for n in names[15:]])
    chosen, other = np.arange(logits.shape[1]), np.arange(len(data))
    if restrict:
        chosen, other = other, chosen

    def ranks(classes: np.ndarray) -> list[int]:
        own = rows[np.arange(25), targets]
        return (rows[:, classes] > own[:, None]).sum(axis=1).tolist()

    assert [entry.name for entry in found.entries] == [str(number) for number in range(15, 40)]
    np.testing.assert_array_equal(found.logits, logits[15:][:, chosen])
    assert found.ranks.tolist() == ranks(chosen)
    assert len(set(ranks(np.arange(logits.shape[1])))) > 1, "all the same would test little"
    assert found.answers.tolist() == rows[:, chosen].argmax(axis=1).tolist()
    if len(chosen) == len(other):
        assert found.other_ranks is None
    else:
        assert found.other_ranks is not None
        assert found.other_ranks.tolist() == ranks(other)
    shares = np.exp(rows[:, chosen] / 0.5)
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.confidence, shares.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.target_shares, shares[np.arange(25), targets], rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_temperature_of_the_model_is_in_every_probability(
    temperature: float, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    document, tensors = modelfile.read(tiny)
    path = tmp_path / "sure.safetensors"
    document = replace(document, temperature=temperature)
    modelfile.write(path, document, tensors, dtype="float32")
    with resnext.Classifier(path, precision="fp32", threads=1) as classifier:
        with evaluate(classifier, Question(data=photos)) as found:
            figures, judged = found.figures["calibration"], found.judged
            logits = np.array(judged.logits, np.float64)
    shares = np.exp(logits / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == judged.targets
    np.testing.assert_allclose(judged.confidence, confidence, rtol=1e-9)
    assert figures["mean_confidence"] == pytest.approx(confidence.mean(), rel=1e-9)
    own = shares[np.arange(45), judged.targets]
    assert figures["nll"] == pytest.approx(-np.log(own).mean(), rel=1e-9)
    bins = np.ceil(15 * confidence)
    error = sum(
        abs(right[bins == one].mean() - confidence[bins == one].mean()) * (bins == one).mean()
        for one in set(bins)
    )
    assert figures["ece"] == pytest.approx(error, rel=1e-9)
    assert figures["temperature"] == temperature
    # That which suits the pictures is no matter of the one that the model has.
    assert figures["suggested_temperature"] != pytest.approx(temperature, rel=0.05)


def test_a_map_leaves_out_and_joins(tiny: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("folder,class\nred,green\ngreen,green\nblue,\n")
    with evaluate(constant(tiny, [0, 5, 0, 0, 0, 0]), Question(data=photos, map=path)) as found:
        assert found.figures["top1"]["right"] == found.figures["top1"]["pictures"] == 30
        assert found.figures["data"]["classes"] == 1
    path.write_text("folder,class\nred,\ngreen,\nblue,\n")
    with pytest.raises(DatasetError, match="leaves out every class"):
        with evaluate(constant(tiny, [0.0] * 6), Question(data=photos, map=path)):
            pass


def test_several_labels_count_any_and_none_counts_not(tiny: Path, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,red|blue\nb.png,black|white\nc.png,\n")
    with evaluate(constant(tiny, [1, 0, 5, 3, 2, 0]), Question(data=table)) as found:
        figures, judged = found.figures, found.judged
    assert figures["data"]["several_labels"]
    assert figures["data"]["evaluated"] == 2
    assert figures["top1"] | {"low": 0, "high": 0} == {
        "accuracy": 0.5, "error": 0.5, "low": 0, "high": 0, "right": 1, "pictures": 2,
    }  # fmt: skip
    assert judged.targets.tolist() == [2, 3, -1]


def test_a_second_run_computes_nothing_and_other_questions_neither(
    classifier: resnext.Classifier, photos: Path, tmp_path: Path
) -> None:
    with evaluate(classifier, Question(data=photos), output=tmp_path) as first:
        figures = first.figures
    assert figures["computed"]["pictures"] == 45
    with evaluate(classifier, Question(data=photos), output=tmp_path) as second:
        assert second.figures["computed"]["pictures"] == 0
        assert second.figures | {"computed": 0} == figures | {"computed": 0}
    with evaluate(classifier, Question(data=photos, restrict=True), output=tmp_path) as third:
        assert third.figures["computed"]["pictures"] == 0
    left = {path.name for path in (tmp_path / "journal").iterdir()}
    assert left - {LOCK} == {RUN, LOGITS, GROUPS}


def test_changed_pictures_and_other_models_are_another_run(
    classifier: resnext.Classifier, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "data")
    with evaluate(classifier, Question(data=data), output=tmp_path / "out"):
        pass
    Image.new("RGB", (9, 9)).save(data / "red" / "0000.png")
    with pytest.raises(ConfigError, match="other data"):
        with evaluate(classifier, Question(data=data), output=tmp_path / "out"):
            pass
    with pytest.raises(ConfigError, match="engine"):
        with evaluate(constant(tiny, [0.0] * 6), Question(data=data), output=tmp_path / "out"):
            pass
    with evaluate(classifier, Question(data=data), output=tmp_path / "out", force=True) as found:
        assert found.figures["computed"]["pictures"] == 45


def test_other_software_another_processor_and_threads_are_another_run(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(threads: int | None = 1, *, remembered: int | None = None) -> None:
        engine = testing.ConstantEngine([5, 0, 0, 0, 0, 0])
        engine.threads = remembered
        classifier = resnext.Classifier(tiny, engine=engine, threads=threads)
        with evaluate(classifier, Question(data=photos), output=tmp_path):
            pass

    compute()
    compute()
    with pytest.raises(ConfigError, match="other threads"):
        compute(threads=2)
    with pytest.raises(ConfigError, match="other threads"):
        compute(threads=None, remembered=2)
    compute(threads=None, remembered=1)
    newer = {**run.versions("numpy", "pillow"), "pillow": "999"}
    with monkeypatch.context() as patched:
        patched.setattr(run, "versions", lambda *_: newer)
        with pytest.raises(ConfigError, match="other software"):
            compute()
    with monkeypatch.context() as patched:
        patched.setattr(run, "machine", lambda: {"processor": "Z80"})
        with pytest.raises(ConfigError, match="other processor"):
            compute()
    compute()


def test_what_failed_for_a_while_is_looked_at_again_with_force(tiny: Path, tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path / "data", classes=COLORS, per_class=2)
    path = data / "red" / "0000.png"
    content, stat = path.read_bytes(), path.stat()
    classifier = constant(tiny, [5, 0, 0, 0, 0, 0])

    def problems(*, force: bool = False) -> int:
        out = tmp_path / "out"
        with evaluate(classifier, Question(data=data), output=out, force=force) as found:
            return len(found.problems)

    for written, expected in ((b"?" * len(content), 1), (content, 1)):
        path.write_bytes(written)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert problems() == expected
    assert problems(force=True) == 0


def test_two_runs_do_not_work_in_one_folder(tiny: Path, photos: Path, tmp_path: Path) -> None:
    first, second = (constant(tiny, [level, 0, 0, 0, 0, 0]) for level in (5, 6))
    question = Question(data=photos)
    with evaluate(first, question, output=tmp_path) as found:
        with pytest.raises(ConfigError, match="another run is at work there: tiny on"):
            with evaluate(second, question, output=tmp_path, force=True):
                pass
        assert found.judged.logits.shape == (45, 6)
    with evaluate(second, question, output=tmp_path, force=True):
        pass


def learned_from(tiny: Path, path: Path, photos: Path) -> Path:
    """Write a model that has learned from the red photos, and was measured on the green ones."""
    pictures = [*sorted((photos / "red").iterdir()), *sorted((photos / "green").iterdir())]
    keys = tuple(identify_picture(picture)[0] for picture in pictures)
    table = FeatureTable(
        keys=keys,
        rows=np.zeros((len(keys), 1), np.float32),
        labels=np.zeros(len(keys), np.int64),
        held_out=np.array([picture.parent.name == "green" for picture in pictures]),
    )
    name = FeatureStore(cache_home() / "features" / "any-network", 1).save_set(table)
    document, tensors = modelfile.read(tiny)
    document = replace(document, provenance={"dataset": {"set": name}})
    modelfile.write(path, document, tensors, dtype="float32")
    return path


def test_pictures_that_were_learned_from_are_noted_and_read_once(
    classifier: resnext.Classifier, tiny: Path, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "blue" / "0003.png").write_bytes(b"no picture")
    model = learned_from(tiny, tmp_path / "tuned.safetensors", photos)
    opened: list[str] = []
    open_file = images.open_file
    with evaluate(classifier, Question(data=data)) as found:
        expected = np.array(found.judged.logits)
        assert found.figures["data"]["learned_from"] == 0
        assert found.figures["data"]["notes"] == []
    monkeypatch.setattr(images, "open_file", lambda path: opened.append(path) or open_file(path))
    with resnext.Classifier(model, precision="fp32", threads=1) as tuned:
        for computed in (45, 0):  # the second time from the journal alone
            opened.clear()
            with evaluate(tuned, Question(data=data), output=tmp_path / "out") as found:
                figures = found.figures
                np.testing.assert_array_equal(found.judged.logits, expected)
                notes = evaluation.calibrate(
                    tuned, found, tmp_path / f"sure-{computed}.safetensors", force=False
                )
            assert len(opened) == computed
            assert figures["data"]["learned_from"] == 15
            [note] = figures["data"]["notes"]
            assert note.startswith("the model has learned from 15 of these 44 pictures")
            assert len(notes) == 1 and "is calibrated on pictures" in notes[0]
            assert [problem.name for problem in found.problems] == ["blue/0003.png"]
            assert "is not a picture" in found.problems[0].reason
    document = modelfile.read(tmp_path / "sure-0.safetensors")[0]
    assert document.provenance["calibration"]["learned_from"] == 15


def test_where_the_record_of_what_was_learned_from_is_gone_nothing_is_said(
    tiny: Path, photos: Path, tmp_path: Path
) -> None:
    model = learned_from(tiny, tmp_path / "tuned.safetensors", photos)
    shutil.rmtree(cache_home() / "features")
    with evaluate(constant(model, [5, 0, 0, 0, 0, 0]), Question(data=photos)) as found:
        assert found.figures["data"]["learned_from"] == 0
        assert found.figures["data"]["notes"] == []


def test_a_cut_run_goes_on_to_the_same_bits(
    classifier: resnext.Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_GROUP_SECONDS", 0.0)
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "green" / "0003.png").write_bytes(b"no picture")
    counts: list[tuple[int, int]] = []
    with evaluate(
        classifier, Question(data=data), output=tmp_path / "a",
        progress=lambda done, total: counts.append((done, total)),
    ) as found:  # fmt: skip
        expected = found.figures
    assert counts[0] == (0, 45)
    assert counts[-1] == (45, 45)
    assert [done for done, _ in counts] == list(range(46))  # smoothly, not a group at a time
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with open(tmp_path / "b" / "journal" / LOGITS, "r+b") as file:
        file.truncate(20 * len(NAMES) * 4)
    with evaluate(classifier, Question(data=data), output=tmp_path / "b") as found:
        assert 0 < found.figures["computed"]["pictures"] < 45
        assert found.figures | {"computed": 0} == expected | {"computed": 0}
        assert [problem.name for problem in found.problems] == ["green/0003.png"]
    for name in (LOGITS, GROUPS):
        first, second = ((tmp_path / letter / "journal" / name).read_bytes() for letter in "ab")
        assert first == second


_SLOW = """
import sys, time
from resnext.cli import app
from resnext.evaluation import run
from resnext.evaluation.journal import Journal
run._GROUP_SECONDS = 0
append = Journal.append
def slow(self, rows, **options):
    append(self, rows, **options)
    time.sleep(0.1)
Journal.append = slow
sys.exit(app.run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path / "data", classes=COLORS, per_class=60)
    command = [sys.executable, "-c", _SLOW, "evaluate", str(data), "-m", str(tiny), "--precision",
               "fp32", "--threads", "1", "--json"]  # fmt: skip
    whole = subprocess.run(
        [*command, "-o", tmp_path / "a"], capture_output=True, text=True, check=True
    )
    groups = tmp_path / "b" / "journal" / GROUPS
    for wanted in (3, 9):  # killed twice, each time further on
        process = subprocess.Popen([*command, "-o", tmp_path / "b"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not groups.exists() or groups.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None, "it ended too soon"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    again = subprocess.run(
        [*command, "-o", tmp_path / "b"], capture_output=True, text=True, check=True
    )
    first, second = json.loads(whole.stdout), json.loads(again.stdout)
    assert first.pop("computed")["pictures"] == 180
    assert second.pop("computed")["pictures"] < 180 - 9
    assert first == second
    for name in (LOGITS, GROUPS):
        one, other = ((tmp_path / letter / "journal" / name).read_bytes() for letter in "ab")
        assert one == other


def test_a_calibrated_copy_keeps_its_promise(
    classifier: resnext.Classifier, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sure.safetensors"
    with evaluate(classifier, Question(data=photos)) as found:
        assert evaluation.calibrate(classifier, found, path, force=False) == ()
        suggested = found.figures["suggested"]
        before = found.figures["calibration"]
    document, tensors = modelfile.read(path)
    assert document.temperature == suggested["temperature"] == before["suggested_temperature"]
    assert document.reject_threshold == suggested["reject_threshold"]
    assert document.provenance["calibration"]["pictures"] == 45
    assert document.provenance["weights"] == "random, for tests"
    original = modelfile.read(classifier.local.path)[1]
    assert all((tensors[key] == original[key]).all() for key in original)
    assert {key: tensors[key].dtype for key in tensors} == {
        key: original[key].dtype for key in original
    }
    with resnext.Classifier(path, precision="fp32", threads=1) as sure:
        with evaluate(sure, Question(data=photos)) as found:
            after = found.figures["calibration"]
    assert after["nll"] <= before["nll"] + 1e-9
    assert after["suggested_temperature"] == pytest.approx(document.temperature, rel=1e-6)
    question = Question(data=photos, restrict=True)
    with evaluate(classifier, question) as found:
        with pytest.raises(ConfigError, match="restricted answers have other probabilities"):
            evaluation.calibrate(classifier, found, path, force=True)
    with pytest.raises(ConfigError, match="--force"):
        evaluation.check_calibrates(classifier, path, restrict=False, force=False)


def test_an_output_that_cannot_be(
    classifier: resnext.Classifier, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        with evaluate(classifier, Question(data=photos), output=tmp_path / "file"):
            pass


def test_the_fingerprint_follows_content_and_order_but_not_labels(photos: Path) -> None:
    from resnext.training.listing import Entry

    path = str(photos / "red" / "0000.png")
    one, two = Entry("a", path, ("x",)), Entry("b", path, ("x",))
    same = run.fingerprint([one, two])
    assert same == run.fingerprint([Entry("a", path, ("y",)), two])
    assert same != run.fingerprint([two, one])
    assert same != run.fingerprint([one])
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert same != run.fingerprint([one, two])
