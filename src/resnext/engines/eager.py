"""[torch] Run the `nn.Module` itself: on processors, as the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from resnext.checkpoints.reader import Tensors
from resnext.engines.base import BEST_BATCH_SIZE, AbstractEngine, Outputs, Precision, Signature
from resnext.errors import ConfigError, EngineError
from resnext.modelfile import ModelDocument
from resnext.modules import filled
from resnext.network import ResNeXt
from resnext.preprocess import affine

PRECISIONS = ("auto", "bf16", "fp32")


class EagerEngine(AbstractEngine):
    """One network on a CUDA device where there is one, else on the processor.

    Args:
        document: The network and its normalization.
        tensors: Its `state_dict`.
        precision: "fp32", "bf16", or "auto", which is bf16 on CUDA and fp32 elsewhere.
        threads: Number of processor threads, or None for torch's choice; torch has one
            number for the whole process.
        device: Such as "cuda:1" or "cpu"; None for "cuda" where there is one.
        feature_maps: Let the last feature maps out as well.

    Raises:
        ConfigError: Unknown precision or device, no thread.
    """

    name: ClassVar[str] = "torch"

    def __init__(
        self,
        document: ModelDocument,
        tensors: Tensors,
        *,
        precision: str = "auto",
        threads: int | None = None,
        device: str | None = None,
        feature_maps: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise _refuse(precision, device)
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; expected at least 1")
        self._device = open_device(device or ("cuda" if has_gpu() else "cpu"))
        chosen: Precision = "fp32"
        if precision == "bf16" or (precision == "auto" and self._device.type == "cuda"):
            chosen = "bf16"
        spec = document.architecture
        signature = Signature.of(document, feature_maps=feature_maps)
        super().__init__(signature, precision=chosen, best_batch_size=BEST_BATCH_SIZE)
        if threads is not None:
            torch.set_num_threads(threads)
        self._dtype = torch.bfloat16 if chosen == "bf16" else torch.float32
        scale, shift = (
            torch.from_numpy(values.astype(np.float32)).reshape(1, -1, 1, 1).to(self._device)
            for values in affine(document.preprocess)
        )
        self._scale, self._shift = scale, shift
        model = filled(
            lambda: ResNeXt(spec), tensors, device=torch.device("cpu"), dtype=torch.float32
        ).eval()
        model.to(memory_format=torch.channels_last)
        self._model = model.to(self._device, self._dtype)

    def _infer(self, batch_nhwc: npt.NDArray[np.uint8]) -> Outputs:
        try:
            # By default cuDNN rounds float32 to 10 bits of mantissa, and `flags` turns it off.
            exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
            with torch.inference_mode(), exact:
                # Writable, or torch warns.
                pixels = torch.from_numpy(np.require(batch_nhwc, requirements="W"))
                pixels = pixels.to(self._device).permute(0, 3, 1, 2)
                images = (pixels.float() * self._scale + self._shift).to(self._dtype)
                maps = self._model.forward_features(images)
                embedding = self._model.forward_head(maps, pre_logits=True)
                found = [self._model.fc(embedding), embedding]
                if self.signature.feature_maps:
                    found.append(maps.contiguous())
                return Outputs(*(part.float().cpu().numpy() for part in found))
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise EngineError(f"{self} failed: {error}") from error

    def _release(self) -> None:
        del self._model


def _refuse(precision: str, device: str | None) -> ConfigError:
    """Say what was expected, and why a precision of GPUs was not to be had."""
    known = ", ".join(PRECISIONS)
    if precision not in ("fp16", "tf32"):
        return ConfigError(f"precision is {precision!r}; expected one of {known}")
    if has_gpu():
        why, hint = f"the device is {device!r}", "let torch take the GPU: leave the device open"
    else:
        why, hint = (
            "torch finds no GPU here",
            "docs/gpu.md says what it takes for torch to find one",
        )
    return ConfigError(f"precision is {precision!r}, and {why}; expected one of {known}", hint=hint)


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Put torch's number of threads, one for the whole process, back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_gpu() -> bool:
    """Tell whether torch finds a GPU."""
    return torch.cuda.is_available()


def gpu_name() -> str:
    """Return the name of the GPU that is taken by default; "" where there is none."""
    return torch.cuda.get_device_name() if has_gpu() else ""


def gpu_memory() -> int:
    """Return the most bytes that torch has held on that GPU so far, in this process."""
    return torch.cuda.max_memory_reserved()


def open_device(device: str) -> torch.device:
    """Return a device that is there.

    Raises:
        ConfigError: It is not.
    """
    try:
        return torch.empty(0, device=device).device  # only using it shows whether it is there
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device is {device!r}, which torch does not have: {reason}") from error
