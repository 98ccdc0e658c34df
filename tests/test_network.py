"""`network`: torchvision's and timm's, bit for bit, in every form; and its own options."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from networks import Tensors, one_thread, random_tensors

from resnext import arch
from resnext.arch import ArchSpec
from resnext.errors import ConfigError, import_extra

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
oracles = pytest.importorskip("oracles", reason="needs timm and torchvision")
network = import_extra("resnext.network", extra="torch")

# One of each form, as thin as it gets; the rest of the family differs in sizes only.
FORMS = (
    "resnext26_2x4d",
    "resnext26d_2x4d",
    "seresnextaa26t_2x4d",
    "skresnext26d_2x4d",
    "resnext29_2x4d",
)
MORE_FORMS = ("resnext26t_2x4d", "seresnext26_2x4d", "skresnext26_2x4d", "resnextaa26_2x4d")
DEEP_FORMS = ("resnext50_2x4d", "resnext101_2x4d", "resnext152_1x4d", "seresnextaa201d_1x4d")
IMAGENET_FORMS = FORMS[:-1]
# All that timm has, with and without weights, except 32x32d: 1.9 GB, and no other form.
REAL = (
    "resnext50_32x4d",
    "resnext50d_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext101_32x16d",
    "resnext101_64x4d",
    "seresnext26d_32x4d",
    "seresnext26t_32x4d",
    "seresnext50_32x4d",
    "seresnext101_32x4d",
    "seresnext101_32x8d",
    "seresnext101_64x4d",
    "seresnext101d_32x8d",
    "seresnextaa101d_32x8d",
    "seresnextaa201d_32x8d",
    "skresnext50_32x4d",
)
SOURCES = {
    "timm": REAL,
    "torchvision": ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
}
LARGEST = ("resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d")
CLASSES = 7
LABELS = torch.tensor([1, 4])


def slow(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


each_form = pytest.mark.parametrize("name", FORMS)
each_imagenet_form = pytest.mark.parametrize("name", IMAGENET_FORMS)


def spec_of(name: str) -> ArchSpec:
    return arch.parse(name, num_classes=CLASSES)


def build(name: str, **options: Any) -> Any:
    """Build a network with random weights and statistics, in eval mode."""
    return oracles.load(lambda: network.ResNeXt(spec_of(name), **options), tensors_of(name))


@cache
def tensors_of(name: str) -> Tensors:
    return random_tensors(spec_of(name), seed=5)


def build_features(name: str, **options: Any) -> Any:
    """Build the body of what `build` returns, up to the last map."""
    last = max(options.get("out_indices", [4]))
    kept = ("conv1", "bn1", *(f"layer{stage}" for stage in range(1, last + 1)))
    tensors = {
        key: tensor for key, tensor in tensors_of(name).items() if key.partition(".")[0] in kept
    }
    return oracles.load(lambda: network.ResNeXtFeatures(spec_of(name), **options), tensors)


WHOLE, FEATURES = ("seresnextaa26t_2x4d", build), ("skresnext26d_2x4d", build_features)


def each_form_whole_and_features(*default: tuple[str, Any]) -> pytest.MarkDecorator:
    """Return all forms, of which only these are not slow."""
    cases = product(FORMS, (build, build_features))
    marks = {case: () if case in default else pytest.mark.slow for case in cases}
    return pytest.mark.parametrize(
        ("name", "make"), [pytest.param(*case, marks=mark) for case, mark in marks.items()]
    )


def pictures(name: str, count: int = 2, *, size: int | None = None, seed: int = 6) -> Any:
    size = size or (32 if "resnext29" in name else 64)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Any, expected: Any) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def maps_of(peer: Any, x: Any, count: int) -> list[Any]:
    """Run a network of torchvision or timm stage by stage."""
    maps = [torch.relu(peer.bn1(peer.conv1(x)))]
    x = peer.maxpool(maps[0])
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        maps.append(x := getattr(peer, stage)(x))
    return maps[:count]


def gradients(model: Any, x: Any, *, seed: int = 0) -> dict[str, Any]:
    """Return those of one training step, and the statistics after it."""
    torch.manual_seed(seed)
    loss = torch.nn.functional.cross_entropy(model.train()(x), LABELS)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    return found | {name: tensor.clone() for name, tensor in model.named_buffers()}


def check_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key in expected:
        assert relative_error(found[key].float(), expected[key].float()) <= 1e-6, key


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


# As torchvision and timm


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("name", [*FORMS, *slow(MORE_FORMS + DEEP_FORMS)])
def test_logits_and_maps_are_those_of_the_peer(name: str) -> None:
    model, peer = build(name), oracles.oracle(spec_of(name), tensors_of(name))
    assert list(model.state_dict()) == list(peer.state_dict())
    x = pictures(name)
    logits = peer(x)
    assert logits.shape == (2, CLASSES) and 0.1 < logits.std() < 10
    assert torch.equal(model(x), logits)
    maps = maps_of(peer, x, len(model.feature_info))
    for computed in (model.forward_intermediates(x)[1], build_features(name)(x)):
        assert len(computed) == len(maps)
        assert all(map(torch.equal, computed, maps))
    model.to(memory_format=torch.channels_last)
    swapped = model(x.to(memory_format=torch.channels_last))
    assert relative_error(swapped, logits) <= 1e-5


@each_form
def test_gradients_of_a_training_step_are_those_of_the_peer(name: str) -> None:
    options = {} if "resnext29" in name else {"drop_rate": 0.3, "drop_path_rate": 0.4}
    model, peer = build(name, **options), oracles.peer(spec_of(name), **options)
    peer.load_state_dict(model.state_dict())
    check_equal(gradients(model, pictures(name)), gradients(peer, pictures(name)))


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    ("name", "output_stride"), [*product(IMAGENET_FORMS, [8]), ("resnext26d_2x4d", 16)]
)
def test_maps_at_another_output_stride_are_those_of_timm(name: str, output_stride: int) -> None:
    model = build(name, output_stride=output_stride)
    peer = oracles.timm_peer(spec_of(name), output_stride=output_stride).eval()
    peer.load_state_dict(model.state_dict())
    x = pictures(name)
    maps = maps_of(peer, x, 5)
    assert maps[4].shape[2:] == (64 // output_stride, 64 // output_stride)
    assert model.feature_info.reduction() == peer_reductions(peer)
    features = build_features(name, output_stride=output_stride)
    assert all(map(torch.equal, features(x), maps))
    assert torch.equal(model(x), peer(x))


def peer_reductions(peer: Any) -> list[int]:
    return [entry["reduction"] for entry in peer.feature_info]


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("name", ["resnext26d_2x4d", "skresnext26_2x4d"])
def test_any_size_is_taken(name: str) -> None:
    model, peer = build(name), oracles.oracle(spec_of(name), tensors_of(name))
    for size in (1, 33, 65, 96):
        x = pictures(name, size=size)[..., : max(size - 1, 1)]
        assert torch.equal(model(x), peer(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_architecture_of_the_peers_is_computed_bit_for_bit(name: str) -> None:
    model, x = network.ResNeXt(arch.parse(name)), pictures(name)
    randomize_norms(model)
    statistics = copy.deepcopy(dict(model.named_buffers()))
    found = gradients(model, x)
    model.load_state_dict(statistics, strict=False)
    peers = [oracles.registered(name, source) for source in SOURCES if name in SOURCES[source]]
    for peer in peers:
        assert list(model.state_dict()) == list(peer.state_dict())
        peer.load_state_dict(model.state_dict(), assign=True)  # the very same tensors
        check_equal(gradients(peer, x), found)
        model.load_state_dict(statistics, strict=False)
    del found
    with torch.inference_mode():
        logits, maps = model.eval()(x), model.forward_intermediates(x)[1]
        for peer in peers:
            assert torch.equal(peer.eval()(x), logits)
            assert all(map(torch.equal, maps_of(peer, x, 5), maps))
        model.to(memory_format=torch.channels_last)
        assert relative_error(model(x.to(memory_format=torch.channels_last)), logits) <= 1e-5


def randomize_norms(model: Any) -> None:
    """Draw the statistics of batch norms, small at the end of blocks: 33 of them add up."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if hasattr(module, "last_norm"):
            module.last_norm().weight.data.mul_(0.3)


