"""A version's files in a private folder, and the code imported from there: both go with the object that holds them.

Python's path and its list of modules belong to the whole process: what is left there of a folder that is gone, others
can fill. So a folder is on the path only while its code is imported, and its modules are listed only while it is held.
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
_holders: "weakref.WeakValueDictionary[str, Unpacked]" = weakref.WeakValueDictionary()  # by the name of their code


class Unpacked:
    """A private folder. `remove`, or the end of this object, removes it and takes its modules out of Python's list."""

    def __init__(self) -> None:
        """Create the folder; RegistryError if there is no place for it."""
        self.folder, owner = private.make()
        self._shared: list[Unpacked] = []
        self.remove = weakref.finalize(self, _remove, self.folder, owner)

    @contextmanager
    def importing(self, code: Path) -> Iterator[None]:
        """Allow the packages in the folder `code`, inside this one, to be imported; see `importing`.

        One whose name, which holds its digest, is loaded already is shared, and the folder it came from is held, too.
        Modules of such a name that no folder of ours vouches for are forgotten first: they were never verified.
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
    """Allow MLflow to import code of `folder`; Python's path is restored afterwards, even if the load fails.

    The path is that of all threads: what another thread imports meanwhile is looked for in `folder` first. That is
    why it is there for the import alone (what a module imports later of its own package, Python finds by the package,
    not by the path), one at a time, and why nobody else may write there.
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
            sys.path = path  # MLflow puts another list in its place
            mlflow_keeps.__mlflow_model__ = None  # the last model it loaded, with all its weights
            _uncache(folder)


def forget(folder: Path) -> None:
    """Take the modules that came from `folder` out of Python's list; whoever holds their objects keeps them."""
    _forget({name.split(".")[0] for name, module in list(sys.modules.items()) if _is_inside(_origin(module), folder)})
    _uncache(folder)


def _remove(folder: Path, owner: IO[bytes]) -> None:
    """Takes no lock: the garbage collector may call it in any thread, in the midst of an import."""
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
    """Return the file that a module came from, and wake none that is to be loaded when it is first asked something."""
    if not issubclass(type(module), ModuleType):
        return None
    return getattr(object.__getattribute__(module, "__dict__").get("__spec__"), "origin", None)


def _is_inside(path: object, folder: Path) -> bool:
    return isinstance(path, str) and (path == str(folder) or path.startswith(f"{folder}{os.sep}"))
