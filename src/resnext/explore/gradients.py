"""[torch] Grad-CAM and Grad-CAM++: class activation maps of any layer.

Grad-CAM (arXiv:1610.02391) weighs the maps of a layer by their mean gradient; on the last one
of these networks it is the class activation map itself. Grad-CAM++ (arXiv:1710.11063, equation
19 and section 3.2) weighs each place of a map by itself.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnext.errors import ConfigError, closest
from resnext.modules import filled
from resnext.network import ResNeXt
from resnext.preprocess import normalize
from resnext.weights import LocalModel, read_tensors

Method = Literal["gradcam", "gradcam++"]

METHODS = ("gradcam", "gradcam++")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class GradientMaps:
    """A network opened to look at its gradients.

    Args:
        local: The model.
        layer: Name of the module whose maps are taken: a stage such as "layer4", or a part of
            one such as "layer3.0".

    Raises:
        ConfigError: The network has no such layer.
        ModelFileError: The tensors are refused.
    """

    def __init__(self, local: LocalModel, *, layer: str = "layer4") -> None:
        spec, self._preprocess = local.document.architecture, local.document.preprocess
        self._model = filled(
            lambda: ResNeXt(spec),
            read_tensors(local),
            device=torch.device("cpu"),
            dtype=torch.float32,
        ).eval()
        self._model.requires_grad_(False)
        self._layer = _find(self._model, layer)

    def __call__(
        self, batch_nhwc: NDArray[np.uint8], targets: list[int], *, method: str = "gradcam"
    ) -> NDArray[np.float32]:
        """Compute the maps of some pictures.

        Args:
            batch_nhwc: (N, S, S, 3) pixels as `preprocess.apply` gives them.
            targets: Class index of each.
            method: One of `METHODS`.

        Returns:
            (N, h, w), before the rectification: what is below zero speaks against.

        Raises:
            ConfigError: Unknown method.
        """
        if method not in METHODS:
            raise ConfigError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
        batch = normalize(batch_nhwc, self._preprocess).transpose(0, 3, 1, 2)
        images = torch.from_numpy(np.ascontiguousarray(batch))
        maps, gradients = self._differentiate(images, torch.tensor(targets))
        weigh = _mean if method == "gradcam" else _by_place
        weights = weigh(maps, gradients)
        found: NDArray[np.float32] = (weights[:, :, None, None] * maps).sum(dim=1).numpy()
        return found

    def _differentiate(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of the layer, and the gradient of the target's logit at them."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
            kept.append(maps.detach().requires_grad_())
            # A copy goes on: the next module may compute in place.
            return kept[-1].clone()

        handle = self._layer.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                logits = self._model(images)
                chosen = logits.gather(1, targets[:, None]).sum()
                [gradients] = torch.autograd.grad(chosen, kept)
        finally:
            handle.remove()
        return kept[0].detach(), gradients


def _mean(_maps: Tensor, gradients: Tensor) -> Tensor:
    return gradients.mean(dim=(2, 3))


def _by_place(maps: Tensor, gradients: Tensor) -> Tensor:
    squares = gradients**2
    totals = maps.sum(dim=(2, 3), keepdim=True)
    below = 2 * squares + totals * gradients**3
    shares = torch.where(gradients == 0, 0.0, squares / (below + 1e-6))
    return (shares * gradients.clamp(min=0)).sum(dim=(2, 3))


def _find(model: nn.Module, layer: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(model.named_modules())
    if layer.split(".")[0] in _STAGES and layer in known:
        return known[layer]
    near = closest(layer, [name for name in known if name.split(".")[0] in _STAGES])
    raise ConfigError(
        f"layer is {layer!r}; expected one of {', '.join(_STAGES)} or a part of one",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )
