"""MLflow runs, by explicit run id: the fluent active run is thread-local and gets lost in workers (mlflow#15131)."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters import circumstances
from steps.adapters.circumstances import Circumstances
from steps.adapters.files import project_root
from steps.adapters.stage import Lineage
from steps.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINEAGE = "regraft.lineage"  # the tag that says who a run or a version is


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the project's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / '.regraft' / 'mlflow.db'}"


def client() -> "MlflowClient":
    """Return a client of the tracking server and registry; RegistryError where it cannot be reached."""
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    try:
        found = mlflow.MlflowClient(uri)
        found.search_experiments(max_results=1)
    except (mlflow.MlflowException, SQLAlchemyError) as error:  # a database that is away comes unwrapped
        raise RegistryError(f"MLflow at {uri} does not answer: {str(error).splitlines()[0]}") from None
    return found


def experiment(mlflow: "MlflowClient", name: str) -> str:
    """Return the id of the experiment, made if it does not exist."""
    found = mlflow.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    own = tracking_uri() == f"sqlite:///{project_root() / '.regraft' / 'mlflow.db'}"
    location = (project_root() / ".regraft" / "mlartifacts").as_uri() if own else None
    return str(mlflow.create_experiment(name, artifact_location=location))


def find_run(mlflow: "MlflowClient", experiment_id: str, digest: str) -> str | None:
    """Return the id of the finished run with this lineage digest, if there is one."""
    clause = f"tags.`{LINEAGE}` = '{digest}' and attributes.status = 'FINISHED'"
    runs = mlflow.search_runs([experiment_id], clause, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def log_run(
    mlflow: "MlflowClient",
    experiment_id: str,
    lineage: Lineage,
    epochs: Sequence[Mapping[str, Any]],
    artifacts: Sequence[Path],
    tags: Mapping[str, str],
    around: Circumstances | None = None,
) -> str:
    """Return the run of this lineage; log it first, with its circumstances, where no finished one exists.

    A run that a kill left unfinished is marked failed and made anew: half a run is never taken for a whole one.
    """
    found = find_run(mlflow, experiment_id, lineage.digest)
    if found:
        return found
    _fail_unfinished(mlflow, experiment_id, lineage.digest)
    from mlflow.entities import Metric, Param, RunTag

    around = around or circumstances.gather(project_root())
    run = mlflow.create_run(
        experiment_id,
        run_name=f"{lineage.stage} {lineage.digest[:8]}",
        tags={LINEAGE: lineage.digest, "stage": lineage.stage, **around.tags, **tags},
    )
    now = int(run.info.start_time)
    metrics = [
        Metric(name, float(value), now, step)
        for step, row in enumerate(epochs)
        for name, value in row.items()
        if isinstance(value, int | float) and name != "epoch"
    ]
    values = [Param(name, str(value)) for name, value in _flat(lineage.params)]
    mlflow.log_batch(run.info.run_id, params=values, tags=[RunTag("regraft.code", lineage.code)])
    for start in range(0, len(metrics), 1000):  # the REST interface takes so many at once
        mlflow.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
    mlflow.log_dict(run.info.run_id, lineage.to_dict(), "lineage.json")
    for path in artifacts:
        mlflow.log_artifact(run.info.run_id, str(path))
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in around.files.items():
            (Path(scratch) / name).write_bytes(content)
        mlflow.log_artifacts(run.info.run_id, scratch, circumstances.FOLDER)
    mlflow.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def fetch(mlflow: "MlflowClient", run_id: str, folder: Path) -> dict[str, Path]:
    """Copy a run's lineage, figures and circumstances into `folder`; return those that exist, by name."""
    from mlflow.exceptions import MlflowException

    found: dict[str, Path] = {}
    for path in (
        "lineage.json",
        "evaluation.json",
        *(f"{circumstances.FOLDER}/{name}" for name in circumstances.NAMES),
    ):
        try:
            found[Path(path).name] = Path(mlflow.download_artifacts(run_id, path, str(folder)))
        except (MlflowException, OSError):  # one that is not there is a gap, which the caller names
            continue
    return found


def _fail_unfinished(mlflow: "MlflowClient", experiment_id: str, digest: str) -> None:
    clause = f"tags.`{LINEAGE}` = '{digest}' and attributes.status = 'RUNNING'"
    for run in mlflow.search_runs([experiment_id], clause):
        mlflow.set_terminated(run.info.run_id, "FAILED")


def _flat(params: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in params.items():
        if isinstance(value, dict):
            flat += [(f"{name}.{key}", inner) for key, inner in _flat(value)]
        else:
            flat.append((name, value))
    return flat
