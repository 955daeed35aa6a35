"""Real servers for tests, on loopback: PostgreSQL from the system's programs, MLflow from the environment."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run an MLflow tracking server with a store of its own in `folder`; yield its address."""
    port = free_port()
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()
