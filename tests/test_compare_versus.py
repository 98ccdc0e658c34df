"""Two models on the same pictures: differences, turns, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import resnext
from resnext import testing
from resnext.errors import ConfigError, DatasetError
from resnext.evaluation import compare as comparison
from resnext.evaluation import versus, wording
from resnext.evaluation.compare import compare
from resnext.evaluation.evaluate import Question

A_NAMES, B_NAMES = ("red", "green", "blue", "x"), ("blue", "red", "green")
HOSTILE = "<script>alert(1)</script>"


class Reddish(testing.ConstantEngine):
    """Says red of the first `sure` pictures that come, and blue of the others."""

    def __init__(self, sure: int) -> None:
        super().__init__([0, 0, 0])
        self._left = sure

    def _infer(self, batch_nhwc):  # type: ignore[no-untyped-def]
        outputs = super()._infer(batch_nhwc)
        for row in outputs.logits:
            row[1 if self._left > 0 else 0] = 4
            self._left -= 1
        return outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("compare")
    testing.write_tiny_model(top / "a.safetensors", class_names=A_NAMES)
    testing.write_tiny_model(top / "b.safetensors", class_names=B_NAMES, seed=1)
    testing.write_pictures(top / "data", classes=("blue", "green", "red"), per_class=10)
    return top


def models(
    folder: Path, a: list[float], b: list[float] | Reddish
) -> tuple[resnext.Classifier, ...]:
    engine = b if isinstance(b, Reddish) else testing.ConstantEngine(b)
    return (
        resnext.Classifier(folder / "a.safetensors", engine=testing.ConstantEngine(a)),
        resnext.Classifier(folder / "b.safetensors", engine=engine),
    )


def test_differences_between_models_whose_classes_stand_in_another_order(folder: Path) -> None:
    first, second = models(folder, [0, 5, 0, 0], Reddish(sure=7))  # A: green; B: 7 red, 23 blue
    with compare(first, second, Question(data=folder / "data")) as found:
        figures = found.figures
        right = [judged.right for judged in found.judged]
    assert right[0].tolist() == [False] * 10 + [True] * 10 + [False] * 10
    assert right[1].tolist() == [False] * 7 + [True] * 3 + [False] * 20
    top1 = figures["top1"]
    assert {key: top1[key] for key in ("both", "only_a", "only_b", "neither")} == {
        "both": 0, "only_a": 10, "only_b": 3, "neither": 17
    }  # fmt: skip
    assert top1["difference"] == pytest.approx(-7 / 30)
    assert top1["low"] < -7 / 30 < top1["high"]
    # McNemar: two-sided binomial of 3 in 13.
    assert top1["p_exact"] == pytest.approx(2 * (1 + 13 + 78 + 286) / 2**13)
    assert top1["p"] < top1["p_exact"]
    assert figures["a"]["top1"]["right"] == 10
    rows = {row["class"]: (row["gained"], row["lost"]) for row in figures["classes"]}
    assert rows == {"blue": (3, 0), "green": (0, 10), "red": (0, 0)}
    assert figures["same_answer"] == 0
    assert set(figures["averages"]) >= {"macro_f1", "weighted_recall"}
    shown = dict(wording.compared(figures))
    assert shown["B - A, top-1"].startswith("-23.33 (")
    assert shown["losses"] == "green -100"
    assert shown["gains"] == "blue +30"


def test_a_model_against_itself_is_neither_better_nor_faster_by_chance(folder: Path) -> None:
    first, _ = models(folder, [5, 0, 0, 0], [0, 0, 0])
    with compare(first, first, Question(data=folder / "data")) as found:
        figures = found.figures
    assert figures["top1"]["difference"] == 0
    assert figures["top1"]["p_exact"] == 1
    assert figures["same_answer"] == 1
    assert wording.verdict(figures) == "these pictures do not tell which is better"


def test_restricted_answers_are_equal_for_both(folder: Path) -> None:
    first, second = models(folder, [0, 1, 0, 9], [0, 0, 9])  # A: x, which the data lacks
    with compare(first, second, Question(data=folder / "data")) as found:
        assert found.figures["a"]["top1"]["right"] == 0
    with compare(first, second, Question(data=folder / "data", restrict=True)) as found:
        assert found.figures["a"]["top1"]["right"] == 10
        assert found.figures["same_answer"] == 1


def test_both_work_by_turns_on_the_same_pictures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "ROUND", 8)
    first, second = models(folder, [5, 0, 0, 0], [5, 0, 0])
    order: list[str] = []
    for name, classifier in (("a", first), ("b", second)):
        each = classifier.logits_each

        def noted(pictures, *, batch_size, name=name, each=each):  # type: ignore[no-untyped-def]
            order.append(f"{name}{len(pictures)}")
            return each(pictures, batch_size=batch_size)

        monkeypatch.setattr(classifier, "logits_each", noted)
    counts: list[tuple[int, int]] = []
    with compare(
        first, second, Question(data=folder / "data"),
        progress=lambda done, total: counts.append((done, total)),
    ) as found:  # fmt: skip
        speed = found.figures["speed"]
    assert order == ["b8", "a8", "a8", "b8", "b8", "a8", "a6", "b6"]
    assert counts == [(8, 30), (16, 30), (24, 30), (30, 30)]
    assert (speed["turns"], speed["pictures"]) == (3, 22)
    assert speed["low"] < speed["ratio"] * 1.5 and speed["ratio"] < speed["high"] * 1.5


def test_speed_is_that_of_all_turns_but_the_first() -> None:
    turns = [
        comparison._Turn(pictures=8, seconds=(9.0, 1.0)),
        comparison._Turn(pictures=8, seconds=(4.0, 1.0)),
        comparison._Turn(pictures=2, seconds=(1.0, 1.5)),
    ]
    speed = comparison._speed(turns)
    assert (speed["pictures"], speed["turns"]) == (10, 2)
    assert (speed["a"], speed["b"], speed["ratio"]) == (2.0, 4.0, 2.0)
    assert speed["low"] < (4.0 / 1.5) ** 0.5 < speed["high"]  # mean of 4 and 2/3, as factors


def test_a_second_run_goes_on_and_another_is_refused(folder: Path, tmp_path: Path) -> None:
    first, second = models(folder, [5, 0, 0, 0], [5, 0, 0])
    with compare(first, second, Question(data=folder / "data"), output=tmp_path) as found:
        assert found.figures["speed"]
    with compare(first, second, Question(data=folder / "data"), output=tmp_path) as again:
        assert again.figures["speed"] == {}
        assert again.figures["top1"] == found.figures["top1"]
    assert "not measured" in dict(wording.compared(again.figures))["speed"]
    with pytest.raises(ConfigError, match="another run"):
        with compare(second, first, Question(data=folder / "data"), output=tmp_path):
            pass


def test_two_comparisons_do_not_work_in_one_folder(folder: Path, tmp_path: Path) -> None:
    first, second = models(folder, [5, 0, 0, 0], [5, 0, 0])
    question = Question(data=folder / "data")
    with compare(first, second, question, output=tmp_path):
        with pytest.raises(ConfigError, match="another run is at work there: tiny, tiny"):
            with compare(first, second, question, output=tmp_path, force=True):
                pass


def test_classes_that_one_model_lacks_are_an_error(folder: Path, tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path, classes=("x", "red"), per_class=1)
    with pytest.raises(DatasetError, match="'x'"):
        with compare(*models(folder, [0.0] * 4, [0.0] * 3), Question(data=data)):
            pass


def test_the_page_is_harmless_and_whole(tmp_path: Path) -> None:
    names = ("red", HOSTILE)
    data = testing.write_pictures(tmp_path / "data", classes=("0", "1"), per_class=3)
    (data / "0" / "0001.png").write_bytes(b"no picture")
    for letter in "ab":
        testing.write_tiny_model(tmp_path / f"{letter}.safetensors", class_names=names)
    first, second = (
        resnext.Classifier(tmp_path / f"{letter}.safetensors", engine=testing.ConstantEngine(row))
        for letter, row in (("a", [1, 0]), ("b", [0, 1]))
    )
    with compare(first, second, Question(data=data)) as found:
        versus.write(first, found, tmp_path / "out")
    assert [problem.name for problem in found.problems] == ["0/0001.png"]
    figures = json.loads((tmp_path / "out" / versus.FIGURES).read_text())
    assert figures["top1"]["only_b"] == 3
    page = (tmp_path / "out" / versus.REPORT).read_text("utf-8")
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "Only A is right" in page and "Only B is right" in page
    assert page.count("data:image/jpeg") == 5
    assert np.isfinite(figures["speed"]["ratio"])
