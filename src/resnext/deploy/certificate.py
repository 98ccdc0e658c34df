"""The parity certificate: what `verify` found, as JSON beside the model.

It names the model by its hash, and the machine and the software it holds for. It is a
record and no signature: whoever can write the file can change it.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnext import modelfile
from resnext.deploy.parity import TOLERANCES, Report
from resnext.errors import ParityError, counted
from resnext.files import atomic
from resnext.provenance import machine, versions
from resnext.weights import LocalModel

KIND, VERSION = "resnext parity certificate", 1
SOFTWARE = ("resnext", "numpy", "onnx", "onnxruntime", "openvino", "pillow", "torch", "torchvision")

ENGINE_HEADER = ("engine", "precision", "logits", "features", "probability", "top-1", "top-5",
                 "batch", "threads", "verdict")  # fmt: skip
STEP_HEADER = ("preprocessing", "pictures", "difference", "verdict")

_FIGURES = ("logits_relative", "embedding_relative", "probability", "top1", "top5",
            "batch_relative", "threads_relative")  # fmt: skip
_MAX_BYTES = 64 << 20
_MAKE_HINT = "make one for this model: resnext verify MODEL -o FILE"

Certificate = dict[str, Any]


def make(report: Report) -> Certificate:
    """Put down what was found.

    Args:
        report: What `parity.verify` returned.

    Returns:
        A JSON object; docs/verify.md explains each key.
    """
    document, preprocess = report.local.document, report.local.document.preprocess
    return {
        "certificate": KIND,
        "version": VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verdict": "failed" if report.problems else "passed",
        "problems": list(report.problems),
        "model": {
            "name": document.name,
            "file": report.local.path.name,
            "format": report.local.format,
            "sha256": report.local.sha256,
            "schema_version": _schema_version(report.local),
            "architecture": document.architecture.name,
            "num_classes": document.architecture.num_classes,
            "preprocess": preprocess.to_json(),
        },
        "machine": machine(),
        "software": software(),
        "reference": "float64, NumPy",
        "pictures": {
            "golden": report.num_golden,
            "others": len(report.pictures) - report.num_golden,
            "unreadable": [str(error.path) for error in report.unreadable],
            "input_sha256": report.input_sha256,
        },
        "tolerances": {name: asdict(row) for name, row in TOLERANCES.items()},
        "preprocessing": [asdict(check) for check in report.pixel_checks],
        "engines": [asdict(one) for one in report.comparisons],
    }


def write(path: str | os.PathLike[str], certificate: Mapping[str, Any]) -> None:
    """Write a certificate, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with atomic(path) as file:
        file.write(json.dumps(certificate, indent=2).encode() + b"\n")


def read(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        ParityError: It is none, or of a newer version.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ParityError(f"{path}: no such file", hint=_MAKE_HINT)
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise ParityError(f"{path}: no parity certificate, which is a JSON file of some KB")
        found = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ParityError(f"{path}: no parity certificate: not JSON", hint=_MAKE_HINT) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ParityError(
            f"{path}: not a readable parity certificate: {error}", hint=_MAKE_HINT
        ) from error
    if not isinstance(found, dict) or found.get("certificate") != KIND:
        raise ParityError(f"{path}: JSON, but no parity certificate", hint=_MAKE_HINT)
    if found.get("version") != VERSION:
        raise ParityError(
            f"{path}: has version {found.get('version')!r}; this package reads {VERSION}",
            hint=_MAKE_HINT,
        )
    parts = {"model": dict, "machine": dict, "software": dict, "problems": list}
    if wrong := [key for key, kind in parts.items() if not isinstance(found.get(key), kind)]:
        raise ParityError(f"{path}: no whole certificate; expected {', '.join(wrong)}")
    return found


def check(certificate: Mapping[str, Any], local: LocalModel) -> list[str]:
    """Tell whether a certificate belongs to a model, and is a good one.

    Args:
        certificate: What `read` returned.
        local: The model, whose bytes were hashed when it was located.

    Returns:
        What is not as it was: a line for each piece of software or machine that differs
        from that of the certificate. Then it still belongs, and proves less.

    Raises:
        ParityError: It belongs to other weights, or says that they failed.
    """
    stated, name = certificate["model"].get("sha256"), local.document.name
    if stated != local.sha256:
        raise ParityError(
            f"the certificate belongs to another file: it is for {certificate['model'].get('name')}"
            f" with sha256 {str(stated)[:12]}..., {name} has {local.sha256[:12]}...",
            hint=_MAKE_HINT,
        )
    if certificate.get("verdict") != "passed":
        problems = "; ".join(map(str, certificate["problems"])) or "it does not say why"
        raise ParityError(f"the certificate says that {name} failed: {problems}")
    changed = []
    for part, here in (("software", software()), ("machine", machine())):
        then = certificate[part]
        changed += [
            f"{key} was {_shown(then.get(key))}, is {_shown(value)}"
            for key, value in here.items()
            if then.get(key) != value and not isinstance(value, list)
        ]
    return changed


def facts(certificate: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return what a certificate is about, as names and values to show."""
    model, pictures = certificate["model"], certificate["pictures"]
    version = model["schema_version"]
    kind = f"model file of schema {version}" if version else model["format"]
    return [
        (
            "model",
            f"{model['name']}, {model['architecture']},"
            f" {counted(model['num_classes'], 'class', 'classes')}",
        ),
        ("file", f"{model['file']}, {kind}"),
        ("sha256", model["sha256"]),
        ("pictures", f"{pictures['golden']} golden, {counted(pictures['others'], 'other')}"),
    ]


def engine_rows(certificate: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of texts for each engine, under `ENGINE_HEADER`."""
    pictures = certificate["pictures"]["golden"] + certificate["pictures"]["others"]
    rows = []
    for one in certificate["engines"]:
        figures = one["figures"] or {}
        cells = []
        for key in _FIGURES:
            shown = _number(figures.get(key))
            cells.append(f"{shown}/{pictures}" if figures and key in ("top1", "top5") else shown)
        rows.append((one["engine"], one["precision"], *cells, one["status"]))
    return rows


def step_rows(certificate: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of texts for each step of preprocessing, under `STEP_HEADER`."""
    return [
        (one["step"], str(one["pictures"]), _number(one["difference"]), one["status"])
        for one in certificate["preprocessing"]
    ]


def not_available(certificate: Mapping[str, Any]) -> list[str]:
    """Return why something did not run although it is installed, a line each."""
    found = [(one["step"], one["reason"], one["status"]) for one in certificate["preprocessing"]]
    for one in certificate["engines"]:
        name = f"engine {one['engine']} ({one['precision']})"
        found += [(name, reason, one["status"]) for reason in one["problems"]]
    return [f"{name}: {reason}" for name, reason, status in found if status == "not available"]


def software() -> dict[str, str | None]:
    """Return the versions of what takes part; None for what is not installed."""
    return versions(*SOFTWARE)


def _schema_version(local: LocalModel) -> int | None:
    if local.format != "resnext":
        return None
    version: int = json.loads(modelfile.read_metadata(local.path)["resnext"])["schema_version"]
    return version


def _shown(value: object) -> str:
    return "not installed" if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if isinstance(value, float) and value else f"{value:.0f}"
