"""MLflow's runs, by explicit run id: the fluent active run is thread-local and gets lost in workers (mlflow#15131)."""

import errno
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from steps.errors import RegistryError
from steps.registry import circumstances, relocation
from steps.registry.circumstances import Circumstances
from steps.runtime.files import project_root
from steps.runtime.stage import Lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINEAGE = "regraft.lineage"  # the tag that identifies a run or a version
ABSENT, DENIED, UNKNOWN = "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "UNAUTHENTICATED"  # MLflow's error codes


PATIENCE = 10.0  # seconds for a server's first answer; MLflow's client waits a quarter of an hour
FILE_STORES = {"botocore", "boto3", "s3transfer", "google", "azure", "urllib3"}  # clients of file stores


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the project's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / '.regraft' / 'mlflow.db'}"


def is_own(uri: str) -> bool:
    """Return whether a tracking address is the project's own SQLite file, however it is spelt."""
    path = uri.removeprefix("sqlite:///")
    return path != uri and Path(path).resolve() == project_root() / ".regraft" / "mlflow.db"


def unheard(uri: str) -> str:
    """Return why nothing is heard from a server within PATIENCE; "" if anything answers, or if it is no server.

    What it answers is for MLflow's client to judge, certificates and proxies too.
    """
    import requests

    if not uri.startswith("http"):
        return ""
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE, stream=True).close()
    except requests.Timeout:
        return f"MLflow at {uri} does not answer within {PATIENCE:.0f} s"
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
        return ""
    except requests.ConnectionError:
        return f"MLflow at {uri} does not answer: no connection"
    except (requests.RequestException, ValueError):
        return ""
    return ""


class Client:
    """MLflow's client, whose failures become RegistryErrors, as in `answering`."""

    def __init__(self, mlflow: "MlflowClient") -> None:
        self._mlflow = mlflow

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._mlflow, name)

        @wraps(method)
        def ask(*arguments: Any, **named: Any) -> Any:
            with answering():
                return method(*arguments, **named)

        return ask


