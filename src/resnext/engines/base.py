"""The seam: what every engine promises, and what is the same in all.

An engine turns uint8 pictures into logits and features. Checks of what goes in and comes
out, splitting when memory runs short, locking and closing live here once; an engine adds
only `_infer`. `resnext.testing` has a public fake behind the same seam.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from resnext.errors import ConfigError, EngineError, counted

if TYPE_CHECKING:  # 80 ms, which a start from a warm cache has no use for
    import onnx

    from resnext.modelfile import ModelDocument

IMAGE: Final = "image"  # names of the graph's input and outputs
LOGITS: Final = "logits"
EMBEDDING: Final = "embedding"
FEATURES: Final = "features"  # an output only where it was asked for
GRAPH_VERSION: Final = 6  # raised with every change to what `graph.build` returns

# Images/s of ResNeXt-50 on two Zen 5 cores: OpenVINO bf16 93 at 1, 97 at 8, less at 16 and
# 32; ONNX Runtime 44 at 1 and at 8.
BEST_BATCH_SIZE: Final = 8

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]  # of all engines together
# How the torch engine computes: `--engine torch:triton`; see `engines.backends`.
BACKENDS: Final = ("cudnn", "wide", "fused", "triton", "pairs", "compile")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a batch of N pictures gives.

    Args:
        logits: (N, K) float32, one row per picture.
        embedding: (N, D) float32, the pooled features the logits were computed from.
        features: (N, D, h, w) float32, the maps the embedding is the mean of; None where the
            engine was opened without.
    """

    logits: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Sizes of a network's input and outputs.

    Args:
        input_size: Side of the square pictures, in pixels.
        in_chans: Channels of a picture.
        num_classes: Length of a row of logits.
        embedding_size: Length of a row of features.
        feature_maps: Whether the last feature maps come out as well.
    """

    input_size: int
    in_chans: int
    num_classes: int
    embedding_size: int
    feature_maps: bool = False

    @classmethod
    def of(cls, document: ModelDocument, *, feature_maps: bool) -> Self:
        """Return the sizes of a model's network."""
        spec = document.architecture
        return cls(
            input_size=document.preprocess.input_size,
            in_chans=spec.in_chans,
            num_classes=spec.num_classes,
            embedding_size=spec.embedding_size,
            feature_maps=feature_maps,
        )


