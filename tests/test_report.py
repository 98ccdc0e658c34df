"""The page of a run: whole, harmless, and right."""

from __future__ import annotations

import base64
import html.parser
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnext import modelfile, testing
from resnext.errors import ConfigError
from resnext.training import recipes, records, report

HOSTILE = "<script>alert('x')</script>&amp;\"'\x1b[31m\udcff"


class Page(html.parser.HTMLParser):
    """Collects tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\xa0", " ") + "\n"


def make(folder: Path, *settings: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write the folder of a run that never was."""
    folder.mkdir(exist_ok=True)
    config = recipes.get("default").config.override(["seed=3", *settings])
    records.write_json(folder / "config.json", config.to_json())
    data = {
        "fingerprint": "f00d",
        "train_pictures": 1234,
        "val_pictures": 56,
        "split": {"kind": "automatic", "seed": 3, "val_share": 0.2},
        "classes": [
            {"name": name, "train": 10 * number, "val": number}
            for number, name in enumerate(classes, start=1)
        ],
    }
    records.write_json(folder / "data.json", data)
    for epoch in (1, 2):
        line = {"epoch": epoch, "step": 4 * epoch, "loss": 1 / epoch, "images_per_s": 1500.0}
        records.append(folder / "metrics.jsonl", line | {"seconds": 40.0, "lr": 0.1})
    Image.new("RGB", (5, 4), (1, 2, 3)).save(folder / "curves.png")
    return folder


def add_model(folder: Path, **changes: Any) -> None:
    path = testing.write_tiny_model(folder / "best.safetensors")
    document, tensors = modelfile.read(path)
    metrics = {"top1": 87.5, "top5": 99.0, "epoch": 2, "test_sizes": {"24": 85.0, "32": 87.5}}
    modelfile.write(path, replace(document, metrics=metrics, **changes), tensors)


def test_the_page_says_what_was_done(tmp_path: Path) -> None:
    folder = make(tmp_path / "my run", "schedule.epochs=9")
    add_model(folder, provenance={"deviations": ["schedule.epochs is 9; the recipe has 90"]})
    path = report.write(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for text in (
        "my run",
        "default",
        "2 of 9 epochs on 1,234 pictures of 2 classes, evaluated on 56",
        "87.50 %",
        "99.00 %",
        "1:20",
        "1,500",
        "schedule.epochs is 9; the recipe has 90",
        "20 % of each class were set aside to validate on, by seed 3",
        f"resnext predict PICTURES --model '{folder}/best.safetensors'\n"
        f"resnext.Classifier('{folder}/best.safetensors')",
        "32 pixels of 32, bilinear",
        "85.00 % at 24, 87.50 % at 32",
        "f00d",
        "optim.batch_size",
    ):
        assert text in page.text, text


def test_the_page_says_which_figures_are_at_another_test_size(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    add_model(folder)  # of 32 pixels
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "best validation top-1 at 32 px" in page.text
    assert "The curves are at 224 px; the figures above are at 32 px" in page.text
    make(folder, "data.test_size=32")
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "best validation top-1\n" in page.text
    assert "The curves are at" not in page.text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    add_model(folder)
    text = report.write(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1, "which sorts the tables"
    assert all(address.startswith("data:") for address in page.addresses)
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text


def test_pictures_are_in_the_page(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    (address,) = [
        a
        for a in Page(report.write(folder).read_text(encoding="utf-8")).addresses
        if "image/png" in a
    ]
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (5, 4)


def test_names_cannot_break_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "a & <b>", "recipe=<i>x</i>", classes=("cat", HOSTILE))
    add_model(folder, provenance={"deviations": [HOSTILE], "software": "<u>"})
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert not {"i", "u"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert "alert('x')" in page.text
    assert "\x1b" not in page.text
    assert "a & <b>" in page.text


def test_a_class_without_pictures_and_a_thousand_classes(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", classes=tuple(f"class {n}" for n in range(1000)))
    data = records.read_json(folder / "data.json")
    data["classes"][0]["train"] = 0
    data["split"] = {"kind": "given"}
    records.write_json(folder / "data.json", data)
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "class 999" in page.text
    assert "set aside" not in page.text


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    for name in ("metrics.jsonl", "curves.png"):
        (folder / name).unlink()
    (folder / "best.safetensors").write_bytes(b"cut short")
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "0 of 90 epochs" in page.text
    assert "img" not in page.tags


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no run; expected config.json and data.json"):
        report.write(tmp_path)
