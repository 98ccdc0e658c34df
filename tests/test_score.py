"""`training.score`: every picture counts once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import numpy as np
import torch
from runs import finish, make, one_thread, pictures  # noqa: F401

from resnext import images, preprocess
from resnext.training import augment, dist
from resnext.training.samples import SampleSet
from resnext.training.score import Scores, evaluate
from resnext.training.state import Run, start

pytestmark = pytest.mark.torch


def _trained_by_chance(run: Run) -> Any:
    """Return a network whose answers differ from picture to picture."""
    model = start(run).model
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(4.0)
    return model


def test_scores_are_those_by_hand() -> None:
    run = make(test=pictures(11, seed=1))
    model = _trained_by_chance(run).eval()
    found = evaluate(model, run, batch_size=4)
    spec, logits = augment.test_spec(run.config.data), []
    for sample in run.test.samples:
        pixels = preprocess.apply(images.open_rgb(sample.source), spec)
        batch = preprocess.normalize(pixels, spec).transpose(2, 0, 1)[None]
        with torch.no_grad():
            logits.append(model(torch.from_numpy(np.ascontiguousarray(batch))))
    labels = torch.arange(11) % 3
    together = torch.cat(logits)
    assert found.pictures == 11
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(together, labels)), abs=1e-6
    )
    assert found.top1 == pytest.approx(float((together.argmax(1) == labels).float().mean() * 100))
    assert found.top5 == 100
    for batch_size in (1, 64):
        other = evaluate(model, run, batch_size=batch_size)
        assert (other.top1, other.pictures) == (found.top1, 11)
        assert other.loss == pytest.approx(found.loss, abs=1e-6)


def test_several_labels_count_if_the_best_answer_is_one_of_them() -> None:
    run = make("loss.kind=bce", train=pictures(26, multi_label=True),
               test=pictures(6, seed=1, multi_label=True))  # fmt: skip
    model = start(run).model
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data = torch.tensor([0.0, 2.0, 1.0])
    # Pictures have no label, the first, or the first two: the best answer is in half of the others.
    scores = evaluate(model, run, batch_size=2)
    assert scores.top1 == pytest.approx(50)
    assert scores.pictures == 6
    logits = model.fc.bias.detach()
    targets = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.expand(3, 3), targets)
    assert scores.loss == pytest.approx(float(loss), abs=1e-6), "as it is trained with"
    single = make("loss.kind=bce", test=pictures(6, seed=1))
    targets = torch.eye(3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.expand(3, 3), targets)
    assert evaluate(model, single).loss == pytest.approx(float(loss), abs=1e-6)


def test_a_network_that_is_right_reaches_100_beside_pictures_without_a_label() -> None:
    test = pictures(7, seed=1, multi_label=True)
    run = make("loss.kind=bce", train=pictures(26, multi_label=True), test=test)
    model = start(run).model
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data = torch.tensor([2.0, 1.0, 0.0])  # each label there is has the first class
    assert evaluate(model, run).top1 == evaluate(model, run).top5 == 100
    none = [sample for sample in test.samples if not sample.labels]
    alone = replace(run, test=SampleSet(samples=none, labels=test.labels, multi_label=True))
    scores = evaluate(model, alone)
    assert (scores.pictures, scores.top1, scores.top5) == (3, 0, 0)
    loss = torch.nn.functional.softplus(torch.tensor([2.0, 1.0, 0.0])).mean()
    assert scores.loss == pytest.approx(float(loss), abs=1e-6), "none of the classes is there"


def _evaluate_apart(folder: Path, count: int) -> None:
    with dist.joined("cpu", timeout=20) as processes:
        run = make(test=pictures(count, seed=1), processes=processes)
        scores = evaluate(_trained_by_chance(run), run, batch_size=2)
    (folder / f"{processes.rank}.json").write_text(
        json.dumps([scores.pictures, scores.loss, scores.top1, scores.top5])
    )


@pytest.mark.parametrize("count", [2, 11])
def test_three_processes_count_as_one(tmp_path: Path, count: int) -> None:
    """11 pictures do not divide among 3 processes, and 2 leave one without any."""
    run = make(test=pictures(count, seed=1))
    alone = evaluate(_trained_by_chance(run), run)
    assert finish(_evaluate_apart, tmp_path, count, ranks=3) == ["done"] * 3
    for rank in range(3):
        number, loss, top1, top5 = json.loads((tmp_path / f"{rank}.json").read_text())
        found = Scores(pictures=number, loss=loss, top1=top1, top5=top5)
        assert (found.pictures, found.top1, found.top5) == (count, alone.top1, alone.top5)
        assert found.loss == pytest.approx(alone.loss, abs=1e-6)
