"""Whole process, one picture, warm caches: `resnext predict` against the peers.

    python benchmarks/cold_start.py RESNEXT PEER_PYTHON [ROUNDS]

RESNEXT is the installed command in an environment without torch; PEER_PYTHON has torch,
torchvision, timm and safetensors. Both sides read the same model files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import make_weights
import paired

HERE = Path(__file__).parent
PICTURE = str(HERE.parent / "examples" / "cat.jpg")
STARTER = str(HERE.parent / "src" / "resnext" / "assets" / "starter.safetensors")


def main(resnext: str, peer: str, rounds: int = 7) -> None:
    """Compare with the starter, then with ResNeXt-50 32x4d at 224 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        big = str(Path(folder) / "resnext50_32x4d.safetensors")
        make_weights.main("resnext50_32x4d", big)
        scripts = ("torchvision_predict", "timm_predict", "timm_model_file")
        tv, timm, ours = (str(HERE / "peers" / f"{name}.py") for name in scripts)
        starter = {
            "resnext predict (starter)": [resnext, "predict", PICTURE],
            "resnext predict --precision fp32": [
                resnext,
                "predict",
                PICTURE,
                "--precision",
                "fp32",
            ],
            "torchvision script, same weights": [peer, tv, STARTER, PICTURE],
            "timm script, same weights": [peer, ours, STARTER, PICTURE],
        }
        resnext50 = {
            "resnext predict (resnext50_32x4d)": [resnext, "predict", PICTURE, "--model", big],
            "torchvision script, same weights": [peer, tv, big, PICTURE],
            "timm script, same weights": [peer, timm, big, PICTURE],
        }
        results = {
            "starter": paired.compare(starter, rounds=rounds),
            "resnext50_32x4d": paired.compare(resnext50, rounds=rounds),
        }
    paired.report("cold-start", results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:4]))
