"""Write a model file with random weights, for timings: `make_weights.py NAME OUT`."""

from __future__ import annotations

import math
import sys

import numpy as np

from resnext import arch, modelfile
from resnext.catalogue import imagenet1k
from resnext.preprocess import PreprocessSpec


def main(name: str, out: str) -> None:
    """Draw He-normal weights and plausible batch norm statistics, seed 0."""
    spec = arch.parse(name)
    rng = np.random.default_rng(0)
    tensors = {}
    for key, shape in arch.tensor_shapes(spec).items():
        if len(shape) == 4:
            scale = math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
            tensors[key] = rng.normal(0, scale, shape).astype(np.float32)
        elif len(shape) == 2:
            tensors[key] = rng.normal(0, 0.01, shape).astype(np.float32)
        elif key.endswith(("running_var", "bn1.weight", "bn2.weight")):
            tensors[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            tensors[key] = rng.normal(0, 0.1, shape).astype(np.float32)
    document = modelfile.ModelDocument(
        name=f"{name}.random",
        architecture=spec,
        labels=imagenet1k(),
        preprocess=PreprocessSpec(input_size=224, resize=256, interpolation="bilinear"),
        provenance={"weights": "random, for timings only"},
    )
    modelfile.write(out, document, tensors)


if __name__ == "__main__":
    main(*sys.argv[1:3])
