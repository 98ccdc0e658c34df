"""What a file was made with."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from resnext import provenance
from resnext.provenance import gpus, machine, software


def test_it_names_what_is_installed_and_only_that() -> None:
    expected = f"python {platform.python_version()}, numpy {np.__version__}"
    assert software("numpy", "no-such-package-anywhere") == expected


def test_the_machine_is_named_by_plain_values() -> None:
    found = machine()
    assert found["processor"] and found["cores"] >= 1
    assert found == machine()
    assert json.loads(json.dumps(found)) == found


def test_gpus_are_named_as_their_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpus(tmp_path / "none") == []
    for number, name in enumerate(("NVIDIA H200", "NVIDIA L4")):
        place = tmp_path / f"0000:0{number}:00.0"
        place.mkdir()
        (place / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 42\n")
    (tmp_path / "0000:09:00.0").mkdir()
    assert gpus(tmp_path) == ["NVIDIA H200", "NVIDIA L4"]
    monkeypatch.setattr(provenance, "gpus", lambda: ["NVIDIA H200", "NVIDIA L4"])
    assert machine()["gpus"] == "NVIDIA H200, NVIDIA L4"
    monkeypatch.setattr(provenance, "gpus", list)
    assert "gpus" not in machine()