# Sizes


@pytest.mark.parametrize("name", [*FORMS, *MORE_FORMS, *slow((*DEEP_FORMS, *REAL, *LARGEST))])
def test_tensors_and_parameters_are_those_of_arch(name: str) -> None:
    spec = arch.parse(name)
    with torch.device("meta"):
        model = network.ResNeXt(spec)
    state = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {key: shape for key, shape in state.items() if "num_batches_tracked" not in key}
    assert list(shapes.items()) == list(arch.tensor_shapes(spec).items())
    assert sum(parameter.numel() for parameter in model.parameters()) == arch.num_params(spec)


def test_the_largest_network_takes_no_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = network.ResNeXt(arch.parse("resnext101_32x48d")).eval()
        peer = oracles.timm_peer(arch.parse("resnext101_32x48d"))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) == 828_411_176
    assert [(key, tensor.shape) for key, tensor in model.state_dict().items()] == [
        (key, tensor.shape) for key, tensor in peer.state_dict().items()
    ]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_channels_and_classes() -> None:
    spec = ArchSpec(depth=26, cardinality=2, base_width=4, num_classes=11, in_chans=5)
    model = network.ResNeXt(spec).eval()
    assert model(torch.zeros(1, 5, 32, 32)).shape == (1, 11)
    assert (model.num_classes, model.num_features, model.spec) == (11, 2048, spec)


