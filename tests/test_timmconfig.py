from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from resnext import arch, catalogue
from resnext.checkpoints import timmconfig
from resnext.errors import ModelFileError
from resnext.predictions import Labels
from resnext.preprocess import PreprocessSpec

A1H: dict[str, Any] = {
    # timm/resnext50_32x4d.a1h_in1k, config.json
    "architecture": "resnext50_32x4d",
    "num_classes": 1000,
    "num_features": 2048,
    "pretrained_cfg": {
        "tag": "a1h_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}
SPEC = arch.parse("resnext50_32x4d")


def changed(**settings: Any) -> dict[str, Any]:
    return {**A1H, "pretrained_cfg": {**A1H["pretrained_cfg"], **settings}}


def test_published_configuration():
    document = timmconfig.document(A1H, SPEC)
    assert document.name == "resnext50_32x4d.a1h_in1k"
    assert document.license == "apache-2.0"
    assert document.labels == catalogue.imagenet1k()
    assert document.preprocess == PreprocessSpec(
        input_size=288, resize=288, interpolation="bicubic"
    )


@pytest.mark.torch
@pytest.mark.parametrize("name", catalogue.list_models("s[ek]*", pretrained=True))
def test_what_timm_states_agrees_with_the_catalogue(name: str):
    config = pytest.importorskip("timm.models").get_pretrained_cfg(name).to_dict()
    architecture, _, tag = name.partition(".")
    row = catalogue.find(name)
    spec = arch.parse(architecture, num_classes=row.num_classes)
    seen = replace(spec, antialias=False)
    document = timmconfig.document({"architecture": architecture, "pretrained_cfg": config}, seen)
    assert (document.architecture, document.name) == (spec, name)
    assert document.preprocess == row.preprocess
    assert len(document.labels.class_names) == row.num_classes


def test_configuration_agrees_with_the_catalogue():
    assert (
        timmconfig.document(A1H, SPEC).preprocess
        == catalogue.find(A1H["architecture"] + ".a1h_in1k").preprocess
    )


@pytest.mark.parametrize(
    ("settings", "input_size", "resize"),
    [
        ({"test_input_size": None, "test_crop_pct": None}, 224, 235),
        ({"test_crop_pct": None}, 288, 303),
        ({"test_input_size": [3, 256, 256]}, 256, 256),
        ({"test_crop_pct": None, "crop_pct": None}, 288, 329),
    ],
)
def test_test_size_and_crop_go_first(settings: dict[str, Any], input_size: int, resize: int):
    preprocess = timmconfig.document(changed(**settings), SPEC).preprocess
    assert (preprocess.input_size, preprocess.resize) == (input_size, resize)


def test_squash_is_known():
    assert timmconfig.document(changed(crop_mode="squash"), SPEC).preprocess.mode == "squash"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"crop_mode": "border"}, "crop_mode 'border'"),
        ({"crop_mode": "squash", "test_crop_pct": 0.9}, "crop_mode 'squash' with crop_pct 0.9"),
        ({"test_input_size": [3, 288, 224]}, "3x288x224"),
        ({"test_input_size": [1, 288, 288]}, "1x288x288"),
        ({"interpolation": "lanczos"}, "cannot be used: interpolation is 'lanczos'"),
        ({"test_crop_pct": "wide"}, "cannot be used"),
        ({"mean": None}, "cannot be used"),
        ({"mean": [0.5]}, "cannot be used: mean"),
        ({"input_size": [1], "test_input_size": None}, "cannot be used"),
        ({"test_crop_pct": 1e-9}, "cannot be used: resize"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused(settings: dict[str, Any], match: str):
    with pytest.raises(ModelFileError, match=match):
        timmconfig.document(changed(**settings), SPEC)


def test_odd_documents_are_refused():
    for config in ({}, {**A1H, "pretrained_cfg": 3}, {**A1H, "pretrained_cfg": {}}):
        with pytest.raises(ModelFileError):
            timmconfig.document(config, SPEC)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet50", "resnext50_1x64d"),
        ("resnet101d", "resnext101d_1x64d"),
        ("wide_resnet50_2", "resnext50_1x128d"),
        ("seresnet50", "seresnext50_1x64d"),
        ("resnetaa50d", "resnextaa50d_1x64d"),
        ("resnext101_32x8d", "resnext101_32x8d"),
        *((name, name) for name in catalogue.list_models("s*")),
    ],
)
def test_names_of_the_family(name: str, ours: str):
    spec = arch.parse(ours)
    # What the tensors say, of which none is of the anti-aliasing.
    seen = arch.infer(arch.tensor_shapes(spec))
    document = timmconfig.document({**A1H, "architecture": name}, seen)
    assert document.architecture == spec


def test_the_name_tells_anti_aliasing():
    plain = arch.parse("seresnext101d_32x8d", num_classes=11821)
    config = {**A1H, "architecture": "seresnextaa101d_32x8d"}
    found = timmconfig.document(config, plain).architecture
    assert found == replace(plain, antialias=True)
    assert timmconfig.document(config, plain).labels.class_names[-1] == "class_11820"
    with pytest.raises(
        ModelFileError, match="says seresnextaa101d_32x8d, the tensors are seresnext101_32x8d's"
    ):
        timmconfig.document(config, arch.parse("seresnext101_32x8d"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gcresnext50ts",
        "legacy_seresnext50_32x4d",
        "resnetblur50",
        "seresnext26ts",
        "skresnet50",
        "skresnextaa50_32x4d",
        "vit",
    ],
)
def test_lookalikes_are_refused(name: str):
    with pytest.raises(ModelFileError, match="is not a known ResNeXt"):
        timmconfig.document({**A1H, "architecture": name}, SPEC)


