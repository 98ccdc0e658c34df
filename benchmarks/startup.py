"""Import and help times: `python benchmarks/startup.py RESNEXT PYTHON [ROUNDS]`."""

from __future__ import annotations

import sys

import paired


def main(resnext: str, python: str, rounds: int = 15) -> None:
    """Compare with an interpreter that does nothing."""
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import resnext": [python, "-c", "import resnext"],
        "resnext --version": [resnext, "--version"],
        "resnext --help": [resnext, "--help"],
        "resnext predict --help": [resnext, "predict", "--help"],
        "resnext models": [resnext, "models"],
    }
    paired.report("startup", paired.compare(commands, rounds=rounds, warmup=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:4]))
