"""Make calibration.json: what torchmetrics computes as calibration error.

Run once, with torch and torchmetrics: `python tests/golden/make_calibration.py`. The test
that reads the file needs neither: the logits come from numpy's generator.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torchmetrics
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification.calibration_error import _ce_compute

SEED = 20261121
CASES = ((1, 3, 1.0), (50, 2, 0.5), (500, 10, 3.0), (3000, 4, 1.0), (2000, 100, 5.0))
BINS = (1, 10, 15)


def draw(pictures: int, num_classes: int, scale: float) -> tuple[NDArray, NDArray]:
    """Draw logits, and targets that are right more often than not."""
    rng = np.random.default_rng([SEED, pictures])
    targets = rng.integers(0, num_classes, pictures)
    logits = rng.normal(size=(pictures, num_classes))
    logits[np.arange(pictures), targets] += 1
    return scale * logits, targets


def main() -> None:
    """Compute the errors and write them beside this file."""
    cases = []
    for pictures, num_classes, scale in CASES:
        logits, targets = (torch.from_numpy(x) for x in draw(pictures, num_classes, scale))
        confidence, answers = logits.softmax(1).max(1)
        for bins in BINS:
            case = {"pictures": pictures, "num_classes": num_classes, "scale": scale, "bins": bins}
            for norm in ("l1", "max"):
                # What the class below computes in the end, without its rounding to float32.
                value = _ce_compute(confidence, (answers == targets).double(), bins, norm=norm)
                metric = MulticlassCalibrationError(num_classes, n_bins=bins, norm=norm)
                torch.testing.assert_close(
                    metric(logits, targets).double(), value, rtol=0, atol=1e-5
                )
                case[norm] = float(value)
            cases.append(case)
    golden = {"seed": SEED, "torchmetrics": torchmetrics.__version__, "cases": cases}
    path = Path(__file__).with_name("calibration.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
