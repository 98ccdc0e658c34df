"""Write `huggingface/`: small data sets as the library `datasets` 5.2.0 writes them.

Run by hand, `pip install datasets` and `python tests/golden/make_huggingface.py`: the suite
has the files and does not need the library.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence
from PIL import Image as Pictures

FOLDER = Path(__file__).with_name("huggingface")
NAMES = ["zebra", "ant", "mole"]  # not sorted: their order must be kept


def picture(label: int, rng: np.random.Generator) -> Pictures.Image:
    """Return 8 x 8 noise that is brightest in the channel of its label."""
    pixels = np.eye(3)[label] * 200 + rng.uniform(0, 55, (8, 8, 3))
    return Pictures.fromarray(pixels.astype(np.uint8))


def main() -> None:
    """Write a set with two parts in both forms, and one with several labels a picture."""
    rng = np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    parts = DatasetDict(
        {
            part: Dataset.from_dict(
                {"image": [picture(label, rng) for label in labels], "label": labels},
                features=features,
            )
            for part, labels in (("train", [0, 1, 2, 0, 1, 2]), ("validation", [1, 0]))
        }
    )
    parts.save_to_disk(FOLDER / "saved")
    for part, dataset in parts.items():
        dataset.to_parquet(FOLDER / "parquet" / "data" / f"{part}-00000-of-00001.parquet")
    several = Features({"img": Image(), "labels": Sequence(ClassLabel(names=["x|y", "z"]))})
    Dataset.from_dict(
        {"img": [picture(label, rng) for label in range(3)], "labels": [[0, 1], [], [0]]},
        features=several,
    ).save_to_disk(FOLDER / "several")


if __name__ == "__main__":
    main()
