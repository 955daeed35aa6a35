"""Progress of long work: a bar on a terminal, a log line every `EVERY` seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("regraft")
EVERY = 15.0  # seconds between plain lines


def track(items: Iterable[T], total: int, what: str, size: int = 1) -> Iterator[T]:
    """Yield `items` and show progress, speed and time left; one item counts as `size` of `total`."""
    if sys.stderr.isatty():
        yield from _bar(items, total, what, size)
    else:
        yield from _lines(items, total, what, size)


def _bar(items: Iterable[T], total: int, what: str, size: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>6.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, rate=0.0)
        start = time.monotonic()
        for item in items:
            yield item
            progress.advance(task, size)
            done = progress.tasks[0].completed
            progress.update(task, rate=done / max(time.monotonic() - start, 1e-6))


def _lines(items: Iterable[T], total: int, what: str, size: int) -> Iterator[T]:
    start = spoken = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - spoken >= EVERY:
            spoken, done = now, min(count * size, total)
            rate = done / (now - start)
            log.info("%s: %d of %d, %.0f/s, %.0f s left", what, done, total, rate, (total - done) / rate)
