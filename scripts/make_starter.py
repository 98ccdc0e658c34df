"""Turn a run of the recipe `starter` into the model file of the package.

    python scripts/make_starter.py BEFORE.safetensors RUN TINY OUT.safetensors

BEFORE is the model that the run began with, RUN its folder, TINY the folder with `train` and
`val` of Tiny ImageNet, a folder per synset id. The weights written are the mean of those
before and after (arXiv:2109.01903): better than both at the size before, and nearly as good as
the second at others. Batch norm statistics of the mean are taken anew on training pictures.
The weights become float16; accuracy, temperature and reject threshold are measured on what is
written, in float32 on the processor.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnext import Classifier, images, modelfile, preprocess
from resnext.evaluation.evaluate import Question, evaluate
from resnext.network import ResNeXt
from resnext.preprocess import PreprocessSpec

SHARE = 0.5  # of the weights after; 0.65 and 1 are right 0.2 and 1.4 points less often
SIZE = 96
NUM_PICTURES = 4096
REJECT_THRESHOLD = 0.3  # of a model that is wrong half the time: rather unsure than wrong
BATCH_SIZE = 128
Flags = np.ndarray[Any, np.dtype[np.bool_]]

FIRST = "from scratch, 9 epochs at 96 pixels on a CPU, label smoothing 0.1"
DATA = (
    "Tiny ImageNet (Stanford CS231n), 100,000 pictures of 200 classes; the pictures are for"
    " research use"
)


def main(before: Path, run: Path, tiny: Path, out: Path) -> None:
    """Average, measure, and write what was found beside the weights."""
    first, first_tensors = modelfile.read(before)
    second, second_tensors = modelfile.read(run / "best.safetensors")
    if first.labels.synset_ids != second.labels.synset_ids:
        raise SystemExit("the two have other classes, or in another order")
    model = ResNeXt(first.architecture)
    model.load_state_dict(
        {
            key: torch.from_numpy(_mean(tensor, second_tensors[key]))
            for key, tensor in first_tensors.items()
        },
        strict=False,
    )
    spec = PreprocessSpec(input_size=SIZE, resize=SIZE, interpolation="bilinear")
    measure_statistics(model, spec, sorted((tiny / "train").rglob("*.JPEG")))
    tensors = {
        key: tensor.numpy()
        for key, tensor in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    keep = ("recipe", "seed", "software", "config")
    document = replace(
        first,
        preprocess=spec,
        temperature=1.0,
        reject_threshold=None,
        metrics={},
        provenance={
            **{key: second.provenance[key] for key in keep},
            "data": DATA,
            "began_with": {"sha256": modelfile.verify(before)[1], "recipe": FIRST},
            "weights": f"{1 - SHARE:g} of those it began with and {SHARE:g} of those of the run;"
            f" batch norm statistics of {NUM_PICTURES:,} training pictures at {SIZE} pixels",
        },
    )
    modelfile.write(out, document, tensors, dtype="float16")
    temperature = measure(out, tiny / "val")[0]["suggested"]["temperature"]
    document = replace(document, temperature=temperature, reject_threshold=REJECT_THRESHOLD)
    modelfile.write(out, document, tensors, dtype="float16")
    figures, sure, right = measure(out, tiny / "val")
    parts = [f"{100 * part.mean():.0f} %" for part in (sure, right[sure], ~sure, right[~sure])]
    calibration = (
        "temperature, and the share below which it is unsure, on the validation pictures: sure of"
        " {} of them, of which {} are right, and unsure of {}, of which {} are"
    ).format(*parts)
    document = replace(
        document,
        provenance={**document.provenance, "calibration": calibration},
        metrics={
            "data": "Tiny ImageNet validation, 5,000 pictures, 25 a class; they also chose the"
            " mean, temperature and reject threshold",
            "precision": "float32",
            "top1": round(100 * figures["top1"]["accuracy"], 2),
            "top5": round(100 * figures["top5"]["accuracy"], 2),
        },
    )
    print(modelfile.write(out, document, tensors, dtype="float16"))
    print(temperature, calibration, document.metrics, sep="\n")


@torch.no_grad()
def measure_statistics(model: nn.Module, spec: PreprocessSpec, pictures: list[Path]) -> None:
    """Take means and variances of all batch norms anew."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    chosen = np.random.default_rng(0).permutation(len(pictures))[:NUM_PICTURES]
    model.train()
    for start in range(0, len(chosen), BATCH_SIZE):
        batch = [
            preprocess.apply(images.open_rgb(pictures[number]), spec)
            for number in chosen[start : start + BATCH_SIZE]
        ]
        pixels = preprocess.normalize(np.stack(batch), spec)
        model(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    model.eval()


def measure(path: Path, pictures: Path) -> tuple[Mapping[str, Any], Flags, Flags]:
    """Evaluate a model file in float32.

    Returns:
        Its figures; of each picture, whether the answer is sure, and whether it is right.
    """
    with (
        Classifier(path, precision="fp32") as classifier,
        evaluate(classifier, Question(data=str(pictures))) as found,
    ):
        judged = found.judged
        return dict(found.figures), judged.shares[:, 0] >= REJECT_THRESHOLD, judged.ranks == 0


def _mean(first: Any, second: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return (1 - SHARE) * a + np.float32(SHARE) * b


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
