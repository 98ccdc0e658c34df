"""Write the catalogue's assets and the tables of `docs/models.md`.

    python scripts/make_catalogue.py [FACTS]

FACTS is a folder with `pretrained.json` (one record per published weight, as collected from
torchvision's `Weights.meta`, timm's `pretrained_cfg` and `results-imagenet.csv`, and the
publishers' pages) and `imagenet1k_classes.txt` and `imagenet1k_synsets.txt` (one line per
class). With it the assets are made anew; without it only the tables are, from the assets.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnext import arch, catalogue
from resnext.catalogue import WeightFile, WeightSpec
from resnext.preprocess import PreprocessSpec

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "src" / "resnext" / "assets"
PAGE = ROOT / "docs" / "models.md"

Record = Mapping[str, Any]

# What no plain `.pth` or `.safetensors` reader can load, no user could classify with, or is
# another network. docs/models.md, "What is left out", gives the reason for each.
LEFT_OUT = (
    "facebookresearch/ResNeXt",
    "open-mmlab pretrain/third_party (detection backbones)",
    "torch.hub NVIDIA/DeepLearningExamples:torchhub nvidia_se_resnext101_32x4d",
)
OTHER_NETWORKS = re.compile(r"(bat_|csp|eca_|gc|legacy_|se_).*|(se)?resnext26ts")

# Licences are written by hand in the records: the part that is an identifier.
LICENSES = {
    "apache-2.0": "apache-2.0",
    "apache-2.0 (repository licence)": "apache-2.0",
    "bsd-3-clause": "bsd-3-clause",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-4.0 (see FixRes LICENSE)": "cc-by-nc-4.0",
    "upstream (FAIR cc-by-nc-4.0 / SENet)": "cc-by-nc-4.0",
    "see NGC terms": "ngc-terms",
}
COMMERCIAL = ("apache-2.0", "bsd-3-clause", "mit")  # anything else, and anything unknown: no

# Tags for weights that have none: timm's scheme is publisher_data.
TAGS = {
    "mm_8xb32_in1k": "mm_in1k",
    "fixres_320": "fb_fixres320_in1k",
    "fixres_320_v2": "fb_fixres320_v2_in1k",
    "cadene": "cadene_in1k",
    "nv_amp_20.06": "nv_amp_in1k",
}

# Where timm measured a file far from what its publisher states, the note says so.
NOTEWORTHY_GAP = 0.3  # points of top-1

TIMM = "https://github.com/huggingface/pytorch-image-models"  # where a record names no home
RSB = "ResNet strikes back (arXiv:2110.00476)"
IN12K = "ImageNet-12k (timm's choice of 11,821 classes) with a recipe after Swin Transformer's"
REPOSITORY = "The licence is that of the repository."
TAG_NOTES = {
    "a1_in1k": f"Recipe A1 of {RSB}.",
    "a1h_in1k": f"Recipe A1 of {RSB} with stronger dropout, stochastic depth and RandAugment.",
    "a2_in1k": f"Recipe A2 of {RSB}.",
    "a3_in1k": f"Recipe A3 of {RSB}, trained at 160 px.",
    "c1_in1k": f"Recipe C1 of {RSB}: SGD with Nesterov momentum and adaptive gradient clipping.",
    "ah_in1k": f"Recipe derived from A1 of {RSB}, with heavier augmentation.",
    "ra_in1k": "timm's RandAugment recipe.",
    "racm_in1k": "timm's RandAugment recipe with mixup and CutMix.",
    "bt_in1k": "timm's bag-of-tricks recipe.",
    "gluon_in1k": "Ported from GluonCV by timm.",
    "sw_in12k": (
        f"Trained on {IN12K}: to fine-tune, and for embeddings. Its classes are numbered here;"
        " timm's `ImageNetInfo('imagenet-12k')` names them in the same order."
    ),
    "sw_in12k_ft_in1k": f"Trained on {IN12K}, fine-tuned on ImageNet-1k.",
    "sw_in12k_ft_in1k_288": f"Trained on {IN12K}, fine-tuned on ImageNet-1k at 288 px.",
    "sw_in12k_ft_in1k_384": f"Trained on {IN12K}, fine-tuned on ImageNet-1k at 384 px.",
    "tv_in1k": f"torchvision's IMAGENET1K_V1. {REPOSITORY}",
    "tv2_in1k": f"torchvision's IMAGENET1K_V2. {REPOSITORY}",
    "fb_wsl_ig1b_ft_in1k": (
        "Weakly supervised on 940 million Instagram pictures and their hashtags, fine-tuned on"
        " ImageNet-1k (arXiv:1805.00932)."
    ),
    "fb_ssl_yfcc100m_ft_in1k": (
        "Semi-supervised on YFCC100M, fine-tuned on ImageNet-1k (arXiv:1905.00546)."
    ),
    "fb_swsl_ig1b_ft_in1k": (
        "Semi-supervised on Instagram pictures with a weakly supervised teacher, fine-tuned on"
        " ImageNet-1k (arXiv:1905.00546)."
    ),
    "fb_fixres320_in1k": (
        "The weakly supervised weights with classifier and batch norm fine-tuned at 320 px"
        " (arXiv:1906.06423)."
    ),
    "mm_in1k": f"Trained by MMPretrain. {REPOSITORY}",
    "cadene_in1k": (
        "Port of FAIR's Torch7 weights, published 0.6 points below the original, which was"
        " tested with bicubic resizing. Its only source answers with a certificate that expired"
        " in 2022, so it is not downloaded: bring a copy, and its hash is checked."
    ),
    "nv_amp_in1k": (
        "NVIDIA DeepLearningExamples 20.06, under the terms of NGC. Neither an accuracy nor a"
        " hash of this file is published."
    ),
}
FIXRES_NOTE = (
    " The short side is int(256/224*320) = 365 as in FixRes' transforms.py; that code scales the"
    " height whatever the orientation, so on portrait pictures the published figure is not exactly"
    " this transform. No hash of this file is published."
)
TAG_NOTES["fb_fixres320_v2_in1k"] = (
    f"{TAG_NOTES['fb_fixres320_in1k']} Fine-tuned longer, with the augmentation of"
    f" transforms_v2.py.{FIXRES_NOTE}"
)
TAG_NOTES["fb_fixres320_in1k"] += FIXRES_NOTE
EXTRA_NOTES = {
    "resnext101_64x4d.tv_in1k": (
        "Trained by the recipe of the V2 weights, and tested with a short side of 232: at 256 it"
        " loses 0.27 points."
    ),
    "resnext152_32x4d.mm_in1k": "The only public 152-layer 32x4d weights in PyTorch format.",
}
# pytorch/vision pull request 5935: `--train-crop-size=176`; timm's record says 224.
TRAIN_SIZES = {"resnext101_64x4d.tv_in1k": 176}


def read_rows(records: Iterable[Record]) -> list[WeightSpec]:
    """Return one row per distinct file of the family's weights, in the catalogue's order."""
    by_place: dict[str, list[Record]] = {}
    for record in filter(is_ours, records):
        by_place.setdefault(record["url"] or record["hf_hub_id"], []).append(record)
    rows = [make_row(same) for same in by_place.values()]

    def order(row: WeightSpec) -> tuple[int, str, float, str]:
        size = arch.num_params(arch.parse(row.architecture))
        return (size, row.architecture, -(row.top1 or 0), row.name)

    return sorted(rows, key=order)


def is_ours(record: Record) -> bool:
    """Tell whether a record is of a network that `arch` knows, in a file that can be read."""
    of_family = record["group"] in ("plain", "variant")
    left_out = record["source"] in LEFT_OUT or OTHER_NETWORKS.fullmatch(record["model"])
    return of_family and not left_out


def make_row(records: list[Record]) -> WeightSpec:
    """Merge the records of one file: timm's has the hub copy, torchvision's the test setting."""
    timm = next((r for r in records if r["source"] == "timm"), None)
    torchvision = next((r for r in records if r["source"].startswith("torchvision")), None)
    record = torchvision or records[0]
    architecture = record["model"].lower()
    tag: str = (timm or record)["tag"]
    tag = TAGS.get(tag, tag)
    name = f"{architecture}.{tag}"
    preprocess = make_preprocess(record)
    result, rest = pick_result(record, preprocess)
    license = LICENSES[(timm or record)["license"]]
    num_classes = record["num_classes"]
    params = arch.num_params(arch.parse(architecture, num_classes=num_classes))
    if any(r["param_count"] not in (None, params) for r in records):
        raise SystemExit(f"{name}: {[r['param_count'] for r in records]} parameters, not {params}")
    return WeightSpec(
        architecture=architecture,
        tag=tag,
        files=tuple(make_files(record, timm)),
        preprocess=preprocess,
        train_size=TRAIN_SIZES.get(name, (timm or record)["input_size"][-1]),
        license=license,
        commercial=license in COMMERCIAL,
        top1=result.get("top1"),
        top5=result.get("top5"),
        accuracy_source=name_source(result),
        params=params,
        num_classes=num_classes,
        aliases=tuple(make_aliases(architecture, tag, record, timm)),
        origin_url=record["origin_url"] or TIMM,
        notes=make_note(name, result, rest),
    )


def make_preprocess(record: Record) -> PreprocessSpec:
    """Return the test setting: timm's `test_input_size` where it has one."""
    size = (record.get("test_input_size") or record["input_size"])[-1]
    resize = record.get("resize_size")
    if record["source"] == "facebookresearch/FixRes":
        resize = int(256 / 224 * size)  # FixRes, imnet_evaluate/transforms.py
    if resize is None:
        crop_pct = record.get("test_crop_pct") or record["crop_pct"]
        resize = math.floor(size / crop_pct)  # timm.data.transforms_factory
    return PreprocessSpec(
        input_size=size,
        resize=resize,
        interpolation=record["interpolation"],
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
    )


