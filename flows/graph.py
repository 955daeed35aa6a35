"""dvc.yaml as DVC sees it: order, freshness, clearing outputs, committing. The only module that knows DVC.

DVC's Python `Repo` is not a promised interface, so it stays in here and pyproject.toml pins the minor version.
Knows no stage by name.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import steps
from flows.project import refuse_unknown
from steps.errors import GraphError, RequestError
from steps.runtime.files import sha256_of
from steps.runtime.stage import code_files

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
PATIENCE = 300.0  # seconds to wait for DVC's lock
META_KEYS = {"retries", "timeout_minutes", "isolate"}


# The code that this process will run, hashed before any stage is imported.
_HOME = Path(steps.__file__).parents[1]
_CODE = {path: sha256_of(_HOME / path) for path in sorted(code_files(_HOME))}
HEADERS = {  # of inputs that people write
    "data/decisions.csv": "write it, with the one line image,decision,label,note",
    "data/importance.csv": "write it, with the one line image,weight",
    "data/lost_classes.json": "write it, with the one line []",
}


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml; `retries`, `timeout_minutes` and `isolate` are policy and not part of its hash."""

    name: str
    cmd: str
    upstream: tuple[str, ...]
    retries: int = 0
    timeout_minutes: float | None = None
    isolate: bool = False


class Graph:
    """The stages of a project, in dependency order, and the operations on each."""

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException

        logging.getLogger("dvc").setLevel(logging.ERROR)  # its hints ("git add ...") are for its own command line
        self.root = root.resolve()
        _mend_rwlock(self.root)
        try:
            self._repo = _opened(self.root)
            self._order = _in_order(self._repo)
        except DvcException as error:
            raise GraphError(f"dvc.yaml cannot be read: {_sentence(error)}") from None
        self.stages: Mapping[str, Stage] = {s.name: _stage(s, self._upstream(s)) for s in self._order}

    def _refuse_other_code(self, name: str, dependencies: Sequence[str]) -> None:
        """Raise GraphError if the code in this process is not the code that dvc.lock is about to record.

        It differs if a file was edited since the run began, or if regraft was installed from another checkout.
        """
        for path in _under(dependencies, _CODE.keys() | code_files(self.root)):
            if not (self.root / path).is_file() or sha256_of(self.root / path) != _CODE.get(path):
                raise GraphError(f"{name}: {path} is not the code that this run loaded when it began; run again")

    def close(self) -> None:
        """Release DVC's handles."""
        self._repo.close()

    def _upstream(self, stage: Any) -> tuple[str, ...]:
        # networkx's edges point from a stage to its dependencies; `.dvc` files (raw data) are not stages
        return tuple(sorted(s.name for s in self._repo.index.graph.successors(stage) if getattr(s, "cmd", None)))

    def select(self, targets: Sequence[str]) -> list[Stage]:
        """Return the stages in order; with `targets`, only those and what they need. RequestError for unknown names."""
        refuse_unknown(targets, list(self.stages))
        wanted, waiting = set(), list(targets or self.stages)
        while waiting:
            name = waiting.pop()
            wanted.add(name)
            waiting += self.stages[name].upstream
        return [stage for stage in self.stages.values() if stage.name in wanted]

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        """Hold DVC's lock, around single calls only: training must not hold it, nor fail because a reader does."""
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        end = time.monotonic() + PATIENCE
        while True:
            try:
                self._repo.lock.lock()
                break
            except LockError:  # DVC itself waits about 3 s
                if time.monotonic() > end:
                    raise GraphError("DVC's lock is held by another command; end it, then run again") from None
        try:
            yield
        except DvcException as error:
            raise GraphError(f"{what}: {_sentence(error)}") from None
        finally:
            self._repo.lock.unlock()

    def _find(self, name: str) -> Any:
        return next(s for s in self._repo.index.stages if getattr(s, "name", None) == name)

    def is_fresh(self, name: str) -> bool:
        """Return whether all dependencies and outputs of the stage match dvc.lock."""
        with self._locked(name):
            return not self._find(name).changed()

    def clear(self, name: str) -> "Snapshot":
        """Remove the declared outputs; return the present state of the stage's dependencies.

        This comes first so that a retry starts clean, and because an output may be a link into the cache: writing
        through it would damage the cached copy.
        """
        with self._locked(name):
            stage = self._find(name)
            for dependency in stage.deps:
                if not dependency.exists:
                    way = HEADERS.get(str(dependency), "`regraft use` sets inputs")
                    raise GraphError(f"{name} needs {dependency}, which does not exist ({way})")
            self._refuse_other_code(name, [str(dependency) for dependency in stage.deps])
            stage.remove_outs(ignore_remove=False, force=False)
            stage.save_deps()
            return _snapshot(stage)

    def cached(self, digest: str) -> Path:
        """Return where DVC's cache keeps a file of this MD5, whether it is there or not."""
        return Path(self._repo.cache.local.oid_to_path(digest))

    def commit(self, name: str, before: "Snapshot") -> None:
        """Record the stage's outputs in cache and dvc.lock; GraphError if a dependency changed during the run."""
        with self._locked(name):
            stage = self._find(name)
            stage.save(run_cache=False)
            after = _snapshot(stage)
            changed = [path for path in after if after[path] != before.get(path)]
            if changed:
                self._repo._reset()  # discard what `save` noted, or a retry would find the stage fresh
                raise GraphError(f"{changed[0]} changed while {name} ran; its result was not recorded. Run again.")
            self._repo.stage_cache.save(stage)
            stage.commit()
            stage.dump(update_pipeline=False)

    def reproduce(self, name: str) -> None:
        """Run one stage through DVC in a subprocess (`isolate: true`)."""
        from dvc.exceptions import DvcException

        try:
            self._repo.reproduce(name, single_item=True, force=True)
        except DvcException as error:
            raise GraphError(f"{name}: {_sentence(error)}") from None

    def add(self, path: str) -> None:
        """Track a file or folder of input data (`dvc add`); does nothing if DVC already has this content."""
        from dvc.exceptions import DvcException

        with self._locked(path):
            absolute = str(self.root / path)
            known = [s for s in self._repo.index.stages if s.is_data_source and s.outs[0].fs_path == absolute]
            if known and not known[0].changed():
                return
        try:
            self._repo.add([absolute])
        except DvcException as error:
            raise GraphError(f"{path} cannot be tracked by DVC: {_sentence(error)}") from None


