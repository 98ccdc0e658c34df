"""[torch] A run: what it is asked, and all that changes while it goes on.

N pictures, K classes, S pixels a side.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnext import weights
from resnext.errors import ConfigError, DatasetError, ModelFileError
from resnext.network import ResNeXt
from resnext.training import dist, optim, settings
from resnext.training.config import TrainConfig
from resnext.training.data import balanced_weights
from resnext.training.dist import Processes
from resnext.training.listing import FileSlice
from resnext.training.order import Order
from resnext.training.samples import SampleSet
from resnext.zoo import create_model

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COUNTS = ("step", "epoch", "loss_sum", "best", "waited")


@dataclass
class TrainState:
    """All that changes during a run, and so all that a checkpoint holds.

    Args:
        model: The network.
        parallel: The same, perhaps compiled, with gradients averaged over processes.
        mean: Running mean of its weights, or None.
        optimizer: With its moments.
        scaler: Of the loss in fp16; does nothing otherwise.
        step: Steps done.
        epoch: Epochs done, evaluation included.
        loss_sum: Sum of the losses of this epoch's steps.
        best: Best top-1 so far, in percent, of an evaluation.
        waited: Evaluations since then.
    """

    model: ResNeXt
    parallel: nn.Module
    mean: ResNeXt | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    epoch: int = 0
    loss_sum: float = 0.0
    best: float = -1.0
    waited: int = 0

    @property
    def evaluated(self) -> ResNeXt:
        """The network that is evaluated and kept."""
        return self.model if self.mean is None else self.mean

    def to_save(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what `to_save` returned.

        Raises:
            ModelFileError: It is not of a run like this one.
        """
        try:
            self.model.load_state_dict(saved["model"])
            if self.mean is not None:
                self.mean.load_state_dict(saved["mean"])
            optim.restore(self.optimizer, saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            for name in _COUNTS:
                setattr(self, name, saved[name])
        except KeyError as error:
            raise ModelFileError(f"it lacks {error}") from error
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            # torch lists every tensor, a line each.
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise ModelFileError(f"it does not fit: {reason}") from error


@dataclass(kw_only=True)
class Run:
    """What stays the same during a run.

    Args:
        config: What to do.
        train: Pictures to learn from.
        test: Pictures to evaluate on, or None.
        processes: Which process this is.
        class_weights: (K,) factor of each class in the loss; None as the config says.
        teacher: Network whose answers are learned from as well, or None.

    Raises:
        DatasetError: Classes are to weigh the same, and one has no picture.
    """

    config: TrainConfig
    train: SampleSet
    test: SampleSet | None
    processes: Processes = field(default_factory=Processes)
    class_weights: Tensor | None = None
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.class_weights is None and self.config.loss.class_weights == "balanced":
            self.class_weights = balance(self.train)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.processes.device)

    @functools.cached_property
    def order(self) -> Order:
        """Which picture comes when."""
        config = self.config
        return Order(
            count=len(self.train),
            batch_size=config.optim.batch_size,
            seed=config.seed,
            repeats=config.data.repeats,
            weights=balanced_weights(self.train) if config.data.balanced else None,
        )

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it."""
        learned_from = (self.config.model.pretrained, self.config.loss.teacher)
        return {
            "config": self.config.to_json(),
            "class list": list(self.train.labels.class_names),
            "training set": _fingerprint(self.train),
            "test set": "" if self.test is None else _fingerprint(self.test),
            "weights": [weights.locate(name).sha256 if name else "" for name in learned_from],
        }

    @property
    def autocast(self) -> Any:
        """Context of the forward pass."""
        dtype = _TYPES.get(self.config.precision)
        return torch.autocast(self.processes.device.type, dtype=dtype, enabled=dtype is not None)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Bring (N, 3, S, S) uint8 to the device, as normalized float32."""
        config, device = self.config, self.processes.device
        mean, std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1) * 255
            for values in (config.data.mean, config.data.std)
        )
        images = (pixels.to(device, non_blocking=True).float() - mean) / std
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


