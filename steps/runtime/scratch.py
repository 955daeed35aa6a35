"""Tensors kept for the length of one stage: decoded pixels, activations. On disk, so memory stays flat.

The file has no name: nothing to invalidate, nothing left behind by a kill, nothing that another run could mistake.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Hashable
from pathlib import Path

import torch

from steps.runtime.files import project_root

RESERVE = 0.05  # of the disk stays free


def project_cache(name: str) -> Path:
    """Return a folder of the project's ignored cache; deleting it changes time, never bytes."""
    folder = project_root() / ".regraft" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Scratch:
    """A write-once mapping from key to tensor in an unnamed file; the kernel's cache keeps what fits in memory."""

    def __init__(self) -> None:
        self._folder = project_cache("scratch")
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (lives as long as the mapping)
        self._entries: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}
        self._end, self._lock = 0, threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __getitem__(self, key: Hashable) -> torch.Tensor:
        start, shape, dtype = self._entries[key]
        data = bytearray(os.pread(self._file.fileno(), shape.numel() * dtype.itemsize, start))
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def keep(self, key: Hashable, tensor: torch.Tensor) -> bool:
        """Keep a copy of `tensor`; return False if the disk has no room for it."""
        data = tensor.contiguous().numpy().tobytes()
        disk = shutil.disk_usage(self._folder)
        if disk.free - len(data) < RESERVE * disk.total:
            return False
        with self._lock:
            os.pwrite(self._file.fileno(), data, self._end)
            self._entries[key] = (self._end, tensor.shape, tensor.dtype)
            self._end += len(data)
        return True