def pick_result(record: Record, preprocess: PreprocessSpec) -> tuple[Record, list[Record]]:
    """Return the accuracy at the size it runs at, a measured one first, and the other ones."""
    at_size = [r for r in record["results"] if r["img_size"] == preprocess.input_size]
    at_size.sort(key=lambda r: r["source"] == "upstream README (published)")
    return (at_size[0], at_size[1:]) if at_size else ({}, [])


def name_source(result: Record) -> str:
    """Say in a few words who published an accuracy."""
    source = result.get("source", "unpublished")
    return str(source).replace("https://github.com/", "").replace("timm results/", "timm ")


def make_note(name: str, result: Record, rest: list[Record]) -> str:
    """Return the note, with the publisher's accuracy where timm measured another one."""
    notes = [TAG_NOTES[name.partition(".")[2]]]
    notes += [EXTRA_NOTES[name]] if name in EXTRA_NOTES else []
    notes += [
        f"Its publisher states {other['top1']} / {other['top5']} %; the accuracy shown here is"
        " what timm measured with the same file."
        for other in rest
        if abs(other["top1"] - result["top1"]) >= NOTEWORTHY_GAP
    ]
    return " ".join(notes)


def make_files(record: Record, timm: Record | None) -> Iterable[WeightFile]:
    """Yield where a file can be had: the hub's safetensors (needs no torch), then the `.pth`."""
    if timm is not None:
        yield WeightFile(
            filename="model.safetensors", format="safetensors", hub_id=timm["hf_hub_id"]
        )
    layouts = {"MMPretrain": "mmpretrain", "Cadene/pretrained-models.pytorch": "cadene"}
    url = record["url"]
    if url is None:
        return
    yield WeightFile(
        filename=url.rsplit("/", 1)[1],
        format="pth",
        key_layout=layouts.get(record["source"], "torchvision"),  # type: ignore[arg-type]
        # Plain http is not a source: 8 digits of a hash do not stop a forger.
        url=url if url.startswith("https://") else None,
        sha256_prefix=record["sha256_prefix_in_filename"],
    )


