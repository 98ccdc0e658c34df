"""`data`: whatever the layout, sets whose classes agree, a recorded split, named errors."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext import images, testing
from resnext.errors import ConfigError, DatasetError
from resnext.predictions import Labels
from resnext.training import data, tables
from resnext.training.data import Data, Problem, open_data
from resnext.training.listing import PARTS
from resnext.training.order import Order
from resnext.training.samples import Sample, SampleSet


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three classes with ten pictures each."""
    return testing.write_pictures(tmp_path / "pictures", per_class=10, size=16)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The same with a part to validate on, of two classes, in which one comes first."""
    top = tmp_path / "parts"
    testing.write_pictures(top / "train", per_class=4, size=16)
    testing.write_pictures(top / "val", classes=("green", "red"), per_class=2, size=16, seed=1)
    return top


def _by_class(samples: SampleSet) -> dict[str, int]:
    return dict(zip(samples.labels.class_names, samples.counts, strict=True))


def _names(samples: SampleSet | None) -> set[str]:
    return set() if samples is None else {sample.name for sample in samples.samples}


def test_a_folder_is_split_by_class_and_the_split_is_recorded(pictures: Path) -> None:
    opened = open_data(pictures, seed=3)
    assert opened.val is not None
    assert _by_class(opened.train) == {"blue": 8, "green": 8, "red": 8}
    assert _by_class(opened.val) == {"blue": 2, "green": 2, "red": 2}
    assert not _names(opened.train) & _names(opened.val)
    assert json.loads(json.dumps(opened.split)) == {
        "kind": "automatic",
        "seed": 3,
        "val_share": 0.2,
        "train": {"pictures": 24, "fingerprint": opened.train.fingerprint},
        "val": {"pictures": 6, "fingerprint": opened.val.fingerprint},
        "copies": 0,
    }
    assert opened.notes == ()
    assert open_data(str(pictures), seed=3).split == opened.split
    assert _names(open_data(pictures, seed=4).val) != _names(opened.val)


def test_a_data_set_that_moved_is_the_same(pictures: Path, tmp_path: Path) -> None:
    before = open_data(pictures)
    after = open_data(shutil.move(pictures, tmp_path / "moved"))
    assert after.split == before.split


def test_labels_are_those_of_the_folders(pictures: Path) -> None:
    opened = open_data(pictures)
    channel = {"red": 0, "green": 1, "blue": 2}
    for sample in opened.train.samples:
        name = opened.train.labels.class_names[sample.labels[0]]
        assert sample.name.split("/")[0] == name
        means = images.read(pickle.loads(pickle.dumps(sample.source))).mean((0, 1))
        assert np.argmax(means) == channel[name]


def test_a_given_part_is_used_and_aligned_by_name(parts: Path) -> None:
    opened = open_data(parts)
    assert opened.val is not None
    assert opened.split["kind"] == "given"
    assert opened.train.labels == opened.val.labels
    assert opened.val.labels.class_names == ("blue", "green", "red")
    assert opened.val.counts == (0, 2, 2)
    assert "seed" not in opened.split


@pytest.mark.parametrize("most", [0, 200_000])
def test_a_class_without_a_picture_in_a_given_part_is_told(
    parts: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(data, "_LOOK_FOR_COPIES", most)
    expected = ("classes without a picture to validate on: blue",)
    assert open_data(parts).notes == expected
    (parts / "val" / "blue").mkdir()
    assert open_data(parts).notes == expected
    testing.write_pictures(parts / "val", classes=("blue",), per_class=1, size=16, seed=2)
    assert open_data(parts).notes == ()


def test_a_class_only_in_val_is_an_error_that_names_it(parts: Path) -> None:
    testing.write_pictures(parts / "val", classes=("pink",), per_class=1)
    with pytest.raises(
        DatasetError, match=r"1 class is only in the part to validate on: pink \(val/pink/0000"
    ):
        open_data(parts)


def test_no_part_to_validate_on_if_none_is_wanted(pictures: Path) -> None:
    opened = open_data(pictures, val_share=0)
    assert (len(opened.train), opened.val) == (30, None)
    assert opened.split["kind"] == "none"
    assert opened.split["val"] is None


def test_copies_stay_together_and_are_told(pictures: Path) -> None:
    for number in range(8):
        shutil.copy(pictures / "red" / "0000.png", pictures / "red" / f"copy{number}.png")
    shutil.copy(pictures / "red" / "0001.png", pictures / "blue" / "other.png")
    for seed in range(5):
        opened = open_data(pictures, seed=seed, val_share=0.5)
        places = [
            {f"red/copy{n}.png" for n in range(8)} | {"red/0000.png"},
            {"red/0001.png", "blue/other.png"},
        ]
        for same in places:
            assert same <= _names(opened.train) or same <= _names(opened.val)
    assert opened.split["copies"] == 9
    assert opened.notes[0].startswith("9 pictures have the same bytes as another")
    assert opened.notes[1].endswith("labelled otherwise: red/0001.png = blue/other.png")


def test_copies_in_given_parts_are_told(parts: Path, monkeypatch: Any) -> None:
    shutil.copy(parts / "train" / "red" / "0002.png", parts / "val" / "red" / "x.png")
    opened = open_data(parts)
    assert opened.split["copies"] == 1
    assert opened.notes == (
        "1 picture to validate on is in train as well: val/red/x.png = train/red/0002.png",
        "classes without a picture to validate on: blue",
    )
    shutil.copy(parts / "train" / "red" / "0002.png", parts / "val" / "green" / "y.png")
    assert open_data(parts).notes[1].endswith("otherwise: val/green/y.png = train/red/0002.png")
    monkeypatch.setattr(data, "_LOOK_FOR_COPIES", 3)
    assert open_data(parts).split["copies"] is None


def test_a_class_of_one_picture_keeps_it_to_learn_from(pictures: Path) -> None:
    testing.write_pictures(pictures, classes=("rare",), per_class=1)
    opened = open_data(pictures)
    assert opened.val is not None
    assert _by_class(opened.train)["rare"] == 1
    assert _by_class(opened.val)["rare"] == 0
    assert opened.notes == ("classes with too few pictures to validate on: rare",)


def test_too_few_pictures_for_any_val_leave_none(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, per_class=1)
    opened = open_data(tmp_path)
    assert (len(opened.train), opened.val, opened.split["val"]) == (3, None, None)


def test_one_class_is_an_error(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, classes=("cat",), per_class=3)
    with pytest.raises(DatasetError, match="there is one class, cat; expected at least two"):
        open_data(tmp_path)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DatasetError) as caught:
        open_data(tmp_path)
    assert caught.value.hint == f"open its table: {tmp_path / 'labels.csv'}"
    assert open_data(tmp_path, classes=["cat", "dog"]).train.counts[1] == 0


def test_classes_can_be_given_in_another_order_with_more_of_them(pictures: Path) -> None:
    opened = open_data(pictures, classes=["red", "pink", "green", "blue"], val_share=0)
    assert opened.train.labels.class_names == ("red", "pink", "green", "blue")
    assert opened.train.counts == (10, 0, 10, 10)
    assert opened.notes == ("classes without a picture: pink",)
    with pytest.raises(DatasetError, match="1 class is not among those given: green"):
        open_data(pictures, classes=["red", "blue"])
    with pytest.raises(ConfigError, match="names one twice"):
        open_data(pictures, classes=["red", "red"])


def test_synset_ids_get_names(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path, classes=("n01443537", "n01629819"), per_class=2)
    labels = open_data(tmp_path).train.labels
    assert labels.class_names == ("goldfish", "European fire salamander")
    assert labels.synset_ids == ("n01443537", "n01629819")
    given = open_data(tmp_path, classes=("n01629819", "n01443537")).train.labels
    assert given.class_names[0] == "European fire salamander"


def test_several_labels_a_picture(pictures: Path) -> None:
    lines = [f"red/{n:04d}.png,warm|red\nblue/{n:04d}.png,blue\n" for n in range(10)]
    (pictures / "t.csv").write_text("path,label\n" + "".join(lines) + "green/0000.png,\n")
    opened = open_data(pictures / "t.csv")
    assert opened.val is not None
    assert opened.train.multi_label and opened.val.multi_label
    assert opened.train.labels.class_names == ("blue", "red", "warm")
    assert opened.val.counts == (2, 2, 2)
    labels = {sample.name.split("/")[0]: sample.labels for sample in opened.train.samples}
    assert labels.pop("green", ()) == ()
    assert labels == {"red": (2, 1), "blue": (0,)}


def test_classes_of_a_data_set_without_pictures_are_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pip install 'resnext[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet")
    testing.write_pictures(tmp_path, per_class=1)
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
    table = pa.table({"path": ["red/0000.png", "blue/0000.png"], "label": [2, 0]})
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match="1 class has no picture to learn from: b"):
        open_data(tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet", classes="ca").train.counts == (1, 1)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_share_out_of_range_is_refused(pictures: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="val_share is"):
        open_data(pictures, val_share=share)


def test_a_part_without_pictures_is_named(tmp_path: Path) -> None:
    testing.write_pictures(tmp_path / "train", per_class=1)
    (tmp_path / "val" / "red").mkdir(parents=True)
    with pytest.raises(DatasetError, match="there is no picture in val"):
        open_data(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(DatasetError, match="there is no picture in train"):
        open_data(tmp_path / "t.csv")


def test_pictures_with_problems_are_left_out_of_both_parts(pictures: Path) -> None:
    opened = open_data(pictures)
    assert opened.val is not None
    bad = [opened.train.samples[0], opened.val.samples[0]]
    for sample in bad:
        Path(sample.source).write_bytes(b"")
    problems = data.scan(opened.train) + data.scan(opened.val)
    assert {problem.name for problem in problems} == {sample.name for sample in bad}
    left = opened.without(problems)
    assert left.val is not None
    assert (len(left.train), len(left.val)) == (23, 5)
    assert left.split["train"] == {"pictures": 23, "fingerprint": left.train.fingerprint}
    assert left.split["val"]["pictures"] == 5
    assert left.split["seed"] == 0
    assert data.scan(left.train) == []


def test_a_class_that_cannot_be_read_at_all_is_an_error(pictures: Path) -> None:
    opened = open_data(pictures)
    assert opened.val is not None
    reds = [Problem(name, "") for name in _names(opened.train) if name.startswith("red/")]
    with pytest.raises(DatasetError, match="no picture of red can be read"):
        opened.without(reds)
    emptied = opened.without([Problem(name, "") for name in _names(opened.val)])
    assert emptied.val is None and emptied.split["val"] is None
    assert emptied.notes[-1] == "no picture to validate on can be read"


def test_a_class_that_loses_its_last_picture_to_validate_on_is_told(pictures: Path) -> None:
    opened = open_data(pictures)
    reds = [Problem(name, "") for name in _names(opened.val) if name.startswith("red/")]
    assert opened.without(reds[:-1]).notes == opened.notes
    left = opened.without(reds)
    assert left.notes[-1] == "no picture to validate on can be read of: red"
    assert left.val is not None and _by_class(left.val)["red"] == 0


def _data_of(*labels: tuple[int, ...]) -> SampleSet:
    samples = [Sample(str(n), "", label) for n, label in enumerate(labels)]
    return SampleSet(samples=samples, labels=Labels(("a", "b", "c")), multi_label=True)


def test_balanced_weights_draw_each_class_equally_often() -> None:
    samples = _data_of(*[(0,)] * 6, *[(1,)] * 3, (2,))
    weights = data.balanced_weights(samples)
    assert weights == pytest.approx([1 / 6] * 6 + [1 / 3] * 3 + [1.0])
    order = Order(count=10, batch_size=10, seed=0, weights=weights)
    drawn = [samples.samples[d.index].labels[0] for e in range(300) for d in order.batch(e, 0)]
    counts = np.bincount(drawn)
    assert np.all(abs(counts - 1000) < 5 * 26)  # 3,000 draws, sigma 25.8


def test_balanced_weights_of_several_labels_follow_the_rarest() -> None:
    weights = data.balanced_weights(_data_of((0,), (0, 1), (0,), (0, 1), ()))
    assert weights == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 2, 1.0])


def test_real_photographs_have_no_problems(shared_data: Path, tmp_path: Path) -> None:
    names = []
    for path in sorted((shared_data / "images" / "imagenet-samples").iterdir())[:12]:
        names.append(path.name.split("_")[0])
        (tmp_path / names[-1]).mkdir()
        shutil.copy(path, tmp_path / names[-1])
    opened = open_data(tmp_path)
    assert opened.train.labels.synset_ids == tuple(sorted(names))
    assert opened.train.counts == (1,) * 12
    assert data.scan(opened.train) == []


def test_the_tables_in_the_manual_open(repository: Path, tmp_path: Path) -> None:
    manual = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(path,.*?)^```", manual, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        top = tmp_path / str(number)
        for line in block.splitlines()[1:]:
            (top / line.split(",")[0]).parent.mkdir(parents=True, exist_ok=True)
            (top / line.split(",")[0]).write_text(line)
        (top / "t.csv").write_text(block)
        opened = open_data(top / "t.csv")
        assert len(opened.train) + len(opened.val.samples if opened.val else ()) == 3
        assert opened.train.multi_label == bool(number)
    for name in (*tables.PICTURE_NAMES, *tables.LABEL_NAMES, *tables.PART_NAMES, *PARTS):
        assert f"`{name}`" in manual or name in ("training", "testing")


def test_data_can_be_sent_to_workers(pictures: Path) -> None:
    opened = open_data(pictures)
    again: Data = pickle.loads(pickle.dumps(opened))
    assert again == opened
