"""`resnext recipes`: ways to train, their cost and promise."""

from __future__ import annotations

from typing import Any

import click

from resnext.cli import text


@click.command(
    short_help="List the training recipes, with cost and expected accuracy.",
    epilog="Example:  resnext recipes torchvision-v2",
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def recipes(*, name: str | None, as_json: bool) -> int:
    """List the training recipes, or show one: where it comes from and all its numbers.

    MACs are multiply-accumulates of all training pictures, forward and backward. A promised
    top-1 holds for the recipe's own data set and for an unchanged recipe; another published one
    is of settings that are not exactly these, as the recipe says.
    """
    from resnext.training import recipes as book

    if name is not None:
        _show(book.get(name), as_json=as_json)
        return 0
    found = [book.get(each) for each in book.names()]
    if as_json:
        text.dump([recipe.to_json() for recipe in found])
        return 0
    header = ("recipe", "architecture", "data", "epochs", "batch", "published", "promised",
              "pictures", "MACs")  # fmt: skip
    rows = [_row(recipe) for recipe in found]
    print(text.table(header, rows, right=header[3:]))
    return 0


def _row(recipe: Any) -> tuple[str, ...]:
    config, cost = recipe.config, recipe.cost()
    architecture = config.model.architecture
    number = recipe.numbers.get(architecture)
    return (
        recipe.name,
        architecture,
        "any" if recipe.dataset is None else recipe.dataset.name,
        str(config.schedule.epochs),
        str(config.optim.batch_size),
        "-" if number is None else f"{number:.2f} %",
        "-" if number is None else "yes" if architecture in recipe.expected else "no",
        "-" if cost is None else f"{cost.pictures / 1e6:,.0f} M",
        "-" if cost is None else cost.show_macs(),
    )


def _show(recipe: Any, *, as_json: bool) -> None:
    from resnext.training import config as configs

    if as_json:
        text.dump(recipe.to_json())
        return
    promised, published = (
        {name: f"{top1:g} %" for name, top1 in numbers.items()}
        for numbers in (recipe.expected, recipe.published)
    )
    facts = {
        "recipe": recipe.name,
        "source": recipe.source,
        "data": "" if recipe.dataset is None else recipe.dataset.name,
        "promised": promised,
        "published, not promised": published,
        "measured": recipe.measured,
        "cost": str(recipe.cost() or "as much as your data"),
        "published time": recipe.time,
        "command": recipe.command,
    }
    print(text.pairs(list(facts.items())))
    print(f"\n{recipe.text}\n")
    settings = [(path, configs.value_of(recipe.config, path)) for path in configs.paths()]
    print(text.pairs([(path, configs.show(value)) for path, value in settings]))
