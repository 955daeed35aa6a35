"""The code of versions: what a load leaves in a process is in use, and goes with the version that it belongs to."""

import gc
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from mlflow.tracking._tracking_service import utils as addresses

from steps.errors import RegistryError
from steps.registry import package_loading, package_writing, signing, unpacked
from steps.registry.model_registry import Registry
from steps.registry.production import Production
from steps.runtime import files
from steps.serving import served_version
from steps.serving.served_version import Follower, Served
from tests import packaged
from tests.conftest import REPOSITORY
from tests.registered import NAME, Registered, inside


class State(NamedTuple):
    """What the whole process sees of the code that it has loaded; MLflow names its scripts at random."""

    path: list[str]
    cached: set[str]
    modules: set[str]
    scripts: int
    bytecode: bool


def state() -> State:
    gc.collect()
    scripts = {name for name in sys.modules if name.startswith("code_model_")}
    return State(
        [*sys.path], {*sys.path_importer_cache}, {*sys.modules} - scripts, len(scripts), sys.dont_write_bytecode
    )


def digits(project: Registered) -> pd.DataFrame:
    return pd.DataFrame({"image": [project.pictures[0].read_bytes()]})


@pytest.fixture(scope="module")
def project(registered_once: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with inside(registered_once.copy(tmp_path_factory.mktemp("unpacked") / "project")) as copied:
        yield copied


def registry() -> Registry:
    return Registry(files.project_root(), NAME)


def load(number: str) -> Served:
    return served_version.load(registry(), number)


@pytest.fixture
def follower(project: Registered, monkeypatch: pytest.MonkeyPatch) -> Follower:
    monkeypatch.setattr(unpacked, "_holders", weakref.WeakValueDictionary())  # other files' tests hold this code
    project.promote("1")
    load("2")  # all that any version imports of the libraries is imported from here on
    production = Production(registry())
    return Follower(load("1"), production.named, load, 3600)


def swap(project: Registered, follower: Follower, to: str) -> None:
    project.promote(to)
    follower.look()
    assert (follower.current.number, follower.problem) == (to, "")


def test_after_a_load_pythons_path_is_what_it_was_and_no_bytecode_was_written(
    project: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    kept, before = sys.path, state()
    served = load("1")
    assert (sys.path is kept, sys.path) == (True, before.path)
    assert not [entry for entry in sys.path_importer_cache if "regraft-" in entry and "packages" in entry]
    assert not [*served.package.folder.rglob("*.pyc")]
    assert sys.dont_write_bytecode is False
    served.answer(project.pictures[0].read_bytes())


def test_a_version_is_downloaded_from_its_own_registry_whatever_address_mlflow_holds(
    project: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As another registry of this process leaves it; mlflow.set_tracking_uri would move this registry as well (it
    # writes the environment)
    monkeypatch.setattr(addresses, "_tracking_uri", f"sqlite:///{project.root}/elsewhere.db")
    with package_loading.verified(registry(), "1") as folder:
        assert (folder / "MLmodel").is_file()


def test_after_swaps_there_and_back_the_process_is_what_it_was(project: Registered, follower: Follower) -> None:
    before = state()
    swap(project, follower, "2")
    swap(project, follower, "1")
    assert state() == before


def test_nothing_of_a_replaced_version_stays_in_memory_or_on_the_disk(project: Registered, follower: Follower) -> None:
    old = follower.current.package
    module = sys.modules[type(old.model.unwrap_python_model()).__module__]
    parts: list[Any] = [old, old.model, old.model.unwrap_python_model(), old.model.unwrap_python_model().model, module]
    gone, folder = [weakref.ref(part) for part in parts], old.folder.parent
    del old, module, parts
    swap(project, follower, "2")
    gc.collect()
    assert [one() for one in gone] == [None] * 5
    assert not folder.exists()
    assert [*folder.parent.iterdir()] == [follower.current.package.files.folder]


class Versions:
    """Registers changed copies of one package, signed as regraft signs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.saved, self.digest = packaged.save(root / "package", packaged.grafted())

    def put(self, changes: dict[str, tuple[str, str]], *added: str) -> str:
        """Register a copy in whose files an old text is a new one, and to whose code empty modules were added."""
        copy = Path(shutil.copytree(self.saved, tempfile.mkdtemp(dir=self.root), dirs_exist_ok=True))
        for name in added:
            next((copy / "code").iterdir()).joinpath(name).touch()
        for name, (old, new) in changes.items():
            path = next(copy.rglob(name))
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new, 1), encoding="utf-8")
        (copy / signing.SIGNATURE).unlink()
        signing.sign_folder(copy)
        return packaged.register(registry(), self.digest, copy)


@pytest.fixture(scope="module")
def versions(project: Registered, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(tmp_path_factory.mktemp("versions"))


def test_a_load_that_fails_in_the_versions_own_code_leaves_nothing(project: Registered, versions: Versions) -> None:
    load("2")
    number = versions.put({"model.py": ("set_model(", "1 / 0\nset_model(")})
    before = state()
    with pytest.raises(RegistryError, match=r"its own code fails: .*division by zero") as caught:
        load(number)
    assert state() == before
    assert not [*(project.root / ".regraft/packages").iterdir()], caught


def test_what_a_version_imports_when_it_is_first_asked_is_found_and_goes_with_it(
    project: Registered, versions: Versions
) -> None:
    """Also where the same package is loaded twice, and the first or the last of the two goes first."""
    late = f"regraft_{versions.digest[:16]}.late"
    number = versions.put(
        {
            "served_model.py": (
                "        probabilities: list[list[float]] = []\n",
                f"        import {late}\n        probabilities = []\n",
            )
        },
        "late.py",
    )
    for first_goes in (True, False):
        held = [package_loading.load(registry(), number) for _ in range(2)]
        held.pop(0 if first_goes else 1)
        gc.collect()
        assert late not in sys.modules
        held[0].model.predict(digits(project))
        assert late in sys.modules
        held.clear()
        gc.collect()
        assert not [name for name in sys.modules if name.startswith(late[:20])]


def test_modules_of_a_versions_name_that_were_never_verified_are_not_run(
    project: Registered, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, name = versions.put({}), f"regraft_{versions.digest[:16]}"
    monkeypatch.setitem(sys.modules, name, pd)  # any module will do
    served = package_loading.load(registry(), number)
    assert sys.modules[name] is not pd and served.folder.is_relative_to(
        Path(str(sys.modules[name].__file__)).parents[2]
    )


def test_saving_a_package_leaves_nothing_in_the_process(project: Registered, tmp_path: Path) -> None:
    packaged.save(tmp_path / "first", packaged.grafted())
    before = state()
    folder, _ = packaged.save(tmp_path / "again", packaged.grafted())
    assert state() == before
    assert not [*folder.parent.rglob("*.pyc")]


def test_a_versions_code_gets_into_a_process_in_one_place() -> None:
    """Else a command could load one and leave its folder on Python's path."""
    sources = [path for part in ("flows", "steps") for path in (REPOSITORY / part).rglob("*.py")]
    loading = [path.name for path in sources if "load_model(" in path.read_text(encoding="utf-8")]
    assert loading == [Path(package_loading.__file__).name]
    pathful = [path.name for path in sources if "sys.path" in path.read_text(encoding="utf-8")]
    assert sorted(pathful) == [Path(package_writing.__file__).name, "unpacked.py"]
