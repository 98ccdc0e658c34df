"""A whole run: what is checked first, what is found by trial, what comes out."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext import modelfile, testing
from resnext.errors import ConfigError, DatasetError, ModelNotFoundError, OutOfMemoryError
from resnext.evaluation.multilabel import is_multi_label
from resnext.training import data as datasets
from resnext.training import records

torch: Any = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import runs  # noqa: E402

full: Any = pytest.importorskip("resnext.training.full")

pytestmark = pytest.mark.torch

NAMES = ("red", "green", "blue")


def opened(train: Any = None, val: Any = ()) -> datasets.Data:
    return datasets.Data(
        train=train or runs.pictures(runs.TRAIN),
        val=runs.pictures(runs.TEST, seed=1) if val == () else val,
        split={"kind": "automatic", "seed": 0, "val_share": 0.25},
        notes=("2 files are no pictures",),
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests quick: test_plots.py and test_log.py draw."""
    torch.set_num_threads(1)
    log = "resnext.training.log"
    monkeypatch.setattr(f"{log}.plots.draw_curves", lambda _lines, path: path.touch())
    monkeypatch.setattr(f"{log}.plots.draw_batch", lambda _images, _labels, path: path.touch())
    monkeypatch.setattr(f"{log}._open_board", lambda _folder, _step: None)