def read_at(root: Path, path: str, revision: str) -> bytes:
    """Return a tracked file's bytes at a git revision, from DVC's cache or its remote.

    Raises RequestError if there is no such revision, if it does not track the file, or if the bytes are gone.
    """
    from dvc.exceptions import DvcException
    from dvc.fs.dvc import DVCFileSystem
    from dvc.scm import SCMError, resolve_rev

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    repo = _opened(root)
    try:
        with repo.switch(resolve_rev(repo.scm, revision)):
            recorded = repo.find_outs_by_path(repo.fs.join(repo.root_dir, path))[0]
            if not recorded.hash_info:
                raise RequestError(f"{revision} has no {path}: no run was committed with it (`git add dvc.lock`)")
            return bytes(DVCFileSystem(repo=repo).cat_file(path))
    except SCMError as error:
        raise RequestError(f"{revision!r} is no revision of this project's git: {_sentence(error)}") from None
    except FileNotFoundError:
        message = f"{path} of {revision} is neither in DVC's cache nor in its remote"
        raise RequestError(f"{message}; `dvc fetch --all-commits` where it was pushed") from None
    except DvcException as error:
        raise RequestError(f"{revision} has no {path}: {_sentence(error)}") from None
    finally:
        repo.close()


def cache(root: Path) -> Path:
    """Return the folder of DVC's cache."""
    repo = _opened(root)
    try:
        return Path(repo.cache.local_cache_dir)
    finally:
        repo.close()


def remotes(root: Path) -> list[str]:
    """Return the names of DVC's remotes; GraphError if its configuration cannot be read."""
    from dvc.config import Config, ConfigError

    try:
        return sorted(Config(str(root / ".dvc"))["remote"])
    except ConfigError as error:
        raise GraphError(f".dvc/config cannot be read: {_sentence(error)}") from None


def _opened(root: Path) -> Any:
    """Return DVC's repository; without git (a downloaded zip, a container), DVC works without it."""
    from dvc.repo import Repo
    from dvc.scm import SCM, SCMError

    try:
        return Repo(str(root), scm=SCM(str(root)))
    except SCMError:
        return Repo(str(root), config={"core": {"no_scm": True}})


Snapshot = dict[str, Any]


def _snapshot(stage: Any) -> Snapshot:
    """Return the stage's dependencies: path (or params file) -> its hash or values."""
    return {str(dependency): dependency.hash_info.value for dependency in stage.deps}


def _in_order(repo: Any) -> list[Any]:
    import networkx as nx

    graph = repo.index.graph
    order = list(nx.lexicographical_topological_sort(graph.reverse(), key=lambda stage: str(stage.addressing)))
    return [stage for stage in order if getattr(stage, "name", None) and stage.cmd]


def _stage(stage: Any, upstream: tuple[str, ...]) -> Stage:
    meta = dict(stage.meta or {})
    unknown = set(meta) - META_KEYS
    if unknown:
        raise GraphError(f"{stage.name}: unknown meta key {min(unknown)!r}; known: {', '.join(sorted(META_KEYS))}")
    return Stage(stage.name, str(stage.cmd), upstream, **meta)


def _under(deps: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Return the paths that are one of the dependencies or lie in one."""
    return sorted(path for path in paths if any(path == dep or path.startswith(f"{dep}/") for dep in deps))


def _mend_rwlock(root: Path) -> None:
    """Remove DVC's list of readers and writers if a kill left it incomplete; until then DVC refuses all work."""
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink(missing_ok=True)


def _sentence(error: Exception) -> str:
    return str(error).split("\n")[0]
