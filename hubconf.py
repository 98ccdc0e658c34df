"""Entry points for `torch.hub`.

    torch.hub.load("<this checkout>", "resnext50_32x4d", source="local", pretrained=True)

Every architecture of the catalogue is an entry point, and `create_model` takes any name.
Whatever has no underscore in front is one for `torch.hub.list`. Nothing of the package is
imported before an entry point is called: torch.hub checks `dependencies` in between.
"""

import json as _json
import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = """
torch numpy PIL safetensors ml_dtypes platformdirs huggingface_hub filelock truststore
""".split()

# A checkout is loaded without being installed.
_SOURCE = _Path(__file__).resolve().parent / "src"
_CATALOGUE = _SOURCE / "resnext" / "assets" / "catalogue.json"
if str(_SOURCE) not in _sys.path:
    _sys.path.insert(0, str(_SOURCE))


def create_model(name: str, pretrained: bool = False, **options: _Any) -> _Any:
    """Build any network of the family, as `resnext.create_model`.

    Args:
        name: Architecture, weights of the catalogue, an alias, or a checkpoint.
        pretrained: Load weights; the model is then in eval mode.
        **options: weights, num_classes, in_chans, features_only, out_indices, drop_rate,
            drop_path_rate, output_stride, zero_init_last, offline.
    """
    from resnext import zoo

    return zoo.create_model(name, pretrained, **options)


def _entry_point(architecture: str, rows: list[dict[str, _Any]]) -> _Callable[..., _Any]:
    def build(pretrained: bool = False, **options: _Any) -> _Any:
        return create_model(architecture, pretrained, **options)

    build.__name__ = build.__qualname__ = architecture
    build.__doc__ = f"""Build {architecture}.

    Args:
        pretrained: {_default(rows)}. The model is then in eval mode.
        weights: Load these instead: a tag of the list{_torchvisions(rows)}.
        **options: As for `create_model`: num_classes, in_chans, features_only, out_indices,
            drop_rate, drop_path_rate, output_stride, zero_init_last, offline.

    Weights: top-1 / top-5 error in percent, pixels, licence:
{chr(10).join(f"        {row['tag']}: {_describe(row)}" for row in rows)}
    """
    return build


def _torchvisions(rows: list[dict[str, _Any]]) -> str:
    names = [alias for row in rows for alias in row["aliases"] if "_Weights.IMAGENET" in alias]
    return f", or {' or '.join(name.split('.')[-1] for name in names)}" if names else ""


def _default(rows: list[dict[str, _Any]]) -> str:
    free = [row for row in rows if row["commercial"] and row["top1"] is not None]
    if not free:
        return "Refused: name weights, none is for commercial use"
    best = max(free, key=lambda row: row["top1"])
    return f"Load `{best['architecture']}.{best['tag']}`"


def _describe(row: dict[str, _Any]) -> str:
    top1, top5 = row["top1"], row["top5"]
    error = "unpublished" if top1 is None else f"{100 - top1:.2f} / {100 - top5:.2f}"
    return f"{error}, {row['preprocess']['input_size']} px, {row['license']}"


def _add_entry_points() -> None:
    rows: dict[str, list[dict[str, _Any]]] = {}
    for row in _json.loads(_CATALOGUE.read_text(encoding="utf-8"))["weights"]:
        rows.setdefault(row["architecture"], []).append(row)
    for architecture, own in rows.items():
        globals()[architecture] = _entry_point(architecture, own)


_add_entry_points()
