"""Full fine-tuning: all layers of a model, on pictures of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext import modelfile, testing
from resnext.errors import ConfigError, WeightsUnavailableError
from resnext.preprocess import PreprocessSpec
from resnext.training import data as datasets
from resnext.training import records
from resnext.training.config import LossConfig, TrainConfig

torch: Any = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import runs  # noqa: E402

refine: Any = pytest.importorskip("resnext.training.refine")

pytestmark = pytest.mark.torch

QUICK = ("schedule.epochs=2", "data.num_workers=0")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests quick: test_plots.py and test_log.py draw."""
    torch.set_num_threads(1)
    log = "resnext.training.log"
    monkeypatch.setattr(f"{log}.plots.draw_curves", lambda _lines, path: path.touch())
    monkeypatch.setattr(f"{log}.plots.draw_batch", lambda _images, _labels, path: path.touch())
    monkeypatch.setattr(f"{log}._open_board", lambda _folder, _step: None)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(testing.write_tiny_model(tmp_path / "tiny.safetensors", input_size=16))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return testing.write_pictures(tmp_path / "pictures", per_class=5, size=16)


def test_a_model_for_other_classes_comes_out(tiny: str, pictures: Path, tmp_path: Path) -> None:
    (pictures / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    path, folder = tmp_path / "mine.safetensors", tmp_path / "mine.run"
    tuned = refine.tune_all(
        str(pictures), path, model=tiny, settings=QUICK, seed=4, class_weights="balanced"
    )
    document, _ = modelfile.read(path)
    assert set(document.labels.class_names) == {"red", "green", "blue"}
    assert document.provenance["pretrained"] == "tiny"
    assert document.provenance["config"]["loss"]["class_weights"] == "balanced"
    assert document.provenance["config"]["seed"] == 4
    assert document.license == "apache-2.0"
    assert document.preprocess.input_size == 16
    assert [Path(problem.name).name for problem in tuned.problems] == ["broken.png"]
    assert document.name == "mine"
    weights = runs.loop.checkpoint.load(runs.loop.checkpoint.found(folder / "checkpoints")[-1])
    assert weights["config"]["data"]["split_seed"] == 4
    assert (folder / "report.html").exists()
    assert tuned.is_first
    facts = dict(tuned.summary())
    assert facts["file"] == path
    assert "1 that cannot be read" in str(facts["left out"])
    assert str(facts["best validation top-1"]).endswith(" %, which chose the epoch")
    assert tuned.to_json()["metrics"] == document.metrics


def test_settings_reach_the_run(
    tiny: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def run(_data: object, config: TrainConfig, _folder: Path, **options: object) -> object:
        given.update(options, loss=config.loss, lr=config.optim.lr)
        raise refine.Stopped(3)

    monkeypatch.setattr(refine.full, "run", run)
    settings = (f"loss.teacher={tiny}", "optim.lr=0.3")
    with pytest.raises(refine.Stopped):
        refine.tune_all(
            str(pictures), tmp_path / "a.safetensors", model=tiny, settings=settings, find_lr=True
        )
    loss = given["loss"]
    assert isinstance(loss, LossConfig)
    assert (loss.teacher, loss.distill_weight) == (tiny, 0.5)
    assert (given["lr"], given["find_lr"]) == (0.3, True)


def test_a_file_that_is_there_stays(tiny: str, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is there already"):
        refine.tune_all(str(pictures), path, model=tiny, settings=QUICK)
    assert path.read_bytes() == b"precious"
    refine.tune_all(str(pictures), path, model=tiny, settings=QUICK, force=True)
    assert modelfile.is_model_file(path)


def _again(tiny: str, pictures: Path, path: Path, *settings: str, **options: Any) -> Any:
    return refine.tune_all(
        str(pictures), path, model=tiny, settings=(*QUICK, *settings), force=True, **options
    )


def test_force_begins_a_run_that_is_done_anew(
    tiny: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "mine.safetensors", tmp_path / "mine.run"
    _again(tiny, pictures, path)
    assert "begins anew" not in capsys.readouterr().err
    _again(tiny, pictures, path, "schedule.epochs=1", "optim.lr=0.5", seed=1)
    assert f"note: {folder} begins anew (--force)" in capsys.readouterr().err
    assert len(_epochs(folder)) == 1
    document, _ = modelfile.read(path)
    assert document.metrics["epoch"] == 1
    assert document.provenance["config"]["optim"]["lr"] == 0.5
    (pictures / "red" / "0000.png").unlink()
    _again(tiny, pictures, path)
    assert len(_epochs(folder)) == 2


def _epochs(folder: Path) -> list[dict[str, Any]]:
    return records.read(folder / "metrics.jsonl")


def test_force_goes_on_with_the_run_that_is_under_way(tmp_path: Path, tiny: str) -> None:
    folder = tmp_path / "mine.run"
    config = refine.make_config(tiny, opened(26), device=torch.device("cpu"))
    saved = folder / "checkpoints" / "step-00000001.ckpt"

    def asked(*settings: str, **others: Any) -> dict[str, Any]:
        plain = config.override(settings).to_json()
        return {"config": plain, "find_lr": False, "split": {"copies": None}, **others}

    def remains(*settings: str, force: bool = True, **others: Any) -> bool:
        refine._prepare(folder, asked(), force=False)
        saved.parent.mkdir(exist_ok=True)
        saved.touch()
        refine._prepare(folder, asked(*settings, **others), force=force)
        return saved.exists()

    assert remains()
    assert remains("data.num_workers=3", "schedule.epochs=9")
    assert not remains("optim.lr=0.5")
    assert not remains(find_lr=True)
    assert not remains(split={"copies": 2})
    assert remains("optim.lr=0.5", force=False), "which the run itself refuses"
    refine._prepare(folder, asked("optim.lr=0.5"), force=True)
    assert not saved.exists(), "what was refused is not what it is at"
    for content in (None, "", "[]", "3", '{"split": {}}', '{"config": {"model": {}}}'):
        saved.touch()
        if content is None:
            (folder / "asked.json").unlink()
        else:
            (folder / "asked.json").write_text(content)
        refine._prepare(folder, asked(), force=True)
        assert not saved.exists(), content


def test_without_force_the_folder_to_remove_is_named(
    tiny: str, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    refine.tune_all(str(pictures), path, model=tiny, settings=QUICK)
    path.unlink()
    with pytest.raises(ConfigError, match=r"optim.lr=0.02; now it is 0.5") as caught:
        refine.tune_all(str(pictures), path, model=tiny, settings=(*QUICK, "optim.lr=0.5"))
    assert f"or remove {tmp_path / 'mine.run'}" in caught.value.hint
    assert not path.exists()


def test_what_does_not_fit_leaves_no_folder(tiny: str, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    with pytest.raises(ConfigError, match="optim.batch_size is 64; expected at most 12") as caught:
        refine.tune_all(str(pictures), path, model=tiny, settings=("optim.batch_size=64",))
    assert caught.value.hint == "try --set optim.batch_size=2 (6 steps an epoch)"
    with pytest.raises(ConfigError, match="precision is 'fp16', .* expected bf16 or fp32"):
        refine.tune_all(str(pictures), path, model=tiny, precision="fp16")
    assert not list(tmp_path.glob("mine*"))


def test_a_teacher_is_not_fetched_where_the_network_is_off(
    tiny: str, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsUnavailableError, match="resnext101_64x4d.* the network is off"):
        refine.tune_all(
            str(pictures), tmp_path / "a.safetensors", model=tiny, offline=True,
            settings=(*QUICK, "loss.teacher=resnext101_64x4d"),
        )  # fmt: skip


def opened(count: int, *, val: bool = True, multi_label: bool = False) -> datasets.Data:
    few = runs.pictures(min(count, 30), multi_label=multi_label)
    train = replace(few, samples=[few.samples[index % len(few)] for index in range(count)])
    return datasets.Data(train=train, val=train if val else None, split={})


@pytest.mark.parametrize(
    ("count", "batch_size"), [(3, 2), (12, 2), (26, 4), (100, 16), (255, 32), (256, 64), (5000, 64)]
)
def test_the_batch_follows_the_number_of_pictures(count: int, batch_size: int, tiny: str) -> None:
    config = refine.make_config(tiny, opened(count), device=torch.device("cpu"))
    assert config.optim.batch_size == batch_size


@pytest.mark.parametrize(
    ("count", "world_size", "batch_size"),
    [(20, 4, 8), (5000, 4, 64), (5000, 3, 63), (100, 2, 16), (5000, 64, 128)],
)
def test_the_batch_suits_the_processes(
    count: int, world_size: int, batch_size: int, tiny: str
) -> None:
    data = opened(count)
    config = refine.make_config(tiny, data, device=torch.device("cpu"), world_size=world_size)
    assert config.optim.batch_size == batch_size
    refine.check(config, data, world_size=world_size)


@pytest.mark.parametrize("change", [{"mode": "letterbox"}, {"mode": "squash"},
                                    {"orientation": "ignore"}])  # fmt: skip
def test_a_model_that_takes_pictures_otherwise_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    spec = PreprocessSpec(input_size=32, resize=32, interpolation="bilinear", **change)
    modelfile.write(path, replace(document, preprocess=spec), tensors)
    with pytest.raises(ConfigError, match=next(iter(change.values()))) as caught:
        refine.make_config(str(path), opened(26), device=torch.device("cpu"))
    assert "--head-only" in caught.value.hint


def test_the_model_s_own_pixels_are_kept(tmp_path: Path) -> None:
    path = testing.write_tiny_model(tmp_path / "tiny.safetensors")
    document, tensors = modelfile.read(path)
    spec = PreprocessSpec(
        input_size=40, resize=48, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
    )
    changed = modelfile.ModelDocument(
        name="tiny", architecture=document.architecture, labels=document.labels, preprocess=spec
    )
    modelfile.write(path, changed, tensors)
    config = refine.make_config(str(path), opened(26), device=torch.device("cpu"))
    assert config.model.architecture == document.architecture.name
    assert config.model.pretrained == str(path)
    assert (config.data.train_size, config.data.test_size, config.data.test_resize) == (40, 40, 48)
    assert config.data.interpolation == "bicubic"
    assert (config.data.mean, config.data.std) == (spec.mean, spec.std)


def test_what_is_fitted_to_data_and_device(tiny: str) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert refine.make_config(tiny, opened(26), device=cpu).precision == "fp32"
    assert refine.make_config(tiny, opened(26), device=cuda).precision == "bf16"
    fixed = refine.make_config(tiny, opened(26), precision="fp32", device=cuda)
    assert fixed.precision == "fp32"
    assert fixed.patience == 5
    assert refine.make_config(tiny, opened(26, val=False), device=cpu).patience == 0
    several = refine.make_config(tiny, opened(26, multi_label=True), device=cpu)
    assert several.loss.kind == "bce"
    with pytest.raises(ConfigError, match="there is 1 picture"):
        refine.make_config(tiny, opened(1), device=cpu)
