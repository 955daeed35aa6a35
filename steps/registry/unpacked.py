"""A version's files in a private folder, and the code imported from it: both go with the object that holds them.

`sys.path` and `sys.modules` belong to the whole process, and others could fill a deleted folder that is still listed
there. So a folder is on the path only while its code is imported, and its modules are listed only while it is held.
"""

import os
import shutil
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

from steps.runtime import private

_lock = threading.RLock()  # one import of a version's code at a time
_holders: "weakref.WeakValueDictionary[str, Unpacked]" = weakref.WeakValueDictionary()  # by their code's package


class Unpacked:
    """A private folder. `remove`, or the end of this object, deletes it and drops its modules from `sys.modules`."""

    def __init__(self) -> None:
        """Create the folder; RegistryError if that fails."""
        self.folder, owner = private.make()
        self._shared: list[Unpacked] = []
        self.remove = weakref.finalize(self, _remove, self.folder, owner)

    @contextmanager
    def importing(self, code: Path) -> Iterator[None]:
        """Allow importing the packages in the folder `code`, inside this one; see `importing`.

        A package already loaded under its name, which holds its digest, is shared, and the folder it came from is held,
        too. Modules of that name that no folder of ours vouches for are dropped first: they were never verified.
        """
        with _lock:
            for name in [path.name for path in code.iterdir()] if code.is_dir() else []:
                holder = _holders.get(name)
                if holder and holder.remove.alive:
                    self._shared.append(holder)
                else:
                    _forget({name})
                    _holders[name] = self
            with importing(self.folder):
                yield


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Allow MLflow to import code from `folder`; Python's path is restored afterwards, even if the load fails.

    All threads share the path: what another thread imports meanwhile is searched for in `folder` first. So the folder
    is on the path for the import alone (a module's later imports from its own package are resolved through the package,
    not the path), one at a time, and nobody else may write there.
    """
    from mlflow.models import model as mlflow_keeps

    with _lock:
        path, bytecode = sys.path, sys.dont_write_bytecode
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.dont_write_bytecode = bytecode
            path[:] = [entry for entry in sys.path if not _is_inside(entry, folder)]
            sys.path = path  # MLflow replaces the list
            mlflow_keeps.__mlflow_model__ = None  # the last model it loaded, with all its weights
            _uncache(folder)


def forget(folder: Path) -> None:
    """Remove the modules that came from `folder` from `sys.modules`; whoever holds their objects keeps them.

    Safe while other threads import: `copy` is one step, in contrast to a list of its items.
    """
    _forget({name.split(".")[0] for name, module in sys.modules.copy().items() if _is_inside(_origin(module), folder)})
    _uncache(folder)


def _remove(folder: Path, owner: IO[bytes]) -> None:
    """Clean up without a lock: the garbage collector may call this in any thread, in the middle of an import."""
    forget(folder)
    shutil.rmtree(folder, ignore_errors=True)
    owner.close()


def _forget(packages: set[str]) -> None:
    for name in [name for name in list(sys.modules) if name.split(".")[0] in packages]:
        sys.modules.pop(name, None)


def _uncache(folder: Path) -> None:
    for entry in [entry for entry in list(sys.path_importer_cache) if _is_inside(entry, folder)]:
        sys.path_importer_cache.pop(entry, None)


def _origin(module: object) -> object:
    """Return the file that a module came from, without triggering the import of a lazily loaded module."""
    if not issubclass(type(module), ModuleType):
        return None
    return getattr(object.__getattribute__(module, "__dict__").get("__spec__"), "origin", None)


def _is_inside(path: object, folder: Path) -> bool:
    return isinstance(path, str) and (path == str(folder) or path.startswith(f"{folder}{os.sep}"))
