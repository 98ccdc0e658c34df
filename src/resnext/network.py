"""[torch] The network as an `nn.Module`, built from the layer table.

Names of modules and tensors are torchvision's and timm's, so a `state_dict` of one is a
`state_dict` of the other. N pictures, C channels, H and W pixels, K classes, D features;
maps are (N, C, H, W).

Source: arXiv:1611.05431, Figure 3(c) and Table 1; the initialization is that of
arXiv:1502.01852, which section 4 of the paper takes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from resnext import arch, layers
from resnext.arch import ArchSpec, OutputStride
from resnext.errors import ConfigError
from resnext.featureinfo import FeatureInfo, describe
from resnext.layers import Block, Conv, Pool
from resnext.modules import (
    ConvNorm,
    DropPath,
    SelectiveKernel,
    SqueezeExcite,
    Stage,
    make_conv,
    make_pool,
)

if TYPE_CHECKING:
    from resnext.modelfile import ModelDocument

POOLS = ("avg", "")


class Bottleneck(nn.Module):
    """relu(body(x) + shortcut(x)), where the body is 1x1, grouped 3x3, 1x1.

    Args:
        block: Its row of the layer table.
        drop_path: Chance, in training, that a picture skips the body.
    """

    def __init__(self, block: Block, *, drop_path: float = 0.0) -> None:
        super().__init__()
        conv1, conv2, conv3 = (part for part in block.body if isinstance(part, Conv))
        self.conv1, self.bn1 = make_conv(conv1), nn.BatchNorm2d(conv1.out_channels)
        self.conv2, self.bn2 = make_conv(conv2), nn.BatchNorm2d(conv2.out_channels)
        self.conv3, self.bn3 = make_conv(conv3), nn.BatchNorm2d(conv3.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.aa = _first(make_pool(part) for part in block.body if isinstance(part, Pool))
        self.se = _first(
            SqueezeExcite(part) for part in block.body if isinstance(part, layers.SqueezeExcite)
        )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _make_shortcut(block)
        self.antialias = not isinstance(self.aa, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W'); anti-aliased, H and W must be even."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if self.antialias:
                _check_even(x.shape[2], x.shape[3])
        shortcut = x
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.aa(self.relu(self.bn2(self.conv2(x))))
        x = self.se(self.bn3(self.conv3(x)))
        x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.relu(x)  # type: ignore[no-any-return]

    def last_norm(self) -> nn.BatchNorm2d:
        """Return the batch norm at the end of the body."""
        return self.bn3


class SelectiveKernelBottleneck(nn.Module):
    """A bottleneck whose 3x3 convolution is a selective kernel (arXiv:1903.06586).

    Args:
        block: Its row of the layer table.
        drop_path: Chance, in training, that a picture skips the body.
    """

    def __init__(self, block: Block, *, drop_path: float = 0.0) -> None:
        super().__init__()
        conv1, kernel, conv3 = block.body
        assert isinstance(conv1, Conv)
        assert isinstance(kernel, layers.SelectiveKernel)
        assert isinstance(conv3, Conv)
        self.conv1 = ConvNorm(conv1)
        self.conv2 = SelectiveKernel(kernel)
        self.conv3 = ConvNorm(conv3)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _make_shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        shortcut = x
        x = self.drop_path(self.conv3(self.conv2(self.conv1(x))))
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.relu(x)  # type: ignore[no-any-return]

    def last_norm(self) -> nn.BatchNorm2d:
        """Return the batch norm at the end of the body."""
        return self.conv3.bn


class ResNeXt(nn.Module):
    """A network of the family; takes (N, C, H, W) of any H and W, gives logits (N, K).

    Args:
        spec: Which one.
        drop_rate: Chance, in training, that a feature before the classifier is dropped.
        drop_path_rate: Chance, in training, that a picture skips the last block; falls
            linearly to 0 at the first one (stochastic depth).
        output_stride: 32, 16 or 8 input pixels per pixel of the last map: what is lost in
            stride becomes dilation, and the tensors stay the same.
        zero_init_last: Start every block as its shortcut, by zeros in its last batch norm
            (arXiv:1706.02677, section 5.1).

    Attributes:
        num_classes: K, or 0 where the classifier was taken off.
        num_features: D, 2048, or 1024 for the CIFAR networks.
        feature_info: One entry per feature map: channels, reduction, module.
        document: What a model file says of the weights; None without weights.
        pretrained_cfg: The same under timm's names; empty without.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(
        self,
        spec: ArchSpec,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: OutputStride = 32,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__()
        for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
            if not 0 <= rate < 1:
                raise ConfigError(f"{name} is {rate}; expected at least 0 and below 1")
        if output_stride not in (8, 16, 32) or (output_stride != 32 and spec.stem == "cifar"):
            raise ConfigError(f"output_stride is {output_stride}; expected 8, 16 or 32 (CIFAR: 32)")
        self.spec = spec
        self.drop_rate = float(drop_rate)  # a whole number is another type to TorchScript
        self.num_classes = spec.num_classes
        self.num_features = spec.embedding_size
        self.document = cast("ModelDocument | None", None)
        self.pretrained_cfg = dict[str, Any]()
        table = arch.layers(spec, output_stride=output_stride)
        stem = [part for part in table if isinstance(part, Conv)]
        pools = [part for part in table if isinstance(part, Pool)]
        blocks = [part for part in table if isinstance(part, Block)]
        self.feature_info = describe(spec, output_stride)

        self.conv1 = _make_stem(stem)
        self.bn1 = nn.BatchNorm2d(stem[-1].out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _first(map(make_pool, pools))
        rates = [drop_path_rate * index / (len(blocks) - 1) for index in range(len(blocks))]
        self.layer1 = _make_stage("layer1", blocks, rates)
        self.layer2 = _make_stage("layer2", blocks, rates)
        self.layer3 = _make_stage("layer3", blocks, rates)
        self.layer4 = _make_stage("layer4", blocks, rates)  # empty in the CIFAR networks
        # Annotated here and not in the class, where TorchScript would read it.
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.global_pool = "avg"
        self.fc: nn.Module = nn.Linear(self.num_features, self.num_classes)
        self.initialize(zero_init_last=zero_init_last)

    def initialize(self, *, zero_init_last: bool = False) -> None:
        """Draw new weights: normal of variance 2 / (k^2 C_out), batch norms 1 and 0."""
        if self.bn1.weight.is_meta:  # where nothing is drawn, but torch would import sympy
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:  # squeeze-and-excitation
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                module.reset_parameters()
                nn.init.zeros_(module.bias)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, Bottleneck | SelectiveKernelBottleneck):
                    nn.init.zeros_(module.last_norm().weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (N, C, H, W), normalized, to logits (N, K)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map pictures (N, C, H, W) to the last feature map (N, D, H / 32, W / 32)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits (N, K), or to pooled features (N, D)."""
        x = self.avgpool(x)
        if self.global_pool == "avg":
            x = torch.flatten(x, 1)
        if self.drop_rate > 0:
            x = functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute feature maps on the way.

        Args:
            x: Pictures (N, C, H, W), normalized.
            indices: Which entries of `feature_info`: a list, of which negative ones count
                from the end; a number for the last so many; None for all.
            norm: Without effect, as in timm: there is no norm after the last block.
            stop_early: Compute nothing after the last one wanted.
            output_fmt: "NCHW".
            intermediates_only: Return only the list.

        Returns:
            The last map computed, and the list of those wanted, in order.

        Raises:
            ConfigError: There is no such map.
        """
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt is {output_fmt!r}; expected 'NCHW'")
        wanted = [self.feature_info[index]["module"] for index in self.feature_info.select(indices)]
        maps: list[Tensor] = []
        for name in ("relu", "layer1", "layer2", "layer3", "layer4"):
            if stop_early and len(maps) == len(wanted):
                break
            if name == "relu":
                x = self.relu(self.bn1(self.conv1(x)))
            else:
                x = self.get_submodule(name)(self.maxpool(x) if name == "layer1" else x)
            if name in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the last layer: `nn.Linear`, or `nn.Identity` where it was taken off."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the body, which stays as it is.

        Args:
            num_classes: Number of logits; 0 for none, so that the pooled features come out.
            global_pool: "avg", or "" for none, which needs `num_classes=0` and lets the last
                map out; None keeps it.

        Raises:
            ConfigError: A value is out of range.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if num_classes < 0 or pool not in POOLS or (num_classes and not pool):
            raise ConfigError(
                f"num_classes is {num_classes} with global_pool {pool!r}; expected at least 0,"
                " with 'avg', or 0 with ''"
            )
        like = self.bn1.weight
        self.num_classes, self.global_pool = num_classes, pool
        if num_classes:
            self.spec = replace(self.spec, num_classes=num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1) if pool else nn.Identity()
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(
                self.num_features, num_classes, device=like.device, dtype=like.dtype
            )
            nn.init.zeros_(self.fc.bias)
        self.avgpool.train(self.training)
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block for the backward pass, and compute the rest again."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return regular expressions that sort parameters by depth, as timm's method does."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|^bn1|^maxpool", "blocks": blocks}


class ResNeXtFeatures(ResNeXt):
    """The body alone; gives a list of feature maps, the largest first.

    Args:
        spec: Which network.
        out_indices: Which entries of `ResNeXt.feature_info`; None for all. Stages after the
            last one are left out, and their tensors are not in the `state_dict`.
        drop_path_rate: As for `ResNeXt`.
        output_stride: As for `ResNeXt`.

    Attributes:
        feature_info: One entry per map that comes out.

    Raises:
        ConfigError: There is no such map, or a value is out of range.
    """

    def __init__(
        self,
        spec: ArchSpec,
        *,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        output_stride: OutputStride = 32,
    ) -> None:
        super().__init__(spec, drop_path_rate=drop_path_rate, output_stride=output_stride)
        self.out_indices = self.feature_info.select(out_indices)
        self.reset_classifier(0, "")
        for index in range(self.out_indices[-1] + 1, 5):
            setattr(self, f"layer{index}", Stage())
        every = self.feature_info
        self.feature_info = FeatureInfo([every[i] for i in self.out_indices], self.out_indices)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Take the classifier off, or refuse another one.

        Raises:
            ConfigError: `num_classes` is not 0.
        """
        if num_classes:
            raise ConfigError(
                f"num_classes is {num_classes}; expected 0: features have no classifier"
            )
        super().reset_classifier(0, "")

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Map pictures (N, C, H, W), normalized, to maps (N, C', H', W')."""
        stem = self.relu(self.bn1(self.conv1(x)))
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        maps = [stem, first, second, third, self.layer4(third)]
        return [maps[index] for index in self.out_indices]


def _check_even(height: int, width: int) -> None:
    """Refuse an odd map: body and shortcut would round its half differently, as timm's do."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    if height % 2 or width % 2:
        raise ConfigError(
            f"an anti-aliased network halves a feature map of {height}x{width}; expected even"
            " sides",
            hint="take pictures whose sides are multiples of 32 (or of a smaller output_stride)",
        )


def _make_stem(convs: Sequence[Conv]) -> nn.Module:
    """Build all but the last batch norm, which has a name of its own."""
    if len(convs) == 1:
        return make_conv(convs[0])
    parts: list[nn.Module] = []
    for conv in convs[:-1]:
        parts += [make_conv(conv), nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, make_conv(convs[-1]))


def _make_stage(name: str, blocks: Sequence[Block], rates: Sequence[float]) -> Stage:
    stage = Stage()
    for block, rate in zip(blocks, rates, strict=True):
        if block.name.startswith(f"{name}."):
            selective = isinstance(block.body[1], layers.SelectiveKernel)
            kind = SelectiveKernelBottleneck if selective else Bottleneck
            stage.append(kind(block, drop_path=rate))
    return stage


def _make_shortcut(block: Block) -> nn.Sequential | None:
    parts: list[nn.Module] = []
    for part in block.shortcut:
        if isinstance(part, Pool):
            parts.append(make_pool(part))
        else:
            if part.name.endswith(".1") and not parts:
                parts.append(nn.Identity())  # a pool of one pixel: the names count it
            parts += [make_conv(part), nn.BatchNorm2d(part.out_channels)]
    return nn.Sequential(*parts) if parts else None


def _first(modules: Iterator[nn.Module]) -> nn.Module:
    return next(modules, nn.Identity())
