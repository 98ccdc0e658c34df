"""What an evaluation leaves in a folder: whole files, harmless whatever names there are."""

from __future__ import annotations

import html.parser
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: resnext[evaluate]")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: resnext[evaluate]")

import pyarrow.parquet as parquet
from PIL import Image

import resnext
from resnext import modelfile, testing
from resnext.errors import OutputError
from resnext.evaluation import evidence, plots, report, wording
from resnext.evaluation.calibration import reliability
from resnext.evaluation.evaluate import Question, evaluate
from resnext.evaluation.selective import risk_coverage
from resnext.explore import cam, index

HOSTILE = "<img src=x onerror=alert(1)>"
DOLLAR = "$\\frac{1$"
NAMES = ("red", HOSTILE, DOLLAR, "=1+1", "other")
PNGS = {report.CONFUSION, report.RELIABILITY, report.COVERAGE, report.CLASSES}


class Page(html.parser.HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on classes and files with names that would like to be more than names."""
    top = tmp_path_factory.mktemp("evaluation")
    model = testing.write_tiny_model(top / "tiny.safetensors", class_names=NAMES)
    data = testing.write_pictures(top / "data", classes=("0", "1", "2", "3"), per_class=3)
    (data / "0" / "0000.png").rename(data / "0" / "<b>&amp;\x1b[31m.png")
    os.rename(data / "1" / "0000.png", os.fsencode(data / "1") + b"/\xff.png")
    (data / "2" / "0001.png").write_bytes(b"no picture")
    with resnext.Classifier(model, precision="fp32", threads=1) as classifier:
        question = Question(data=data)
        with evaluate(classifier, question, output=top / "out") as evaluation:
            report.write(classifier, evaluation, top / "out")
    return top / "out"


def test_every_file_is_there_and_whole(written: Path) -> None:
    expected = {report.REPORT, report.METRICS, report.PREDICTIONS, "journal"} | PNGS
    assert {path.name for path in written.iterdir()} == expected
    for name in PNGS:
        with Image.open(written / name) as image:
            image.load()
            assert min(image.size) > 100
            assert len(image.convert("L").getcolors() or ()) > 10, "something is drawn"


def test_the_page_runs_nothing_loads_nothing_and_shows_all_names(written: Path) -> None:
    page = Page(written / report.REPORT)
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]
    sources = [attributes.get("src") or "" for tag, attributes in page.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not [tag for tag, attributes in page.tags if "href" in attributes and tag != "link"]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    text = "".join(page.text)
    for name in ("red", HOSTILE, DOLLAR, "=1+1", "2/0001.png"):
        assert name in text
    assert "\x1b" not in text
    assert "<b>" in text or "b>&" in text
    assert "The worst mistakes" in text
    assert "1 picture cannot be read" in text


def test_a_mistake_has_picture_and_heat_map(written: Path) -> None:
    page = Page(written / report.REPORT)
    figures = json.loads((written / report.METRICS).read_text())
    wrong = figures["top1"]["pictures"] - figures["top1"]["right"]
    heats = [
        attributes for tag, attributes in page.tags
        if tag == "img" and attributes.get("alt") == "where the answer was seen"
    ]  # fmt: skip
    assert wrong
    assert 0 < len(heats) <= wrong


def test_a_mistake_says_which_picture_what_was_answered_and_what_is_right(
    tmp_path: Path,
) -> None:
    data = testing.write_pictures(tmp_path / "data", classes=("red",), per_class=1)
    engine = testing.ConstantEngine([1.0, 3.0, 2.0])
    model = testing.write_tiny_model(tmp_path / "a.safetensors", class_names=("red", "cat", "dog"))
    with resnext.Classifier(model, engine=engine) as classifier:
        with evaluate(classifier, Question(data=data)) as found:
            lines = report._caption(found.judged, 0)
    assert lines == [
        "red/0000.png", "answer: cat 66.5 %", "right: red 9.0 %", "then: dog 24.5 %, red 9.0 %"
    ]  # fmt: skip


def test_the_table_has_a_row_for_each_picture(written: Path) -> None:
    table = parquet.read_table(written / report.PREDICTIONS)
    rows = table.to_pylist()
    figures = json.loads((written / report.METRICS).read_text())
    assert len(rows) == 12
    [bad] = [row for row in rows if row["error"] is not None]
    assert (bad["path"], bad["right"], bad["label_1"]) == ("2/0001.png", None, None)
    good = [row for row in rows if row["error"] is None]
    assert sum(row["right"] for row in good) == figures["top1"]["right"]
    assert sum(row["rank"] < 5 for row in good) == figures["top5"]["right"]
    assert {row["target"] for row in good} == set(NAMES[:4])
    for row in good:
        assert row["right"] == (row["label_1"] == row["target"])
        shares = [row[f"probability_{place}"] for place in range(1, 6)]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert row["probability"] == shares[0]
        labels = [row[f"label_{place}"] for place in range(1, 6)]
        assert row["target_probability"] == shares[labels.index(row["target"])]
    assert "1/\\udcff.png" in {row["path"] for row in rows}


def test_all_right_classes_are_in_the_table(tmp_path: Path) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    data = testing.write_pictures(tmp_path / "d", classes=("red",), per_class=3)
    names = [path.name for path in sorted((data / "red").iterdir())]
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\nd/red/{names[0]},red|other\nd/red/{names[1]},red\n"
                     f"d/red/{names[2]},\n")  # fmt: skip
    engine = testing.ConstantEngine([1, 0, 0, 0, 3])
    classifier = resnext.Classifier(model, engine=engine)
    for restrict in (False, True):
        with evaluate(classifier, Question(data=table, restrict=restrict)) as found:
            report._write_predictions(found, 0.99, tmp_path / "p.parquet")
        rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
        assert [row["targets"] for row in rows] == [["red", "other"], ["red"], []]
        assert [row["target"] for row in rows] == ["other", "red", None]
        # The threshold is for the probabilities of all classes.
        assert [row["rejected"] for row in rows] == [None if restrict else True] * 3


def test_bars_and_table_are_those_of_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    data = testing.write_pictures(tmp_path / "d", classes=("0", "1", "2"), per_class=4)
    for path in (data / "1").iterdir():
        path.write_bytes(b"no picture")
    drawn: dict[str, tuple[Any, ...]] = {}
    for name in ("draw_reliability", "draw_classes"):
        monkeypatch.setattr(
            plots, name, lambda *given, name=name: drawn.update({name: given})
        )  # fmt: skip
    with resnext.Classifier(model, precision="fp32", threads=1) as classifier:
        with evaluate(classifier, Question(data=data)) as found:
            report.write(classifier, found, tmp_path / "out")
    figures = found.figures["calibration"]
    before, after, temperatures, _ = drawn["draw_reliability"]
    assert before.expected_error == figures["ece"]
    assert after.expected_error == figures["ece_suggested"]
    assert temperatures == (1.0, figures["suggested_temperature"])
    names = [row["class"] for row in report._worst_first(found.figures)]
    assert drawn["draw_classes"][0] == names
    assert set(names) == {"red", DOLLAR}
    text = "".join(Page(tmp_path / "out" / report.REPORT).text)
    assert f"No pictures: {HOSTILE}." in text
    assert f"none of {HOSTILE}" in text


def test_a_model_of_several_labels_has_a_page_of_its_own(tmp_path: Path) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    document, tensors = modelfile.read(model)
    trained = {"dataset": {"multi_label": True}, "config": {"loss": {"kind": "bce"}}}
    modelfile.write(model, replace(document, provenance=trained), tensors)
    data = testing.write_pictures(tmp_path / "d", classes=("red",), per_class=3)
    table = tmp_path / "t.csv"
    lines = [f"{path},{label}" for path, label in zip(
        sorted((data / "red").iterdir()), ("red|other", "other", ""), strict=True)]  # fmt: skip
    table.write_text("\n".join(["path,label", *lines]))
    with resnext.Classifier(model, precision="fp32", threads=1) as classifier:
        with evaluate(classifier, Question(data=table)) as found:
            report.write(classifier, found, tmp_path / "out")
    expected = {report.REPORT, report.METRICS, report.PREDICTIONS, report.CLASSES}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    text = "".join(Page(tmp_path / "out" / report.REPORT).text)
    assert "mean average precision" in text
    assert "the model answers yes or no of each class" in text
    assert "Label sets" not in text
    rows = parquet.read_table(tmp_path / "out" / report.PREDICTIONS).to_pylist()
    assert [row["rejected"] for row in rows] == [None] * 3


def test_the_figures_are_there_for_machines(written: Path) -> None:
    figures = json.loads((written / report.METRICS).read_text())
    assert figures["schema_version"] == 1
    assert figures["data"]["matched"] == {"number": 4}
    assert sum(figures["confusion"]["pictures"]) == figures["top1"]["pictures"]
    assert sum(figures["calibration"]["bins"]["pictures"]) == figures["top1"]["pictures"]
    assert figures["selective"]["curve"]["coverage"][-1] == 1
    assert dict(wording.describe(figures))["matched"] == "4 by number"


@pytest.mark.slow
@pytest.mark.parametrize(("count", "other"), [(1, 0), (1, 1), (12, 1), (300, 0)])
def test_confusion_of_few_and_many(count: int, other: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.poisson(0.02, (count, count + other))
    matrix += 20 * np.eye(count, count + other, dtype=int)
    matrix[0] = 0  # a class without pictures
    names = [f"{DOLLAR} {number}" for number in range(count)]
    plots.draw_confusion(matrix, names, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 400


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, 700])
def test_a_rare_confusion_is_seen(count: int, tmp_path: Path) -> None:
    matrix = 24 * np.eye(count, dtype=np.int64)
    matrix[count // 4, count // 2] = 1
    plots.draw_confusion(matrix, [str(number) for number in range(count)], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    # In the middle above the diagonal; only what is drawn there is blue.
    part = pixels[150 : len(pixels) // 3, len(pixels) // 2 : 3 * len(pixels) // 5].astype(int)
    assert ((part[..., 2] - part[..., 0]) > 40).sum() >= 9


def test_classes_that_share_a_cell_show_the_largest_of_them() -> None:
    count = 2 * plots._MOST_CELLS - 1
    shares = np.zeros((count, count + 1))
    shares[count - 1, 3], shares[count - 1, 2] = 0.5, 0.25
    joined = plots._joined(shares)
    assert joined.shape == (plots._MOST_CELLS, plots._MOST_CELLS)
    assert joined[-1, 1] == 0.5
    assert (joined > 0).sum() == 1
    np.testing.assert_array_equal(plots._joined(shares[:9, :9]), shares[:9, :9])


def test_classes_of_one_accuracy_stand_by_name_and_keep_their_numbers() -> None:
    rows = [
        {"class": name, "pictures": pictures, "recall": recall}
        for name, pictures, recall in (("c", 4, 0.5), ("b", 0, None), ("a", 4, 0.5), ("d", 4, 0.1))
    ]
    found = report._worst_first({"classes": rows})
    assert [(row["class"], row["number"]) for row in found] == [("d", 3), ("a", 2), ("c", 0)]


@pytest.mark.slow
def test_plots_of_edge_cases(tmp_path: Path) -> None:
    for confidence, right in ([[1.0], [True]], [[0.0], [False]]):
        bars = reliability(np.array(confidence), np.array(right))
        plots.draw_reliability(bars, bars, (1.0, 0.01), tmp_path / "r.png")
        curve = risk_coverage(np.array(confidence), np.array(right))
        plots.draw_coverage(curve, (0.0, 1.0), tmp_path / "v.png")
        plots.draw_coverage(curve, None, tmp_path / "v.png")
    for count in (1, 50):
        names = ["猫" + HOSTILE * 3] * count
        spread = np.tile([0.2, 0.7], (count, 1))
        plots.draw_classes(names, np.full(count, 0.5), spread, tmp_path / "k.png")
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(OutputError):
        plots.draw_coverage(curve, None, tmp_path / "none" / "v.png")


def test_the_worst_come_first_and_at_most_two_of_a_kind(tmp_path: Path) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    data = testing.write_pictures(tmp_path / "d", classes=("0", "1", "2"), per_class=4)
    engine = testing.ConstantEngine([0, 3, 0, 0, 0])
    with evaluate(resnext.Classifier(model, engine=engine), Question(data=data)) as found:
        judged = found.judged
    chosen = evidence.worst(judged)
    assert [judged.entries[place].name for place in chosen] == [
        "0/0000.png", "0/0001.png", "2/0000.png", "2/0001.png"
    ]  # fmt: skip
    assert evidence.worst(judged, most=1) == chosen[:1]


def test_a_picture_that_has_gone_is_left_blank(tmp_path: Path) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    data = testing.write_pictures(tmp_path / "d", classes=("0", "1", "2"), per_class=2)
    with resnext.Classifier(model, precision="fp32", threads=1) as classifier:
        with evaluate(classifier, Question(data=data)) as found:
            chosen = evidence.worst(found.judged)
            gone = found.judged.entries[chosen[0]].source
            Path(gone).unlink()
            kept = found.judged.entries[chosen[1]].source
            first, *rest = evidence.collect(classifier, found.judged, chosen)
            document = index.describe(classifier, model="t", class_names=("zero",))
            rows = [index.Row(str(kept), np.ones(1024, np.float32), 0),
                    index.Row("gone.png", -np.ones(1024, np.float32))]  # fmt: skip
            index.write(tmp_path / "x.index", document, rows)
            opened = index.open_index(tmp_path / "x.index")
            near = evidence.collect(classifier, found.judged, chosen, index=opened)[1].neighbors
    assert {(one.label, pixels is None) for one, pixels in near} == {("zero", False), (None, True)}
    assert (first.picture, first.heat) == (None, None)
    assert all(one.picture is not None and one.heat is not None for one in rest)


def test_the_heat_map_is_that_of_the_answer_and_not_of_the_right_class(tmp_path: Path) -> None:
    model = testing.write_tiny_model(tmp_path / "t.safetensors", class_names=NAMES)
    document, tensors = modelfile.read(model)
    # All speaks for every class, but in other places.
    tensors = {**tensors, "fc.weight": np.abs(tensors["fc.weight"])}
    modelfile.write(model, document, tensors, dtype="float32")
    data = testing.write_pictures(tmp_path / "d", classes=("2", "4"), per_class=3)
    with resnext.Classifier(model, precision="fp32", threads=1) as classifier:
        for restrict in (False, True):  # then classes have other numbers
            with evaluate(classifier, Question(data=data, restrict=restrict)) as found:
                judged = found.judged
                [place, *_] = evidence.worst(judged)
                [exhibit] = evidence.collect(classifier, judged, [place])
            source = judged.entries[place].source
            picture = evidence.read(source, classifier)
            heats = [
                cam.overlay(picture, one.values, classifier.document.preprocess)
                for one in cam.class_activation_map(classifier, [source] * 5, range(5))
            ]
            answer = int(judged.classes[judged.answers[place]])
            target = int(judged.classes[judged.targets[place]])
            assert (heats[answer] != heats[target]).any()
            np.testing.assert_array_equal(exhibit.heat, heats[answer])
