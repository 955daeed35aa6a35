"""`mlflow models serve` over a package, from an environment of what it declares: base64 JSON in all three formats."""

import base64
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

from tests import packaged
from tests.conftest import free_port, wait_for, write_images

pytestmark = pytest.mark.exhaustive


class Served:
    """A package behind MLflow's own server, and pictures to ask it about."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.pictures = sorted(write_images(folder.parent / "images", per_class=4).rglob("*.png"))

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_ROOT", str(root))
        folder, _ = packaged.save(root, packaged.grafted(), temperature=0.5)
    programs = packaged.environment(root / "environment", folder / "requirements.txt")
    command = [
        str(programs / "python"),
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        str(folder),
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(root)}
    with (root / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping")
        yield Served(folder, f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()


def test_each_json_format_gives_the_answers_of_the_model(served: Served) -> None:
    model = mlflow.pyfunc.load_model(str(served.folder))
    wanted = model.predict(pd.DataFrame({"image": served.pictures}))
    texts = [base64.b64encode(path.read_bytes()).decode() for path in served.pictures]
    bodies: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"inputs": {"image": texts}},
        {"inputs": texts},
        {"inputs": [{"image": text} for text in texts]},
        {"instances": texts},
    ]
    for body in bodies:
        code, told = served.post(body)
        assert code == 200, told
        answers = told["predictions"]
        gap = np.abs(np.array([row["probabilities"] for row in answers]) - np.array(wanted["probabilities"].tolist()))
        assert gap.max() < 1e-5
        for name in ("label", "abstain", "version"):
            assert [row[name] for row in answers] == wanted[name].tolist()


def test_a_row_that_is_no_image_is_a_400_that_names_it_and_no_traceback(served: Served) -> None:
    good, bad = (base64.b64encode(data).decode() for data in (served.pictures[0].read_bytes(), b"<html></html>"))
    for body in ({"inputs": {"image": [good, bad]}}, {"dataframe_records": [{"image": good}, {"image": bad}]}):
        code, told = served.post(body)
        assert code == 400
        assert "row 1: an HTML page, not an image" in told["message"] and "row 0" not in told["message"]
        assert "Traceback" not in json.dumps(told)


def test_the_server_reads_no_file_that_a_request_names(served: Served) -> None:
    code, told = served.post({"inputs": {"image": [str(served.pictures[0])]}})
    assert code == 400 and "row 0: not an image format" in told["message"]
