"""What a training run is asked to do, as typed values; JSON both ways.

Every number a recipe states is a field here, so a run is its `config.json`. Sizes are in
pixels, rates in shares of 1, `batch_size` is global: over all processes and steps of
accumulation. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from resnext.errors import ConfigError
from resnext.training import typed

Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network.

    Args:
        architecture: Its name.
        pretrained: Weights to start from, any name of a model; "" starts from scratch.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block.
        zero_init_last: Start every block as its shortcut.
        sync_batch_norm: Take batch statistics over all processes.
    """

    architecture: str
    pretrained: str = ""
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    zero_init_last: bool = False
    sync_batch_norm: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The pictures and how they are fed.

    Args:
        val_share: Share of each class to validate on, where the data has no such part.
        split_seed: Another seed gives another choice of these.
        train_size: Side of the training crops.
        test_size: Side of the test crops, and of the model that comes out.
        test_resize: Short side before the test crop.
        test_sizes: Other test sizes to try with the best weights when all is done; the best
            is recorded in the model file (the FixRes effect, arXiv:1906.06423).
        interpolation: Filter of resizing test pictures.
        train_interpolation: Filter of resizing training pictures: "same" as for test pictures,
            or "random", one of the two for each picture.
        mean: Subtracted from R, G and B in 0 to 1.
        std: What the difference is divided by.
        repeats: Times a picture comes in a row, differently augmented (repeated augmentation).
        balanced: Draw every class equally often, however many pictures it has.
        num_workers: Processes that decode, for each training process; -1 for what suits.
        cache: Keep decoded pictures in memory.
        scan: Decode every picture before the run begins, and leave out those that cannot be
            read; otherwise the first of them ends the run.
    """

    val_share: float = 0.2
    split_seed: int = 0
    train_size: int = 224
    test_size: int = 224
    test_resize: int = 256
    test_sizes: tuple[int, ...] = ()
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    train_interpolation: Literal["same", "bilinear", "bicubic", "random"] = "same"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    repeats: int = 1
    balanced: bool = False
    num_workers: int = -1
    cache: bool = False
    scan: bool = True

    def at_test_size(self, size: int) -> DataConfig:
        """Return a copy for another test size, with the same share cut away."""
        resize = round(size * self.test_resize / self.test_size)
        return replace(self, test_size=size, test_resize=resize)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What happens to training pictures.

    Args:
        crop_area: Smallest and largest share of the picture in a random crop.
        pad: Instead of a random crop of random size: a border of the mean color, then a crop.
        flip: Chance of a mirror image.
        color_jitter: Strength of brightness, contrast and saturation changes.
        lighting: Standard deviation of AlexNet's changes along the colors' principal axes.
        policy: "" for none, "trivial" (TrivialAugment-wide) or "rand" (RandAugment).
        rand_magnitude: Of RandAugment, 0 to 30.
        rand_ops: Operations of RandAugment a picture.
        rand_std: Standard deviation of its magnitude, from operation to operation. With it or a
            chance below 1, the operations are timm's, whose level is a third of the magnitude;
            otherwise torchvision's.
        rand_chance: Chance that each of its operations is done.
        erase: Chance that a rectangle is erased.
        erase_count: Most rectangles a picture, which share the area of one.
        erase_noise: Fill it with noise of the data's mean and deviation, not with the mean.
        mixup_alpha: Of the beta distribution; 0 for no mixup.
        cutmix_alpha: The same for cutmix; with both, each batch draws one.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    pad: int = 0
    flip: float = 0.5
    color_jitter: float = 0.0
    lighting: float = 0.0
    policy: Literal["", "trivial", "rand"] = ""
    rand_magnitude: int = 9
    rand_ops: int = 2
    rand_std: float = 0.0
    rand_chance: float = 1.0
    erase: float = 0.0
    erase_count: int = 1
    erase_noise: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What is minimized.

    Args:
        kind: "cross_entropy", or "bce": a yes or no for each class.
        label_smoothing: Share of the target spread over all classes.
        class_weights: "none", or "balanced": inverse to the number of pictures.
        bce_threshold: With "bce", targets above it count as 1 and all others as 0; 0 keeps
            them as they are.
        teacher: Name of the model, or file, that is also learned from; "" for none.
        distill_weight: Share of the loss that compares with the teacher; 0 for no teacher.
        distill_temperature: Of both softmaxes in that comparison.
    """

    kind: Literal["cross_entropy", "bce"] = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    bce_threshold: float = 0.0
    teacher: str = ""
    distill_weight: float = 0.0
    distill_temperature: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights are changed.

    Args:
        name: "sgd" (Nesterov if `nesterov`), "adamw" or "lamb".
        lr: Learning rate at `reference_batch_size`.
        lr_scaling: How it follows the batch size: "linear", in proportion (arXiv:1706.02677),
            or "sqrt", to its square root (arXiv:1904.00962).
        reference_batch_size: Global batch size that `lr` is meant for.
        batch_size: Global batch size.
        grad_accum_steps: Parts that a batch is computed in on each device, one by one; 0 for
            as few as fit into memory (`training.search`).
        momentum: Of SGD; the first beta of the others.
        nesterov: Whether SGD looks ahead.
        weight_decay: Of convolutions and the classifier.
        norm_weight_decay: Of batch norms, and of biases.
        decay_biases: Biases take `weight_decay` instead, as in torchvision's references.
        layer_decay: Factor on the learning rate for each block below the classifier.
        clip_norm: Largest L2 norm of the gradient; 0 for no limit.
    """

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    lr: float = 0.1
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    reference_batch_size: int = 256
    batch_size: int = 256
    grad_accum_steps: int = 1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float = 1e-4
    decay_biases: bool = False
    layer_decay: float = 1.0
    clip_norm: float = 0.0

    @property
    def scaled_lr(self) -> float:
        """Learning rate at the batch size of this run."""
        times = self.batch_size / self.reference_batch_size
        return self.lr * (times if self.lr_scaling == "linear" else times**0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rate changes.

    Args:
        epochs: Passes over the training pictures.
        kind: "cosine" down to `final_factor`, or "step".
        every: Whether it changes with every "step" or stays through an "epoch".
        warmup_epochs: Epochs of linear rise from `warmup_factor`.
        warmup_factor: First learning rate, as a share.
        warmup_inside: The curve begins at epoch 0 and warm-up replaces its first part;
            otherwise it begins after the warm-up.
        milestones: Epochs after which "step" multiplies by `step_factor`.
        step_factor: What it multiplies by.
        final_factor: Last learning rate of "cosine", as a share.
        cooldown_epochs: Last of the epochs, in which "cosine" has come to its end.
        freeze_epochs: First epochs in which only the classifier learns.
    """

    epochs: int = 100
    kind: Literal["cosine", "step"] = "cosine"
    every: Literal["step", "epoch"] = "step"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    warmup_inside: bool = False
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    final_factor: float = 0.0
    cooldown_epochs: int = 0
    freeze_epochs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EMAConfig:
    """The running mean of the weights that is evaluated and kept.

    Args:
        decay: Share of the old mean that stays at each update; 0 for no mean. Up to the
            first update after the warm-up, the weights are copied.
        every: Steps between updates, counted anew in each epoch, of which the first is one.
        scaling: Whether `decay` follows the run: "none", or "run", by torchvision's rule, what
            it leaves, 1 - decay, times the pictures between two updates for each epoch.
    """

    decay: float = 0.0
    every: int = 1
    scaling: Literal["none", "run"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    Args:
        model: The network.
        data: The pictures.
        augment: What happens to them.
        loss: What is minimized.
        optim: How.
        schedule: How fast, and how long.
        ema: The mean of the weights.
        recipe: Name of the recipe this came from.
        seed: Of everything drawn at random.
        precision: Of the forward pass.
        channels_last: Memory layout of maps.
        compile: Mode of `torch.compile`; "" runs the network as it is. "reduce-overhead" has CUDA
            graphs.
        deterministic: Only algorithms that give the same bits again.
        patience: Evaluations without a better one after which to stop; 0 for never.

    Raises:
        ConfigError: A value is out of range.
    """

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    recipe: str = "custom"
    seed: int = 0
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: Compile = ""
    deterministic: bool = False
    patience: int = 0

    def __post_init__(self) -> None:
        for path, (low, high) in _RANGES.items():
            value = _get(self, path)
            if not low <= value <= high:
                raise ConfigError(f"{path} is {value}; expected {low:g} to {high:g}")
        for size in self.data.test_sizes:
            resize = self.data.at_test_size(size).test_resize
            if not 8 <= size <= 2048 or not 8 <= resize <= 2048:
                raise ConfigError(f"data.test_sizes has {size}, cut from a short side of {resize};"
                                  " expected 8 to 2048 for both")  # fmt: skip
        low, high = self.augment.crop_area
        if not 0 < low <= high <= 1:
            raise ConfigError(f"augment.crop_area is {low}, {high}; expected 0 < low <= high <= 1")

    @property
    def ema_decay(self) -> float:
        """Share of the old mean that stays at each update in this run: see `ema.scaling`."""
        left = 1 - self.ema.decay
        if self.ema.scaling == "run":
            left *= self.optim.batch_size * self.ema.every / self.schedule.epochs
        return 1 - min(left, 1.0)

    def taught_by(self, teacher: str) -> TrainConfig:
        """Return a copy that learns from a teacher too: as much as from labels, if not said."""
        share = self.loss.distill_weight or 0.5
        return replace(self, loss=replace(self.loss, teacher=teacher, distill_weight=share))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, every key present."""
        return typed.to_plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read what `to_json` wrote; keys with a default may be absent.

        Raises:
            ConfigError: A key is unknown or missing, or a value of another type.
        """
        return typed.build(cls, values)  # type: ignore[no-any-return]

    def override(self, settings: Iterable[str]) -> TrainConfig:
        """Return a copy with changes such as `optim.lr=0.2`.

        Raises:
            ConfigError: No such key, or a value of another type or out of range.
        """
        changed = self.to_json()
        for setting in settings:
            path, sign, text = setting.partition("=")
            if not sign:
                what = "has no value" if path.strip() in paths() else "is no setting"
                raise ConfigError(f"{setting!r} {what}; expected KEY=VALUE")
            hint = typed.hint_of(type(self), path.strip())
            *parents, last = path.strip().split(".")
            place = changed
            for parent in parents:
                place = place[parent]
            place[last] = typed.parse(hint, text.strip(), path.strip())
        return self.from_json(changed)


_INF = float("inf")
_RANGES: Mapping[str, tuple[float, float]] = {
    "model.drop_rate": (0, 0.99),
    "model.drop_path_rate": (0, 0.99),
    "data.val_share": (0, 0.99),
    "data.split_seed": (0, 2**63 - 1),
    "data.train_size": (8, 2048),
    "data.test_size": (8, 2048),
    "data.test_resize": (8, 2048),
    "data.repeats": (1, 64),
    "data.num_workers": (-1, 1024),
    "augment.flip": (0, 1),
    "augment.pad": (0, 1024),
    "augment.color_jitter": (0, 1),
    "augment.lighting": (0, 10),
    "augment.erase": (0, 1),
    "augment.erase_count": (1, 100),
    "augment.rand_magnitude": (0, 30),
    "augment.rand_ops": (1, 100),
    "augment.rand_std": (0, 30),
    "augment.rand_chance": (0, 1),
    "augment.mixup_alpha": (0, 100),
    "augment.cutmix_alpha": (0, 100),
    "loss.label_smoothing": (0, 0.99),
    "loss.bce_threshold": (0, 0.99),
    "loss.distill_weight": (0, 1),
    "loss.distill_temperature": (0.01, 100),
    "optim.lr": (0, 1e4),
    "optim.batch_size": (1, 2**20),
    "optim.reference_batch_size": (1, 2**20),
    "optim.grad_accum_steps": (0, 2**16),
    "optim.momentum": (0, 0.9999),
    "optim.weight_decay": (0, 10),
    "optim.norm_weight_decay": (0, 10),
    "optim.layer_decay": (0.01, 1),
    "optim.clip_norm": (0, _INF),
    "schedule.epochs": (1, 100_000),
    "schedule.warmup_epochs": (0, 100_000),
    "schedule.warmup_factor": (0, 1),
    "schedule.step_factor": (0, 1),
    "schedule.final_factor": (0, 1),
    "schedule.cooldown_epochs": (0, 100_000),
    "schedule.freeze_epochs": (0, 100_000),
    "ema.decay": (0, 0.999999),
    "ema.every": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
    "patience": (0, 100_000),
}


def paths() -> list[str]:
    """List every key that `override` takes."""
    return typed.paths(TrainConfig)


def value_of(config: TrainConfig, path: str) -> Any:
    """Return the value of a key such as `optim.lr`."""
    return _get(config, path)


def show(value: object) -> str:
    """Write a value for people."""
    if isinstance(value, tuple):
        return ", ".join(map(show, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def differences(config: TrainConfig, other: TrainConfig) -> list[str]:
    """List the keys whose values differ."""
    return [path for path in paths() if _get(config, path) != _get(other, path)]


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config
