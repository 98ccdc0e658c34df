"""What a file was made with."""

from __future__ import annotations

import platform

import numpy as np

from resnext.provenance import software


def test_it_names_what_is_installed_and_only_that() -> None:
    expected = f"python {platform.python_version()}, numpy {np.__version__}"
    assert software("numpy", "no-such-package-anywhere") == expected
