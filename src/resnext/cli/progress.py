"""Progress on stderr, for more than a few pictures and only if seen."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from resnext.errors import counted
from resnext.results.formats import printable

FEW = 10
_MOST_AHEAD = 1_000_000  # sources known ahead of the work: about 200 MB at the most

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from resnext.results.sinks import AbstractSink

T = TypeVar("T")
Row = TypeVar("Row")


class Lookahead(Generic[T]):
    """Hand items on as they come, while a thread walks on to learn how many there are.

    Work starts with the first item; once the walk has ended the total is known, and with
    it the time left.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.taken = 0
        self._items = iter(items)
        self._ahead: deque[T] = deque()
        self._found = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._walk, name="resnext-lookahead", daemon=True).start()

    @property
    def total(self) -> int | None:
        """Number of items, or None while the walk goes on."""
        return self._found if self._ended else None

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ahead or self._ended)
                if not self._ahead:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._ahead.popleft()
                self.taken += 1
                self._changed.notify_all()
            yield item

    def _walk(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ahead) < _MOST_AHEAD)
                    self._ahead.append(item)
                    self._found += 1
                    self._changed.notify_all()
        except BaseException as error:  # handed to the consumer, which raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


@contextlib.contextmanager
def bar(sources: Lookahead[T], *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show a bar with rate and time left on stderr, if stderr is a terminal.

    Args:
        sources: What is being worked through.
        quiet: Show nothing, because results scroll on the same terminal.

    Yields:
        A function to call after each item.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    with _count_display() as (display, task):

        def advance() -> None:
            current = display.tasks[0]
            display.update(
                task,
                advance=1,
                total=sources.total,
                rate=current.speed or 0.0,
                visible=current.completed >= FEW,
            )

        yield advance


@contextlib.contextmanager
def count_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Show how many are done, rate and time left on stderr, if that is a terminal.

    Yields:
        A function to call with the number done and that of all, or None.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with _count_display() as (display, task):
        yield lambda done, total: display.update(
            task, completed=done, total=total, visible=total > FEW,
            rate=display.tasks[0].speed or 0.0,
        )  # fmt: skip


@contextlib.contextmanager
def download_bar() -> Iterator[Callable[[int, int | None], None] | None]:
    """Show bytes, speed and time left of a download on stderr, if that is a terminal.

    Yields:
        A function to call with the bytes done and the bytes in all, or None.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as stack:
        update: list[Callable[[int, int | None], None]] = []

        def downloaded(done: int, total: int | None) -> None:
            if not update:  # nothing is imported or shown where nothing is downloaded
                update.append(stack.enter_context(_download_display()))
            update[0](done, total)

        yield downloaded


@contextlib.contextmanager
def _count_display() -> Iterator[tuple[Progress, TaskID]]:
    # rich takes 70 ms to import: only for people who look at a long run.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield display, display.add_task("", total=None, rate=0.0, visible=False)


@contextlib.contextmanager
def _download_display() -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


@contextlib.contextmanager
def naming_partial(sink: AbstractSink[Row]) -> Iterator[AbstractSink[Row]]:
    """Open a sink and, if the run stops early, say on stderr what it left."""
    try:
        with sink:
            yield sink
    finally:
        if sink.partial is not None:
            print(f"stopped early; {sink.partial} has what was done", file=sys.stderr)


@contextlib.contextmanager
def naming_kept(describe: Callable[[], str]) -> Iterator[None]:
    """If the run is stopped, say on stderr what is kept of it."""
    try:
        yield
    except Exception:  # which says itself what is wrong
        raise
    except BaseException:  # Ctrl-C, or the process was asked to end
        print(printable(f"stopped early; {describe()}"), file=sys.stderr)
        raise


def say_written(*paths: os.PathLike[str] | None) -> None:
    """Name on stderr the files that were written beside what is on stdout."""
    for path in paths:
        if path is not None:
            print(f"written: {printable(os.fspath(path))}", file=sys.stderr)


def summarize(count: int, failed: int, seconds: float) -> None:
    """Say on stderr how many pictures took how long, if there were more than a few."""
    if count <= FEW or not sys.stderr.isatty():
        return
    failures = f", {failed} could not be read" if failed else ""
    print(
        f"{counted(count, 'picture')} in {seconds:.3g} s ({count / seconds:.3g}/s){failures}",
        file=sys.stderr,
    )
