"""MLflow's model registry: versions found by lineage, and the aliases champion and challenger. Aliases, no stages."""

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import RegistryError, RequestError
from steps.registry import circumstances
from steps.registry.tracking import DENIED, LINEAGE, answering, unless_absent

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")
RACES = ("UNIQUE constraint", "duplicate key", "database is locked", "deadlock detected", "Giving up after")


def ensure_model(
    mlflow: "MlflowClient", name: str, description: str = "Made by regraft; promote with `regraft`, not by hand."
) -> None:
    """Make the registered model where it does not exist. RegistryError where it does, and may not be read."""
    # A server may be set to call forbidden what is not there; whether it is, an attempt to make it tells
    if unless_absent(lambda: mlflow.get_registered_model(name), DENIED) is None:
        try:
            mlflow.create_registered_model(name, description=description)
        except RegistryError:
            if model(mlflow, name) is None:  # or else another process was first
                raise


def model(mlflow: "MlflowClient", name: str) -> Any:
    """Return a registered model, None if there is none. RegistryError if MLflow does not answer."""
    return unless_absent(lambda: mlflow.get_registered_model(name))


def _in_model(mlflow: "MlflowClient", name: str, ask: Callable[[], Any], *codes: str) -> Any:
    """Return MLflow's answer about something in a model; None where one of the two is not there.

    With passwords, MLflow calls forbidden whatever is asked about a model that does not exist.
    """
    try:
        return unless_absent(ask, *codes)
    except RegistryError as error:
        if error.code == DENIED and model(mlflow, name) is None:
            return None
        raise


def find_version(mlflow: "MlflowClient", name: str, digest: str) -> str | None:
    """Return the number of the version with this digest, if there is one that is ready and has its files.

    Raises RegistryError as `listing` does.
    """
    found = mlflow.search_model_versions(f"name = '{name}' and tags.`{LINEAGE}` = '{digest}'")
    ready = [v for v in found if v.status == "READY" and "MLmodel" in _listing(mlflow, v)]
    return str(min(ready, key=lambda v: int(v.version)).version) if ready else None


def digest(mlflow: "MlflowClient", name: str, version: str) -> str | None:
    """Return the digest under which a version is registered; None where regraft did not register it."""
    found: str | None = mlflow.get_model_version(name, version).tags.get(LINEAGE)
    return found


def has_version(mlflow: "MlflowClient", name: str, version: str) -> bool:
    """Return whether a version is registered, ready, and has its files. Raises RegistryError as `listing` does."""
    found = registered(mlflow, name, version)
    return found is not None and found.status == "READY" and "MLmodel" in _listing(mlflow, found)


def holds(mlflow: "MlflowClient", name: str, version: str, path: str) -> bool:
    """Return whether a file or folder lies at the top of a version's files. Raises RegistryError as `listing` does."""
    return path in listing(mlflow, name, version)


def listing(mlflow: "MlflowClient", name: str, version: str) -> list[str]:
    """Return the paths at the top of a version's files; none where the version or all its files are gone.

    Raises RegistryError where registry or artifact store cannot say so just now: an outage is no loss.
    """
    found = registered(mlflow, name, version)
    return _listing(mlflow, found) if found else []


def registered(mlflow: "MlflowClient", name: str, version: str) -> Any:
    """Return MLflow's record of a version, None if there is none. RegistryError if MLflow does not answer."""
    if not version.isdecimal():
        return None
    return _in_model(mlflow, name, lambda: mlflow.get_model_version(name, version))


def _listing(mlflow: "MlflowClient", version: Any, folder: str | None = None) -> list[str]:
    """Ask for the files; MLflow's own stores, local and over HTTP, return an empty list for a folder that is gone."""
    model = str(version.source).removeprefix("models:/")
    try:
        found = unless_absent(lambda: mlflow.list_logged_model_artifacts(model, folder))
    except RegistryError as error:
        told = f"whether version {version.version} of {version.name} has its files cannot be told now: {error}"
        raise RegistryError(told, code=error.code) from None
    return [file.path for file in found or ()]


def size(mlflow: "MlflowClient", name: str, version: str) -> int:
    """Return the size in bytes of a version's files, except those that only restore its run."""
    model = str(mlflow.get_model_version(name, version).source).removeprefix("models:/")
    total, waiting = 0, [None]
    while waiting:
        for file in mlflow.list_logged_model_artifacts(model, waiting.pop()):
            if file.path == circumstances.FOLDER:
                continue
            if file.is_dir:
                waiting.append(file.path)
            else:
                total += int(file.file_size or 0)
    return total


