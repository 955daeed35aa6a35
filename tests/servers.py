"""Real servers for tests, on loopback: PostgreSQL from the system's programs, MLflow from the environment."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import BIN, free_port, wait_for


def postgresql_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl: on the path, or where Debian keeps them."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a database server; yield its SQLAlchemy address. It refuses root, hence `postgres`, and pytest's folders."""
    programs, port = postgresql_programs(), free_port()
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="regraft-postgresql-") as folder:
        as_user: list[str] = []
        if os.geteuid() == 0:
            as_user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        data = Path(folder) / "data"
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        made = [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "regraft", "--auth=trust"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)
        start = [*run, "-o", options, "-l", f"{folder}/log", "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        try:
            yield f"postgresql://regraft@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*run, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=folder)


STORES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql), "http")  # where a registry may be


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """Provide an empty registry of one of `STORES`; yield its address."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'registry.db'}"
        return
    with postgresql() if kind == "postgresql" else mlflow_server(folder) as address:
        yield address


@contextmanager
def mlflow_server(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """Run an MLflow tracking server that keeps its database and all files in `folder`; yield its address."""
    port = free_port()
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    alone = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    alone.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], env=alone, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()


@contextmanager
def guarded_mlflow_server(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run one with MLflow's own passwords; yield its address and, as environment, a user who is no administrator."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'users.db'}\n"
        "admin_username = root\nadmin_password = password-of-root\n"
        "auth_cache_ttl_seconds = 600\n"  # a password is hashed slowly, and each request brings one
    )
    secrets = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test"}
    with mlflow_server(folder, "--app-name", "basic-auth", **secrets) as address:
        name, password = "ada", "password-of-ada"
        told = httpx.post(
            f"{address}/api/2.0/mlflow/users/create",
            auth=("root", "password-of-root"),
            timeout=60,
            json={"username": name, "password": password},
        )
        told.raise_for_status()
        yield address, {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