# Compilers and types


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("no_gradients")
@each_form_whole_and_features(WHOLE, FEATURES)
def test_script_and_eager_agree_exactly(name: str, make: Any) -> None:
    model, x = make(name), pictures(name)
    scripted = torch.jit.script(model)
    for _ in range(3):  # the first runs only gather what the optimizer then uses
        check_same(scripted(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("options", [{"drop_rate": 0}, {"drop_rate": 0.5, "drop_path_rate": 0.5}])
def test_a_network_in_training_can_be_scripted(options: dict[str, float]) -> None:
    model = build("resnext26_2x4d", **options).train()
    scripted = torch.jit.script(copy.deepcopy(model))
    torch.manual_seed(1)
    expected = model(pictures(""))
    torch.manual_seed(1)
    assert torch.equal(scripted(pictures("")), expected)


def check_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        found, expected = [found], [expected]
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    # The limit of recompilations is one for all networks: they share their code.
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("no_gradients", "fresh_compiler")
@each_form_whole_and_features(WHOLE)
def test_compiled_whole_and_eager_agree_exactly(name: str, make: Any) -> None:
    model, x = make(name), pictures(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    check_same(compiled(x), model(x))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_can_be_compiled(checkpointing: bool) -> None:
    name = "resnext26_2x4d"
    model, other = build(name), build(name)
    other.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    torch.nn.functional.cross_entropy(compiled.train()(pictures(name)), LABELS).backward()
    expected = gradients(model, pictures(name))
    check_equal({key: expected[key] for key in expected if "running" in key}, running(other))
    for key, parameter in other.named_parameters():
        assert relative_error(parameter.grad, expected[key]) <= 1e-5, key


def running(model: Any) -> dict[str, Any]:
    return {key: tensor for key, tensor in model.named_buffers() if "running" in key}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.usefixtures("no_gradients", "fresh_compiler")
def test_what_inductor_compiles_agrees(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, x = build("seresnextaa26t_2x4d"), pictures("")
    assert relative_error(torch.compile(model, fullgraph=True)(x), model(x)) <= 1e-5
    assert any(tmp_path.iterdir())


@pytest.mark.usefixtures("no_gradients")
@each_form_whole_and_features(FEATURES)
def test_exported_with_any_number_of_pictures_and_eager_agree(name: str, make: Any) -> None:
    model, any_batch = make(name), ({0: torch.export.Dim("N")},)
    program = torch.export.export(model, (pictures(name),), dynamic_shapes=any_batch).module()
    for count in (1, 3):
        x = pictures(name, count)
        check_same(program(x), model(x))


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize("name", [*FORMS[2:4], *slow((*FORMS[:2], FORMS[4]))])
def test_other_float_types(name: str, dtype: Any, tolerance: float) -> None:
    model, features, x = build(name), build_features(name), pictures(name)
    expected = [model(x), *features(x)]
    x = x.to(dtype)
    for found, value in zip([model.to(dtype)(x), *features.to(dtype)(x)], expected, strict=True):
        assert found.dtype == dtype
        assert relative_error(found, value) <= tolerance


@pytest.mark.parametrize("name", FORMS[2:4])
def test_a_training_step_in_autocast(name: str) -> None:
    model = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.train()(pictures(name))
    assert logits.dtype == torch.bfloat16
    torch.nn.functional.cross_entropy(logits.float(), LABELS).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
@pytest.mark.parametrize(
    ("name", "make"), [("skresnext26d_2x4d", build), ("seresnextaa26t_2x4d", build_features)]
)
def test_copies_compute_the_same(name: str, make: Any, duplicate: Any) -> None:
    model, x = make(name), pictures(name)
    copied = duplicate(model)
    check_same(copied(x), model(x))
    assert copied.spec == model.spec
    assert list(copied.feature_info) == list(model.feature_info)
    next(copied.parameters()).data.zero_()
    assert next(model.parameters()).any()


# Initialization


def test_a_fresh_network_is_in_training_mode_and_drawn_as_the_paper_says() -> None:
    torch.manual_seed(0)
    model = network.ResNeXt(arch.parse("seresnext26_32x4d"))
    assert model.training
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            outs, _, height, width = module.weight.shape
            expected = math.sqrt(2 / (height * width * outs))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(module.weight.mean().item()) < 0.05 * expected
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()
            assert module.running_mean.eq(0).all() and module.running_var.eq(1).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(2048)
    assert model.fc.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.05)
    assert not model.fc.bias.any()


@pytest.mark.parametrize("name", ["seresnext26d_2x4d", "skresnext26_2x4d"])
def test_initialize_leaves_no_tensor_as_it_was(name: str) -> None:
    with torch.device("meta"):
        model = network.ResNeXt(spec_of(name))
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 99)
    model.initialize()
    for key, tensor in model.state_dict().items():
        assert torch.isfinite(tensor).all() and not tensor.eq(99).any(), key


@pytest.mark.usefixtures("no_gradients")
@each_form
def test_blocks_can_start_as_their_shortcuts(name: str) -> None:
    model = network.ResNeXt(spec_of(name), zero_init_last=True).eval()
    blocks = [module for module in model.modules() if hasattr(module, "last_norm")]
    assert len(blocks) == sum(model.spec.blocks)
    for block in (model.layer1[0], model.layer2[1]):
        x = torch.ones(1, next(block.parameters()).shape[1], 8, 8)
        shortcut = x if block.downsample is None else block.downsample(x)
        assert torch.equal(block(x), torch.relu(shortcut))
    plain = network.ResNeXt(spec_of(name))
    assert all(
        module.last_norm().weight.eq(1).all()
        for module in plain.modules()
        if hasattr(module, "last_norm")
    )


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_rate": 1.0}, "drop_rate is 1.0; expected at least 0 and below 1"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
        ({"output_stride": 4}, "output_stride is 4; expected 8, 16 or 32"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network.ResNeXt(spec_of("resnext26_2x4d"), **options)


def test_cifar_networks_have_one_output_stride() -> None:
    with pytest.raises(ConfigError, match="output_stride is 16"):
        network.ResNeXt(spec_of("resnext29_2x4d"), output_stride=16)


def test_the_chance_to_drop_a_path_rises_from_0_to_the_last_block() -> None:
    model = network.ResNeXt(spec_of("seresnext26_2x4d"), drop_path_rate=0.7)
    chances = [
        getattr(block.drop_path, "chance", 0.0)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4)
        for block in stage
    ]
    assert chances == pytest.approx([0.1 * index for index in range(8)])


def test_dropout_is_before_the_classifier_and_in_training_only() -> None:
    model = build("resnext26_2x4d", drop_rate=0.25)
    maps = torch.ones(64, 2048, 2, 2)
    assert model.forward_head(maps, pre_logits=True).eq(1).all()
    torch.manual_seed(0)
    pooled = model.train().forward_head(maps, pre_logits=True)
    assert pooled.eq(0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert pooled.max().item() == pytest.approx(1 / 0.75)


@pytest.mark.parametrize("name", ["resnext26_2x4d", "skresnext26d_2x4d", "resnext29_2x4d"])
def test_checkpointed_gradients_are_the_same(name: str) -> None:
    model = build(name, drop_path_rate=0.3)
    other = copy.deepcopy(model)
    calls: list[Any] = []
    other.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(0))
    other.set_grad_checkpointing()
    found, expected = gradients(other, pictures(name)), gradients(model, pictures(name))
    assert len(calls) == 2, "the block runs again for the backward pass"
    for key in expected:  # gradients, and statistics: a batch counts once
        assert torch.equal(found[key], expected[key]), key
    norms = [module for module in other.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    other.set_grad_checkpointing(False)
    gradients(other, pictures(name))
    assert len(calls) == 3


# The head


def test_the_head_is_pool_and_classifier() -> None:
    model, x = build("seresnext26_2x4d"), pictures("")
    maps = model.forward_features(x)
    assert maps.shape == (2, 2048, 2, 2)
    pooled = model.forward_head(maps, pre_logits=True)
    torch.testing.assert_close(pooled, maps.mean((2, 3)))
    assert torch.equal(model.fc(pooled), model(x))
    assert torch.equal(model.forward_head(maps), model(x))
    assert model.get_classifier() is model.fc
    assert model.get_submodule(model.get_classifier(name_only=True)) is model.fc


def test_a_classifier_can_be_replaced() -> None:
    model, x = build("resnext26_2x4d"), pictures("")
    before = {key: tensor for key, tensor in model.state_dict().items() if "fc" not in key}
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == model.spec.num_classes == 3
    assert model.fc.weight.any() and not model.fc.bias.any()
    after = model.state_dict()
    assert all(after[key] is not None and torch.equal(after[key], before[key]) for key in before)


def test_a_classifier_can_be_taken_off_and_put_back() -> None:
    model, x = build("resnext26_2x4d"), pictures("")
    maps = model.forward_features(x)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), torch.nn.Identity) and model.num_classes == 0
    torch.testing.assert_close(model(x), maps.mean((2, 3)))
    model.reset_classifier(0, "")
    assert torch.equal(model(x), maps)
    model.reset_classifier(0)  # None keeps the pool as it is
    assert torch.equal(model(x), maps)
    model.reset_classifier(4, "avg")
    assert model(x).shape == (2, 4)


@pytest.mark.parametrize(("num_classes", "pool"), [(-1, None), (3, ""), (3, "max")])
def test_heads_that_cannot_be_are_refused(num_classes: int, pool: str | None) -> None:
    model = build("resnext26_2x4d")
    with pytest.raises(ConfigError, match=f"num_classes is {num_classes} with global_pool"):
        model.reset_classifier(num_classes, pool)
    assert model.num_classes == CLASSES


def test_features_have_no_classifier() -> None:
    features = build_features("resnext26_2x4d")
    assert features.num_classes == 0 and isinstance(features.get_classifier(), torch.nn.Identity)
    features.reset_classifier(0)
    assert len(features(pictures(""))) == 5
    with pytest.raises(ConfigError, match="num_classes is 3; expected 0"):
        features.reset_classifier(3)


@pytest.mark.parametrize("training", [True, False])
def test_a_new_classifier_is_of_the_same_kind(training: bool) -> None:
    model = build("resnext26_2x4d").to(torch.bfloat16).train(training)
    model.reset_classifier(3)
    assert model.fc.weight.dtype == torch.bfloat16
    assert model.fc.training == model.avgpool.training == training
    model.to("meta").reset_classifier(3)
    assert model.fc.weight.is_meta


# Features


@pytest.mark.usefixtures("no_gradients")
def test_intermediates_are_those_of_timm() -> None:
    name = "resnext26d_2x4d"
    model, x = build(name), pictures(name)
    peer = oracles.timm_peer(spec_of(name)).eval()
    peer.load_state_dict(model.state_dict())
    for indices, stop_early in product([None, 2, [0, 3], [-1], (1, -2)], [True, False]):
        options = {"indices": indices, "stop_early": stop_early}
        last, maps = model.forward_intermediates(x, **options)
        expected_last, expected = peer.forward_intermediates(x, **options)
        check_same([last, *maps], [expected_last, *expected])
        check_same(model.forward_intermediates(x, intermediates_only=True, **options), expected)


def test_nothing_is_computed_after_the_last_map() -> None:
    model = build("resnext26_2x4d")
    model.layer3.register_forward_hook(lambda *_: pytest.fail("computed too much"))
    _, maps = model.forward_intermediates(pictures(""), [0, 2], stop_early=True)
    assert [tensor.shape[1] for tensor in maps] == [64, 512]


def test_maps_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"feature maps \[4\] asked for; there are 0 to 3"):
        build("resnext29_2x4d").forward_intermediates(pictures("resnext29"), [4])
    with pytest.raises(ConfigError, match=r"feature maps \[5\] asked for; there are 0 to 4"):
        build_features("resnext26_2x4d", out_indices=[5])


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    ("name", "out_indices"),
    [
        ("resnext26_2x4d", (0, 1, 2, 3, 4)),
        ("resnext26_2x4d", (1, 2)),
        ("resnext26_2x4d", (0,)),
        ("seresnextaa26t_2x4d", (2, 4)),
    ],
)
def test_features_are_those_of_timm(name: str, out_indices: tuple[int, ...]) -> None:
    from timm.models import FeatureListNet

    features, x = build_features(name, out_indices=out_indices), pictures(name)
    peer = FeatureListNet(oracles.timm_peer(spec_of(name)), out_indices=out_indices).eval()
    assert list(features.state_dict()) == list(peer.state_dict())
    peer.load_state_dict(features.state_dict())
    check_same(features(x), peer(x))
    assert features.feature_info.channels() == peer.feature_info.channels()
    assert features.feature_info.reduction() == peer.feature_info.reduction()


