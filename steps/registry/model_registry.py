"""MLflow's model registry: versions looked up by lineage, and the aliases champion and challenger instead of stages."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.errors import RegistryError, RequestError
from steps.registry import circumstances
from steps.registry.tracking import DENIED, LINEAGE, Runs, answering, unless_absent
from steps.runtime import params

CHAMPION, CHALLENGER = "champion", "challenger"
WARNINGS = "regraft.warnings"
MOST_OF_TAG = 5000  # characters: what any MLflow server takes
ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


class Registry(Runs):
    """One registered model of MLflow, by default the project's, and the runs behind its versions."""

    def __init__(self, root: Path, name: str = "") -> None:
        super().__init__(root)
        if name:
            self.name = name

    @cached_property
    def name(self) -> str:
        """Return the model's name; by default the one in params.yaml."""
        return str(params.read(self.root)["register"]["model_name"])

    def named(self, name: str) -> "Registry":
        """Return the registry of another model on the same server."""
        registry = Registry(self.root, name)
        registry.client = self.client
        return registry

    def ensure(self, description: str = "Made by regraft; promote with `regraft`, not by hand.") -> None:
        """Create the registered model if it does not exist. RegistryError if it exists and may not be read."""
        # Some servers report a missing model as forbidden; an attempt to create it shows whether it exists
        if unless_absent(lambda: self.client.get_registered_model(self.name), DENIED) is None:
            try:
                self.client.create_registered_model(self.name, description=description)
            except RegistryError:
                if self.model() is None:  # otherwise another process was first
                    raise

    def model(self) -> Any:
        """Return MLflow's record of the model, None if there is none. RegistryError if MLflow does not answer."""
        return unless_absent(lambda: self.client.get_registered_model(self.name))

    def find(self, digest: str) -> str | None:
        """Return the number of the version with this digest, if one is ready and has its files.

        Raises RegistryError as `listing` does.
        """
        versions = self.client.search_model_versions(f"name = '{self.name}' and tags.`{LINEAGE}` = '{digest}'")
        ready = [int(v.version) for v in versions if v.status == "READY" and "MLmodel" in self._listing(v)]
        return str(min(ready)) if ready else None

    def newest(self) -> str | None:
        """Return the number of the newest version that is ready and has its files, if there is one."""
        versions = self.client.search_model_versions(f"name = '{self.name}'")
        numbers = sorted((int(v.version) for v in versions), reverse=True)
        return next((str(number) for number in numbers if self.has(str(number))), None)

    def version(self, number: str) -> Any:
        """Return MLflow's record of a version, None if there is none. RegistryError if MLflow does not answer."""
        if not number.isdecimal():
            return None
        return self._in_model(lambda: self.client.get_model_version(self.name, number))

    def digest(self, number: str) -> str | None:
        """Return the digest under which a version is registered; None if regraft did not register it."""
        tags: Mapping[str, str] = self.client.get_model_version(self.name, number).tags
        return tags.get(LINEAGE)

    def has(self, number: str) -> bool:
        """Return whether a version is registered, ready, and has its files. Raises RegistryError as `listing` does."""
        version = self.version(number)
        return version is not None and version.status == "READY" and "MLmodel" in self._listing(version)

    def listing(self, number: str) -> list[str]:
        """Return the top-level paths of a version's files; empty if the version or all its files are gone.

        Raises RegistryError if registry or artifact store is unavailable: an outage is not a loss of files.
        """
        version = self.version(number)
        return self._listing(version) if version else []

    def size(self, number: str) -> int:
        """Return the size in bytes of a version's files, except those that only restore its run."""
        model = _logged_model(self.client.get_model_version(self.name, number))
        total, waiting = 0, [None]
        while waiting:
            for file in self.client.list_logged_model_artifacts(model, waiting.pop()):
                if file.path == circumstances.FOLDER:
                    continue
                if file.is_dir:
                    waiting.append(file.path)
                else:
                    total += int(file.file_size or 0)
        return total

    def create(
        self, digest: str, run_id: str, folder: Path, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> str:
        """Upload a saved MLflow model and register it; return its version.

        The version, with its lineage tag, is created last: a kill before that leaves only unreferenced files.
        """
        from mlflow.entities import Metric

        run = self.client.get_run(run_id)
        logged = self.client.create_logged_model(
            run.info.experiment_id, name=f"{self.name}-{tags['kind']}", source_run_id=run_id, model_type="regraft"
        )
        self.client.log_model_artifacts(logged.model_id, str(folder))
        self.client.finalize_logged_model(logged.model_id, "READY")
        if metrics:
            at = int(run.info.start_time)
            self.client.log_batch(run_id, [Metric(k, v, at, 0, model_id=logged.model_id) for k, v in metrics.items()])
        version = self.client.create_model_version(
            self.name, f"models:/{logged.model_id}", run_id, tags={LINEAGE: digest, **tags}, model_id=logged.model_id
        )
        return str(version.version)

    def alias(self, alias: str) -> str | None:
        """Return the version that an alias points to; None if there is no such alias or model.

        Raises RegistryError if MLflow does not answer: an outage does not mean that there is no champion.
        """
        # For a missing alias MLflow reports an invalid parameter
        version = self._in_model(
            lambda: self.client.get_model_version_by_alias(self.name, alias), "INVALID_PARAMETER_VALUE"
        )
        return str(version.version) if version else None

    def point(self, alias: str, number: str | None) -> None:
        """Point an alias to a version, or to nothing."""
        if number is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, number)

    def resolve(self, address: str) -> tuple["Registry", str]:
        """Return the model and number of the version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

        Raises RequestError if there is no such address, model, alias or version, and lists what exists; RegistryError
        if MLflow does not answer.
        """
        parts = ADDRESS.fullmatch(address)
        if not parts:
            raise RequestError(f"{address!r} names no version; expected models:/NAME@ALIAS or models:/NAME/VERSION")
        name, alias, number = parts.groups()
        registry = self.named(name)
        model = registry.model()
        if model is None:
            known = ", ".join(model.name for model in self.client.search_registered_models(max_results=20))
            raise RequestError(f"the registry has no model {name!r}; it has: {known or 'none'}")
        if alias and alias not in model.aliases:
            raise RequestError(f"{name} has no alias {alias!r}; it has: {', '.join(sorted(model.aliases)) or 'none'}")
        number = number or str(model.aliases[alias])
        if not registry.has(number):
            raise RequestError(f"{name} has no version {number}, or its files are gone")
        return registry, number

    def fetch(self, number: str, path: str, folder: Path) -> Path:
        """Copy one folder of a version's files into `folder`; return its path.

        Raises RequestError if the version has no such folder, RegistryError if MLflow does not deliver it.
        """
        from mlflow.artifacts import download_artifacts

        version = self.version(number)
        if version is None or path not in self._listing(version, str(Path(path).parent)):
            raise RequestError(f"version {number} of {self.name} has no {path}: regraft did not register it")
        with answering():
            return Path(download_artifacts(artifact_uri=f"models:/{self.name}/{number}/{path}", dst_path=str(folder)))

    def judged(self) -> list[str]:
        """Return the versions that carry a verdict, which is written after each decision about them."""
        clause = f"name = '{self.name}' and tags.`regraft.verdict` LIKE '%'"
        return [str(version.version) for version in self.client.search_model_versions(clause)]

    def tag_verdict(self, number: str, verdict: str, reasons: Sequence[str], opponent: str | None) -> None:
        """Tag a version with its last verdict, for readers of MLflow's UI."""
        against = f"version {opponent}" if opponent else "no champion"
        tags = {"verdict": verdict, "reasons": "\n".join(reasons), "compared_with": against}
        for tag, value in tags.items():
            self.client.set_model_version_tag(self.name, number, f"regraft.{tag}", value)

    def tag_warnings(self, number: str, sentences: Sequence[str]) -> None:
        """Tag a version with what could overturn its figures, unless the tag says so already; no tag if nothing can."""
        text = "\n".join(sentences)[:MOST_OF_TAG]
        if self.client.get_model_version(self.name, number).tags.get(WARNINGS, "") != text:
            self.client.set_model_version_tag(self.name, number, WARNINGS, text)

    def _in_model(self, ask: Callable[[], Any], *codes: str) -> Any:
        """Return MLflow's answer about something in the model; None if either does not exist.

        With authentication on, MLflow answers any request about a missing model with "forbidden".
        """
        try:
            return unless_absent(ask, *codes)
        except RegistryError as error:
            if error.code == DENIED and self.model() is None:
                return None
            raise

    def _listing(self, version: Any, folder: str | None = None) -> list[str]:
        """List files; MLflow's own stores, local and over HTTP, return an empty list for a folder that is gone."""
        try:
            listed = unless_absent(lambda: self.client.list_logged_model_artifacts(_logged_model(version), folder))
        except RegistryError as error:
            doubt = f"whether version {version.version} of {version.name} has its files cannot be told now: {error}"
            raise RegistryError(doubt, code=error.code) from None
        return [file.path for file in listed or ()]


def _logged_model(version: Any) -> str:
    return str(version.source).removeprefix("models:/")
