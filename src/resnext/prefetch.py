"""Between ways 2 and 3: decode in threads, ahead of the engine, in order.

A slow source (a camera, a pipe) is answered at once with a short batch; a fast one fills
every batch. What is ahead is bounded, so that an endless source needs no more memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from resnext import cores

PATIENCE = 0.1  # s that a batch waits for its next item
# s after which a wait is begun anew: the kernel may give a signal to another thread, and then
# this one, which has to act on it, does not wake.
PULSE = 0.5

Item = TypeVar("Item")
Result = TypeVar("Result")
Arrivals = queue.SimpleQueue[Future[Result] | None]  # None: there are no more


def batches(
    items: Iterable[Item],
    work: Callable[[int, Item], Result],
    *,
    batch_size: int,
    ahead: int,
    patience: float | None = PATIENCE,
) -> Iterator[list[Result]]:
    """Apply `work` to items in threads and yield the results in order, in batches.

    Args:
        items: Taken one by one, and closed at the end, by a thread of its own; may be slow
            or endless.
        work: Called with the position and the item, in several threads at once.
        batch_size: Results per batch, at least 1.
        ahead: Most items taken and not yet yielded, at least `batch_size`.
        patience: Seconds after which a batch that has a result waits no longer for more; with
            None every batch is full, whatever the timing.

    Yields:
        Lists of 1 to `batch_size` results.

    Raises:
        BaseException: What `items` or `work` raised, after the results before it.
    """
    arrived: Arrivals[Result] = queue.SimpleQueue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(cores.available(), thread_name_prefix="resnext-decode")

    def take() -> None:
        try:
            for position, item in enumerate(items):
                room.acquire()
                if stopped.is_set():
                    break
                arrived.put(pool.submit(work, position, item))
            arrived.put(None)
            if hasattr(items, "close") and stopped.is_set():
                items.close()
        except BaseException as error:  # raised again in the thread that asked
            failed: Future[Result] = Future()
            failed.set_exception(error)
            arrived.put(failed)

    # A daemon: it may wait for a source that never speaks again.
    threading.Thread(target=take, name="resnext-source", daemon=True).start()
    try:
        yield from _collect(arrived, room, batch_size, patience)
    finally:
        stopped.set()
        room.release()
        # Not waiting: one of them may be fetching from a server that drips.
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(
    arrived: Arrivals[Result], room: threading.Semaphore, batch_size: int, patience: float | None
) -> Iterator[list[Result]]:
    batch: list[Result] = []
    pending: Future[Result] | None = None
    error: BaseException | None = None
    while True:
        hurried = bool(batch) and patience is not None
        wait = patience if hurried else PULSE
        try:
            pending = pending or arrived.get(timeout=wait)
            if pending is None:
                break
            error = pending.exception(timeout=wait)
        except (queue.Empty, TimeoutError):
            if hurried:
                yield batch
                batch = []
            continue
        if error is not None:
            break
        batch.append(pending.result())
        pending = None
        room.release()
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
    if error is not None:
        raise error
