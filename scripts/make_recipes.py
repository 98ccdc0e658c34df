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
    " loss.label_smoothing optim.name optim.lr optim.weight_decay optim.norm_weight_decay"
    " schedule.kind schedule.warmup_epochs ema.decay model.drop_path_rate precision"
).split()


def parts() -> dict[str, str]:
    """Return the generated parts by the name of their markers."""
    found = [recipes.get(name) for name in recipes.names()]
    return {
        "table": _rows(
            ("Recipe", "Architecture", "Data", "Epochs", "Batch", "Expected top-1", "Cost"),
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
    expected = recipe.expected.get(config.model.architecture)
    return (
        f"`{recipe.name}`",
        f"`{config.model.architecture}`",
        "any" if recipe.dataset is None else recipe.dataset.name,
        str(config.schedule.epochs),
        str(config.optim.batch_size),
        "-" if expected is None else f"{expected:g} %",
        "-" if cost is None else str(cost),
    )


def _describe(recipe: Recipe) -> str:
    lines = [f"### `{recipe.name}`", "", recipe.text, "", f"Source: {recipe.source}."]
    if recipe.expected:
        each = ", ".join(f"`{name}` {top1:g} %" for name, top1 in recipe.expected.items())
        lines.append(f"Expected top-1: {each} ({recipe.measured}).")
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