def create_version(
    mlflow: "MlflowClient",
    name: str,
    digest: str,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Upload a saved MLflow model and register it; return its version.

    The version, with its lineage tag, is created last: a kill before leaves files that nothing points to.
    """
    from mlflow.entities import Metric

    run = mlflow.get_run(run_id)
    logged = mlflow.create_logged_model(
        run.info.experiment_id, name=f"{name}-{tags['kind']}", source_run_id=run_id, model_type="regraft"
    )
    mlflow.log_model_artifacts(logged.model_id, str(folder))
    mlflow.finalize_logged_model(logged.model_id, "READY")
    if metrics:
        mlflow.log_batch(
            run_id, [Metric(k, v, int(run.info.start_time), 0, model_id=logged.model_id) for k, v in metrics.items()]
        )
    version = mlflow.create_model_version(
        name, f"models:/{logged.model_id}", run_id, tags={LINEAGE: digest, **tags}, model_id=logged.model_id
    )
    return str(version.version)


def alias_version(mlflow: "MlflowClient", name: str, alias: str) -> str | None:
    """Return the version that an alias points to; None if there is no such alias or model.

    Raises RegistryError where MLflow does not say: an outage is no registry without a champion.
    """
    # Of an alias that is not there MLflow says that the parameter is wrong
    found = _in_model(mlflow, name, lambda: mlflow.get_model_version_by_alias(name, alias), "INVALID_PARAMETER_VALUE")
    return str(found.version) if found else None


def resolve(mlflow: "MlflowClient", address: str) -> tuple[str, str]:
    """Return name and number of the version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises RequestError where there is no such address, model, alias or version, and says what there is; RegistryError
    where MLflow does not say.
    """
    parts = ADDRESS.fullmatch(address)
    if not parts:
        raise RequestError(f"{address!r} names no version; expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = parts.groups()
    found = model(mlflow, name)
    if found is None:
        there = ", ".join(other.name for other in mlflow.search_registered_models(max_results=20))
        raise RequestError(f"the registry has no model {name!r}; it has: {there or 'none'}")
    if alias and alias not in found.aliases:
        raise RequestError(f"{name} has no alias {alias!r}; it has: {', '.join(sorted(found.aliases)) or 'none'}")
    version = version or str(found.aliases[alias])
    if not has_version(mlflow, name, version):
        raise RequestError(f"{name} has no version {version}, or its files are gone")
    return name, version


def fetch(mlflow: "MlflowClient", name: str, version: str, path: str, folder: Path) -> Path:
    """Copy one folder of a version's files into `folder`; return its path.

    Raises RequestError where it has none, RegistryError where MLflow does not hand it out.
    """
    from mlflow.artifacts import download_artifacts

    found = registered(mlflow, name, version)
    if found is None or path not in _listing(mlflow, found, str(Path(path).parent)):
        raise RequestError(f"version {version} of {name} has no {path}: regraft did not register it")
    with answering():
        return Path(download_artifacts(artifact_uri=f"models:/{name}/{version}/{path}", dst_path=str(folder)))


def point_alias(mlflow: "MlflowClient", name: str, alias: str, version: str | None) -> None:
    """Point an alias to a version, or to nothing."""
    if version is None:
        mlflow.delete_registered_model_alias(name, alias)
    else:
        mlflow.set_registered_model_alias(name, alias, version)


def tag_verdict(
    mlflow: "MlflowClient", name: str, version: str, verdict: str, reasons: Sequence[str], opponent: str | None
) -> None:
    """Tag a version with its last verdict, for readers of MLflow's UI."""
    against = f"version {opponent}" if opponent else "no champion"
    tags = {"verdict": verdict, "reasons": "\n".join(reasons), "compared_with": against}
    for tag, value in tags.items():
        mlflow.set_model_version_tag(name, version, f"regraft.{tag}", value)


def lost_race(error: RegistryError) -> bool:
    """Return whether a database reports concurrent writers; if so, wait a moment first.

    MLflow turns the errors of its database into one type, so their words are all there is to go by: all of them, not
    only the line that a person is told.
    """
    if not any(word in f"{error} {error.__context__}" for word in RACES):
        return False
    time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - so that those who met do not meet again
    return True
