"""Entry points for `torch.hub`.

    torch.hub.load("<this checkout>", "resnext50_32x4d", source="local", pretrained=True)

Every architecture of the catalogue is an entry point, and `create_model` takes any name.
Whatever has no underscore in front is one for `torch.hub.list`.
"""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

# A checkout is loaded without being installed.
_SOURCE = str(_Path(__file__).resolve().parent / "src")
if _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)

from resnext import catalogue as _catalogue  # noqa: E402
from resnext.network import ResNeXt as _ResNeXt  # noqa: E402
from resnext.zoo import create_model as create_model  # noqa: E402

dependencies = """
torch numpy PIL safetensors ml_dtypes platformdirs huggingface_hub filelock truststore
""".split()


def _entry_point(architecture: str) -> _Callable[..., _ResNeXt]:
    def build(pretrained: bool = False, **options: _Any) -> _ResNeXt:
        return create_model(architecture, pretrained, **options)

    rows = [row for row in _catalogue.weights() if row.architecture == architecture]
    best = _catalogue.defaults().get(architecture)
    chosen = f"`{best.name}`" if best else "an error: name weights, none is for commercial use"
    build.__name__ = build.__qualname__ = architecture
    build.__doc__ = f"""Build {architecture}.

    Args:
        pretrained: Load weights: {chosen}. The model is then in eval mode.
        weights: Load these instead: {", ".join(row.tag for row in rows)}, or torchvision's
            names, such as IMAGENET1K_V2, where these are its weights.
        **options: As for `create_model`: num_classes, in_chans, features_only, out_indices,
            drop_rate, drop_path_rate, output_stride, zero_init_last, offline.

    Weights: top-1 / top-5 error in percent, pixels, licence:
{chr(10).join(f"        {row.tag}: {_describe(row)}" for row in rows)}
    """
    return build


def _describe(row: _Any) -> str:
    error = "unpublished" if row.top1 is None else f"{100 - row.top1:.2f} / {100 - row.top5:.2f}"
    return f"{error}, {row.preprocess.input_size} px, {row.license}"


for _name in dict.fromkeys(row.architecture for row in _catalogue.weights()):
    globals()[_name] = _entry_point(_name)
