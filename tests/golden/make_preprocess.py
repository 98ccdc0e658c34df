"""Make preprocess.json: what torchvision's PIL transforms give, for tests without torch.

    python tests/golden/make_preprocess.py

The pictures are integer arithmetic, the same on every machine. Pillow 13 changed the order
of the passes of its resize, so this is to be run again where a version of it does so.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Width and height: photos, odd sides, smaller than every crop, strips, one pixel.
SIZES = (
    (500, 375),
    (375, 500),
    (640, 427),
    (333, 500),
    (224, 224),
    (257, 259),
    (1024, 301),
    (97, 641),
    (64, 64),
    (1, 700),
    (300, 3),
    (1, 1),
)
# resize, input_size, interpolation: the settings of the catalogue, and the starter's.
SETTINGS = (
    (256, 224, "bilinear"),
    (232, 224, "bilinear"),
    (235, 224, "bicubic"),
    (288, 288, "bicubic"),
    (303, 288, "bicubic"),
    (96, 96, "bilinear"),
)


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Return a picture with smooth parts, edges and noise, (height, width, 3)."""
    y, x, channel = np.ogrid[:height, :width, :3]
    smooth = (x * 3 + y * 5 + channel * 60) // 4
    edges = ((x // 7 + y // 5) % 2) * 90 * (channel + 1)
    noise = (x * 7919 + y * 104729 + channel * 1299709) ** 2 % 251 % 64
    return ((smooth + edges + noise) % 256).astype(np.uint8)


def digest(pixels: NDArray[np.uint8]) -> str:
    """Return the sha256 of the pixels, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def main() -> None:
    """Write the hashes beside this script."""
    import PIL
    import torchvision
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    hashes = {}
    for resize, input_size, interpolation in SETTINGS:
        transform = transforms.Compose(
            [
                transforms.Resize(resize, InterpolationMode(interpolation)),
                transforms.CenterCrop(input_size),
            ]
        )
        for width, height in SIZES:
            pixels = np.asarray(transform(Image.fromarray(picture(width, height))))
            key = f"{width}x{height} {resize}/{input_size} {interpolation}"
            hashes[key] = digest(pixels)
    document = {
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "sha256": hashes,
    }
    target = Path(__file__).with_name("preprocess.json")
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
