"""Registered packages as they are used: downloaded once, verified against their signature, loaded from those bytes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import RegistryError
from steps.registry import signing
from steps.registry.model_registry import Registry
from steps.registry.tracking import answering
from steps.registry.unpacked import Unpacked

DIGEST = "regraft.digest"  # in MLmodel's metadata, under the signature
CODE = "code"  # the folder that MLflow puts on Python's path


@dataclass(frozen=True)
class Package:
    """A verified version, loaded; `folder` holds its files for as long as this object lives."""

    model: Any  # mlflow.pyfunc.PyFuncModel: `predict` takes a frame with a column `image` (inputs.picture)
    version: str  # the registry's number
    digest: str
    folder: Path
    files: Unpacked


def load(registry: Registry, version: str, decided: str | None = None) -> Package:
    """Download, verify and load a version; nothing of it runs before its signature is proven.

    `decided`: the digest that the ledger has of the version; None where no entry holds one. Raises RegistryError where
    its files are gone, where one was changed, is missing, or was never listed, where they are another package's, and
    where its own code fails. This is the one place where a version's code gets into a process.
    """
    files = Unpacked()
    try:
        folder = _verified(registry, version, decided, files.folder)
        model = _imported(files, folder, f"version {version} of {registry.name}")
    except BaseException:
        files.remove()  # at once: who catches this may keep it, and all that it refers to, for long
        raise
    return Package(model, version, str(model.metadata.metadata[DIGEST]), folder, files)


def _imported(files: Unpacked, folder: Path, which: str) -> Any:
    from mlflow import pyfunc

    try:
        with files.importing(folder / CODE):
            return pyfunc.load_model(str(folder))
    except Exception as error:  # last year's code, with exceptions of its own
        told = str(error).split("\n")[0]
        raise RegistryError(f"{which} cannot be loaded, its own code fails: {told}") from error


def verify(registry: Registry, version: str, decided: str | None = None) -> str:
    """Return the digest of a version's package; RegistryError as `load` raises it. Nothing is loaded."""
    with verified(registry, version, decided) as folder:
        return _digest(folder)


@contextmanager
def verified(registry: Registry, version: str, decided: str | None = None) -> Iterator[Path]:
    """Yield a folder with a version's files, proven as `load` proves them; it is gone afterwards."""
    files = Unpacked()
    try:
        yield _verified(registry, version, decided, files.folder)
    finally:
        files.remove()


def _verified(registry: Registry, version: str, decided: str | None, scratch: Path) -> Path:
    """Return the folder of a version's files, proven to be of the digest that was registered and decided about."""
    name, folder = registry.name, download(registry.name, version, scratch)
    if not (folder / signing.SIGNATURE).is_file():
        raise RegistryError(
            f"version {version} of {name} is not signed: it was registered before regraft signed its versions, or its "
            f"{signing.SIGNATURE} is gone. `regraft run` registers today's models, signed"
        )
    if fault := signing.fault(folder):
        raise RegistryError(f"version {version} of {name} is not what was signed: {fault}")
    held, registered = _digest(folder), registry.digest(version)
    for other, how in ((registered, "registered"), (decided or held, "decided about")):
        if held != other:
            raise RegistryError(
                f"version {version} of {name} holds the package {held[:16]}, but was {how} as {str(other)[:16]}"
            )
    return folder


def download(name: str, version: str, scratch: Path) -> Path:
    """Copy a version's files into `scratch`, unverified; return their folder. RegistryError where they are gone.

    Bytecode stays behind: Python leaves it beside code that somebody has loaded from the registry's own folder, nothing
    signs it, and here it would run in place of the code that was signed.
    """
    from mlflow.artifacts import download_artifacts

    target = scratch / f"{name}-{version}"  # model-signing names the folder: a random one would be in every ledger
    target.mkdir()
    try:
        with answering():
            folder = Path(download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(target)))
        told = "" if (folder / "MLmodel").is_file() else "its files are gone"
    except RegistryError as error:
        told = str(error)
    if told:
        raise RegistryError(f"version {version} of {name} is registered but cannot be loaded: {told}")
    for cache in list(folder.rglob("__pycache__")):
        if not cache.is_symlink():
            shutil.rmtree(cache, ignore_errors=True)
    return folder


def _digest(folder: Path) -> str:
    from mlflow.models import Model

    return str((Model.load(str(folder)).metadata or {}).get(DIGEST))
