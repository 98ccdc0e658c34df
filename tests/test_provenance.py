"""What a file was made with."""

from __future__ import annotations

import json
import platform

import numpy as np

from resnext.provenance import machine, software


def test_it_names_what_is_installed_and_only_that() -> None:
    expected = f"python {platform.python_version()}, numpy {np.__version__}"
    assert software("numpy", "no-such-package-anywhere") == expected


def test_the_machine_is_named_by_plain_values() -> None:
    found = machine()
    assert found["processor"] and found["cores"] >= 1
    assert found == machine()
    assert json.loads(json.dumps(found)) == found
