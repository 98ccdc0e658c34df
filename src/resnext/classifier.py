"""Ways 1 to 5 joined: pictures in, named predictions or embeddings out.

Pictures are decoded by a few threads while the engine computes; what is decoded ahead is
bounded, and results come in the order of the pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnext import cores, images, predictions, prefetch, preprocess, weights
from resnext.engines import select
from resnext.engines.base import AbstractEngine, Outputs
from resnext.errors import ConfigError, ImageError
from resnext.modelfile import ModelDocument
from resnext.predictions import ImageResult, Prediction

if TYPE_CHECKING:
    from resnext.hub.downloads import Progress

DEFAULT_MODEL = "starter"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One picture on its way: its name, and its pixels or why there are none."""

    name: str
    pixels: NDArray[np.uint8] | ImageError


@dataclass(frozen=True, slots=True)
class PictureOutputs:
    """What the engine gave for one picture.

    Args:
        name: Of the picture.
        pixels: (S, S, 3) what the network saw.
        outputs: Arrays of one row.
    """

    name: str
    pixels: NDArray[np.uint8]
    outputs: Outputs


class Classifier:
    """A model ready to classify pictures on this machine; needs no torch.

    Args:
        model: Catalogue name, alias, file or `hf-hub:` id; by default the packaged model.
        engine: "auto", "openvino", "onnxruntime" or "torch"; or an engine that is open already.
        precision: "auto" (the fastest that agrees), "bf16" or "fp32" (exact).
        threads: CPU threads of the engine; by default all cores.
        offline: True never touches the network; None follows `RESNEXT_OFFLINE` and
            `HF_HUB_OFFLINE`.
        progress: Called with bytes done and in all (None: unknown) during a download.
        feature_maps: Let the engine give the last feature maps too, as `explore.cam` needs.

    Raises:
        ModelNotFoundError: No such model.
        WeightsUnavailableError: The weights cannot be fetched.
        ModelFileError: The checkpoint is refused.
        ConfigError: An option is out of range.

    Example:
        >>> classifier = Classifier("starter")
        >>> [best, second] = classifier("examples/cat.jpg", top_k=2)
        >>> best.probability > second.probability
        True
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        engine: str | AbstractEngine = "auto",
        precision: str = "auto",
        threads: int | None = None,
        offline: bool | None = None,
        progress: Progress | None = None,
        feature_maps: bool = False,
    ) -> None:
        self.threads = threads  # as asked for
        self._offline = weights.is_offline(offline)
        # Side by side: importing the runtime, and hashing the weights; then importing what the
        # first picture needs, and loading the network.
        with ThreadPoolExecutor(1) as pool:
            if isinstance(engine, str):
                pool.submit(select.preload, engine)
            pool.submit(images.preload)
            self.local = weights.locate(model, offline=offline, progress=progress)
            self.document: ModelDocument = self.local.document
            if isinstance(engine, str):
                self.engine = select.load(
                    self.local,
                    engine=engine,
                    precision=precision,
                    threads=threads,
                    feature_maps=feature_maps,
                )
            else:
                self.engine = engine

    def __call__(self, image: Any, *, top_k: int = 5) -> tuple[Prediction, ...]:
        """Classify one picture.

        Args:
            image: Path, bytes, file object, PIL image or (H, W, 3) uint8 array.
            top_k: Number of predictions.

        Returns:
            The best `top_k` classes, best first.

        Raises:
            ImageError: The picture cannot be read.
        """
        return self._decide(self.engine.run(self._load(image)[None]), top_k)[0]

    def predict(
        self, images: Any, *, top_k: int = 5, batch_size: int | None = None
    ) -> Iterator[ImageResult]:
        """Classify a stream of pictures; a picture that cannot be read has an `error`.

        Args:
            images: An iterable (list, generator, endless stream) of what `__call__` takes;
                or one path, folder, glob or URL.
            top_k: Number of predictions a picture.
            batch_size: Pictures per engine call; by default what suits the engine.

        Yields:
            One result per picture, in order.
        """
        for batch in self._decoded(images, batch_size):
            good = [one.pixels for one in batch if not isinstance(one.pixels, ImageError)]
            decided = iter(self._decide(self._run(good), top_k))
            for one in batch:
                if isinstance(one.pixels, ImageError):
                    yield ImageResult(source=one.name, error=one.pixels.reason)
                    continue
                best = next(decided)
                rejected = predictions.is_rejected(best, self.document.reject_threshold)
                yield ImageResult(source=one.name, predictions=best, rejected=rejected)

    def embed(self, images: Any, *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Compute the pooled features of pictures, the input of the last layer.

        Args:
            images: As for `predict`, but not endless.
            batch_size: Pictures per engine call; by default what suits the engine.

        Returns:
            (N, D) float32; D is 2048, or 1024 for the CIFAR networks.

        Raises:
            ImageError: A picture cannot be read.
        """
        rows = []
        for row in self.embed_each(images, batch_size=batch_size):
            if isinstance(row, ImageError):
                raise row
            rows.append(row)
        return np.array(rows, np.float32).reshape(-1, self.document.architecture.embedding_size)

    def embed_each(
        self, images: Any, *, batch_size: int | None = None
    ) -> Iterator[NDArray[np.float32] | ImageError]:
        """Compute the pooled features of a stream of pictures, one by one.

        Args:
            images: As for `predict`.
            batch_size: Pictures per engine call; by default what suits the engine.

        Yields:
            For each picture, in order, its (D,) features, or why it has none.
        """
        for row in self.run_each(images, batch_size=batch_size):
            yield row if isinstance(row, ImageError) else row.outputs.embedding[0]

    def run_each(
        self, images: Any, *, batch_size: int | None = None
    ) -> Iterator[PictureOutputs | ImageError]:
        """Compute what the engine gives for a stream of pictures, one by one.

        Args:
            images: As for `predict`.
            batch_size: Pictures per engine call; by default what suits the engine.

        Yields:
            For each picture, in order, its name and outputs, or why it has none; the error's
            `path` is the name.
        """
        for batch in self._decoded(images, batch_size):
            good = [one.pixels for one in batch if not isinstance(one.pixels, ImageError)]
            rows = iter(_split(self._run(good)))
            for one in batch:
                if isinstance(one.pixels, ImageError):
                    yield one.pixels
                else:
                    yield PictureOutputs(one.name, one.pixels, next(rows))

    def logits_each(
        self, images: Any, *, batch_size: int | None = None
    ) -> Iterator[NDArray[np.float32] | ImageError]:
        """Compute the logits of a stream of pictures, one by one.

        Batches follow from the pictures alone and not from the timing, so that a part that
        begins at a multiple of the batch size gets the bits that the whole would have had.

        Args:
            images: As for `predict`.
            batch_size: Pictures per engine call; by default what suits the engine.

        Yields:
            For each picture, in order, its (K,) logits, or why it has none.
        """
        for batch in self._decoded(images, batch_size, patience=None):
            good = [one.pixels for one in batch if not isinstance(one.pixels, ImageError)]
            rows = iter(self._run(good).logits)
            for one in batch:
                yield one.pixels if isinstance(one.pixels, ImageError) else next(rows)

    def __repr__(self) -> str:
        return f"Classifier({self.document.name!r}, {self.engine})"

    def close(self) -> None:
        """Free the engine; the classifier cannot be used afterwards."""
        self.engine.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, pictures: list[NDArray[np.uint8]]) -> Outputs:
        size = self.document.preprocess.input_size
        empty = np.empty((0, size, size, 3), np.uint8)
        return self.engine.run(np.stack(pictures) if pictures else empty)

    def _decide(self, outputs: Outputs, top_k: int) -> list[tuple[Prediction, ...]]:
        document = self.document
        return predictions.decide(
            outputs.logits, document.labels, top_k=top_k, temperature=document.temperature
        )

    def _decoded(
        self,
        pictures: Any,
        batch_size: int | None,
        *,
        patience: float | None = prefetch.PATIENCE,
    ) -> Iterator[list[_Loaded]]:
        if batch_size is None:
            batch_size = self.engine.best_batch_size
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        # One batch in the engine, one waiting, and one picture in each decoding thread: what
        # is ahead counts as it came, and a picture may come as 10 MB of bytes.
        ahead = 2 * batch_size + cores.available()
        return prefetch.batches(
            _as_iterable(pictures),
            self._try_load,
            batch_size=batch_size,
            ahead=ahead,
            patience=patience,
        )

    def _load(self, picture: Any) -> NDArray[np.uint8]:
        spec = self.document.preprocess
        if self._offline and images.is_url(picture):
            raise ImageError(_name(picture, 0), "is an address, and the network is off")
        return preprocess.apply(images.open_rgb(picture, orientation=spec.orientation), spec)

    def _try_load(self, index: int, picture: Any) -> _Loaded:
        name = _name(picture, index)
        try:
            return _Loaded(name, self._load(picture))
        except ImageError as error:  # bytes and arrays have no name of their own
            return _Loaded(name, ImageError(name, error.reason, hint=error.hint))


def _split(outputs: Outputs) -> Iterator[Outputs]:
    for row in range(len(outputs.logits)):
        one = slice(row, row + 1)
        maps = None if outputs.features is None else outputs.features[one]
        yield Outputs(outputs.logits[one], outputs.embedding[one], maps)


def _as_iterable(pictures: Any) -> Iterable[Any]:
    if isinstance(pictures, str | os.PathLike):
        return images.iter_sources([pictures])
    # The rows of an array are no pictures, unless it is a whole batch.
    is_row = isinstance(pictures, np.ndarray) and pictures.ndim < 4
    if is_row or isinstance(pictures, bytes) or not isinstance(pictures, Iterable):
        raise ConfigError(
            f"images is one {type(pictures).__name__}; expected an iterable of pictures",
            hint="call the classifier itself for one picture: classifier(picture)",
        )
    return pictures


def _name(picture: Any, index: int) -> str:
    if isinstance(picture, images.Source):
        return picture.name
    if isinstance(picture, str | Path):
        return str(picture)
    return f"image {index}"
