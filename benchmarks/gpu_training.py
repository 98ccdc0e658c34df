"""Steps of training on a GPU: `resnext.training` beside a loop like timm's, in turn.

Both get the same random uint8 pixels, which are in memory already: decoding is not timed.
`benchmarks/gpu.py --rows train` runs this.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from resnext import arch
from resnext.network import ResNeXt
from resnext.predictions import Labels
from resnext.training import loop
from resnext.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from resnext.training.dist import Processes
from resnext.training.samples import Sample, SampleSet
from resnext.training.state import Run, start

CLASSES = 1000
MODES = ("none", "default", "reduce-overhead")

Step = Callable[[], object]


def compete(
    asked: argparse.Namespace, name: str, batch_size: int, spent: Callable[[], float]
) -> dict[str, Any]:
    """Open all contenders, let them take turns, and compare.

    Args:
        asked: The options of `gpu.py`.
        name: Of the network.
        batch_size: Pictures of a step.
        spent: Returns the seconds since the beginning.
    """
    device = torch.device(asked.device)
    size = asked.size or arch.parse(name).input_size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch_size,), generator=draw)
    if device.type == "cuda":
        pixels, labels = pixels.pin_memory(), labels.pin_memory()
    contenders = [
        ("plain loop", lambda: _plain(asked, name, pixels, labels, compiled=False)),
        *((f"resnext, compile={mode}", lambda mode=mode: _own(asked, name, mode, pixels, labels))
          for mode in MODES),
        ("plain loop, compiled", lambda: _plain(asked, name, pixels, labels, compiled=True)),
    ]  # fmt: skip
    steps: dict[str, Step] = {}
    problems: dict[str, str] = {}
    for title, open_step in contenders:
        if spent() > asked.limit:
            problems[title] = "there was no time left"
            continue
        try:
            step = open_step()
            for _ in range(3):  # compiles
                step()
            steps[title] = step
        except Exception as reason:  # whatever a compiler raises: the row says so
            problems[title] = f"{type(reason).__name__}: {str(reason).strip()[:300]}"
    results = _take_turns(steps, asked, batch_size, device)
    return {"contenders": results, "did_not_run": problems}


def _take_turns(
    steps: dict[str, Step], asked: argparse.Namespace, batch_size: int, device: torch.device
) -> dict[str, dict[str, float]]:
    rates: dict[str, list[float]] = {title: [] for title in steps}
    for _ in range(asked.rounds):
        for title, step in steps.items():
            _wait(device)
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < asked.seconds or count < 3:
                step()
                count += 1
            _wait(device)
            rates[title].append(count * batch_size / (time.perf_counter() - begin))
    return {
        title: {
            "images_per_s": round(statistics.median(found), 1),
            "low": round(min(found), 1),
            "high": round(max(found), 1),
        }
        for title, found in rates.items()
    }


def _own(
    asked: argparse.Namespace, name: str, mode: str, pixels: torch.Tensor, labels: torch.Tensor
) -> Step:
    """Return a step of the product's own loop."""
    size, count = pixels.shape[-1], len(pixels)
    config = TrainConfig(
        model=ModelConfig(architecture=name),
        data=DataConfig(train_size=size, test_size=size, test_resize=size, num_workers=0),
        optim=OptimConfig(batch_size=count),
        precision=asked.precision if asked.precision in ("bf16", "fp16") else "fp32",
        compile="" if mode == "none" else mode,  # type: ignore[arg-type]
    )
    # Never decoded: only their number and the classes count.
    samples = [Sample(str(index), b"", (index % CLASSES,)) for index in range(100 * count)]
    names = Labels(tuple(map(str, range(CLASSES))))
    train = SampleSet(samples=samples, labels=names, multi_label=False)
    torch.backends.cudnn.benchmark = True
    run = Run(
        config=config,
        train=train,
        test=None,
        processes=Processes(device=torch.device(asked.device)),
    )
    state = start(run)
    return lambda: loop.train_step(state, pixels, labels, run)


def _plain(
    asked: argparse.Namespace,
    name: str,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    *,
    compiled: bool,
) -> Step:
    """Return a step as timm's `train.py` with --channels-last and --amp has it."""
    device = torch.device(asked.device)
    torch.manual_seed(0)
    model = ResNeXt(arch.parse(name, num_classes=CLASSES)).train()
    model.to(device).to(memory_format=torch.channels_last)
    forward: Any = torch.compile(model) if compiled else model
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    mean, std = (
        torch.tensor(np.array(values) * 255, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(asked.precision)

    def step() -> object:
        image = pixels.to(device, non_blocking=True).float().sub_(mean).div_(std)
        image = image.contiguous(memory_format=torch.channels_last)
        target = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = criterion(forward(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