class Build(Protocol):
    """Builds a graph for a precision, its groups at least `group_width` channels wide."""

    def __call__(self, precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        """Return the graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSource:
    """Where an engine gets its graph: built only when it is needed.

    Args:
        signature: Sizes of the network's input and outputs.
        build: Returns the graph; called at most once.
        identity: Tells this graph from every other, such as a hash of the weights and of
            all that `build` depends on; "" where nothing does, and nothing is cached.
        eight_bits: Whether there is a graph for "int8".
    """

    signature: Signature
    build: Build
    identity: str = ""
    eight_bits: bool = False


def check_eight_bits(precision: str, source: GraphSource) -> None:
    """Refuse "int8" for a model that was not quantized.

    Raises:
        ConfigError: It was not.
    """
    if precision == "int8" and not source.eight_bits:
        raise ConfigError(
            "precision is 'int8', and the model was not quantized",
            hint="resnext quantize MODEL --calibrate PICTURES -o FILE",
        )


def hint_for(precision: str) -> str:
    """Say who has a precision that an engine for processors lacks; "" for nobody."""
    return "take engine torch, on a GPU" if precision in ("fp16", "tf32") else ""


class AbstractEngine(ABC):
    """Runs one network; safe to call from many threads, which wait for each other.

    Args:
        signature: Sizes of the network's input and outputs.
        precision: What the arithmetic is done in.
        best_batch_size: Number of pictures per call with the highest throughput here.
    """

    name: ClassVar[str]

    def __init__(self, signature: Signature, *, precision: Precision, best_batch_size: int) -> None:
        self.signature = signature
        self.precision: Precision = precision
        self.best_batch_size = best_batch_size
        self._lock = threading.Lock()
        self._closed = False

    @property
    def num_classes(self) -> int:
        """Length of a row of logits."""
        return self.signature.num_classes

    @property
    def embedding_size(self) -> int:
        """Length of a row of features."""
        return self.signature.embedding_size

    @abstractmethod
    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        """Run one valid, C-contiguous batch of at least one picture.

        Called by one thread at a time. The arrays returned belong to the caller.

        Raises:
            MemoryError: The batch does not fit; a smaller one may.
            EngineError: Any other failure.
        """

    def _release(self) -> None:  # noqa: B027 - most engines hold only memory
        """Give back what the engine holds; called once, never during `_infer`."""

    def run(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        """Compute logits and features.

        At most `best_batch_size` pictures are computed at once, whatever N, so that memory
        is bounded; a part that still does not fit is halved until it does.

        Args:
            batch_nhwc: (N, S, S, C) pixels as `preprocess.apply` gives them; N may be 0.

        Returns:
            Arrays of N rows that belong to the caller.

        Raises:
            ConfigError: The array is of another type or shape.
            EngineError: The engine is closed, failed, has no memory for a single picture,
                or gave NaN or infinity.
        """
        self._check_batch(batch_nhwc)
        with self._lock:
            if self._closed:
                raise EngineError(f"{self} is closed; expected an open engine")
            size = self.best_batch_size
            starts = range(0, len(batch_nhwc), size)
            return self._join(self._infer_all([batch_nhwc[i : i + size] for i in starts]))

    def close(self) -> None:
        """Release the network; waits for a batch in progress. Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"engine {self.name} ({self.precision})"

    def _row_sizes(self) -> tuple[int, int]:
        return self.num_classes, self.embedding_size

    def _infer_all(self, parts: list[npt.NDArray[np.uint8]]) -> list[Outputs]:
        """Run the parts of a batch; where sending and computing can overlap, they do so here."""
        return [self._infer_or_split(np.ascontiguousarray(part)) for part in parts]

    def _infer_or_split(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        count = len(batch_nhwc)
        try:
            outputs = self._infer(batch_nhwc)
            self._check_outputs(outputs, count=count)
            return outputs
        except MemoryError as error:
            if count == 1:
                raise EngineError(
                    f"{self} has not enough memory for one picture of"
                    f" {self.signature.input_size} pixels",
                    hint="close other programs or take a smaller model",
                ) from error
        # Outside the handler, whose traceback would keep the failed call's memory alive.
        halves = batch_nhwc[: count // 2], batch_nhwc[count // 2 :]
        return self._join([self._infer_or_split(half) for half in halves])

    def _join(self, parts: list[Outputs]) -> Outputs:
        if len(parts) == 1:
            return parts[0]
        logits, embedding = (np.empty((0, size), np.float32) for size in self._row_sizes())
        maps = [part.features for part in parts if part.features is not None]
        return Outputs(
            np.concatenate([logits, *(part.logits for part in parts)]),
            np.concatenate([embedding, *(part.embedding for part in parts)]),
            np.concatenate(maps) if maps else None,
        )

    def _check_batch(self, batch_nhwc: object) -> None:
        size, channels = self.signature.input_size, self.signature.in_chans
        expected = f"expected uint8 of shape (N, {size}, {size}, {channels})"
        if not isinstance(batch_nhwc, np.ndarray):
            raise ConfigError(f"the batch is a {type(batch_nhwc).__name__}; {expected}")
        fits = batch_nhwc.ndim == 4 and batch_nhwc.shape[1:] == (size, size, channels)
        if batch_nhwc.dtype != np.uint8 or not fits:
            raise ConfigError(f"the batch is {batch_nhwc.dtype} {batch_nhwc.shape}; {expected}")

    def _check_outputs(self, outputs: Outputs, *, count: int) -> None:
        named: tuple[tuple[str, npt.NDArray[Any]], ...] = (
            (LOGITS, outputs.logits),
            (EMBEDDING, outputs.embedding),
        )
        if self.signature.feature_maps:
            self._check_maps(outputs.features, count=count)
        for (name, rows), size in zip(named, self._row_sizes(), strict=True):
            if rows.shape != (count, size) or rows.dtype != np.float32:
                raise EngineError(
                    f"{self} gave {name} as {rows.dtype} {rows.shape}; expected float32"
                    f" {(count, size)}"
                )
            bad = int((~np.isfinite(rows)).any(axis=1).sum())
            if bad:
                raise EngineError(
                    f"{self} gave NaN or infinity in the {name} of {bad} of"
                    f" {counted(count, 'picture')};"
                    " expected finite numbers",
                    hint="try another precision or engine; if it stays, the weights are broken",
                )

    def _check_maps(self, maps: npt.NDArray[np.float32] | None, *, count: int) -> None:
        leading = (count, self.embedding_size)
        if maps is None or maps.ndim != 4 or maps.shape[:2] != leading or maps.dtype != np.float32:
            found = "nothing" if maps is None else f"{maps.dtype} {maps.shape}"
            raise EngineError(
                f"{self} gave {FEATURES} as {found}; expected float32 {(*leading, 'h', 'w')}"
            )
