"""Real servers for tests, on loopback: PostgreSQL from the system's programs, MLflow from the environment."""

import os
import shutil
import subprocess
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
def postgresql(folder: Path) -> Iterator[str]:
    """Run a database server in `folder`; yield its SQLAlchemy address (it refuses root, hence `postgres`)."""
    programs, port, data = postgresql_programs(), free_port(), folder / "data"
    assert programs is not None
    data.mkdir(parents=True)
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(data, "postgres")
        for parent in [data, *data.parents][:-2]:  # pytest's folders are closed to others
            parent.chmod(parent.stat().st_mode | 0o055)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={data} -c fsync=off"
    run = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    made = [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "regraft", "--auth=trust"]
    subprocess.run(made, check=True, capture_output=True)
    subprocess.run([*run, "-o", options, "-l", str(data / "log"), "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql://regraft@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*run, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


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