@pytest.mark.usefixtures("no_gradients")
def test_features_can_be_asked_for_by_index_again() -> None:
    features, x = build_features("resnext26_2x4d", out_indices=[1, 3]), pictures("")
    maps = features(x)
    assert features.out_indices == [1, 3]
    check_same(features.forward_intermediates(x, intermediates_only=True), maps)
    last, found = features.forward_intermediates(x, [-1], stop_early=True)
    check_same([last, *found], [maps[1], maps[1]])
    with pytest.raises(ConfigError, match="there are 0 to 1"):
        features.forward_intermediates(x, [2])


def test_feature_info_names_the_modules() -> None:
    model, x = build("seresnext26_2x4d"), pictures("")
    found = {}
    for name in model.feature_info.module_name()[1:]:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output})
        )
    _, maps = model.forward_intermediates(x)
    for info, tensor in zip(model.feature_info, maps, strict=True):
        assert tensor.shape[1] == info["num_chs"]
        assert tensor.shape[2] == 64 // info["reduction"]
        assert info["module"] == "relu" or found[info["module"]] is tensor


# Groups of parameters


@pytest.mark.parametrize("coarse", [True, False])
@each_imagenet_form
def test_parameters_are_sorted_by_depth_as_timm_sorts_them(name: str, coarse: bool) -> None:
    from timm.models import group_parameters

    with torch.device("meta"):
        model, peer = network.ResNeXt(spec_of(name)), oracles.timm_peer(spec_of(name))
    groups = group_parameters(model, model.group_matcher(coarse))
    assert groups == group_parameters(peer, peer.group_matcher(coarse))
    assert len(groups) == 1 + (4 if coarse else 8) + 1
    assert all(key.startswith(("conv1", "bn1")) for key in groups[0])
    assert groups[len(groups) - 1] == ["fc.weight", "fc.bias"]


