"""Choose the engine for a model: its name, its precision, its threads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from resnext.engines import tuning
from resnext.engines.base import BACKENDS, AbstractEngine, GraphSource, Precision, Signature
from resnext.engines.compiled import make_key
from resnext.errors import (
    ConfigError,
    MissingExtraError,
    ModelFileError,
    closest,
    counted,
    import_extra,
)
from resnext.weights import LocalModel, cache_home, read_tensors

if TYPE_CHECKING:
    import onnx

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
TORCH = ("torch", *(f"torch:{name}" for name in BACKENDS))


def load(
    local: LocalModel,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    feature_maps: bool = False,
    device: str | None = None,
) -> AbstractEngine:
    """Open an engine for a model.

    Args:
        local: A model on this disk; its tensors are only read if no compiled network of it
            is in the cache.
        engine: "openvino", "onnxruntime", "torch" (a GPU where there is one), or "auto", which
            is OpenVINO. "torch:cudnn" and the others of `TORCH` say how torch computes.
        precision: "fp32", "bf16", "int8" for a model that was quantized, on a GPU "fp16" and
            "tf32" as well, or "auto" for what is fastest on this machine. Where `resnext
            benchmark --remember` has measured, and engine and threads are open, they are
            what was fastest there, in all or in this precision.
        threads: Number of processor threads, or None for what suits the machine. Torch has
            one number for the whole process.
        feature_maps: Let the last feature maps out as well.
        device: Of the torch engine: such as "cuda:1" or "cpu"; None for a GPU if there is one.

    Raises:
        ConfigError: Unknown engine, precision or device, or one that this machine does not
            have.
        MissingExtraError: The engine is not installed.
        ModelFileError: The tensors are refused.
        EngineError: The runtime refuses the network.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads is {threads!r}; expected a whole number of at least 1")
    if engine not in (*ENGINES, *TORCH):
        known = TORCH if engine.startswith("torch:") else ENGINES
        near = closest(engine, known)
        raise ConfigError(
            f"engine is {engine!r}; expected one of {', '.join(known)}",
            hint=f"did you mean {near[0]!r}?" if near else "",
        )
    if device is not None and engine not in TORCH:
        raise ConfigError(f"device is {device!r}, and engine {engine!r} has none to choose from",
                          hint="take engine torch")  # fmt: skip
    choice = None
    if (engine, threads) == ("auto", None):
        choice = tuning.find(local, precision)
    # A GPU may be hidden since: the choice says nothing of the processor.
    if choice is not None and is_installed(choice.engine) and (not choice.gpu or has_gpu()):
        engine, precision, threads = choice.engine, choice.precision, choice.threads
    _check_channels(local)
    options: dict[str, Any] = {"precision": precision, "threads": threads}
    if engine in TORCH:
        opened = _open_torch(local, engine, device, feature_maps=feature_maps, **options)
    else:
        opened = _open_graph(local, engine, feature_maps=feature_maps, **options)
    if choice is not None and engine == choice.engine:
        opened.best_batch_size = choice.batch_size
    opened.threads = threads
    return opened


def is_installed(engine: str) -> bool:
    """Tell whether an engine's runtime is there, without importing it."""
    return importlib.util.find_spec(engine.partition(":")[0]) is not None


def has_gpu() -> bool:
    """Tell whether torch is installed and finds a GPU; imports torch."""
    if not is_installed("torch"):
        return False
    with contextlib.suppress(MissingExtraError):
        return bool(import_extra("resnext.engines.eager", extra="torch").has_gpu())
    return False


def _check_channels(local: LocalModel) -> None:
    channels = local.document.architecture.in_chans
    if channels != 3:
        raise ModelFileError(
            f"{local.path}: takes {counted(channels, 'channel')}; expected 3, pictures are RGB"
        )


def _open_torch(
    local: LocalModel, engine: str, device: str | None, **options: Any
) -> AbstractEngine:
    """Open the module itself on a processor, the folded network on a GPU or where asked for."""
    kind = (device or "cpu").partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; expected cpu, cuda or one such as cuda:1")
    eager = import_extra("resnext.engines.eager", extra="torch")
    backend = engine.partition(":")[2]
    device = device or ("cuda" if eager.has_gpu() else "cpu")
    tensors = read_tensors(local)
    opened: AbstractEngine
    if device == "cpu" and not backend:
        opened = eager.EagerEngine(local.document, tensors, device=device, **options)
        return opened
    cuda = import_extra("resnext.engines.cuda", extra="torch")
    opened = cuda.CudaEngine(
        local.document,
        tensors,
        backend=backend or "auto",
        device=device,
        cache=cache_home(),
        **options,
    )
    return opened


def _open_graph(
    local: LocalModel, engine: str, *, precision: str, threads: int | None, feature_maps: bool
) -> AbstractEngine:
    opened: AbstractEngine
    source = describe(local, feature_maps=feature_maps)
    if engine == "onnxruntime":
        ort = import_extra("resnext.engines.ort", extra="ort")
        opened = ort.ORTEngine(source, precision=precision, threads=threads)
        return opened
    # Here, not above: whoever takes another engine does not wait for this one.
    from resnext.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(source, precision=precision, threads=threads, cache=cache_home())


def preload(engine: str = "auto") -> None:
    """Import what `load` will need; nothing goes wrong here that does not go wrong there."""
    if engine in ("auto", "openvino"):
        importlib.import_module("resnext.engines.openvino")


def describe(local: LocalModel, *, feature_maps: bool = False) -> GraphSource:
    """Say where the graph of a model comes from, without reading its tensors."""
    document = local.document
    architecture, preprocess = document.architecture, document.preprocess
    eight_bits = document.quantization

    def build(precision: Precision, /, *, group_width: int = 1) -> onnx.ModelProto:
        from resnext.engines import graph  # brings onnx, 80 ms

        tensors = read_tensors(local)
        return graph.build(
            architecture,
            preprocess,
            tensors,
            precision=precision,
            feature_maps=feature_maps,
            quantization=eight_bits,
            group_width=group_width,
        )

    return GraphSource(
        signature=Signature.of(document, feature_maps=feature_maps),
        build=build,
        eight_bits=eight_bits is not None,
        # The file alone does not tell: for foreign checkpoints the rest comes from elsewhere.
        identity=make_key(
            {
                "weights": local.sha256,
                "architecture": [architecture.name, architecture.num_classes],
                "preprocess": [preprocess.input_size, preprocess.mean, preprocess.std],
                **({"outputs": "feature maps"} if feature_maps else {}),
                # Rounded weights are in the file, whose hash is above.
                **({"ranges": dict(eight_bits.ranges)} if eight_bits else {}),
                **({"rounded": len(eight_bits.weights)} if eight_bits else {}),
            }
        ),
    )
