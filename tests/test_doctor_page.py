"""The page: every finding in it, hostile names harmless, small pictures of the suspects."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.doctor import page
from resnext.doctor.examination import examine


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(12):
        write(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    return tmp_path / "data"


def shown(data: Path, tmp_path: Path) -> str:
    path = page.write(tmp_path / "report.html", examine(data), fixes="fixes.jsonl")
    return path.read_text(encoding="utf-8")


def test_a_clean_set_says_so(data: Path, tmp_path: Path) -> None:
    text = shown(data, tmp_path)
    assert "No problem in 12 pictures" in text
    assert "<img" not in text


def test_suspects_are_shown_beside_what_they_copy(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "a" / "0.png", data / "b" / "<script>x.png")
    (data / "a" / "bad.png").write_bytes(b"")
    text = shown(data, tmp_path)
    assert "2 problems in 14 pictures" in text
    assert len(re.findall("<img", text)) == 2
    assert "<script>x" not in text
    assert "&lt;script&gt;x.png" in text
    assert "Copies with different labels: 1" in text
    assert "is empty" in text


def test_more_than_fits_is_in_the_list_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "SHOWN", 2)
    monkeypatch.setattr(page, "LISTED", 3)
    for number in range(5):
        shutil.copy(data / "a" / "0.png", data / "a" / f"copy{number}.png")
    text = shown(data, tmp_path)
    assert len(re.findall("<img", text)) == 4
    assert "2 more are in fixes.jsonl" in text


def test_synset_ids_get_their_names(tmp_path: Path) -> None:
    for number in range(10):
        name = ("n01443537", "n01629819")[number % 2]
        write(tmp_path / "data" / name / f"{number}.png", number)
    shutil.copy(tmp_path / "data/n01443537/0.png", tmp_path / "data/n01629819/copy.png")
    text = shown(tmp_path / "data", tmp_path)
    assert "goldfish (n01443537)" in text
    assert "n01443537/0.png" in text  # a path stays as it is


def test_an_id_in_a_sentence_gets_its_name_and_one_in_a_path_none() -> None:
    names = {"n01443537": "goldfish (n01443537)"}
    fish = "looks like n01443537 (99.0%), not like n02909870 (1.0%)"
    assert page._named(fish, names) == fish.replace("n01443537", "goldfish (n01443537)")
    assert page._named("relabel:n01443537", names) == "relabel:goldfish (n01443537)"
    for path in ("train/n01443537/a.jpg", "n01443537/a.jpg", "n01443537_1.JPEG", "a-n01443537"):
        assert page._named(path, names) == path


def test_suspect_labels_are_counted_where_labels_were_judged(data: Path, tmp_path: Path) -> None:
    assert "suspect labels" not in shown(data, tmp_path)
    judged = replace(examine(data), judged=True)
    path = page.write(tmp_path / "report.html", judged, fixes="fixes.jsonl")
    assert "suspect labels" in path.read_text(encoding="utf-8")