def test_of_fresh_weights_nothing_is_known() -> None:
    model = network.ResNeXt(spec_of("resnext29_2x4d"))
    assert model.pretrained_cfg == {} and model.document is None


def test_another_classifier_is_in_the_spec() -> None:
    model = build("resnext26_2x4d")
    model.reset_classifier(3)
    assert model.spec.num_classes == 3
    network.ResNeXt(model.spec).load_state_dict(model.state_dict())
    with pytest.raises(ConfigError, match="features have no classifier"):
        build_features("resnext26_2x4d").reset_classifier(3)


def test_an_anti_aliased_network_takes_the_sizes_that_timm_takes() -> None:
    """Both halve a map in two ways, which differ where it is odd; we say what would fit."""
    spec = arch.parse("resnextaa26_2x4d", num_classes=3)
    peer, model = oracles.peer(spec).eval(), network.ResNeXt(spec).eval()
    fitting = []
    for size in (31, 34, 35, 40, 63, 72):
        batch = torch.zeros(1, 3, size, size)
        with torch.no_grad():
            try:
                expected = peer.forward_features(batch).shape
            except RuntimeError:
                with pytest.raises(ConfigError, match=r"expected even sides\n\nhint: .* 32 "):
                    model(batch)
            else:
                assert model.forward_features(batch).shape == expected
                fitting.append(size)
    assert fitting == [31, 34, 63]


def test_a_smaller_output_stride_fits_more_sizes() -> None:
    spec = arch.parse("resnextaa26_2x4d", num_classes=3)
    batch = torch.zeros(1, 3, 72, 72)
    with torch.no_grad():
        with pytest.raises(ConfigError, match=r"feature map of 9x9"):
            network.ResNeXt(spec).eval()(batch)
        assert network.ResNeXt(spec, output_stride=8).eval()(batch).shape == (1, 3)