def make_aliases(architecture: str, tag: str, record: Record, timm: Record | None) -> Iterable[str]:
    """Yield the names that other tools give to the same file."""
    yield from (timm or record).get("legacy_names") or ()
    if record["source"].startswith("torchvision"):
        enum = record["id"].removeprefix("torchvision/").rsplit(".", 1)[0]
        yield f"{architecture}.{record['tag']}"
        yield f"{enum}.{record['tag']}"
        if record["tag"] == "IMAGENET1K_V2" or architecture == "resnext101_64x4d":
            yield f"{architecture}.DEFAULT"
            yield f"{enum}.DEFAULT"
    # torch.hub entry points of facebookresearch/WSL-Images and semi-supervised-ImageNet1K-models
    match = re.fullmatch(r"fb_(ssl|swsl|wsl)_.*", tag)
    if match:
        yield f"{architecture}_{match[1]}"
    if record["source"] == "MMPretrain":
        yield f"{architecture.replace('_', '-')}_8xb32_in1k"
    if tag == "fb_fixres320_v2_in1k":
        yield "FixResNeXt101_32x48d_v2"


def write_assets(facts: Path) -> None:
    """Make `catalogue.json` and `imagenet1k.json` anew."""
    records = json.loads((facts / "pretrained.json").read_text(encoding="utf-8"))
    table = {"weights": [row.to_json() for row in read_rows(records)]}
    lines = {
        key: (facts / f"imagenet1k_{stem}.txt").read_text(encoding="utf-8").splitlines()
        for key, stem in (("class_names", "classes"), ("synset_ids", "synsets"))
    }
    for filename, value in (("catalogue.json", table), ("imagenet1k.json", lines)):
        text = json.dumps(value, indent=1, ensure_ascii=False)
        # Lists of numbers on one line: the file is read in reviews.
        text = re.sub(r"\[\s+([\d.,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        (ASSETS / filename).write_text(text + "\n", encoding="utf-8")


def render_tables() -> dict[str, str]:
    """Return the generated parts of the page by the name of their markers."""
    rows = catalogue.weights()
    return {
        "defaults": _table(
            ("You type", "You get", "Top-1 / top-5", "Licence"),
            [_default_line(name) for name in dict.fromkeys(row.architecture for row in rows)],
        ),
        "weights": _table(
            ("Weights", "Params", "Input", "Top-1 / top-5", "Licence", "Commercial", "Source"),
            [_weight_line(row) for row in rows],
        ),
        "aliases": _table(
            ("Weights", "Other names"),
            [(f"`{row.name}`", _code(row.aliases)) for row in rows if row.aliases],
        ),
        "notes": "\n".join(f"- {_code(names)}: {note}" for note, names in _by_note().items()),
    }


def _by_note() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for row in catalogue.weights():
        names.setdefault(row.notes, []).append(row.name)
    return names


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rule = tuple("---" for _ in head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _default_line(architecture: str) -> tuple[str, ...]:
    row = catalogue.defaults().get(architecture)
    if row is None:
        return (f"`{architecture}`", "an error that names its non-commercial weights", "", "")
    return (f"`{architecture}`", f"`{row.name}`", _accuracy(row), row.license)


def _weight_line(row: WeightSpec) -> tuple[str, ...]:
    spec = row.preprocess
    return (
        f"[`{row.name}`]({row.origin_url})",
        f"{row.params / 1e6:.1f} M",
        f"{spec.input_size} of {spec.resize}, {spec.interpolation}",
        _accuracy(row),
        row.license,
        "yes" if row.commercial else "no",
        row.accuracy_source,
    )


def _accuracy(row: WeightSpec) -> str:
    if row.num_classes != 1000:
        return f"{row.num_classes:,} classes"
    if row.top1 is None or row.top5 is None:
        return "unpublished"
    return f"{row.top1:.2f} / {row.top5:.2f}"


def render_page(page: str) -> str:
    """Return the page with its generated parts made anew.

    Raises:
        SystemExit: A pair of markers is missing or there twice.
    """
    for name, text in render_tables().items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- /{name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise SystemExit(f"{PAGE}: expected one pair of markers of {name!r}")
        head, rest = page.split(begin)
        page = f"{head}{begin}{text}\n{end}{rest.split(end)[1]}"
    return page


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("facts", nargs="?", type=Path, help="folder of the collected records")
    args = parser.parse_args(argv)
    if args.facts is not None:
        write_assets(args.facts)
        catalogue.weights.cache_clear()
        catalogue.defaults.cache_clear()
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
