"""`regraft ui`: a Prefect server and MLflow's pages over this project's own stores, until stopped."""

import os
import subprocess
import sys
from pathlib import Path

PREFECT, MLFLOW = 4200, 5000


def ui(root: Path) -> None:
    """Start both servers on loopback, print their addresses, and stop both when interrupted or when one ends."""
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(MLFLOW),
              "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"],
              "--artifacts-destination", (root / ".regraft" / "mlartifacts").as_uri()]  # fmt: skip
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PREFECT)]
    print(_told(), flush=True)  # noqa: T201
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    servers = [subprocess.Popen(command, env=environment, cwd=root) for command in (mlflow, prefect)]
    try:
        os.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def _told() -> str:
    return (
        f"MLflow   http://127.0.0.1:{MLFLOW}\n"
        f"Prefect  http://127.0.0.1:{PREFECT}\n\n"
        "to deploy, in another terminal:\n"
        f"  export PREFECT_API_URL=http://127.0.0.1:{PREFECT}/api\n"
        "  regraft deploy"
    )
