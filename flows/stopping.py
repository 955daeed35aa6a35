"""A run that is stopped (Ctrl-C, SIGTERM) ends at once, with all it started; the next run goes on from there.

A stage computes in a thread, which Python cannot interrupt and would wait for, after the project's lock is free. So the
process ends while it holds the lock, as if it were killed: nothing that regraft writes depends on an orderly end.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

log = logging.getLogger("regraft")
PATIENCE = 3  # seconds that other processes get to end, before they are killed
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Ends a process once the pipe of its standard input closes, that is, when whoever holds the other end is gone. Slim
# containers have no ps, macOS has no /proc.
WATCHER = 'cat; { cat "/proc/$1/cmdline" || ps -o command= -p "$1"; } | grep -q prefect && kill "$1"'


class Stopped(BaseException):
    """SIGTERM or SIGINT has arrived. Not an Exception: nothing may take it for a fault of a stage."""


@contextmanager
def ending_when_told() -> Iterator[None]:
    """End the process on SIGTERM or SIGINT within the block: exit code 143 or 130, one sentence, no process left."""
    from prefect.exceptions import TerminationSignal  # a worker's SIGTERM

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    except Stopped as reason:
        _end(reason.args[0])
    except TerminationSignal:
        _end(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # whoever asks twice gets the same
    raise Stopped(signal.Signals(number))


def _end(told: signal.Signals) -> None:
    """Stop all processes that this one started, then this one."""
    import psutil  # type: ignore[import-untyped]

    log.warning("stopped by %s; what is finished is kept, and `regraft run` goes on from there", told.name)
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.Error):  # it has ended meanwhile, as its parent did or by the same Ctrl-C
            child.terminate()
    for child in psutil.wait_procs(children, PATIENCE)[1]:
        with suppress(psutil.Error):
            child.kill()
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
    os._exit(128 + told)


def bind_to_us(process: int) -> None:
    """Let a process of ours end when this one does, however that happens, `kill -9` included."""
    reader, writer = os.pipe()
    command = ["sh", "-c", WATCHER, "sh", str(process)]
    subprocess.Popen(
        command, stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.close(reader)
    _HELD.append(writer)  # closed by the system, at our end


_HELD: list[int] = []
