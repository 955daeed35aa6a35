"""A project's folder: its private state, and the lock held for the length of a run."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import conflicts, surroundings
from steps.errors import GraphError, ParamsError, RequestError
from steps.promotion.terms import SECTIONS
from steps.registry import relocation
from steps.registry.tracking import is_own, tracking_uri
from steps.runtime import files, params

STATE = ".regraft"
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
}


def enter(root: Path) -> Path:
    """Make `root` the project of this process: its state stays inside it, and telemetry is off.

    Environment variables that the user has set (an MLflow server, a Prefect server) are kept. MLflow's own database
    follows a project that was moved. Raises RequestError if `root` is not a project, or if a merge is not resolved.
    """
    if not (root / "dvc.yaml").is_file():
        raise RequestError(f"{root} is no regraft project (no dvc.yaml); change to the project's folder")
    _check_path(root.resolve())
    if remedies := conflicts.remedies(root):
        raise RequestError("\n  ".join(remedies))
    _check_sections(root)
    with suppress(OSError):  # on a read-only disk: `serve` needs no state
        (root / STATE).mkdir(exist_ok=True)
    settle(root)
    os.chdir(root)  # DVC's run cache resolves paths by the current folder, whatever root its Repo was given
    if is_own(os.environ["MLFLOW_TRACKING_URI"]):
        relocation.follow(root.resolve())
    return Path.cwd()


def settle(root: Path) -> None:
    """Set the environment of a process of this project; writes nothing."""
    state = root.resolve() / STATE
    surroundings.complete(state)
    defaults = {
        **TELEMETRY_OFF,
        "DVC_ROOT": str(root.resolve()),
        "PREFECT_HOME": str(state / "prefect"),
        "TORCH_HOME": str(state / "torch"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        # a busy or slow machine takes longer than the 20 s that Prefect grants its own server to start
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in {**_profiles(), **defaults, **_caches(state)}.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri()


def _check_path(root: Path) -> None:
    """Refuse a folder whose name MLflow and its database take for something else."""
    misread = re.search(r"%[0-9A-Fa-f]{2}|\?", str(root))
    if misread:
        raise RequestError(
            f"MLflow cannot keep files in {root}: it reads {misread[0]!r} in a path as part of an address; rename or "
            "move the folder"
        )


def _profiles() -> dict[str, str]:
    """Return where Prefect's profiles are: the user's own, although Prefect's other files are kept in the project."""
    profiles = Path.home() / ".prefect" / "profiles.toml"
    return {"PREFECT_PROFILES_PATH": str(profiles)} if "PREFECT_HOME" not in os.environ and profiles.is_file() else {}


def _caches(state: Path) -> dict[str, str]:
    """Return where torch and DVC keep compiled code and pickles, which they run and read again.

    The defaults are folders under /tmp and /var/tmp with known names: another user can create them first. If the
    project is read-only, nothing is compiled, no stage runs, and the defaults stay.
    """
    if not os.access(state, os.W_OK):
        return {}
    return {"TORCHINDUCTOR_CACHE_DIR": str(state.parent / files.COMPILED), "DVC_SITE_CACHE_DIR": str(state / "dvc")}


def _check_sections(root: Path) -> None:
    """Refuse a params.yaml that is not YAML, or lacks or adds a section, before DVC reports it in its own words."""
    import yaml

    document = params.read(root)
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    known = {*SECTIONS, *(name.split(".")[0] for stage in stages.values() for name in stage.get("params", []))}
    faults = [*params.unknown_sections(document, known)]
    if faults:
        raise ParamsError(faults)


def check_stages(root: Path, names: Sequence[str]) -> None:
    """Raise RequestError for a name that is not a stage; reads dvc.yaml and starts nothing."""
    import yaml

    refuse_unknown(names, list(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]))


def refuse_unknown(names: Sequence[str], stages: Sequence[str]) -> None:
    """Raise RequestError for a name that is not a stage, with the nearest one."""
    for name in names:
        if name not in stages:
            near = difflib.get_close_matches(name, stages, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise RequestError(f"no stage {name!r} in dvc.yaml{meant} (stages: {', '.join(stages)})")


@contextmanager
def editing_params(root: Path) -> Iterator[Any]:
    """Yield params.yaml for editing in place; comments, quotes, order and nulls are preserved."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 200
    yaml.representer.add_representer(
        type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    yield document
    text = io.StringIO()
    yaml.dump(document, text)
    files.write_text(root / "params.yaml", text.getvalue())


@contextmanager
def running(root: Path, wait: bool = False) -> Iterator[None]:
    """Hold the project's lock for a whole run. If another run holds it, raise GraphError, or `wait` for its end.

    DVC's own lock cannot span a run (DVC's status refuses inside it). The kernel frees this one if a run is killed.
    """
    import fcntl

    with (root / STATE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GraphError("another run holds this project; wait for it to end, then run again") from None
        yield
