"""Make cam.json: what pytorch-grad-cam computes for a small seeded network.

Run once, with torch, torchvision, timm and grad-cam (1.5): `python tests/golden/make_cam.py`.
The test that reads the file needs none of them: weights and pictures come from numpy's
generator. Of each (160, 160) map every tenth pixel is kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from networks import preprocessing, random_batch, random_tensors
from oracles import oracle
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from resnext import arch, preprocess

SEED, SIZE, STEP, TARGETS = 7, 160, 10, [3, 8]
NETWORK = "resnext26_2x4d"
METHODS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
LAYERS = ("layer4", "layer3")


def main() -> None:
    """Compute the maps and write them beside this file."""
    spec = arch.parse(NETWORK, num_classes=10)
    model = oracle(spec, random_tensors(spec, seed=SEED)).eval()
    batch = random_batch(len(TARGETS), SIZE, seed=SEED)
    images = preprocess.normalize(batch, preprocessing(SIZE)).transpose(0, 3, 1, 2)
    targets = [ClassifierOutputTarget(target) for target in TARGETS]
    maps = {}
    for method, kind in METHODS.items():
        for layer in LAYERS:
            with kind(model=model, target_layers=[getattr(model, layer)]) as cam:
                found = cam(torch.from_numpy(np.ascontiguousarray(images)), targets=targets)
            sample = found[:, STEP // 2 :: STEP, STEP // 2 :: STEP]
            maps[f"{method} {layer}"] = np.round(sample.astype(float), 6).tolist()
    golden = {
        "grad-cam": importlib.metadata.version("grad-cam"),
        "seed": SEED,
        "network": NETWORK,
        "input_size": SIZE,
        "step": STEP,
        "targets": TARGETS,
        "maps": maps,
    }
    path = Path(__file__).with_name("cam.json")
    path.write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
