"""`Classifier`: streams in, streams out, in order, whatever is in them."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext import testing
from resnext.classifier import Classifier
from resnext.errors import ConfigError, ImageError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    return testing.write_tiny_model(path, class_names=("cat", "dog", "eel"))


@pytest.fixture
def classifier(tiny: Path) -> Iterator[Classifier]:
    with Classifier(tiny) as opened:
        yield opened


@pytest.fixture
def constant(tiny: Path) -> Classifier:
    """A classifier whose engine answers 0, 1, 2 for every picture."""
    return Classifier(tiny, engine=testing.ConstantEngine([0.0, 1.0, 2.0]))


def picture(value: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_one_picture_the_ways_it_can_come(classifier: Classifier, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = classifier(pixels)
    assert [best.label for best in expected] == [
        label for label, _ in sorted(
            ((best.label, best.probability) for best in expected), key=lambda pair: -pair[1]
        )
    ]  # fmt: skip
    for form in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()),
                 Image.open(path)):  # fmt: skip
        assert classifier(form) == expected
    (result,) = classifier.predict([path])
    assert result.predictions == expected
    assert result.source == str(path)


def test_top_k(classifier: Classifier) -> None:
    assert len(classifier(picture(0), top_k=2)) == 2
    assert len(classifier(picture(0), top_k=50)) == 3
    with pytest.raises(ConfigError, match="top_k is 0"):
        classifier(picture(0), top_k=0)


def test_order_is_kept_and_names_are_given(constant: Classifier) -> None:
    results = list(constant.predict((picture(i) for i in range(23)), batch_size=4))
    assert [result.source for result in results] == [f"image {i}" for i in range(23)]
    engine = constant.engine
    assert isinstance(engine, testing.ConstantEngine)
    assert engine.batch_sizes == [4, 4, 4, 4, 4, 3]


def test_an_endless_stream_is_answered(constant: Classifier) -> None:
    results = constant.predict((picture(i % 256) for i in itertools.count()), batch_size=4)
    assert [next(results).source for _ in range(10)] == [f"image {i}" for i in range(10)]
    results.close()  # type: ignore[attr-defined]


def test_one_opened_picture_many_times(classifier: Classifier, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (300, 300, 3), np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    (expected,) = classifier.predict([path])
    for _ in range(3):
        opened, file = Image.open(path), path.open("rb")  # loaded by the first that comes
        for result in classifier.predict([opened, file] * 16, batch_size=1):
            assert result.predictions == expected.predictions
        opened.close()
        file.close()


def test_what_is_ahead_is_bounded_in_pictures(tiny: Path) -> None:
    taken: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for index in itertools.count():
            taken.append(index)
            yield picture(0)

    few = Classifier(tiny, engine=testing.ConstantEngine([0.0, 1.0, 2.0]))
    results = few.predict(pictures(), batch_size=4)
    next(results)
    time.sleep(0.2)
    assert len(taken) <= 2 * 4 + (os.cpu_count() or 1) + 4 + 1
    results.close()  # type: ignore[attr-defined]


def test_a_picture_that_fails_leaves_the_others_alone(constant: Classifier, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    mixed = [picture(1), broken, tmp_path / "absent.jpg", b"", picture(2)]
    results = list(constant.predict(mixed, batch_size=3))
    assert [result.error is None for result in results] == [True, False, False, False, True]
    assert results[1].source == str(broken)
    assert results[1].predictions == ()
    assert results[0].predictions == results[4].predictions


def test_batching_is_invisible(classifier: Classifier) -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(7)]
    alone = [classifier.embed([one])[0] for one in pictures]
    together = classifier.embed(pictures, batch_size=5)
    assert together.shape == (7, 1024)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=0.02, atol=1e-3)


def test_embed_raises_for_a_picture_that_fails(classifier: Classifier) -> None:
    with pytest.raises(ImageError, match="image 1"):
        classifier.embed([picture(0), b"nonsense"])
    assert classifier.embed([]).shape == (0, 1024)


def test_embed_each_goes_on_after_a_picture_that_fails(classifier: Classifier) -> None:
    mixed = [picture(0), b"nonsense", picture(1), b"", picture(2)]
    rows = list(classifier.embed_each(mixed, batch_size=2))
    assert [isinstance(row, ImageError) for row in rows] == [False, True, False, True, False]
    assert "image 3: is empty" in str(rows[3])
    good = [row for row in rows if not isinstance(row, ImageError)]
    expected = classifier.embed([picture(0), picture(1), picture(2)])
    np.testing.assert_allclose(good, expected, rtol=0.02, atol=1e-3)


def test_a_folder_is_walked(constant: Classifier, tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(3)).save(tmp_path / name)
    results = list(constant.predict(tmp_path))
    assert [Path(result.source).name for result in results] == ["a.png", "b.png", "c.png"]


def test_one_picture_given_as_a_stream_is_explained(constant: Classifier) -> None:
    with pytest.raises(ConfigError, match="images is one bytes.*\n\nhint: call the classifier"):
        list(constant.predict(b"abc"))
    for pixels in (picture(0), picture(0)[..., 0]):  # its rows are no pictures
        with pytest.raises(ConfigError, match="images is one ndarray"):
            list(constant.predict(pixels))
    assert len(list(constant.predict(np.stack([picture(0)] * 3)))) == 3
    with pytest.raises(ConfigError, match="batch_size is 0; expected at least 1"):
        list(constant.predict([], batch_size=0))


def test_uncertain_answers_are_rejected(constant: Classifier) -> None:
    import dataclasses

    constant.document = dataclasses.replace(constant.document, reject_threshold=0.9)
    (result,) = constant.predict([picture(0)])
    assert result.rejected
    assert result.predictions[0].label == "eel"


def test_the_temperature_of_the_model_is_used(constant: Classifier) -> None:
    import dataclasses

    sure = constant(picture(0))[0].probability
    constant.document = dataclasses.replace(constant.document, temperature=2.0)
    assert constant(picture(0))[0].probability < sure


def test_the_starter_does_not_claim_to_know_what_it_does_not() -> None:
    cat = Path(__file__).parents[1] / "examples" / "cat.jpg"
    with resnext.Classifier() as starter:
        (result,) = starter.predict([cat])
        assert len(result.predictions) == 5
        assert result.rejected == (result.predictions[0].probability < 0.25)
        assert starter.embed([cat]).shape == (1, 2048)


def test_offline_no_address_is_asked(tiny: Path) -> None:
    offline = Classifier(tiny, engine=testing.ConstantEngine([0.0, 1.0, 2.0]), offline=True)
    for address in ("http://127.0.0.1:9/a.jpg", "https://example.org/a.jpg"):
        (result,) = offline.predict([address])
        assert result.error == "is an address, and the network is off"
        (result,) = offline.predict(address)
        assert result.source == address
        assert result.error == "is an address, and the network is off"


def test_it_says_what_it_is(tiny: Path, constant: Classifier) -> None:
    assert repr(constant) == "Classifier('tiny', engine constant (fp32))"
