"""What the tests share: a project in a temporary folder, a Prefect server, and an honest list of what was left out."""

import gc
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from sklearn.datasets import load_digits

from tests.warm import Warm

if TYPE_CHECKING:
    from tests.registered import Registered

# The same cases every time: a fuzz that finds something new belongs in a day of fuzzing, not in every run.
settings.register_profile("regraft", derandomize=True, deadline=None)
settings.load_profile("regraft")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve the other worker

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COPIED = (
    "dvc.yaml",
    "params.yaml",
    "requirements.lock",
    ".dvcignore",
    ".dvc/config",
    ".gitignore",
    "data/.gitignore",
    "data/decisions.csv",
    "data/importance.csv",
    "data/lost_classes.json",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = REPOSITORY / "tests/node_modules/axe-core/axe.min.js"
# Minutes long: .ci/run does all of it, `make test` a part.
EXHAUSTIVE = "REGRAFT_EXHAUSTIVE" in os.environ
POSTGRESQL = shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
NEEDS = {
    "real_data": (
        {"REGRAFT_DATASETS", "REGRAFT_WEIGHTS"} <= set(os.environ),
        "set REGRAFT_DATASETS and REGRAFT_WEIGHTS to the folders of real images and weights",
    ),
    "postgresql": (POSTGRESQL, "install PostgreSQL (Debian: apt-get install postgresql)"),
    "exhaustive": (EXHAUSTIVE, "set REGRAFT_EXHAUSTIVE=1 (.ci/run does; each takes a minute or more)"),
    "all_models": ("REGRAFT_ALL_MODELS" in os.environ, "set REGRAFT_ALL_MODELS=1 (it takes a few minutes)"),
    "browser": (CHROMIUM is not None, "install Chromium (Debian: apt-get install chromium)"),
    "axe": (AXE.is_file(), "npm install --prefix tests --no-save axe-core@4.14.1"),
}


LONGEST = ("test_pipeline.py", "test_deploy.py", "test_use.py")  # begun first, so that no worker is left with one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        for marker, (there, remedy) in NEEDS.items():
            if item.get_closest_marker(marker) and not there:
                # Not silent: pytest_terminal_summary lists these with the remedy, and .ci/run provides both parts.
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {remedy}"))


def pytest_collection_finish() -> None:
    gc.freeze()  # statsmodels collects garbage at each correction: 0.2 s with all that the tests have imported


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for marker, (there, remedy) in NEEDS.items():
        count = sum(f"{marker}:" in str(report.longrepr) for report in skipped)
        if not there and count:
            terminalreporter.write_line(f"left out: {count} tests marked {marker}; to run them: {remedy}")
    if not EXHAUSTIVE and terminalreporter.config.args == ["tests"]:
        terminalreporter.write_line("shortened: concurrent promotion; REGRAFT_EXHAUSTIVE=1 runs all of it")


@dataclass(frozen=True)
class Project:
    """A project in a folder of its own, driven the way a user drives it: by commands in processes of their own."""

    root: Path
    environment: Mapping[str, str]
    warm: Warm | None = None  # where given, `regraft` does not import everything anew for each command

    def run(self, *command: str, timeout: float = 600, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment (`regraft`, `dvc`, `python`) in the project's folder."""
        environment = {**self.environment, **extra}
        if self.warm and command[0] == "regraft":
            return self.warm.run(command, self.root, environment, timeout)
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def must(self, *command: str, timeout: float = 600, **extra: str) -> str:
        """Run a program that has to succeed; return what it printed."""
        done = self.run(*command, timeout=timeout, **extra)
        assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text that has to be there exactly once."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is in {name} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def __truediv__(self, name: str) -> Path:
        return self.root / name


def make_project(root: Path, environment: Mapping[str, str], warm: Warm | None = None) -> Project:
    """Make a project as a fresh clone is: the repository's graph, params and steps, no data."""
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    shutil.copytree(REPOSITORY / "steps", root / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return Project(root, environment, warm)


def write_images(folder: Path, per_class: int, classes: int = 3) -> Path:
    """Write real handwritten digits as PNG class folders."""
    from PIL import Image

    digits = load_digits()
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:per_class]):
            Image.fromarray((image * 255 / 16).astype("uint8")).save(folder / str(label) / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which nothing of the home folder is read or written."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "DVC_"))}
    return {
        **kept,
        "HOME": str(home),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "TORCHINDUCTOR_CACHE_DIR": str(home / "compiled"),
    }


def write(folder: Path, content: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files below a folder; return name -> path."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def tree(folder: Path) -> dict[str, bytes]:
    """Return name -> content of the files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str, seconds: float = 180) -> None:
    """Wait until a server on loopback answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.3)


@pytest.fixture(scope="session")
def prefect_server(isolated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real Prefect server on loopback; yield the address of its API."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**isolated, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    log = (home / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health")
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.fixture(scope="session")
def warm(isolated: dict[str, str]) -> Iterator[Warm]:
    """Yield a process that has imported what `regraft` needs."""
    waiting = Warm(isolated)
    yield waiting
    waiting.close()


@pytest.fixture(scope="session")
def new_project(isolated: dict[str, str], prefect_server: str, warm: Warm) -> Callable[[Path], Project]:
    """Return a maker of projects whose runs report to the tests' Prefect server (no start-up of their own)."""
    return lambda root: make_project(root, {**isolated, "PREFECT_API_URL": prefect_server}, warm)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Return a function that gives a project a registry without versions.

    MLflow needs 2 s to make its database; a copy of it needs none.
    """
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments(max_results=1)

    def give(root: Path) -> None:
        (root / ".regraft").mkdir(parents=True, exist_ok=True)
        shutil.copy(database, root / ".regraft/mlflow.db")

    return give


@pytest.fixture(scope="session")
def registered_once(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], None]) -> "Registered":
    """Return a project with registered versions, to be copied by whoever moves its aliases."""
    from tests.registered import make_registered

    root = tmp_path_factory.mktemp("registered") / "project"
    empty_registry(root)
    return make_registered(root)