@contextmanager
def answering() -> Iterator[None]:
    """Turn the errors of MLflow, its database or its file store into a RegistryError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except Exception as error:  # database connection errors are unwrapped, file store errors have the client's types
        known = isinstance(error, MlflowException | SQLAlchemyError | OSError)
        if not known and type(error).__module__.partition(".")[0] not in FILE_STORES:
            raise
        raise _refusal(error) from None


def unless_absent(ask: Callable[[], Any], *codes: str) -> Any:
    """Return MLflow's answer; None if the resource does not exist. Every other refusal is raised.

    `codes`: further error codes of MLflow's that mean the same for this request.
    """
    try:
        return ask()
    except RegistryError as error:
        if error.code in (ABSENT, *codes):
            return None
        raise


def _refusal(error: Exception) -> RegistryError:
    """Describe what the server refuses, and what to do if that is known."""
    from requests import RequestException

    where, text = f"MLflow at {tracking_uri()}", str(error).split("\n")[0][:500]
    code = str(getattr(error, "error_code", ""))
    if isinstance(error, RequestException):  # from the file store behind the server
        status = error.response.status_code if error.response is not None else 0
        code = {401: UNKNOWN, 403: DENIED}.get(status, "")
    elif isinstance(error, OSError):
        code = ABSENT if isinstance(error, FileNotFoundError) else ""
        if error.errno == errno.ENOSPC:
            return RegistryError(f"no room on the disk: {text}")
        text = f"{text}; where its files lie on a server's own disk, the server has to proxy them: --serve-artifacts"
        return RegistryError(f"{where} keeps its files where this machine cannot use them: {text}", code=code)
    if code == UNKNOWN:
        text = "the user name or password was rejected: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if code == DENIED:
        text = f"this user may not do that, or there is no such thing: {text}"
    verb = "does not answer" if code in ("", "INTERNAL_ERROR") else "refuses"
    return RegistryError(f"{where} {verb}: {text}", code=code)


def client() -> "MlflowClient":
    """Return a client of the tracking server and registry; RegistryError if it cannot be reached or refuses.

    The project's own database first follows the project's folder, if that was moved.
    """
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow prints a server's addresses with emoji to stdout, where `--json` prints JSON
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import mlflow

    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    if is_own(uri):
        relocation.follow(project_root())
    mlflow.set_tracking_uri(uri)
    with answering():
        raw_client = mlflow.MlflowClient(uri)
        raw_client.search_experiments(max_results=1)
    return Client(raw_client)


class Runs:
    """MLflow's runs; `client` is created on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def client(self) -> "MlflowClient":
        """Return a client of the tracking server; RegistryError if it cannot be reached or refuses."""
        return client()

    def connect(self) -> None:
        """Create the client, if there is none yet: MLflow downloads models from the address that it sets."""
        _ = self.client

    def experiment(self, name: str) -> str:
        """Return the id of the experiment, created if it does not exist. RegistryError if it is deleted."""
        known = self.find_experiment(name)
        if known:
            return known
        location = (project_root() / relocation.ARTIFACTS).as_uri() if is_own(tracking_uri()) else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def find_experiment(self, name: str) -> str | None:
        """Return the id of the experiment, None if there is none.

        Raises RegistryError if it is deleted: MLflow keeps a deleted experiment, and its name stays taken.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return None
        if experiment.lifecycle_stage == "deleted":
            restore = f"MLFLOW_TRACKING_URI={shlex.quote(tracking_uri())} mlflow experiments restore --experiment-id"
            raise RegistryError(
                f"the experiment {name!r} is deleted in MLflow, and takes no runs; restore it: "
                f"`{restore} {experiment.experiment_id}`, or name another in params.yaml (register.experiment)"
            )
        return str(experiment.experiment_id)

    def find_run(self, experiment_id: str, digest: str) -> str | None:
        """Return the id of the finished run with this lineage digest, if there is one."""
        clause = f"tags.`{LINEAGE}` = '{digest}' and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([experiment_id], clause, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def run(self, run_id: str) -> Any:
        """Return a run, None if there is none with this id. RegistryError if MLflow does not answer."""
        return unless_absent(lambda: self.client.get_run(run_id)) if run_id else None

    def log_run(
        self,
        experiment_id: str,
        lineage: Lineage,
        epochs: Sequence[Mapping[str, Any]] = (),
        artifacts: Sequence[Path] = (),
        tags: Mapping[str, str] = MappingProxyType({}),
        around: Circumstances | None = None,
    ) -> str:
        """Return the run of this lineage; log it first, with its circumstances, if no finished one exists.

        A run that a kill left unfinished is marked failed and logged again: a partial run never counts as complete.
        """
        finished = self.find_run(experiment_id, lineage.digest)
        if finished:
            return finished
        self._fail_unfinished(experiment_id, lineage.digest)
        from mlflow.entities import Metric, Param, RunTag

        around = around or circumstances.gather(project_root())
        run = self.client.create_run(
            experiment_id,
            run_name=f"{lineage.stage} {lineage.digest[:8]}",
            tags={LINEAGE: lineage.digest, "stage": lineage.stage, **around.tags, **tags},
        )
        run_id, now = str(run.info.run_id), int(run.info.start_time)
        metrics = [
            Metric(name, float(value), now, step)
            for step, row in enumerate(epochs)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "epoch"
        ]
        values = [Param(name, str(value)) for name, value in _flat(lineage.params)]
        self.client.log_batch(run_id, params=values, tags=[RunTag("regraft.code", lineage.code)])
        for start in range(0, len(metrics), 1000):  # the REST interface's limit per request
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])
        self.client.log_dict(run_id, lineage.to_dict(), "lineage.json")
        for path in artifacts:
            self.client.log_artifact(run_id, str(path))
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in around.files.items():
                (Path(scratch) / name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch, circumstances.FOLDER)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def fetch_run(self, run_id: str, folder: Path) -> dict[str, Path]:
        """Copy a run's lineage, figures and circumstances into `folder`; return those that exist, by name.

        A missing file is a gap, which the caller names; RegistryError if MLflow does not answer or deliver a file.
        """
        client = self.client
        kept = {file.path for parent in (None, circumstances.FOLDER) for file in client.list_artifacts(run_id, parent)}
        wanted = (
            "lineage.json",
            "evaluation.json",
            *(f"{circumstances.FOLDER}/{name}" for name in circumstances.NAMES),
        )
        return {
            Path(path).name: Path(client.download_artifacts(run_id, path, str(folder)))
            for path in wanted
            if path in kept
        }

    def _fail_unfinished(self, experiment_id: str, digest: str) -> None:
        clause = f"tags.`{LINEAGE}` = '{digest}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([experiment_id], clause):
            self.client.set_terminated(run.info.run_id, "FAILED")


def _flat(params: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in params.items():
        if isinstance(value, dict):
            flat += [(f"{name}.{key}", inner) for key, inner in _flat(value)]
        else:
            flat.append((name, value))
    return flat