def test_widths_that_differ_from_the_name():
    spec = arch.parse("seresnext26d_2x8d")
    config = {**A1H, "architecture": "seresnext26d_32x4d"}
    arguments = {"cardinality": 2, "base_width": 8}
    document = timmconfig.document({**config, "model_args": arguments}, spec)
    assert (document.architecture, document.name) == (spec, "seresnext26d_2x8d.a1h_in1k")
    for wrong in ({}, {"cardinality": 2}, {"cardinality": 0}, {"base_width": "8"}):
        with pytest.raises(ModelFileError):
            timmconfig.document({**config, "model_args": wrong}, spec)


def test_arguments_that_change_the_function_are_refused():
    harmless = {"in_chans": 3, "global_pool": "avg", "drop_rate": 0.1}
    timmconfig.document({**A1H, "model_args": harmless, "global_pool": "avg"}, SPEC)
    with pytest.raises(ModelFileError, match="model_args has act_layer, output_stride"):
        changed_arguments = {"output_stride": 8, "act_layer": "silu"}
        timmconfig.document({**A1H, "model_args": changed_arguments}, SPEC)
    for config in ({"global_pool": "max"}, {"model_args": {"global_pool": "max"}}):
        with pytest.raises(ModelFileError, match="global_pool is 'max'; expected 'avg'"):
            timmconfig.document({**A1H, **config}, SPEC)
    with pytest.raises(ModelFileError):
        timmconfig.document({**A1H, "model_args": 3}, SPEC)


def test_configuration_of_another_network_is_refused():
    with pytest.raises(
        ModelFileError, match="says resnext50_32x4d, the tensors are resnext50_4x24d"
    ):
        timmconfig.document(A1H, arch.parse("resnext50_4x24d"))


@pytest.mark.parametrize(
    ("names", "descriptions", "class_names", "synset_ids"),
    [
        (["cat", "dog"], None, ("cat", "dog"), None),
        ({"0": "cat", "1": "dog"}, None, ("cat", "dog"), None),
        ({"dog": 1, "cat": 0}, None, ("cat", "dog"), None),
        (["n02123045", "n02084071"], None, ("n02123045", "n02084071"), ...),
        (["n02123045", "n02084071"], {"n02123045": "tabby"}, ("tabby", "n02084071"), ...),
        (None, None, ("class_0", "class_1"), None),
    ],
)
def test_label_names(names: Any, descriptions: Any, class_names: Any, synset_ids: Any):
    spec = arch.parse("resnext50_32x4d", num_classes=2)
    config = {**A1H, "label_names": names, "label_descriptions": descriptions}
    labels = timmconfig.document(config, spec).labels
    assert labels.class_names == class_names
    assert labels.synset_ids == (tuple(names) if synset_ids is ... else None)


@pytest.mark.parametrize("names", [["cat"], {"0": "cat", "2": "dog"}, {"cat": "x"}, 3, ["", ""]])
def test_wrong_label_names_are_refused(names: Any):
    with pytest.raises(ModelFileError):
        timmconfig.document(
            {**A1H, "label_names": names}, arch.parse("resnext50_32x4d", num_classes=2)
        )


def written(**changes: Any) -> dict[str, Any]:
    document = timmconfig.document(A1H, SPEC)
    return timmconfig.to_config(replace(document, **changes))


def test_what_is_written_reads_back():
    document = timmconfig.document(A1H, SPEC)
    config = timmconfig.to_config(document)
    assert timmconfig.document(config, SPEC) == document
    assert config["pretrained_cfg"]["tag"] == "a1h_in1k"
    assert config["label_names"][0] == "n01440764"
    again = timmconfig.to_config(replace(document, name="resnext50_32x4d.a.b"))
    assert again["pretrained_cfg"]["tag"] == "a.b"


def test_the_configuration_of_a_known_network():
    spec = arch.parse("resnext50_1x128d")
    labels = Labels(tuple(f"name {index}" for index in range(1000)))
    found = written(architecture=spec, name="resnext50_1x128d", labels=labels)
    assert found["architecture"] == "wide_resnet50_2"
    assert "model_args" not in found
    assert found["label_names"][999] == "name 999"
    assert "tag" not in found["pretrained_cfg"]
    assert found["pretrained_cfg"]["input_size"] == [3, 288, 288]


@pytest.mark.parametrize("size", [32, 96, 224, 288, 320])
def test_timm_computes_the_same_side_to_resize_to(size: int):
    for resize in range(1, 2049):
        spec = PreprocessSpec(input_size=size, resize=resize, interpolation="bilinear")
        crop_pct = timmconfig.crop_pct(spec)
        assert math.floor(size / crop_pct) == resize
    usual = PreprocessSpec(input_size=224, resize=256, interpolation="bilinear")
    assert timmconfig.crop_pct(usual) == 0.875


def test_labels_without_synsets_and_odd_synsets():
    few, names = arch.parse("resnext50_32x4d", num_classes=3), ("a", "a", "c")
    assert written(architecture=few, labels=Labels(names))["label_names"] == ["a", "a", "c"]
    for ids in (("n1", "n2", "n3"), ("n02123045",) * 3):
        found = written(architecture=few, labels=Labels(names, ids))
        assert found["label_names"] == ["a", "a", "c"]
        assert "label_descriptions" not in found


@pytest.mark.parametrize(("count", "named"), [(3, False), (1000, True)])
def test_numbers_are_no_names_unless_they_would_be_taken_for_imagenet(count: int, named: bool):
    spec, labels = arch.parse("resnext50_32x4d", num_classes=count), timmconfig.numbered(count)
    config = written(architecture=spec, labels=labels)
    assert ("label_names" in config) == named
    assert timmconfig.document(config, spec).labels == labels
