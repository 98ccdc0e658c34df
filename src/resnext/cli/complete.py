"""What the shell can complete: models by name or file, fixed words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from click.shell_completion import CompletionItem

Completer = Callable[[Any, Any, str], list[CompletionItem]]


def complete(words: str) -> Completer:
    """Return a completer for some words, separated by spaces."""
    return lambda _context, _parameter, incomplete: [
        CompletionItem(word) for word in words.split() if word.startswith(incomplete)
    ]


def complete_model(_context: Any, _parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Complete a model's name or, where none begins like that, a file."""
    from resnext import catalogue

    rows = catalogue.weights()
    names = {"starter", *catalogue.defaults()}.union(*({row.name, *row.aliases} for row in rows))
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
