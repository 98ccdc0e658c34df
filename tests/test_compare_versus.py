"""Two models on the same pictures: differences, turns, and the page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnext
from resnext import modelfile, testing
from resnext.errors import ConfigError, DatasetError, ImageError
from resnext.evaluation import compare as comparison
from resnext.evaluation import paired, versus, wording
from resnext.evaluation.compare import compare
from resnext.evaluation.evaluate import Question, evaluate
from resnext.hub.cache import cache_home
from resnext.training.features import FeatureStore, FeatureTable, identify_picture

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


def test_differences_of_averages_are_those_of_both_evaluations(
    folder: Path, tmp_path: Path
) -> None:
    data = testing.write_pictures(tmp_path / "d", classes=("pug", "blue", "beagle"), per_class=8)
    path = tmp_path / "map.csv"
    path.write_text("folder,class\npug,red\nbeagle,red\n")
    question = Question(data=data, map=path)
    first, second = models(folder, [5, 0, 0, 0], Reddish(sure=12))  # A: red; B: 12 red, 12 blue
    with compare(first, second, question) as found:
        figures = found.figures
    averages = []
    for model in models(folder, [5, 0, 0, 0], Reddish(sure=12)):
        with evaluate(model, question) as alone:
            averages.append(alone.figures["averages"])
    for name, one in figures["averages"].items():
        a, b = (values[name]["value"] for values in averages)
        assert one["difference"] == pytest.approx(b - a), name
        if one["low"] is not None:
            assert one["low"] <= one["difference"] <= one["high"], name
    assert averages[0]["weighted_recall"]["value"] == pytest.approx(16 / 24)
    assert figures["averages"]["weighted_recall"]["low"] is not None
    assert figures["data"]["classes"] == 2
    rows = {row["folder"]: row["pictures"] for row in figures["classes"]}
    assert rows == {"beagle, pug": 16, "blue": 8}


def test_of_several_labels_each_model_is_judged_by_its_own(folder: Path, tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path / "d", classes=("0",), per_class=6)
    table = tmp_path / "t.csv"
    lines = [f"{path},{'blue|red' if path.name < '0003' else 'blue|green'}"
             for path in sorted(data.rglob("*.png"))]  # fmt: skip
    table.write_text("\n".join(["path,label", *lines]))
    first, second = models(folder, [5, 1, 0, 0], [0.0, 5, 1])  # both: red, or at least not blue
    with compare(first, second, Question(data=table)) as found:
        figures = found.figures
    assert figures["top1"]["both"] == 3
    assert {one["difference"] for one in figures["averages"].values()} == {0}
    with evaluate(first, Question(data=table)) as alone:
        assert alone.figures["averages"]["macro_recall"]["value"] == 0.5
    assert {row["class"]: row["pictures"] for row in figures["classes"]} == {"red": 3, "green": 3}
    assert figures["data"]["without_pictures"] == ["blue"]


def test_a_map_may_not_join_for_one_model_only(tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path / "d", classes=("p", "q"), per_class=1)
    path = tmp_path / "map.csv"
    path.write_text("folder,class\np,dog\nq,hound\n")
    for letter, names in (("a", ("dog, hound", "cat")), ("b", ("dog", "hound"))):
        testing.write_tiny_model(tmp_path / f"{letter}.safetensors", class_names=names)
    first, second = models(tmp_path, [0, 1], [0, 1])
    with pytest.raises(DatasetError, match="one class of one model, and several of the other"):
        with compare(first, second, Question(data=data, map=path)):
            pass


def test_models_of_several_labels_are_compared_by_their_best_answers(
    folder: Path, tmp_path: Path
) -> None:
    document, tensors = modelfile.read(folder / "a.safetensors")
    trained = {"dataset": {"multi_label": True}, "config": {"loss": {"kind": "bce"}}}
    modelfile.write(tmp_path / "m.safetensors", replace(document, provenance=trained), tensors)
    engine = testing.ConstantEngine([5, 0, 0, 0])
    several = resnext.Classifier(tmp_path / "m.safetensors", engine=engine)
    first, _ = models(folder, [5, 0, 0, 0], [0, 0, 0])
    with compare(first, several, Question(data=folder / "data")) as found:
        versus.write(first, found, tmp_path / "out")
        figures = found.figures
    assert figures["averages"] == {}
    assert figures["top1"]["both"] == 10
    assert "yes or no of each class" in figures["data"]["notes"][-1]


@pytest.mark.parametrize(("only_b", "said"), [(4, "do not tell"), (6, "B has more right than A")])
def test_a_verdict_needs_interval_and_test(only_b: int, said: str) -> None:
    found = paired.compare(np.zeros(30, np.bool_), np.arange(30) < only_b)
    assert found.interval.low > 0  # of both
    top1 = {"low": found.interval.low, "high": found.interval.high, "p": found.mid_p}
    figures = {"top1": top1, "a": {"learned_from": 0}, "b": {"learned_from": 0}}
    assert said in wording.verdict(figures)
    # Both have to: a p-value alone, or an interval alone, is none.
    assert "do not tell" in wording.verdict({**figures, "top1": {**top1, "low": -0.001}})
    assert "do not tell" in wording.verdict({**figures, "top1": {**top1, "p": 0.06}})


def test_a_verdict_names_who_has_learned_from_the_pictures() -> None:
    a, b = {"learned_from": 7}, {"learned_from": 0}
    better = {"top1": {"low": 0.1, "high": 0.2, "p": 0.001}, "a": a, "b": b}
    assert wording.verdict(better) == "B has more right than A, by 10.00 to 20.00 points"
    assert wording.verdict({**better, "a": b, "b": a}).endswith(
        "; but B has learned from 7 of the pictures"
    )
    worse = {**better, "top1": {"low": -0.2, "high": -0.1, "p": 0.001}}
    assert wording.verdict(worse) == (
        "A has more right than B, by 10.00 to 20.00 points;"
        " but A has learned from 7 of the pictures"
    )


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
        (note,) = found.figures["data"]["notes"]
        assert note.startswith("A chooses among 4 classes and B among 3,") and "--restrict" in note
    with compare(first, second, Question(data=folder / "data", restrict=True)) as found:
        assert found.figures["a"]["top1"]["right"] == 10
        assert found.figures["data"]["notes"] == []
        assert found.figures["same_answer"] == 1


@pytest.mark.parametrize(("second", "same"), [("x", 1.0), ("y", 0.0)])
def test_answers_that_are_no_class_of_the_data_are_the_same_by_their_name(
    second: str, same: float, folder: Path, tmp_path: Path
) -> None:
    names = {"a": ("red", "blue", "green", "x"), "b": (second, "green", "red", "blue")}
    for letter, own in names.items():
        testing.write_tiny_model(tmp_path / f"{letter}.safetensors", class_names=own)
    with compare(
        *models(tmp_path, [0, 0, 0, 9], [9.0, 0, 0, 0]), Question(data=folder / "data")
    ) as found:
        assert found.figures["same_answer"] == same
    # One that the data has, and one that it lacks.
    with compare(
        *models(tmp_path, [0, 0, 0, 9], [0.0, 9, 0, 0]), Question(data=folder / "data")
    ) as found:
        assert found.figures["same_answer"] == 0


def test_a_picture_that_only_one_model_could_read_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = models(folder, [5, 0, 0, 0], [5, 0, 0])
    each = second.logits_each

    def spoiled(pictures, *, batch_size):  # type: ignore[no-untyped-def]
        for number, row in enumerate(each(pictures, batch_size=batch_size)):
            yield ImageError("red/0003.png", "is not a picture") if number == 23 else row

    monkeypatch.setattr(second, "logits_each", spoiled)
    with pytest.raises(ConfigError, match="pictures changed while the models looked") as caught:
        with compare(first, second, Question(data=folder / "data")):
            pass
    assert "--force" in caught.value.hint


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
        comparison._Turn(pictures=8, seconds=(2.0, 1.0)),
        comparison._Turn(pictures=2, seconds=(3.0, 2.5)),
    ]
    speed = comparison._speed(turns)
    assert (speed["pictures"], speed["turns"]) == (18, 3)
    assert (speed["a"], speed["b"], speed["ratio"]) == (2.0, 4.0, 2.0)
    logs = np.log([4.0, 2.0, 1.2])
    reach = 4.302653 * logs.std(ddof=1) / 3**0.5  # Student's of 3 turns
    ends = np.exp([logs.mean() - reach, logs.mean() + reach])
    assert (speed["low"], speed["high"]) == pytest.approx(tuple(ends), rel=1e-6)
    assert wording.race(speed) == "A 2.0, B 4.0 images/s: B is 2.00 times as fast (0.47 to 9.54)"


@pytest.mark.parametrize("num_turns", [1, 2])
def test_speed_of_few_pictures_is_no_verdict(num_turns: int) -> None:
    turns = [comparison._Turn(pictures=31, seconds=(2.0, 1.0))] * num_turns
    assert wording.race(comparison._speed(turns)) == (
        "A 15.5, B 31.0 images/s on 31 pictures: too few to tell which is faster"
    )


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


def test_one_model_goes_on_alone_by_turns_of_another_size(folder: Path, tmp_path: Path) -> None:
    question = Question(data=folder / "data")

    def look(size: int) -> tuple[dict[str, Any], list[Any]]:
        first, second = models(folder, [5, 0, 0, 0], Reddish(sure=7))
        second.engine.best_batch_size = size
        with compare(first, second, question, output=tmp_path) as found:
            return dict(found.figures), [np.array(one.logits) for one in found.judged]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "ROUND", 8)
        first, second = models(folder, [5, 0, 0, 0], Reddish(sure=7))
        with pytest.raises(KeyboardInterrupt):

            def stop(done: int, total: int) -> None:
                if done == 16:
                    raise KeyboardInterrupt

            with compare(first, second, question, output=tmp_path, progress=stop):
                pass
        shutil.rmtree(tmp_path / "journal-b")
        figures, logits = look(6)  # turns of 12: the 16 of A end in the second
    assert figures["speed"]["pictures"] == 6  # the last turn alone is whole for both
    assert [len(rows) for rows in logits] == [30, 30]
    assert logits[1].argmax(axis=1).tolist() == [1] * 7 + [0] * 23
    with compare(*models(folder, [5, 0, 0, 0], Reddish(sure=7)), question) as found:
        assert found.figures["top1"] == figures["top1"]
        for one, rows in zip(found.judged, logits, strict=True):
            np.testing.assert_array_equal(one.logits, rows)


def test_who_has_learned_from_the_pictures_is_named(folder: Path, tmp_path: Path) -> None:
    data = testing.write_pictures(tmp_path / "d", classes=("blue", "green", "red"), per_class=4)
    (data / "red" / "0001.png").write_bytes(b"no picture")
    pictures = [*sorted((data / "red").iterdir()), *sorted((data / "green").iterdir())]
    keys = tuple(identify_picture(picture)[0] for picture in pictures)
    table = FeatureTable(
        keys=keys,
        rows=np.zeros((8, 1), np.float32),
        labels=np.zeros(8, np.int64),
        held_out=np.arange(8) == 7,
    )
    name = FeatureStore(cache_home() / "features" / "compared", 1).save_set(table)
    document, tensors = modelfile.read(folder / "b.safetensors")
    tuned = replace(document, provenance={"dataset": {"set": name}})
    modelfile.write(tmp_path / "b.safetensors", tuned, tensors)
    first, _ = models(folder, [5, 0, 0, 0], [0, 0, 0])
    out = tmp_path / "out"
    for computed in (True, False):  # the second time from the journals alone
        second = resnext.Classifier(
            tmp_path / "b.safetensors", engine=testing.ConstantEngine([0, 0, 5])
        )
        with compare(first, second, Question(data=data), output=out) as found:
            figures = found.figures
        assert bool(figures["speed"]) == computed
        assert (figures["a"]["learned_from"], figures["b"]["learned_from"]) == (0, 6)
        assert figures["data"]["notes"][0] == (
            "B has learned from 6 of these 11 pictures: on others it is right less often"
        )
    with compare(second, first, Question(data=data)) as found:
        assert found.figures["data"]["notes"][0].startswith("A has learned from 6")
    with compare(second, second, Question(data=data)) as found:
        assert len(found.figures["data"]["notes"]) == 2
    assert figures["data"]["several_labels"] is False
    assert figures["data"]["fingerprint"]
    assert figures["a"]["matched"] == {"name": 3}


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


def test_the_page_is_harmless_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert figures["speed"]["pictures"] == 5  # without the one that cannot be read
    page = (tmp_path / "out" / versus.REPORT).read_text("utf-8")
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "On 5 pictures in 2 classes;" in page
    assert "Only A is right: 2 pictures" in page and "Only B is right: 3 pictures" in page
    assert "All of them, first those where B is surest of a wrong answer." in page
    monkeypatch.setattr(versus, "MOST", 2)
    versus.write(first, found, tmp_path / "out")
    assert "2 of them, first those where A is" in (tmp_path / "out" / "compare.html").read_text()
    assert page.count("data:image/jpeg") == 5
    assert np.isfinite(figures["speed"]["ratio"])
    assert "too few to tell which is faster" in page and "B&#x27;s speed" not in page
