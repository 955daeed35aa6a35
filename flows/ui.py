"""`regraft ui`: a Prefect server and MLflow's pages over this project's own stores, until stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from steps.errors import GraphError, without_passwords

PREFECT, MLFLOW = 4200, 5000


def ui(root: Path) -> None:
    """Start both servers on loopback, print their addresses, and stop both when interrupted or when one ends.

    An MLflow server that the user runs elsewhere (MLFLOW_TRACKING_URI) is named, not started.
    """
    store = os.environ["MLFLOW_TRACKING_URI"]
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(MLFLOW),
        "--artifacts-destination",
        (root / ".regraft" / "mlartifacts").as_uri(),
    ]
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PREFECT)]
    elsewhere = store.startswith("http")
    print(_told(without_passwords(store) if elsewhere else f"http://127.0.0.1:{MLFLOW}"), flush=True)  # noqa: T201
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # else a stopped `regraft ui` would leave both behind
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_BACKEND_STORE_URI"] = store  # an argument would show its password to all users
    commands = [prefect] if elsewhere else [mlflow, prefect]
    servers = [subprocess.Popen(command, env=environment, cwd=root) for command in commands]
    try:
        _, status = os.wait()
        raise GraphError(f"a server ended by itself (status {status}); is its port in use?")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def _told(mlflow: str) -> str:
    return (
        f"MLflow   {mlflow}\n"
        f"Prefect  http://127.0.0.1:{PREFECT}\n\n"
        "to deploy, in another terminal:\n"
        f"  export PREFECT_API_URL=http://127.0.0.1:{PREFECT}/api\n"
        "  regraft deploy"
    )
