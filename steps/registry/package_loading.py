"""Registered packages in use: downloaded once, verified against their signature, loaded from those bytes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.backbones import models
from steps.errors import RegistryError
from steps.registry import circumstances, signing
from steps.registry.model_registry import Registry
from steps.registry.tracking import answering
from steps.registry.unpacked import Unpacked
from steps.runtime.files import read_yaml

DIGEST = "regraft.digest"  # in MLmodel's metadata, covered by the signature
MODEL = "artifacts/model"  # inside a package
CODE = "code"  # the folder that MLflow puts on Python's path


@dataclass(frozen=True)
class Package:
    """A verified version, loaded; `folder` holds its files for as long as this object lives."""

    model: Any  # mlflow.pyfunc.PyFuncModel: `predict` takes a frame with a column `image` (inputs.picture)
    version: str  # the registry's number
    digest: str
    folder: Path
    files: Unpacked

    @property
    def facts(self) -> models.ModelFacts:
        """Return the facts of the version, which may be of another release."""
        return models.read_facts(self.folder / MODEL)


def load(registry: Registry, version: str, decided: str | None = None) -> Package:
    """Download, verify and load a version; none of its code runs before its signature is verified.

    `decided`: the version's digest in the ledger; None if no entry holds one. Raises RegistryError if its files are
    gone, if a file was changed, is missing or was never listed, if they are another package's, or if its own code
    fails. A version's code gets into a process only through this function.
    """
    files = Unpacked()
    try:
        folder = _verified(registry, version, decided, files.folder)
        model = _imported(files, folder, f"version {version} of {registry.name}")
    except BaseException:
        files.remove()  # at once: a handler may keep the exception, and all that it refers to, for long
        raise
    return Package(model, version, str(model.metadata.metadata[DIGEST]), folder, files)


def _imported(files: Unpacked, folder: Path, which: str) -> Any:
    from mlflow import pyfunc

    try:
        with files.importing(folder / CODE):
            return pyfunc.load_model(str(folder))
    except Exception as error:  # last year's code, with exceptions of its own
        message = str(error).split("\n")[0]
        raise RegistryError(f"{which} cannot be loaded, its own code fails: {message}") from error


def verify(registry: Registry, version: str, decided: str | None = None) -> str:
    """Return the digest of a version's package; RegistryError as in `load`. Nothing is loaded."""
    with verified(registry, version, decided) as folder:
        return _digest(folder)


@contextmanager
def verified(registry: Registry, version: str, decided: str | None = None) -> Iterator[Path]:
    """Yield a folder with a version's files, verified as in `load`; it is removed afterwards."""
    files = Unpacked()
    try:
        yield _verified(registry, version, decided, files.folder)
    finally:
        files.remove()


def _verified(registry: Registry, version: str, decided: str | None, scratch: Path) -> Path:
    """Return the folder of a version's files, verified to have the digest that was registered and decided on."""
    name, folder = registry.name, download(registry, version, scratch)
    if not (folder / signing.SIGNATURE).is_file():
        raise RegistryError(
            f"version {version} of {name} is not signed: it was registered before regraft signed its versions, or its "
            f"{signing.SIGNATURE} is gone. `regraft run` registers today's models, signed"
        )
    if fault := signing.fault(folder):
        raise RegistryError(f"version {version} of {name} is not what was signed: {fault}")
    held, registered = _digest(folder), registry.digest(version)
    for expected, how in ((registered, "registered"), (decided or held, "decided about")):
        if held != expected:
            raise RegistryError(
                f"version {version} of {name} holds the package {held[:16]}, but was {how} as {str(expected)[:16]}"
            )
    if (made_for := _model_name(folder)) not in (None, name):
        raise RegistryError(
            f"version {version} of {name} holds a package that was signed for the model {made_for}: its entry in "
            f"MLflow was copied or moved. `regraft run` registers the models of {name}"
        )
    return folder


def _model_name(folder: Path) -> str | None:
    """Return the registered model that a verified package was made for, by the params.yaml that was signed with it.

    None if it holds none: packages of before, and those of tests.
    """
    path = folder / circumstances.FOLDER / circumstances.PARAMS
    document = read_yaml(path) if path.is_file() else {}
    named = (document.get("register") or {}).get("model_name")
    return None if named is None else str(named)


def download(registry: Registry, version: str, scratch: Path) -> Path:
    """Download a version's files into `scratch`, unverified; return their folder. RegistryError if they are gone.

    Bytecode is dropped: Python leaves it beside code that was loaded from the registry's own folder; it is not signed,
    and here it would run in place of the signed code.
    """
    from mlflow.artifacts import download_artifacts

    name = registry.name
    target = scratch / f"{name}-{version}"  # model-signing names the folder: a random name would be in every ledger
    target.mkdir()
    try:
        registry.connect()
        with answering():
            folder = Path(download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(target)))
        fault = "" if (folder / "MLmodel").is_file() else "its files are gone"
    except RegistryError as error:
        fault = str(error)
    if fault:
        raise RegistryError(f"version {version} of {name} is registered but cannot be loaded: {fault}")
    for cache in list(folder.rglob("__pycache__")):
        if not cache.is_symlink():
            shutil.rmtree(cache, ignore_errors=True)
    return folder


def _digest(folder: Path) -> str:
    from mlflow.models import Model

    return str((Model.load(str(folder)).metadata or {}).get(DIGEST))
