"""Run the command line as `python -m resnext`."""

from __future__ import annotations

import sys

from resnext.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
