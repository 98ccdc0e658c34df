"""Make logits.json: what torchvision and timm compute for small seeded networks.

Run once, with torch, torchvision and timm: `python tests/golden/make_logits.py`. The test
that reads the file needs none of them: weights and pictures come from numpy's generator.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from networks import preprocessing, random_batch, random_tensors
from oracles import oracle, run_oracle

from resnext import arch

SEED, COUNT = 20261121, 2
NETWORKS = {
    "resnext26_2x4d": 64,
    "resnext26d_2x4d": 65,
    "resnext29_2x4d": 32,
    "seresnextaa26t_2x4d": 64,
    "skresnext26_2x4d": 64,
}


def main() -> None:
    """Compute the logits and write them beside this file."""
    golden = {"seed": SEED, "count": COUNT, "torch": torch.__version__, "networks": {}}
    for name, size in NETWORKS.items():
        spec = arch.parse(name, num_classes=10)
        model = oracle(spec, random_tensors(spec, seed=SEED)).double()
        batch = random_batch(COUNT, size, seed=SEED)
        logits, embedding = run_oracle(model, batch, preprocessing(size))
        golden["networks"][name] = {
            "input_size": size,
            "logits": np.round(logits, 7).tolist(),
            "embedding_start": np.round(embedding[:, :8], 7).tolist(),
        }
    path = Path(__file__).with_name("logits.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
