"""The catalogue: what names mean, how weights run, and the traps that must not be ours."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

from resnext import arch, catalogue
from resnext.catalogue import WeightSpec
from resnext.errors import ConfigError, ModelFileError, ModelNotFoundError

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT.parent / "shared" / "facts"
ROWS = catalogue.weights()
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

# What a bare name means is part of the product: a change here changes users' answers.
DEFAULTS = {
    "resnext50_32x4d": ("resnext50_32x4d.a1h_in1k", 82.016, 288),
    "resnext50d_32x4d": ("resnext50d_32x4d.bt_in1k", 80.676, 288),
    "resnext101_32x4d": ("resnext101_32x4d.gluon_in1k", 80.336, 224),
    "resnext101_32x8d": ("resnext101_32x8d.tv2_in1k", 82.834, 224),
    "resnext101_64x4d": ("resnext101_64x4d.tv_in1k", 83.246, 224),
    "resnext152_32x4d": ("resnext152_32x4d.mm_in1k", 78.88, 224),
    "seresnext26d_32x4d": ("seresnext26d_32x4d.bt_in1k", 78.816, 288),
    "seresnext26t_32x4d": ("seresnext26t_32x4d.bt_in1k", 78.736, 288),
    "seresnext50_32x4d": ("seresnext50_32x4d.racm_in1k", 82.186, 288),
    "seresnext101_32x4d": ("seresnext101_32x4d.gluon_in1k", 80.886, 224),
    "seresnext101_32x8d": ("seresnext101_32x8d.ah_in1k", 84.192, 288),
    "seresnext101_64x4d": ("seresnext101_64x4d.gluon_in1k", 80.884, 224),
    "seresnext101d_32x8d": ("seresnext101d_32x8d.ah_in1k", 84.38, 288),
    "seresnextaa101d_32x8d": ("seresnextaa101d_32x8d.sw_in12k_ft_in1k_288", 86.722, 320),
    "seresnextaa201d_32x8d": ("seresnextaa201d_32x8d.sw_in12k_ft_in1k_384", 87.304, 384),
    "skresnext50_32x4d": ("skresnext50_32x4d.ra_in1k", 80.168, 224),
}
WITHOUT_DEFAULT = ("resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d")
IN12K = ["seresnextaa101d_32x8d.sw_in12k", "seresnextaa201d_32x8d.sw_in12k"]
VARIANTS = [row for row in ROWS if row.architecture.startswith(("se", "sk"))]


def load_script() -> ModuleType:
    path = ROOT / "scripts" / "make_catalogue.py"
    spec = importlib.util.spec_from_file_location("make_catalogue", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- every row -----------------------------------------------------------------------------


def test_the_number_of_rows_and_architectures() -> None:
    assert (len(ROWS), len(VARIANTS)) == (51, 15)
    assert {row.architecture for row in ROWS} == {*DEFAULTS, *WITHOUT_DEFAULT}


@every_row
def test_params_are_those_of_the_architecture(row: WeightSpec) -> None:
    spec = arch.parse(row.architecture, num_classes=row.num_classes)
    assert row.params == arch.num_params(spec)
    assert row.num_classes == (11821 if row.name in IN12K else 1000)


@every_row
def test_a_row_is_found_by_every_name_it_has(row: WeightSpec) -> None:
    hub_ids = [file.hub_id for file in row.files if file.hub_id]
    for name in (row.name, row.name.upper(), row.name.replace("_", "-"), *row.aliases, *hub_ids):
        assert catalogue.find(name) is row


@every_row
def test_json_round_trip(row: WeightSpec) -> None:
    assert WeightSpec.from_json(json.loads(json.dumps(row.to_json()))) == row


@every_row
def test_files_are_safe_to_fetch(row: WeightSpec) -> None:
    for file in row.files:
        assert "/" not in file.filename and "\\" not in file.filename
        if file.url is not None:
            assert urlsplit(file.url).scheme == "https"
            assert file.url.endswith(f"/{file.filename}")
        if file.hub_id is not None:
            assert file.hub_id == f"timm/{row.name}"
            assert (file.filename, file.format) == ("model.safetensors", "safetensors")
        if file.sha256_prefix is not None:
            assert re.fullmatch(r"[0-9a-f]{8}", file.sha256_prefix)
            assert file.sha256_prefix in file.filename
    formats = [file.format for file in row.files]
    # What needs no torch comes first.
    assert formats in (["safetensors", "pth"], ["safetensors"], ["pth"])


@every_row
def test_values_are_in_range(row: WeightSpec) -> None:
    spec = row.preprocess
    assert spec.input_size <= spec.resize <= 2 * spec.input_size
    assert spec.mean == (0.485, 0.456, 0.406) and spec.std == (0.229, 0.224, 0.225)
    assert (spec.mode, spec.orientation) == ("crop", "exif")
    if row.top1 is not None and row.top5 is not None:
        assert 75 < row.top1 < row.top5 < 100
    assert row.notes.endswith(".") and urlsplit(row.origin_url).scheme == "https"
    assert not re.search(r"[^\w.]", row.tag)


def test_only_these_rows_have_no_accuracy_no_hash_or_no_source() -> None:
    def names(rows: list[WeightSpec]) -> list[str]:
        return [row.name for row in rows]

    assert names([r for r in ROWS if r.top1 is None]) == ["resnext101_32x4d.nv_amp_in1k", *IN12K]
    assert names([r for r in ROWS if not any(f.sha256_prefix for f in r.files)]) == [
        "skresnext50_32x4d.ra_in1k",
        "resnext101_32x4d.nv_amp_in1k",
        "seresnextaa101d_32x8d.sw_in12k_ft_in1k_288",
        "seresnextaa101d_32x8d.sw_in12k_ft_in1k",
        "seresnextaa101d_32x8d.sw_in12k",
        "seresnextaa201d_32x8d.sw_in12k_ft_in1k_384",
        "seresnextaa201d_32x8d.sw_in12k",
        "resnext101_32x48d.fb_fixres320_v2_in1k",
        "resnext101_32x48d.fb_fixres320_in1k",
    ]
    # data.lip6.fr serves an expired certificate: 8 digits of a hash do not replace https.
    assert names([r for r in ROWS if not any(f.url or f.hub_id for f in r.files)]) == [
        "resnext101_32x4d.cadene_in1k",
        "resnext101_64x4d.cadene_in1k",
    ]


def test_no_two_rows_share_a_name_or_a_file() -> None:
    owners: dict[str, str] = {}
    for row in ROWS:
        hub_ids = [file.hub_id for file in row.files if file.hub_id]
        for name in (row.name, *row.aliases, *hub_ids):
            assert owners.setdefault(name.lower().replace("-", "_"), row.name) == row.name
        assert not catalogue._is_architecture(row.name)
    files = [file.hub_id or file.url or file.filename for row in ROWS for file in row.files]
    assert len(files) == len(set(files))
    names = [name for row in ROWS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_licenses_that_allow_commercial_use() -> None:
    allowed = {row.license for row in ROWS if row.commercial}
    others = {row.license for row in ROWS if not row.commercial}
    assert allowed == {"apache-2.0", "bsd-3-clause"}
    assert others == {"cc-by-nc-4.0", "ngc-terms"}
    facebook = [row for row in ROWS if row.tag.startswith("fb_")]
    assert len(facebook) == 14 and not any(row.commercial for row in facebook)


# --- what a bare name means ----------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_of_an_architecture(name: str) -> None:
    row = catalogue.find(name)
    assert (row.name, row.top1, row.preprocess.input_size) == DEFAULTS[name]
    assert row is catalogue.default_for(name) is catalogue.defaults()[name]
    rivals = [r for r in ROWS if r.architecture == name and r.commercial and r.top1 is not None]
    assert row.commercial and row.top1 == max(r.top1 for r in rivals if r.top1 is not None)


@pytest.mark.parametrize("name", WITHOUT_DEFAULT)
def test_a_bare_name_never_means_a_non_commercial_license(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="licence that allows commercial use") as info:
        catalogue.find(name)
    rows = [row for row in ROWS if row.architecture == name]
    assert rows and all(row.name in info.value.hint for row in rows)
    assert "cc-by-nc-4.0" in info.value.message
    assert name not in catalogue.defaults()


@pytest.mark.parametrize("name", IN12K)
def test_other_classes_than_those_of_imagenet1k_are_never_the_default(name: str) -> None:
    row = catalogue.find(name)
    assert (row.top1, row.top5, row.accuracy_source) == (None, None, "unpublished")
    assert "numbered" in row.notes
    default = catalogue.default_for(row.architecture)
    assert default.num_classes == 1000 and default.top1 is not None
    assert row.name in [r.name for r in ROWS if r.architecture == row.architecture]


def test_rows_of_one_architecture_stand_together() -> None:
    names = [row.architecture for row in ROWS]
    changes = sum(before != after for before, after in zip(names, names[1:], strict=False))
    assert changes == len(set(names)) - 1


def test_a_name_without_weights() -> None:
    with pytest.raises(ModelNotFoundError, match="no public weights of resnext26_32x4d are known"):
        catalogue.find("resnext26_32x4d")
    with pytest.raises(ModelNotFoundError, match="resnext50_1x64d is ResNet-50,") as info:
        catalogue.find("resnext50_1x64d")
    assert "path of a ResNet checkpoint" in info.value.hint
    with pytest.raises(ModelNotFoundError, match="resnext50d_1x64d is ResNet-50D,"):
        catalogue.find("ResNeXt50d-1x64d")
    # SE-ResNet is none of ours to speak of.
    with pytest.raises(ModelNotFoundError, match="weights of seresnext50_1x64d are known"):
        catalogue.find("seresnext50_1x64d")
    with pytest.raises(ModelNotFoundError, match="is no architecture"):
        catalogue.default_for("resnet50")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnext50_32x4", "resnext50_32x4d"),
        ("resnext50_32x4d.a1h", "resnext50_32x4d.a1h_in1k"),
        ("resnext101_32x8d.IMAGENET1K_V3", "resnext101_32x8d.IMAGENET1K_V2"),
        ("swsl_resnext50", "swsl_resnext50_32x4d"),
        ("seresnet50_32x4d", "did you mean seresnext50_32x4d"),
        ("seresnextaa101d_32x8", "did you mean seresnextaa101d_32x8d"),
        ("legacy_seresnext101_32x4d", "did you mean seresnext101_32x4d"),
        ("skresnext50_32x4d.ra2", "did you mean skresnext50_32x4d.ra_in1k"),
        ("timm/resnext50_32x4d.a1h_in21k", "resnext50_32x4d.a1h_in1k"),
        # The README and the hubconf of FixRes disagree about which weights this is.
        ("fixresnext101_32x48d", "FixResNeXt101_32x48d_v2"),
    ],
)
def test_an_unknown_name_names_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no model is called") as info:
        catalogue.find(name)
    assert name in info.value.message
    assert expected in info.value.hint and "`resnext models`" in info.value.hint


def test_a_name_like_nothing() -> None:
    with pytest.raises(ModelNotFoundError) as info:
        catalogue.find("zzz")
    assert info.value.hint == "`resnext models` lists every name"
    assert isinstance(info.value, LookupError) and info.value.exit_code == 4


# --- traps of other tools --------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 16, 32, 48])
def test_ig_aliases_mean_the_width_they_name(width: int) -> None:
    row = catalogue.find(f"ig_resnext101_32x{width}d")
    assert row.name == f"resnext101_32x{width}d.fb_wsl_ig1b_ft_in1k"
    assert catalogue.find(f"resnext101_32x{width}d_wsl") is row


def test_the_48d_network_is_known() -> None:
    row = catalogue.find("ig_resnext101_32x48d")
    assert row.params == 828_411_176
    assert (row.top1, row.top5) == (85.4, 97.6)
    (file,) = row.files
    assert file.url == "https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth"


@every_row
def test_an_alias_means_the_architecture_it_names(row: WeightSpec) -> None:
    for alias in row.aliases:
        numbers = re.search(r"(?:^|_)((?:fix)?(?:se)?resnext\d+)[_-](\d+x\d+d)", alias.lower())
        assert numbers is not None
        assert row.architecture == f"{numbers[1].removeprefix('fix')}_{numbers[2]}"


@pytest.mark.parametrize("kind", ["ssl", "swsl"])
@pytest.mark.parametrize("name", ["50_32x4d", "101_32x4d", "101_32x8d", "101_32x16d"])
def test_semi_supervised_names(kind: str, name: str) -> None:
    row = catalogue.find(f"{kind}_resnext{name}")
    assert row is catalogue.find(f"resnext{name}_{kind}")
    assert row.name.startswith(f"resnext{name}.fb_{kind}_") and not row.commercial


def test_the_reproducible_accuracy_is_the_one_shown() -> None:
    row = catalogue.find("swsl_resnext101_32x16d")
    assert row.top1 == 83.34 and "84.8" in row.notes


def test_timm_weights_run_at_their_test_size() -> None:
    sizes = {"a1_in1k": (288, 288), "a3_in1k": (224, 235), "ra_in1k": (288, 303)}
    for tag, (size, resize) in sizes.items():
        spec = catalogue.find(f"resnext50_32x4d.{tag}").preprocess
        assert (spec.input_size, spec.resize, spec.interpolation) == (size, resize, "bicubic")
    row = catalogue.find("resnext50_32x4d.a3_in1k")
    assert (row.train_size, row.top1) == (160, 79.258)


@pytest.mark.parametrize(
    ("name", "resize", "top1", "top5", "train_size"),
    [
        ("resnext50_32x4d.tv_in1k", 256, 77.618, 93.698, 224),
        ("resnext50_32x4d.tv2_in1k", 232, 81.198, 95.34, 176),
        ("resnext101_32x8d.tv_in1k", 256, 79.312, 94.526, 224),
        ("resnext101_32x8d.tv2_in1k", 232, 82.834, 96.228, 176),
        ("resnext101_64x4d.tv_in1k", 232, 83.246, 96.454, 176),
    ],
)
def test_torchvision_weights_run_as_torchvision_runs_them(
    name: str, resize: int, top1: float, top5: float, train_size: int
) -> None:
    row = catalogue.find(name)
    spec = row.preprocess
    assert (spec.input_size, spec.resize, spec.interpolation) == (224, resize, "bilinear")
    assert (row.top1, row.top5, row.train_size) == (top1, top5, train_size)
    assert row.accuracy_source == "torchvision Weights.meta"
    assert row.files[0].hub_id == f"timm/{name}"


def test_the_errors_of_the_pytorch_hub_page() -> None:
    for name, error1, error5 in (
        ("tv_resnext50_32x4d", 22.38, 6.30),
        ("resnext101_32x8d.IMAGENET1K_V1", 20.69, 5.47),
    ):
        row = catalogue.find(name)
        assert row.top1 is not None and row.top5 is not None
        assert 100 - row.top1 == pytest.approx(error1, abs=0.005)
        assert 100 - row.top5 == pytest.approx(error5, abs=0.005)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("resnext50_32x4d.IMAGENET1K_V1", "resnext50_32x4d.tv_in1k"),
        ("resnext50_32x4d.imagenet1k_v2", "resnext50_32x4d.tv2_in1k"),
        ("ResNeXt50_32X4D_Weights.IMAGENET1K_V2", "resnext50_32x4d.tv2_in1k"),
        ("ResNeXt50_32X4D_Weights.DEFAULT", "resnext50_32x4d.tv2_in1k"),
        ("resnext101_32x8d.IMAGENET1K_V1", "resnext101_32x8d.tv_in1k"),
        ("ResNeXt101_32X8D_Weights.DEFAULT", "resnext101_32x8d.tv2_in1k"),
        ("resnext101_64x4d.IMAGENET1K_V1", "resnext101_64x4d.tv_in1k"),
        ("ResNeXt101_64X4D_Weights.DEFAULT", "resnext101_64x4d.tv_in1k"),
        ("gluon_resnext101_64x4d", "resnext101_64x4d.gluon_in1k"),
        ("gluon_seresnext101_64x4d", "seresnext101_64x4d.gluon_in1k"),
        ("timm/seresnextaa101d_32x8d.sw_in12k", "seresnextaa101d_32x8d.sw_in12k"),
        ("resnext152-32x4d_8xb32_in1k", "resnext152_32x4d.mm_in1k"),
        (" timm/resnext50d_32x4d.bt_in1k ", "resnext50d_32x4d.bt_in1k"),
    ],
)
def test_names_people_type(alias: str, name: str) -> None:
    assert catalogue.find(alias).name == name


@pytest.mark.torch
@pytest.mark.parametrize("enum", ["ResNeXt50_32X4D", "ResNeXt101_32X8D", "ResNeXt101_64X4D"])
def test_torchvision_agrees(enum: str) -> None:
    models = pytest.importorskip("torchvision.models")
    for member, weights in getattr(models, f"{enum}_Weights").__members__.items():
        row = catalogue.find(f"{enum}_Weights.{member}")
        preset, accuracy = weights.transforms(), weights.meta["_metrics"]["ImageNet-1K"]
        assert row.files[-1].url == weights.url
        assert [row.preprocess.input_size] == preset.crop_size
        assert [row.preprocess.resize] == preset.resize_size
        assert row.preprocess.interpolation == preset.interpolation.value
        assert (row.top1, row.top5) == (accuracy["acc@1"], accuracy["acc@5"])
        assert row.params == weights.meta["num_params"]


@pytest.mark.torch
@pytest.mark.parametrize("row", VARIANTS, ids=lambda row: row.name)
def test_timm_agrees(row: WeightSpec) -> None:
    config = pytest.importorskip("timm.models").get_pretrained_cfg(row.name)
    size = (config.test_input_size or config.input_size)[-1]
    crop_pct = config.test_crop_pct or config.crop_pct
    assert (row.preprocess.input_size, row.preprocess.resize) == (size, int(size / crop_pct))
    assert row.preprocess.interpolation == config.interpolation
    assert (row.preprocess.mean, row.preprocess.std) == (config.mean, config.std)
    assert (row.train_size, row.num_classes) == (config.input_size[-1], config.num_classes)
    assert row.license == (config.license or "apache-2.0")
    assert [file.url for file in row.files if file.url] == [config.url][: bool(config.url)]
    assert row.files[0].hub_id == config.hf_hub_id


def test_layouts_and_sizes_of_the_other_publishers() -> None:
    layouts = {row.tag: row.files[-1].key_layout for row in ROWS}
    assert layouts["mm_in1k"] == "mmpretrain" and layouts["cadene_in1k"] == "cadene"
    assert {v for k, v in layouts.items() if k[:2] not in ("mm", "ca")} == {"torchvision"}
    for name in ("FixResNeXt101_32x48d_v2", "resnext101_32x48d.fb_fixres320_in1k"):
        spec = catalogue.find(name).preprocess
        assert (spec.input_size, spec.resize, spec.interpolation) == (320, 365, "bilinear")
        assert "not exactly this" in catalogue.find(name).notes


# --- identify, search, labels ----------------------------------------------------------------


def test_identify_by_hash() -> None:
    row = catalogue.identify("1A0047AA" + 56 * "0")
    assert row is not None and row.name == "resnext50_32x4d.tv2_in1k"
    # The tensors of both are alike; the hash is what tells them apart.
    for prefix, name in (
        ("191d7b94", "seresnext101d_32x8d"),
        ("83c8ae12", "seresnextaa101d_32x8d"),
    ):
        row = catalogue.identify(prefix + 56 * "0")
        assert row is not None and row.name == f"{name}.ah_in1k"
    assert catalogue.identify(64 * "0") is None


def test_search_by_pattern() -> None:
    assert catalogue.search() == ROWS
    assert catalogue.search("*") == ROWS
    assert {row.architecture for row in catalogue.search("32X48D")} == {"resnext101_32x48d"}
    assert [row.name for row in catalogue.search("swsl_*50*")] == [
        "resnext50_32x4d.fb_swsl_ig1b_ft_in1k"
    ]
    assert [row.name for row in catalogue.search("resnext50-32x4d.tv?in1k")] == [
        "resnext50_32x4d.tv_in1k"
    ]
    assert catalogue.search("nothing") == ()


def test_search_by_license() -> None:
    assert all(row.commercial for row in catalogue.search(license="commercial"))
    assert all(row.license == "apache-2.0" for row in catalogue.search(license="Apache-2.0"))
    both = [catalogue.search(license=word) for word in ("commercial", "non-commercial")]
    assert sorted(map(len, both)) == [17, 34] and set(both[0] + both[1]) == set(ROWS)
    assert catalogue.search("101_32x16d", license="commercial") == ()
    with pytest.raises(
        ConfigError, match="license is 'gpl'; expected one of apache-2.0.*, commercial"
    ):
        catalogue.search(license="gpl")


def test_list_architectures() -> None:
    names = catalogue.list_models()
    assert sorted(names) == sorted({*DEFAULTS, *WITHOUT_DEFAULT})
    assert catalogue.list_models("resnext*") == [
        "resnext50_32x4d",
        "resnext50d_32x4d",
        "resnext101_32x4d",
        "resnext101_32x8d",
        "resnext101_32x16d",
        "resnext101_32x32d",
        "resnext101_32x48d",
        "resnext101_64x4d",
        "resnext152_32x4d",
    ]
    assert names == [*catalogue.list_models("resnext*"), *catalogue.list_models("s*")]
    assert catalogue.list_models("SEResNeXtAA") == [
        "seresnextaa101d_32x8d",
        "seresnextaa201d_32x8d",
    ]
    assert catalogue.list_models("*26?_32x4d") == ["seresnext26d_32x4d", "seresnext26t_32x4d"]
    assert catalogue.list_models("resnet*") == []


def test_list_weights() -> None:
    assert sorted(catalogue.list_models(pretrained=True)) == sorted(row.name for row in ROWS)
    assert catalogue.list_models("seresnextaa*", pretrained=True) == [
        "seresnextaa101d_32x8d.ah_in1k",
        "seresnextaa101d_32x8d.sw_in12k",
        "seresnextaa101d_32x8d.sw_in12k_ft_in1k",
        "seresnextaa101d_32x8d.sw_in12k_ft_in1k_288",
        "seresnextaa201d_32x8d.sw_in12k",
        "seresnextaa201d_32x8d.sw_in12k_ft_in1k_384",
    ]
    # An alias finds the weights it means, and no architecture.
    assert catalogue.list_models("swsl_*50*", pretrained=True) == [
        "resnext50_32x4d.fb_swsl_ig1b_ft_in1k"
    ]
    assert catalogue.list_models("swsl_*50*") == []
    assert catalogue.list_models("nothing", pretrained=True) == []


@pytest.mark.parametrize("license", ["commercial", "non-commercial", "bsd-3-clause"])
def test_list_by_license_as_search_does(license: str) -> None:
    rows = catalogue.search(license=license)
    assert set(catalogue.list_models(pretrained=True, license=license)) == {r.name for r in rows}
    assert set(catalogue.list_models(license=license)) == {r.architecture for r in rows}
    with pytest.raises(ConfigError, match="license is 'gpl'"):
        catalogue.list_models(license="gpl")


def test_imagenet_labels() -> None:
    labels = catalogue.imagenet1k()
    assert labels.synset_ids is not None
    assert len(labels.class_names) == len(set(labels.synset_ids)) == 1000
    assert all(re.fullmatch(r"n\d{8}", synset_id) for synset_id in labels.synset_ids)
    assert (labels.class_names[281], labels.synset_ids[281]) == ("tabby", "n02123045")
    assert (labels.class_names[258], labels.synset_ids[258]) == ("Samoyed", "n02111889")
    assert labels.class_names[999] == "toilet tissue"
    assert list(labels.synset_ids) == sorted(labels.synset_ids)


# --- the asset -------------------------------------------------------------------------------


def test_a_row_with_a_wrong_key_is_refused() -> None:
    row = ROWS[0].to_json()
    with pytest.raises(ModelFileError, match=f"{ROWS[0].name}.*WeightSpec: colour"):
        WeightSpec.from_json({**row, "colour": "red"})
    with pytest.raises(ModelFileError, match="WeightSpec: tag"):
        WeightSpec.from_json({key: value for key, value in row.items() if key != "tag"})
    with pytest.raises(ModelFileError, match="WeightFile: size"):
        WeightSpec.from_json({**row, "files": [{**row["files"][0], "size": 1}]})
    with pytest.raises(ModelFileError, match="calls itself"):
        WeightSpec.from_json({**row, "tag": "other"})


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS[0].license = "mit"  # type: ignore[misc]


def test_the_tables_of_the_page_are_in_step() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert load_script().render_page(page) == page, "run scripts/make_catalogue.py"


def test_the_page_names_everything() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert all(f"`{name}`" in page for name in (row.name, row.architecture, *row.aliases))
        assert row.notes in page


def test_the_asset_is_what_the_script_makes_of_the_records() -> None:
    if not (FACTS / "pretrained.json").is_file():
        pytest.skip(f"the collected records are not at {FACTS}")
    records = json.loads((FACTS / "pretrained.json").read_text(encoding="utf-8"))
    assert tuple(load_script().read_rows(records)) == ROWS


@pytest.mark.parametrize(
    ("model", "ours"),
    [
        ("seresnextaa201d_32x8d", True),
        ("seresnext26t_32x4d", True),
        ("resnext26ts", False),
        ("seresnext26ts", False),
        ("bat_resnext26ts", False),
        ("gcresnext50ts", False),
        ("cspresnext50", False),
        ("legacy_seresnext50_32x4d", False),
        ("se_resnext50_32x4d", False),
    ],
)
def test_which_records_become_rows(model: str, ours: bool) -> None:
    script = load_script()
    record = {"group": "variant", "source": "timm", "model": model}
    assert script.is_ours(record) == ours
    assert not script.is_ours({**record, "group": "quantized"})
    assert not script.is_ours({**record, "source": script.LEFT_OUT[-1]})


def test_loading_brings_in_no_heavy_module() -> None:
    code = (
        "import sys, resnext.catalogue as c; c.weights(); c.imagenet1k()\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = ["torch", "torchvision", "timm", "onnx", "openvino", "rich", "huggingface_hub"]
    command = [sys.executable, "-c", code, *heavy]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