def test_a_run_leaves_a_model_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full.registry, "published", lambda _config: 77.618)  # for small networks
    config = runs.config("schedule.epochs=8", "recipe=torchvision-v1", "data.test_sizes=12,16")
    outcome = full.run(opened(), config, tmp_path / "run")
    assert outcome.model == tmp_path / "run" / "best.safetensors"
    assert outcome.report.read_text().startswith("<!doctype html>")
    assert outcome.promised is None
    assert "so the published 77.618 % top-1 is no longer promised" in outcome.deviations
    said = capsys.readouterr().err
    assert "note: 2 files are no pictures\n" in said
    assert "no longer promised" in said
    assert "77.618 % top-1 was published for this recipe, not for this run's settings" in said
    document, _ = modelfile.verify(outcome.model)
    assert document.provenance["deviations"] == list(outcome.deviations)
    assert document.metrics == outcome.metrics

    # The file answers as well as it says, prepared as it says.
    sizes = document.metrics["test_sizes"]
    assert set(sizes) == {"8", "12", "16"}
    assert sizes[str(document.preprocess.input_size)] == max(sizes.values())
    assert f"test size {document.preprocess.input_size} is best" in said
    data = opened()
    assert data.val is not None
    classifier = resnext.Classifier(outcome.model, engine="torch", precision="fp32")
    pictures = [Image.open(io.BytesIO(sample.source)) for sample in data.val.samples]
    found = [result.predictions[0].label for result in classifier.predict(pictures)]
    right = sum(
        name == NAMES[sample.labels[0]]
        for name, sample in zip(found, data.val.samples, strict=True)
    )
    assert 100 * right / len(data.val) == pytest.approx(document.metrics["top1"], abs=0.01)
    assert document.metrics["top1"] > 45  # a third is chance


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path) -> None:
    constant = ("schedule.kind=step", *runs.EVERYTHING)
    whole = full.run(opened(), runs.config("schedule.epochs=2", *constant), tmp_path / "whole")
    full.run(opened(), runs.config("schedule.epochs=1", *constant), tmp_path / "parts")
    parts = full.run(opened(), runs.config("schedule.epochs=2", *constant), tmp_path / "parts")
    assert parts.metrics == whole.metrics
    lines = [records.read(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for first, second in zip(*lines, strict=True):
        assert all(first[key] == second[key] for key in ("epoch", "step", "loss", "lr", "top1"))
    first, second = (
        modelfile.read(tmp_path / name / "last.safetensors")[1] for name in ("whole", "parts")
    )
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_a_folder_with_a_run_is_not_overrun(tmp_path: Path) -> None:
    full.run(opened(), runs.config("schedule.epochs=1"), tmp_path)
    with pytest.raises(ConfigError, match="has a run already"):
        full.run(opened(), runs.config("schedule.epochs=1"), tmp_path, resume=False)


def test_without_validation_the_last_model_comes_out(tmp_path: Path) -> None:
    outcome = full.run(opened(val=None), runs.config("schedule.epochs=1"), tmp_path)
    assert outcome.model.name == "last.safetensors"
    assert "top1" not in outcome.metrics


def test_what_is_left_open_is_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = full.search.Sweep(lrs=(0.001, 0.01), losses=(2.0, 1.0), suggested=0.012)
    monkeypatch.setattr(full.search, "find_lr", lambda _run: sweep)
    monkeypatch.setattr(full.search, "find_parts", lambda _run: 2)
    config = runs.config("schedule.epochs=1", "optim.grad_accum_steps=0", "optim.batch_size=8")
    outcome = full.run(opened(), config, tmp_path, find_lr=True)
    assert outcome.config.optim.grad_accum_steps == 2
    assert outcome.config.optim.lr == 0.006  # the batch is twice what the rate is meant for
    assert records.read_json(tmp_path / "config.json") == outcome.config.to_json()
    assert [point["lr"] for point in records.read_json(tmp_path / "lr.json")] == [0.001, 0.01]
    said = capsys.readouterr().err
    found = "suggests 0.012 for batches of 8: optim.lr, which is for batches of 4, is now 0.006\n"
    assert found in said
    assert "in 2 parts" in said

    def not_again(_run: Any) -> Any:
        raise AssertionError("was found already")

    monkeypatch.setattr(full.search, "find_lr", not_again)
    monkeypatch.setattr(full.search, "find_parts", not_again)
    config = replace(config, schedule=replace(config.schedule, epochs=2))
    again = full.run(opened(), config, tmp_path, find_lr=True)
    assert again.config.optim == outcome.config.optim


def test_a_teacher_is_learned_from(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "teacher.safetensors", class_names=NAMES)
    settings = (f"loss.teacher={path}", "loss.distill_weight=1", "schedule.epochs=1")
    run = full.make_run(opened(), runs.config(*settings), runs.dist.Processes())
    assert run.teacher is not None
    state = runs.loop.start(run)
    pixels, labels = runs.batch(run)
    loss = runs.loop.train_step(state, pixels, labels, run)
    fresh = runs.loop.start(run)
    fresh.model.train()
    images = run.normalize(pixels)
    t = run.config.loss.distill_temperature
    with torch.no_grad():
        student = (fresh.model(images) / t).log_softmax(1)
        teacher = (run.teacher(images) / t).log_softmax(1)
    expected = (teacher.exp() * (teacher - student)).sum(1).mean() * t * t
    assert loss == pytest.approx(float(expected), rel=1e-4)
    outcome = full.run(opened(), runs.config(*settings), tmp_path / "run")
    assert outcome.config.loss.teacher == str(path)


@pytest.mark.parametrize(
    ("settings", "data", "said"),
    [
        (
            ["optim.batch_size=64"],
            {},
            r"(?s)expected at most 26, the number of training pictures.*--batch-size 4 \(6 steps",
        ),
        (["optim.batch_size=1"], {}, "optim.batch_size is 1; expected at least 2"),
        (["loss.teacher=starter"], {}, "expected both or none"),
        (["loss.distill_weight=0.5"], {}, "expected both or none"),
        (
            [],
            {"train": runs.pictures(26, multi_label=True)},
            "(?s)several labels.*--set loss.kind=bce",
        ),
        (
            ["loss.kind=bce", "loss.teacher=starter", "loss.distill_weight=0.5"],
            {"train": runs.pictures(26, multi_label=True)},
            "several labels, and loss.teacher is 'starter', .* for one label each",
        ),
        (["patience=3"], {"val": None}, "patience is 3, and there are no pictures to validate on"),
        (["data.test_sizes=16"], {"val": None}, "data.test_sizes is 16, and there are no"),
        (
            ["loss.teacher=starter", "loss.distill_weight=0.5"],
            {},
            "teacher starter does not know 3 of 3 classes",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_first(
    settings: list[str], data: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        full.run(opened(**data), runs.config(*settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="'resnext51_32x4d' is no architecture"):
        full.run(opened(), runs.config("model.architecture=resnext51_32x4d"), tmp_path / "run")


def test_other_pixels_than_the_weights_are_for_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors", class_names=NAMES)
    settings = (f"model.pretrained={path}", "schedule.epochs=1")
    full.run(opened(), runs.config(*settings), tmp_path / "a")
    assert "was made for mean" not in capsys.readouterr().err
    full.run(opened(), runs.config(*settings, "data.mean=0.5,0.5,0.5"), tmp_path / "b")
    assert "was made for mean (0.485, 0.456, 0.406)" in capsys.readouterr().err


def test_several_labels_are_learned(tmp_path: Path) -> None:
    data = opened(
        train=runs.pictures(runs.TRAIN, multi_label=True),
        val=runs.pictures(runs.TEST, seed=1, multi_label=True),
    )
    outcome = full.run(data, runs.config("loss.kind=bce", "schedule.epochs=1"), tmp_path)
    assert math.isfinite(outcome.metrics["val_loss"])
    assert is_multi_label(modelfile.read(outcome.model)[0])


def test_a_deterministic_run_repeats_bit_by_bit(tmp_path: Path) -> None:
    found = []
    try:
        for name in ("a", "b"):
            config = runs.config("deterministic=true", "schedule.epochs=1", *runs.EVERYTHING)
            full.run(opened(), config, tmp_path / name)
            found.append(modelfile.read(tmp_path / name / "last.safetensors")[1])
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])


def _with_a_bad_one() -> Any:
    train = runs.pictures(runs.TRAIN)
    first, *others = train.samples
    broken = replace(first, name="broken.jpg", source=b"\xff\xd8\xff no more")
    return replace(train, samples=[broken, *others])


def test_what_cannot_be_read_is_left_out_and_stays_out(tmp_path: Path) -> None:
    config = runs.config("schedule.epochs=1")
    outcome = full.run(opened(_with_a_bad_one()), config, tmp_path)
    assert [problem.name for problem in outcome.left_out] == ["broken.jpg"]
    assert records.read_json(tmp_path / "data.json")["train_pictures"] == runs.TRAIN - 1
    assert outcome.to_json()["left_out"][0]["source"] == "broken.jpg"
    assert ("left out", "1 that cannot be read") in outcome.summary()
    (tmp_path / "left-out.json").write_text('[{"source": "broken.jpg", "error": "was so"}]')
    config = replace(config, schedule=replace(config.schedule, epochs=2))
    again = full.run(opened(_with_a_bad_one()), config, tmp_path)
    assert again.left_out[0].reason == "was so", "it is not looked for again"
    assert again.metrics["epoch"] in (1, 2)


def test_without_a_scan_the_first_one_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="broken.jpg: ") as error:
        full.run(opened(_with_a_bad_one()), runs.config("data.scan=false"), tmp_path)
    assert "put a readable picture in its place" in error.value.hint
    assert "a run that begins with data.scan=true" in error.value.hint
    # No checkpoint was written, so this one begins.
    outcome = full.run(opened(_with_a_bad_one()), runs.config("schedule.epochs=1"), tmp_path)
    assert [problem.name for problem in outcome.left_out] == ["broken.jpg"]


def test_what_was_left_out_of_a_run_that_never_began_counts_no_more(tmp_path: Path) -> None:
    records.write_json(tmp_path / "left-out.json", [{"source": "0/1", "error": "was so"}])
    outcome = full.run(opened(), runs.config("schedule.epochs=1"), tmp_path)
    assert outcome.left_out == ()
    assert records.read_json(tmp_path / "left-out.json") == []
    assert records.read_json(tmp_path / "data.json")["train_pictures"] == runs.TRAIN


def test_classes_weigh_by_the_pictures_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runs.pictures(runs.TRAIN)
    bad = {sample.name for sample in train.samples if sample.labels == (0,)} - {"0/0", "0/3"}
    samples = [replace(s, source=b"no picture") if s.name in bad else s for s in train.samples]
    fitted: list[Any] = []

    def fit(run: Any, _folder: Path, **_options: Any) -> Any:
        fitted.append(run)
        raise full.Stopped(0)

    monkeypatch.setattr(full.loop, "fit", fit)
    config = runs.config("loss.class_weights=balanced")
    with pytest.raises(full.Stopped):
        full.run(opened(replace(train, samples=samples)), config, tmp_path)
    assert fitted[0].train.counts == (2, 9, 8)
    assert fitted[0].class_weights.tolist() == pytest.approx([19 / 6, 19 / 27, 19 / 24])


def test_other_hardware_finds_its_own_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full.search, "find_parts", lambda _run: 1)
    settings = ("optim.grad_accum_steps=0", "optim.batch_size=8")
    full.run(opened(), runs.config(*settings, "schedule.epochs=1"), tmp_path)
    assert records.read_json(tmp_path / "devices.json") == {"share": 8, "devices": ["cpu"]}
    began_on = {"share": 4, "devices": ["a GPU"]}
    records.write_json(tmp_path / "devices.json", began_on)  # two of them
    monkeypatch.setattr(full.search, "find_parts", lambda _run: 4)
    again = full.run(opened(), runs.config(*settings), tmp_path)
    assert again.config.optim.grad_accum_steps == 4
    said = capsys.readouterr().err
    assert "a batch norm sees 2 pictures at once from here on" in said
    assert "on a GPU, it saw 4" in said
    assert records.read_json(tmp_path / "devices.json")["share"] == 8


def test_a_recipe_in_fp16_is_computed_in_fp32_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("recipe=rsb-a3", "precision=fp16", "schedule.epochs=1")
    outcome = full.run(opened(), runs.config(*settings), tmp_path)
    assert "note: the recipe says fp16" in capsys.readouterr().err
    assert outcome.config.precision == "fp32"
    assert records.read_json(tmp_path / "config.json")["precision"] == "fp32"
    assert modelfile.read(outcome.model)[0].metrics["precision"] == "fp32"
    again = full.run(opened(), runs.config(*settings, "schedule.epochs=2"), tmp_path)
    assert again.config.precision == "fp32"
    capsys.readouterr()
    saved = {**records.read_json(tmp_path / "config.json"), "precision": "fp16"}
    records.write_json(tmp_path / "config.json", saved)  # as on a GPU
    with pytest.raises(ConfigError, match="the run began in fp16, on a GPU"):
        full.run(opened(), runs.config(*settings), tmp_path)


def test_fp16_that_is_asked_for_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'fp16', .* expected bf16 or fp32"):
        full.run(opened(), runs.config("precision=fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_command_that_is_refused_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(full.search, "find_parts", lambda _run: 1)
    settings = ("optim.grad_accum_steps=0", "schedule.epochs=1")
    full.run(opened(), runs.config(*settings), tmp_path)
    before = _state(tmp_path)
    capsys.readouterr()
    with pytest.raises(ConfigError, match="the run began with optim.batch_size=4; now it is 8"):
        full.run(opened(), runs.config(*settings, "optim.batch_size=8"), tmp_path)
    assert _state(tmp_path) == before
    assert "batch norm" not in capsys.readouterr().err


def test_memory_that_does_not_suffice_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep(_run: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(full.search, "find_lr", sweep)
    with pytest.raises(OutOfMemoryError, match="memory does not suffice: CUDA out of memory"):
        full.run(opened(), runs.config(), tmp_path, find_lr=True)


def test_a_sweep_ends_in_all_processes_or_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = full.search.Sweep(lrs=(0.1,), losses=(1.0,), suggested=0.1)
    monkeypatch.setattr(full.search, "find_lr", lambda _run: sweep)
    gathered: list[Any] = []

    def gather(_processes: Any, value: Any) -> list[Any]:
        gathered.append(value)
        return [value, math.nan if value == 0.1 else value]

    monkeypatch.setattr(runs.dist.Processes, "gather", gather)
    with pytest.raises(ConfigError, match="in another process no learning rate lowers the loss"):
        full.run(opened(), runs.config(), tmp_path, find_lr=True)

    def refuse(_run: Any) -> Any:
        raise ConfigError("none of 3 learning rates lowers the loss")

    monkeypatch.setattr(full.search, "find_lr", refuse)
    with pytest.raises(ConfigError, match="none of 3 learning rates"):
        full.run(opened(), runs.config(), tmp_path, find_lr=True)
    assert math.isnan(gathered[-1]), "the others hear of it"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_the_scan_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Terminal()
    monkeypatch.setattr(full.sys, "stderr", said)
    monkeypatch.setattr(full, "_BETWEEN", 0.0)
    full.run(opened(), runs.config("schedule.epochs=1"), tmp_path)
    shown = said.getvalue()
    assert "\r\x1b[K26 of 36 pictures looked through" in shown
    assert "\r\x1b[K36 of 36 pictures looked through\r\x1b[K" in shown


def test_what_several_labels_mean_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = runs.pictures(runs.TRAIN, multi_label=True)
    full.run(opened(train, None), runs.config("loss.kind=bce", "schedule.epochs=1"), tmp_path)
    said = capsys.readouterr().err
    assert "note: pictures have several labels: the network learns a yes or no" in said


def test_other_weights_to_start_from_stop_the_run(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "base.safetensors", class_names=NAMES)
    architecture = modelfile.verify(path)[0].architecture.name
    settings = (f"model.architecture={architecture}", f"model.pretrained={path}")
    full.run(opened(), runs.config(*settings, "schedule.epochs=1"), tmp_path / "run")
    document, tensors = modelfile.read(path)
    modelfile.write(path, document, {key: 1.5 * tensor for key, tensor in tensors.items()})
    with pytest.raises(ConfigError, match="the weights were others when the run began"):
        full.run(opened(), runs.config(*settings, "schedule.epochs=2"), tmp_path / "run")


def _apart(folder: Path) -> None:
    with runs.dist.joined("cpu", timeout=20) as processes:
        own = folder / str(processes.rank)
        if processes.is_first:
            run = runs.make()
            saved = runs.loop.start(run).to_save() | run.origin | {"step": 1}
            runs.loop.checkpoint.save(own / "checkpoints", 1, saved)
        settings = ("optim.grad_accum_steps=0", "optim.batch_size=8")
        full.run(opened(), runs.config(*settings), own, processes=processes)


@pytest.mark.slow
def test_processes_with_folders_of_their_own_do_not_start(tmp_path: Path) -> None:
    ends = runs.finish(_apart, tmp_path, ranks=2)
    for rank, end in enumerate(ends):
        assert end.startswith("TrainingError: ")
        assert f"process {rank} sees another run there than other processes" in end


def test_a_rate_that_only_rises_is_told(tmp_path: Path, capsys: Any) -> None:
    full.run(opened(), runs.config("schedule.epochs=1", "schedule.warmup_epochs=1"), tmp_path)
    said = capsys.readouterr().err
    assert "the learning rate only rises: 1 epoch, and warm-up takes 1" in said