def balance(samples: SampleSet) -> Tensor:
    """Return (K,) factors with which all classes weigh the same; of a picture, 1 on average.

    Raises:
        DatasetError: A class has no picture.
    """
    for name, count in zip(samples.labels.class_names, samples.counts, strict=True):
        if not count:
            raise DatasetError(
                f"the class {name!r} has no training picture; expected at least one to weigh it",
                hint="add pictures of it, or set loss.class_weights=none",
            )
    counts = torch.tensor(samples.counts, dtype=torch.float64)
    return (counts.sum() / (len(counts) * counts)).float()


def start(run: Run) -> TrainState:
    """Build network and optimizer of a run.

    Raises:
        ConfigError: An option is out of range, or does not suit the pictures.
        ModelNotFoundError: No such architecture or weights.
    """
    config, device = run.config, run.processes.device
    if run.train.multi_label and config.loss.kind != "bce":
        raise ConfigError(
            "loss.kind is 'cross_entropy', and pictures may be of several classes; expected 'bce'",
            hint="set loss.kind=bce",
        )
    _seed(config)
    model = create_model(
        config.model.pretrained or config.model.architecture,
        bool(config.model.pretrained),
        num_classes=run.train.num_classes,
        drop_rate=config.model.drop_rate,
        drop_path_rate=config.model.drop_path_rate,
        zero_init_last=config.model.zero_init_last,
    )
    if model.spec.name != config.model.architecture:
        raise ConfigError(
            f"model.pretrained is a {model.spec.name}; expected {config.model.architecture}",
            hint=f"--set model.architecture={model.spec.name}",
        )
    if config.model.sync_batch_norm:
        dist.synchronize_batch_norm(model)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device).to(memory_format=layout)
    if run.teacher is not None:
        run.teacher.to(device).eval()
    partly_frozen = config.schedule.freeze_epochs > 0
    settings.check_graphs(config)
    forward = _compiled(model, config, device) if config.compile else model
    return TrainState(
        model=model,
        parallel=dist.wrap(forward, run.processes, partly_frozen=partly_frozen),
        mean=_copy(model) if config.ema.decay else None,
        optimizer=optim.make_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )


def _compiled(model: ResNeXt, config: TrainConfig, device: torch.device) -> nn.Module:
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        raise ConfigError(
            f"compile is {config.compile!r}, and triton is not installed",
            hint="pip install triton, or --set compile=none",
        )
    inductor = importlib.import_module("torch._inductor")
    options = dict(inductor.list_mode_options(config.compile))
    if config.channels_last:
        # Left to itself, it turns channels last off for training where a group has more than
        # one channel (`decide_layout_opt` in torch/_inductor/graph.py, still so in 2.15).
        options["force_layout_optimization"] = True
    compiled: Any = torch.compile(model, dynamic=False, options=options)
    return compiled  # type: ignore[no-any-return]


def _fingerprint(samples: SampleSet) -> str:
    """Hash names, labels and sizes: a file that was replaced has hardly ever the same size."""
    sizes = [_size(sample.source) for sample in samples.samples]
    return f"{samples.fingerprint}-{hashlib.sha256(repr(sizes).encode()).hexdigest()[:16]}"


def _size(source: Any) -> int:
    try:
        return int(source.size if isinstance(source, FileSlice) else os.stat(source).st_size)
    except (OSError, TypeError, ValueError):  # pixels in memory have no size on a disk
        return -1


def _seed(config: TrainConfig) -> None:
    torch.manual_seed(config.seed)
    if config.deterministic:
        # Without it cuBLAS may choose another algorithm, and torch refuses to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)


def _copy(model: ResNeXt) -> ResNeXt:
    mean = copy.deepcopy(model)
    for parameter in mean.parameters():
        parameter.requires_grad_(False)
    return mean
