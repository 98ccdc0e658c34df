"""The seam: checks, chunks, splitting when memory is short, locking, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from resnext.engines.base import AbstractEngine, Outputs, Signature
from resnext.errors import ConfigError, EngineError

SIGNATURE = Signature(input_size=4, in_chans=3, num_classes=2, embedding_size=3)


class FakeEngine(AbstractEngine):
    """Echoes the first pixel of each picture; fits at most `fits` pictures in memory."""

    name: ClassVar[str] = "fake"

    def __init__(self, *, fits: int = 100, best: int = 8) -> None:
        super().__init__(SIGNATURE, precision="fp32", best_batch_size=best)
        self.fits = fits
        self.calls: list[int] = []
        self.released = 0
        self.busy = threading.Lock()
        self.spoil: Callable[[Outputs], Outputs] = lambda outputs: outputs

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        assert self.busy.acquire(blocking=False), "two threads at once"
        try:
            assert batch_nhwc.flags.c_contiguous
            self.calls.append(len(batch_nhwc))
            if len(batch_nhwc) > self.fits:
                raise MemoryError
            first = batch_nhwc[:, 0, 0, 0].astype(np.float32)[:, None]
            return self.spoil(Outputs(np.repeat(first, 2, axis=1), np.repeat(first, 3, axis=1)))
        finally:
            self.busy.release()

    def _release(self) -> None:
        self.released += 1


def pictures(count: int) -> npt.NDArray[np.uint8]:
    batch = np.zeros((count, 4, 4, 3), np.uint8)
    batch[:, 0, 0, 0] = np.arange(count)
    return batch


def test_rows_come_back_in_order_and_at_most_the_best_batch_at_once() -> None:
    engine = FakeEngine(best=8)
    outputs = engine.run(pictures(19))
    np.testing.assert_array_equal(outputs.logits[:, 0], np.arange(19))
    np.testing.assert_array_equal(outputs.embedding[:, 2], np.arange(19))
    assert engine.calls == [8, 8, 3]


def test_no_pictures_give_no_rows() -> None:
    engine = FakeEngine()
    outputs = engine.run(pictures(0))
    assert (outputs.logits.shape, outputs.embedding.shape) == ((0, 2), (0, 3))
    assert outputs.logits.dtype == outputs.embedding.dtype == np.float32
    assert engine.calls == []


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    engine = FakeEngine(fits=2, best=7)
    outputs = engine.run(pictures(7))
    np.testing.assert_array_equal(outputs.logits[:, 0], np.arange(7))
    assert engine.calls == [7, 3, 1, 2, 4, 2, 2]


def test_one_picture_that_does_not_fit_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match=r"fake \(fp32\) has not enough memory.*4 pixels"):
        FakeEngine(fits=0).run(pictures(3))


def test_slices_and_other_layouts_are_taken() -> None:
    batch = np.asfortranarray(pictures(6))[::2]
    np.testing.assert_array_equal(FakeEngine().run(batch).logits[:, 0], [0, 2, 4])


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (pictures(2).astype(np.float32), r"float32 \(2, 4, 4, 3\)"),
        (pictures(2)[0], r"uint8 \(4, 4, 3\)"),
        (pictures(2).transpose(0, 3, 1, 2), r"uint8 \(2, 3, 4, 4\)"),
        (np.zeros((1, 5, 4, 3), np.uint8), r"uint8 \(1, 5, 4, 3\)"),
        ([[1]], "a list"),
    ],
)
def test_another_type_or_shape_is_refused(batch: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"the batch is {found}; expected uint8.*\(N, 4, 4, 3\)"):
        FakeEngine().run(batch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_engine_and_count_the_pictures(value: float) -> None:
    def spoil(outputs: Outputs) -> Outputs:
        outputs.embedding[1, 1] = value
        return outputs

    engine = FakeEngine()
    engine.spoil = spoil
    with pytest.raises(EngineError, match=r"fake \(fp32\) gave NaN.*embedding of 1 of 3 pictures"):
        engine.run(pictures(3))


def test_outputs_of_another_shape_are_an_engine_error() -> None:
    engine = FakeEngine()
    engine.spoil = lambda outputs: Outputs(outputs.logits[:, :1], outputs.embedding)
    with pytest.raises(EngineError, match=r"gave logits as float32 \(3, 1\); expected.*\(3, 2\)"):
        engine.run(pictures(3))


def test_threads_take_turns() -> None:
    engine = FakeEngine()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(engine.run, pictures(count)) for count in range(1, 60)]
        for count, future in enumerate(futures, start=1):
            np.testing.assert_array_equal(future.result().logits[:, 0], np.arange(count))


def test_closing_releases_once_and_stops_work() -> None:
    with FakeEngine() as engine:
        engine.run(pictures(1))
    engine.close()
    assert engine.released == 1
    with pytest.raises(EngineError, match=r"fake \(fp32\) is closed"):
        engine.run(pictures(1))
