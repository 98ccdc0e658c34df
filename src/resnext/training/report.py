"""One page that shows a run: a single HTML file that loads nothing.

Made from the files of the run's folder, so it can be made again at any time.
"""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnext import modelfile
from resnext.errors import ConfigError, ModelFileError
from resnext.files import atomic
from resnext.results.formats import printable
from resnext.training import config as configs
from resnext.training import records
from resnext.training.config import TrainConfig

NAME = "report.html"

_MODELS = ("best.safetensors", "last.safetensors")
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff; margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; }
.lead { color: #4a5568; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.tile { border: 1px solid #cbd5e0; border-radius: .5rem; padding: .5rem 1rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: #4a5568; font-size: .85rem; }
.notice { border-left: 4px solid #b7791f; background: #fffbeb; padding: .5rem 1rem; }
.notice ul { margin: 0; padding-left: 1.1rem; }
.figure { overflow-x: auto; }
img { width: 100%; min-width: 40rem; height: auto; display: block; }
code { overflow-wrap: anywhere; }
pre { background: #edf2f7; padding: .75rem 1rem; border-radius: .5rem; overflow-x: auto;
  font-size: .9rem; }
.scroll { overflow: auto; max-height: 26rem; border: 1px solid #e2e8f0; border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #e2e8f0;
  vertical-align: top; }
td { overflow-wrap: break-word; }
th { background: #f7fafc; position: sticky; top: 0; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { background: #2b6cb0; height: .7rem; border-radius: 2px; margin-top: .35rem; }
.changed td { background: #fffbeb; }
.share { width: 40%; min-width: 6rem; }
footer { margin-top: 2.5rem; color: #4a5568; font-size: .85rem; overflow-wrap: anywhere; }
"""
# Nothing is loaded and nothing runs, whatever a class is called.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    page = render(folder)
    with atomic(folder / NAME) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return folder / NAME


def render(folder: Path) -> str:
    """Return the page of a run.

    Raises:
        ConfigError: The folder has no run.
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
        f"<h1>{_text(name)}</h1>",
        _lead(config, data, lines),
        _tiles(config, lines, document),
        _notice(provenance.get("deviations", [])),
        _figure(folder / "curves.png", "Curves", "Loss, accuracy and learning rate by epoch"),
        _figure(
            folder / "batch.png",
            "What the network sees",
            "First training pictures after augmentation, with their targets",
        ),
        _use(folder, document),
        _classes(data),
        _config(config),
        f"<footer>{_text(str(provenance.get('software', '')))}<br>"
        f"seed {config.seed}, data {_text(str(data['fingerprint']))}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(name)}: training report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


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
    return (
        f'<p class="lead">{_text(config.model.architecture)} {_text(start)} by recipe'
        f" <b>{_text(config.recipe)}</b>: {done} of {config.schedule.epochs} epochs on"
        f" {data['train_pictures']:,} pictures of {len(data['classes']):,} classes, evaluated on"
        f" {data['val_pictures']:,}.</p>"
    )


def _tiles(
    config: TrainConfig, lines: Sequence[Any], document: modelfile.ModelDocument | None
) -> str:
    metrics = {} if document is None else document.metrics
    tiles = [
        (f"{metrics[key]:.2f} %", label)
        for key, label in (("top1", "best top-1"), ("top5", "its top-5"))
        if key in metrics
    ]
    if "epoch" in metrics:
        tiles.append((str(metrics["epoch"]), "epoch of the best"))
    if document is not None:
        tiles.append((f"{document.preprocess.input_size} px", "test size"))
    if lines:
        tiles.append((f"{lines[-1]['loss']:.3f}", "last training loss"))
        tiles.append((f"{lines[-1]['images_per_s']:,.0f}", "images/s"))
        tiles.append((_duration(sum(line["seconds"] for line in lines)), "training time"))
    cells = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(label)}</span></div>'
        for value, label in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _notice(deviations: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in deviations)
    return f'<h2>Against the recipe</h2><div class="notice"><ul>{items}</ul></div>' if items else ""


def _figure(path: Path, title: str, description: str) -> str:
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<h2>{_text(title)}</h2><div class="figure"><img alt="{_text(description)}"'
        f' src="data:image/png;base64,{content}"></div>'
    )


def _use(folder: Path, document: modelfile.ModelDocument | None) -> str:
    if document is None:
        return ""
    path = next(folder / name for name in _MODELS if (folder / name).exists())
    size = document.preprocess.input_size
    command = f"resnext predict PICTURES --model {shlex.quote(str(path))}"
    python = f"resnext.Classifier({str(path)!r})"
    return (
        f"<h2>Use it</h2><pre>{_text(command)}</pre><p>In Python, <code>{_text(python)}</code>."
        f" The file has the class names and the preprocessing: {size} pixels of"
        f" {document.preprocess.resize}, {document.preprocess.interpolation}.</p>"
        + _test_sizes(document.metrics.get("test_sizes", {}))
    )


def _test_sizes(tried: Mapping[str, float]) -> str:
    if not tried:
        return ""
    each = ", ".join(f"{top1:.2f} % at {size}" for size, top1 in tried.items())
    return f"<p>By test size, of which the best was recorded: {_text(each)}.</p>"


def _classes(data: Mapping[str, Any]) -> str:
    rows, most = [], max((row["train"] for row in data["classes"]), default=0)
    for row in data["classes"]:
        width = 100 * row["train"] / max(most, 1)
        rows.append(
            f"<tr><td>{_text(row['name'])}</td>"
            f'<td class="number">{row["train"]:,}</td><td class="number">{row["val"]:,}</td>'
            f'<td class="share"><div class="bar" style="width:{width:.1f}%"></div></td></tr>'
        )
    return (
        "<h2>Classes</h2>"
        + _split(data.get("split", {}))
        + '<div class="scroll"><table><thead><tr><th>class</th><th class="number">training</th>'
        '<th class="number">validation</th><th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _split(split: Mapping[str, Any]) -> str:
    if split.get("kind") != "automatic":
        return ""
    return (
        f"<p>{100 * split['val_share']:g} % of each class were set aside to validate on, by seed"
        f" {split['seed']}.</p>"
    )


def _config(config: TrainConfig) -> str:
    plain = TrainConfig(model=configs.ModelConfig(architecture=config.model.architecture))
    changed = set(configs.differences(config, plain))
    rows = "".join(
        f"<tr{' class=changed' if path in changed else ''}><td><code>{_text(path)}</code></td>"
        f"<td>{_text(configs.show(configs.value_of(config, path)))}</td></tr>"
        for path in configs.paths()
    )
    return (
        "<h2>Config</h2><p>What differs from the defaults is marked.</p>"
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    )


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d} min"


def _text(value: str) -> str:
    return html.escape(printable(value))
