"""What a ResNeXt is called: the few numbers of a network, and its name.

Depths and their blocks, cardinality and base width: Xie et al., arXiv:1611.05431, Tables 1
and 3 (ImageNet) and section 5.2 (CIFAR). The letters of the variants are timm's. Standard
library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from resnext.errors import ConfigError, ModelNotFoundError, closest

BLOCKS = {
    26: (2, 2, 2, 2),
    29: (3, 3, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    201: (3, 24, 36, 4),
}
CIFAR_DEPTH = 29
PLANES = 64  # of the first stage; they double from stage to stage
EXPANSION = 4  # a stage puts out 4 x its planes: 256, 512, 1024, 2048

Variant = Literal["", "d", "t"]
Attention = Literal["", "se", "sk"]
Stem = Literal["7x7", "deep", "cifar"]

_NAME = re.compile(
    r"(se|sk|)resnext(aa|)(26|29|50|101|152|201)([dt]?)_([1-9]\d{0,4})x([1-9]\d{0,4})d", re.ASCII
)
_NAME_HELP = (
    "resnext{26,50,101,152,201}[d|t]_{C}x{w}d, perhaps seresnext..., skresnext... or"
    " resnextaa..., or resnext29_{C}x{w}d, such as resnext50_32x4d"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchSpec:
    """One network of the family.

    Args:
        depth: 26, 50, 101, 152 or 201 (ImageNet), or 29 (the paper's CIFAR network).
        cardinality: Number of groups C of every 3x3 convolution, at least 1.
        base_width: Channels per group d in the first stage, at least 1; `1x64d` is ResNet.
        variant: "d" for the deep stem and average-pool shortcut, "t" for those with fewer
            channels in the stem, "" for the paper's.
        attention: "se" for squeeze-and-excitation at the end of each block, "sk" for
            selective kernels in place of its 3x3 convolution, "" for none.
        antialias: Whether strides are average pools.
        num_classes: Number of logits.
        in_chans: Number of input channels.

    Raises:
        ConfigError: A value is out of range.
    """

    depth: int
    cardinality: int
    base_width: int
    variant: Variant = ""
    attention: Attention = ""
    antialias: bool = False
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise ConfigError(f"depth is {self.depth}; expected one of {sorted(BLOCKS)}")
        plain = self.depth == CIFAR_DEPTH
        if self.variant not in (("",) if plain else ("", "d", "t")):
            raise ConfigError(f"variant is {self.variant!r}; expected '' or, except at 29, d or t")
        if self.attention not in (("",) if plain else ("", "se", "sk")):
            raise ConfigError(
                f"attention is {self.attention!r}; expected '' or, except at 29, se or sk"
            )
        if self.antialias and (plain or self.attention == "sk"):
            raise ConfigError("antialias is True; expected False at 29 and with selective kernels")
        for field in ("cardinality", "base_width", "num_classes", "in_chans"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{field} is {value!r}; expected a whole number of at least 1")

    @property
    def name(self) -> str:
        """Architecture name, such as `resnext50_32x4d`."""
        family = f"{self.attention}resnext{'aa' if self.antialias else ''}"
        return f"{family}{self.depth}{self.variant}_{self.cardinality}x{self.base_width}d"

    @property
    def stem(self) -> Stem:
        """What comes before the first stage."""
        if self.depth == CIFAR_DEPTH:
            return "cifar"
        return "deep" if self.variant else "7x7"

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Channels that each convolution of the stem puts out."""
        if self.stem != "deep":
            return (PLANES,)
        half = 64 if self.depth == 201 else 32
        return (half // 4 * 3 if self.variant == "t" else half, half, 2 * half)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return BLOCKS[self.depth]

    @property
    def embedding_size(self) -> int:
        """Length of the pooled features, 2048 (ImageNet) or 1024 (CIFAR)."""
        return (PLANES << (len(self.blocks) - 1)) * EXPANSION

    @property
    def input_size(self) -> int:
        """Side in pixels of the input the paper uses: 224, or 32 for CIFAR."""
        return 32 if self.stem == "cifar" else 224


def parse(name: str, *, num_classes: int | None = None) -> ArchSpec:
    """Read an architecture name.

    Args:
        name: Such as `resnext50_32x4d`, `resnext50d_32x4d` or `resnext29_8x64d`.
        num_classes: Number of logits; by default 1000, and 10 for the CIFAR network.

    Raises:
        ModelNotFoundError: The name is not one of the family.

    Example:
        >>> spec = parse("resnext50_32x4d")
        >>> spec.cardinality, spec.base_width, spec.embedding_size
        (32, 4, 2048)
    """
    match = _NAME.fullmatch(name)
    try:
        if match is None:
            raise ConfigError("no name of the family")
        attention, antialias, depth, variant, cardinality, base_width = match.groups()
        return ArchSpec(
            depth=int(depth),
            cardinality=int(cardinality),
            base_width=int(base_width),
            variant=cast(Variant, variant),
            attention=cast(Attention, attention),
            antialias=bool(antialias),
            num_classes=num_classes or (10 if int(depth) == CIFAR_DEPTH else 1000),
        )
    except ConfigError as error:
        near = closest(name, (f"resnext{depth}_32x4d" for depth in BLOCKS))
        raise ModelNotFoundError(
            f"{name!r} is no architecture; expected {_NAME_HELP}",
            hint=f"did you mean {' or '.join(near)}?" if near else "",
        ) from error
