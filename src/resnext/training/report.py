"""One page that shows a run: a single HTML file that loads nothing.

Made from the files of the run's folder, so it can be made again at any time.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnext import modelfile
from resnext.errors import ConfigError, ModelFileError, counted
from resnext.results import pages
from resnext.results.pages import Tile
from resnext.training import config as configs
from resnext.training import records
from resnext.training.config import TrainConfig

NAME = "report.html"

_MODELS = ("best.safetensors", "last.safetensors")


def write(folder: Path) -> Path:
    """Write `report.html` of a run.

    Args:
        folder: Of the run.

    Returns:
        The file.

    Raises:
        ConfigError: The folder has no run.
        OutputError: The file cannot be written.
    """
    saved = records.read_json(folder / records.CONFIG)
    data = records.read_json(folder / records.DATA)
    if saved is None or data is None:
        raise ConfigError(f"{folder}: has no run; expected {records.CONFIG} and {records.DATA}")
    config = TrainConfig.from_json(saved)
    lines = records.read(folder / records.METRICS)
    document = _document(folder)
    provenance = {} if document is None else document.provenance
    name = folder.resolve().name
    parts = [
        pages.heading(name, level=1),
        _lead(config, data, lines),
        _tiles(config, lines, document),
        _deviations(provenance.get("deviations", [])),
        _figure(folder / "curves.png", "Curves", "Loss, accuracy and learning rate by epoch"),
        _size_of_curves(config, document),
        _figure(
            folder / "batch.png",
            "What the network sees",
            "First training pictures after augmentation, with their targets",
        ),
        _use(folder, document),
        _classes(data),
        _config(config),
        pages.footer(
            str(provenance.get("software", "")),
            f"seed {config.seed}, data {data['fingerprint']}",
        ),
    ]
    return pages.write(folder / NAME, f"{name}: training report", parts)


def _document(folder: Path) -> modelfile.ModelDocument | None:
    """Return what the best model file says, or the last where there is no best."""
    for name in _MODELS:
        if (folder / name).exists():
            try:
                return modelfile.verify(folder / name)[0]
            except ModelFileError:
                continue
    return None


def _lead(config: TrainConfig, data: Mapping[str, Any], lines: Sequence[Any]) -> str:
    start = f"from {config.model.pretrained}" if config.model.pretrained else "from scratch"
    done = lines[-1]["epoch"] if lines else 0
    return pages.paragraph(
        f"{config.model.architecture} {start} by recipe {config.recipe}: {done} of"
        f" {counted(config.schedule.epochs, 'epoch')} on"
        f" {counted(data['train_pictures'], 'picture')} of"
        f" {counted(len(data['classes']), 'class', 'classes')}, evaluated on"
        f" {data['val_pictures']:,}.",
        lead=True,
    )


def _tiles(
    config: TrainConfig, lines: Sequence[Any], document: modelfile.ModelDocument | None
) -> str:
    metrics = {} if document is None else document.metrics
    size = _other_size(config, document)
    at = f" at {size} px" if size else ""
    tiles = [
        Tile(f"{metrics[key]:.2f} %", label + at)
        for key, label in (("top1", "best validation top-1"), ("top5", "its top-5"))
        if key in metrics
    ]
    if "epoch" in metrics:
        tiles.append(Tile(str(metrics["epoch"]), "epoch of the best"))
    if document is not None:
        tiles.append(Tile(f"{document.preprocess.input_size} px", "test size"))
    if lines:
        tiles.append(Tile(f"{lines[-1]['loss']:.3f}", "last training loss"))
        tiles.append(Tile(f"{lines[-1]['images_per_s']:,.0f}", "images/s"))
        tiles.append(Tile(duration(sum(line["seconds"] for line in lines)), "training time"))
    return pages.tiles(tiles)


def _other_size(config: TrainConfig, document: modelfile.ModelDocument | None) -> int:
    """Return the best of the test sizes that were tried; 0 if that is the run's own."""
    if document is None or "test_sizes" not in document.metrics:
        return 0
    size = document.preprocess.input_size
    return 0 if size == config.data.test_size else size


def _size_of_curves(config: TrainConfig, document: modelfile.ModelDocument | None) -> str:
    size = _other_size(config, document)
    own = config.data.test_size
    said = f"The curves are at {own} px; the figures above are at {size} px, the best test size."
    return pages.paragraph(said) if size else ""


def _deviations(sentences: Sequence[str]) -> str:
    return pages.heading("Against the recipe") + pages.notice(sentences) if sentences else ""


def _figure(path: Path, title: str, description: str) -> str:
    image = pages.figure(path, description)
    return pages.heading(title) + image if image else ""


def _use(folder: Path, document: modelfile.ModelDocument | None) -> str:
    if document is None:
        return ""
    path = next(folder / name for name in _MODELS if (folder / name).exists())
    size = document.preprocess.input_size
    command = f"resnext predict PICTURES --model {shlex.quote(str(path))}"
    python = f"resnext.Classifier({str(path)!r})"
    return (
        pages.heading("Use it")
        + pages.code(f"{command}\n{python}")
        + pages.paragraph(
            "The file has the class names and the preprocessing:"
            f" {size} pixels of {document.preprocess.resize}, {document.preprocess.interpolation}."
        )
        + _test_sizes(document.metrics.get("test_sizes", {}))
    )


def _test_sizes(tried: Mapping[str, float]) -> str:
    if not tried:
        return ""
    each = ", ".join(f"{top1:.2f} % at {size}" for size, top1 in tried.items())
    return pages.paragraph(f"By test size, of which the best was recorded: {each}.")


def _classes(data: Mapping[str, Any]) -> str:
    most = max((row["train"] for row in data["classes"]), default=0)
    rows = [
        (row["name"], row["train"], row["val"], pages.bar(row["train"] / max(most, 1)))
        for row in data["classes"]
    ]
    return (
        pages.heading("Classes")
        + _split(data.get("split", {}))
        + pages.table(("class", "training", "validation", ""), rows)
    )


def _split(split: Mapping[str, Any]) -> str:
    if split.get("kind") != "automatic":
        return ""
    return pages.paragraph(
        f"{100 * split['val_share']:g} % of each class were set aside to validate on, by seed"
        f" {split['seed']}."
    )


def _config(config: TrainConfig) -> str:
    plain = TrainConfig(model=configs.ModelConfig(architecture=config.model.architecture))
    changed = set(configs.differences(config, plain))
    paths = configs.paths()
    rows = [(path, configs.show(configs.value_of(config, path))) for path in paths]
    marked = [number for number, path in enumerate(paths) if path in changed]
    return (
        pages.heading("Config")
        + pages.paragraph("What differs from the defaults is marked.")
        + pages.table(("key", "value"), rows, marked=marked)
    )


def duration(seconds: float) -> str:
    """Write a time as people read it, such as 3:07 or 2d 4:05:06."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02d}"
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"
