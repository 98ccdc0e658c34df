"""Full fine-tuning: all layers of a model, on pictures of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnext import modelfile, testing
from resnext.errors import ConfigError
from resnext.preprocess import PreprocessSpec
from resnext.training import data as datasets
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
    path = tmp_path / "mine.safetensors"
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
    assert (tmp_path / "mine.run" / "report.html").exists()
    facts = dict(tuned.summary())
    assert facts["file"] == path
    assert "1 that cannot be read" in str(facts["left out"])
    assert tuned.to_json()["metrics"] == document.metrics


def test_settings_reach_the_run(
    tiny: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def run(_data: object, config: TrainConfig, _folder: Path, **options: object) -> object:
        given.update(options, loss=config.loss, lr=config.optim.lr)
        raise refine.Stopped(3)

    monkeypatch.setattr(refine.full, "run", run)
    settings = ("loss.teacher=big", "optim.lr=0.3")
    with pytest.raises(refine.Stopped):
        refine.tune_all(
            str(pictures), tmp_path / "a.safetensors", model=tiny, settings=settings, find_lr=True
        )
    loss = given["loss"]
    assert isinstance(loss, LossConfig)
    assert (loss.teacher, loss.distill_weight) == ("big", 0.5)
    assert (given["lr"], given["find_lr"]) == (0.3, True)


def test_a_file_that_is_there_stays(tiny: str, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is there already"):
        refine.tune_all(str(pictures), path, model=tiny, settings=QUICK)
    assert path.read_bytes() == b"precious"
    refine.tune_all(str(pictures), path, model=tiny, settings=QUICK, force=True)
    assert modelfile.is_model_file(path)


def opened(count: int, *, val: bool = True, multi_label: bool = False) -> datasets.Data:
    train = runs.pictures(count, multi_label=multi_label)
    return datasets.Data(train=train, val=train if val else None, split={})


@pytest.mark.parametrize(
    ("count", "batch_size"), [(3, 2), (12, 2), (26, 4), (100, 16), (255, 32), (256, 64), (5000, 64)]
)
def test_the_batch_follows_the_number_of_pictures(count: int, batch_size: int, tiny: str) -> None:
    config = refine.make_config(tiny, opened(count), device=torch.device("cpu"))
    assert config.optim.batch_size == batch_size


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
