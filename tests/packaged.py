"""Packages for tests: a grafted glyphnet, saved as `register` saves it, and an environment that lacks regraft."""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steps.adapters import backbones, package
from steps.core.backbone import Grafted, build, without_top
from tests.conftest import write_images

CLASSES = ["0", "1", "2"]


def grafted() -> Grafted:
    """Return the embedded backbone with a head that has learnt nothing."""
    card, state = backbones.embedded()
    network = build(card.architecture, card.num_classes)
    network.load_state_dict(state)
    backbone, width = without_top(network)
    torch.manual_seed(0)
    return Grafted(backbone, nn.Linear(width, len(CLASSES))).eval()


def facts(**told: Any) -> dict[str, Any]:
    card = backbones.embedded()[0]
    return {
        "kind": "head", "architecture": card.architecture, "num_classes": card.num_classes, "cut": "",
        "classes": CLASSES, "preprocessing": card.preprocessing.to_dict(), "temperature": 1.0, "abstain_below": 0.0,
        "backbone": card.name, "backbone_sha256": card.sha256, "backbone_licence": card.licence, "lineage": "ab" * 32,
        "code": "cd" * 32, "data_sha256": "ef" * 32, **told,
    }  # fmt: skip


def save(folder: Path, network: Grafted, **told: Any) -> tuple[Path, str]:
    """Save a package into `folder`; return where it is and its digest. The key is that of DVC_ROOT."""
    example = write_images(folder / "images", per_class=4) / "0" / "000.png"
    digest = package.write_model(folder / "model", network.state_dict(), facts(**told))
    package.save(folder / "saved", folder / "model", digest, example.read_bytes())
    return folder / "saved", digest


def environment(folder: Path) -> Path:
    """Make an environment with the libraries of this one, but without regraft; return its folder of programs."""
    import mlflow

    venv.create(folder, with_pip=False)
    inside = next((folder / "lib").glob("python*/site-packages"))
    # The .pth file in there that leads to this repository is not read: only those of `inside` are.
    (inside / "libraries.pth").write_text(str(Path(mlflow.__file__).parents[1]) + "\n")
    uvicorn = folder / "bin/uvicorn"  # MLflow starts it by name
    uvicorn.write_text(f"#!{folder / 'bin/python'}\nfrom uvicorn.main import main\n\nmain()\n")
    uvicorn.chmod(0o755)
    found = subprocess.run(
        [str(folder / "bin/python"), "-c", "import mlflow, importlib.util as u; print(u.find_spec('steps'))"],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    assert found.stdout.strip() == "None", "regraft can be imported"
    assert sys.version_info >= (3, 11)
    return folder / "bin"
