"""Registered packages: what is loaded is what was signed and registered, or nothing is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from steps.errors import RegistryError
from steps.registry import package_loading, package_writing
from steps.registry.model_registry import Registry
from tests import packaged

NAME = "regraft"


class Versions:
    """Version 1 is a package of regraft; others are made of copies of its files."""

    def __init__(self, root: Path) -> None:
        self.root, self.registry = root, Registry(root, NAME)
        self.saved, self.digest = packaged.save(root / "package", packaged.grafted())
        self.put(self.digest)

    def put(self, digest: str) -> str:
        return packaged.register(self.registry, digest, self.saved)

    def files(self, version: str) -> Path:
        """Return where the registry keeps a version's files."""
        source = str(self.registry.version(version).source).removeprefix("models:/")
        location = self.registry.client.get_logged_model(source).artifact_location
        return Path(str(location).removeprefix("file://"))

    def refusal(self, version: str) -> str:
        with pytest.raises(RegistryError) as caught:
            package_loading.load(self.registry, version)
        with pytest.raises(RegistryError) as again:
            package_loading.verify(self.registry, version)
        assert str(again.value) == str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.delenv("REGRAFT_KEY", raising=False)
        patched.setenv("DVC_ROOT", str(root))
        yield Versions(root)


def test_a_version_is_loaded_from_the_bytes_that_were_verified(versions: Versions) -> None:
    package = package_loading.load(versions.registry, "1")
    assert (package.version, package.digest) == ("1", versions.digest)
    assert versions.files("1") not in [package.folder, *package.folder.parents], "its own copy, not the registry's"
    answer = package.model.predict(pd.DataFrame({"image": [package_writing.made_up_picture()]}))
    assert answer["version"].tolist() == [versions.digest[:16]]
    folder = package.folder
    assert folder.is_dir()
    del package
    assert not folder.exists(), "a copy outlived its use"


def test_a_version_that_somebody_has_loaded_in_place_is_still_what_was_signed(versions: Versions) -> None:
    """As README and MLflow's documentation show it; in a process that writes bytecode, as Python does."""
    version = versions.put(versions.digest)
    code = f"import mlflow; mlflow.pyfunc.load_model({str(versions.files(version))!r})"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=versions.root, check=True)
    assert [*versions.files(version).rglob("*.pyc")]
    (next(versions.files(version).rglob("__pycache__")) / "planted.pyc").touch()
    package = package_loading.load(versions.registry, version)
    assert package.folder.is_dir() and not [*package.folder.rglob("*.pyc")]


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("artifacts/model/model.json", append, "Hash mismatch for 'artifacts/model/model.json'"),
        ("conda.yaml", Path.unlink, "Missing files in model"),
        ("evil.py", Path.touch, "Extra files found in model"),
        ("model.sig", append, "model.sig was changed"),
    ],
)
def test_a_version_that_is_not_what_was_signed_is_refused(
    versions: Versions, name: str, change: Callable[[Path], object], told: str
) -> None:
    version = versions.put(versions.digest)
    change(versions.files(version) / name)
    refusal = versions.refusal(version)
    assert refusal.startswith(f"version {version} of {NAME} is not what was signed: ")
    assert told in refusal and name in refusal


def test_a_version_without_a_signature_is_told_what_to_do(versions: Versions) -> None:
    version = versions.put(versions.digest)
    (versions.files(version) / "model.sig").unlink()
    assert versions.refusal(version) == (
        f"version {version} of regraft is not signed: it was registered before regraft signed its versions, or its "
        "model.sig is gone. `regraft run` registers today's models, signed"
    )


def test_a_package_registered_under_anothers_digest_is_refused(versions: Versions) -> None:
    version = versions.put("12" * 32)
    assert versions.refusal(version) == (
        f"version {version} of regraft holds the package {versions.digest[:16]}, but was registered as {'12' * 8}"
    )
