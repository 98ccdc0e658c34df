"""Write the generated parts of docs/recipes.md from the recipes themselves.

`python scripts/make_recipes.py` rewrites them; `tests/test_recipes.py` compares.
"""

from __future__ import annotations

from pathlib import Path

from resnext.training import config as configs
from resnext.training import recipes
from resnext.training.recipes import Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"

# What the recipes differ in, beside what stands in the first table.
SHOWN = (
    "data.train_size data.test_resize data.interpolation data.repeats augment.policy augment.erase"
    " augment.mixup_alpha augment.cutmix_alpha augment.color_jitter loss.kind"
    " loss.bce_threshold loss.label_smoothing optim.name optim.lr optim.weight_decay"
    " optim.norm_weight_decay optim.decay_biases schedule.kind schedule.warmup_epochs"
    " schedule.every ema.decay ema.scaling model.drop_path_rate model.zero_init_last precision"
).split()


def parts() -> dict[str, str]:
    """Return the generated parts by the name of their markers."""
    found = [recipes.get(name) for name in recipes.names()]
    return {
        "table": _rows(
            (
                "Recipe",
                "Architecture",
                "Data",
                "Epochs",
                "Batch",
                "Published top-1",
                "Promised",
                "Cost",
            ),  # fmt: skip
            [_summary(recipe) for recipe in found],
        ),
        "numbers": _rows(
            ("Setting", *(f"`{recipe.name}`" for recipe in found)),
            [
                (f"`{path}`", *(configs.show(configs.value_of(r.config, path)) for r in found))
                for path in SHOWN
            ],
        ),
        "texts": "\n".join(_describe(recipe) for recipe in found),
    }


def page(text: str) -> str:
    """Return the page with its generated parts made anew."""
    for name, content in parts().items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + content + end + rest.split(end, 1)[1]
    return text


def _summary(recipe: Recipe) -> tuple[str, ...]:
    config, cost = recipe.config, recipe.cost()
    architecture = config.model.architecture
    number = recipe.numbers.get(architecture)
    return (
        f"`{recipe.name}`",
        f"`{architecture}`",
        "any" if recipe.dataset is None else recipe.dataset.name,
        str(config.schedule.epochs),
        str(config.optim.batch_size),
        "-" if number is None else f"{number:g} %",
        "-" if number is None else "yes" if architecture in recipe.expected else "no",
        "-" if cost is None else str(cost),
    )


def _describe(recipe: Recipe) -> str:
    lines = [f"### `{recipe.name}`", "", recipe.text, "", f"Source: {recipe.source}."]
    for words, numbers in (
        ("Promised top-1", recipe.expected),
        ("Published top-1, not promised", recipe.published),
    ):
        if numbers:
            each = ", ".join(f"`{name}` {top1:g} %" for name, top1 in numbers.items())
            lines.append(f"{words}: {each} ({recipe.measured}).")
    for name, settings in recipe.settings.items():
        lines.append(f"For `{name}`: {', '.join(f'`{each}`' for each in settings)}.")
    if recipe.norm_batch_sizes:
        sizes = sorted(set(recipe.norm_batch_sizes.values()), reverse=True)
        lines.append(f"Pictures a batch norm saw at once: {', '.join(map(str, sizes))}.")
    if recipe.time:
        lines.append(f"Published training time: {recipe.time}.")
    return "\n".join([*lines, ""])


def _rows(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
