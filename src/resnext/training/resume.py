"""[torch] Go on from a checkpoint of the same run on the same data."""

from __future__ import annotations

from pathlib import Path

from resnext.errors import ConfigError, DatasetError, ModelFileError, TrainingError
from resnext.training import checkpoint
from resnext.training.config import TrainConfig, differences, value_of
from resnext.training.state import Run, TrainState

_DATA = ("class list", "training set", "test set")
_FIXED = (*_DATA, "weights")
# What a run may go on with changed: how it is computed, and when it ends. How the pictures
# were divided is compared by the pictures.
MAY_CHANGE = {
    "compile",
    "data.cache",
    "data.num_workers",
    "data.scan",
    "data.split_seed",
    "data.test_sizes",
    "data.val_share",
    "optim.grad_accum_steps",
    "patience",
    "recipe",
    "schedule.epochs",
}


def check_alike(run: Run) -> None:
    """Refuse to start where processes would not train the same network on the same pictures.

    Raises:
        ConfigError: Settings differ, or the batch does not divide among the processes.
        DatasetError: Pictures or classes differ.
    """
    processes, here = run.processes, run.origin
    run.order.share(0, 0, rank=processes.rank, world_size=processes.world_size)
    for rank, there in enumerate(processes.gather(here)):
        if different := [key for key in here if there[key] != here[key]]:
            kind = DatasetError if different[0] in _DATA else ConfigError
            raise kind(
                f"process {rank} has another {different[0]} than process {processes.rank}",
                hint="all processes need the same command and the same files",
            )


def restore_latest(state: TrainState, run: Run, places: Path) -> str:
    """Go on from the newest checkpoint that can be used, if there is any.

    Args:
        state: Changed in place.
        run: What is to go on.
        places: Folder of the checkpoints.

    Returns:
        Which checkpoints were passed over and why; "" if none was.

    Raises:
        ConfigError: The run began with other settings that change what it learns.
        DatasetError: The run began with other data.
        ModelFileError: There are checkpoints, and none can be used.
        TrainingError: Not all processes see the same checkpoints.
    """

    def accept(path: Path, saved: checkpoint.State) -> None:
        try:
            _check_network(saved, run)
            _check_origin(path, saved, run)
            state.restore(saved)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error.message}") from error

    loaded = checkpoint.load_latest(places, accept)
    for rank, step in enumerate(run.processes.gather(state.step)):
        if step != state.step:
            raise TrainingError(
                f"process {rank} goes on after step {step}, process {run.processes.rank} after"
                f" step {state.step}",
                hint="the folder of the run must be one that all processes share",
            )
    if loaded is None or not loaded[1]:
        return ""
    return f"{'; '.join(loaded[1])}; going on from {loaded[0]}"


def _check_network(saved: checkpoint.State, run: Run) -> None:
    lacking = [key for key in run.origin if key not in saved]
    if lacking:
        raise ModelFileError(f"lacks {lacking[0]!r}; expected a checkpoint of a run")
    try:
        config = TrainConfig.from_json(saved["config"])
    except ConfigError as error:
        raise ModelFileError(f"its settings cannot be read: {error.message}") from error
    for key in differences(config, run.config):
        if key.startswith("model."):
            was, now = value_of(config, key), value_of(run.config, key)
            raise ModelFileError(f"of another network: {key} is {was!r}; expected {now!r}")


def _check_origin(path: Path, saved: checkpoint.State, run: Run) -> None:
    here = run.origin
    for key in _FIXED:
        if saved[key] != here[key]:
            kind, what = (DatasetError, "data") if key in _DATA else (ConfigError, "weights")
            were = "were others" if key == "weights" else "was another"
            raise kind(
                f"{path}: the {key} {were} when the run began",
                hint=f"bring the {what} back as it was, start anew in another folder, or remove"
                f" {path.parent.parent}",
            )
    config = TrainConfig.from_json(saved["config"])
    for key in differences(config, run.config):
        if key not in MAY_CHANGE:
            was, now = value_of(config, key), value_of(run.config, key)
            raise ConfigError(
                f"{path}: the run began with {key}={was}; now it is {now}",
                hint="give the settings as they were, start anew in another folder, or remove"
                f" {path.parent.parent}",
            )
