"""Packages for tests, saved, registered and promoted as the product does; an environment that has what it declares."""

import subprocess
import venv
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import Grafted, build, without_top
from steps.backbones.familiarity import Familiarity
from steps.commands import origins
from steps.promotion.unseen import KEPT
from steps.registry import ledger, package_writing
from steps.registry.chain import PROMOTE, Chain
from steps.registry.model_registry import Registry
from steps.runtime.stage import Lineage
from steps.training.learnt_from import packed

CLASSES = ["0", "1", "2"]
OURS = ("steps", "flows")
UNDECLARED = (
    "dvc",
    "prefect",
    "great_expectations",
    "imagehash",
    "model_signing",
    "onnxruntime",
)  # regraft's own needs


def grafted() -> Grafted:
    """Return the embedded backbone with a head that has learnt nothing."""
    card, state = origins.embedded()
    network = build(card.architecture, card.num_classes)
    network.load_state_dict(state)
    backbone, width = without_top(network)
    torch.manual_seed(0)
    return Grafted(backbone, nn.Linear(width, len(CLASSES))).eval()


def facts(**changes: Any) -> models.ModelFacts:
    card = origins.embedded()[0]
    made = models.ModelFacts(
        kind="head",
        architecture=card.architecture,
        num_classes=card.num_classes,
        backbone=card.name,
        backbone_sha256=card.sha256,
        backbone_licence=card.licence,
        cut="",
        classes=tuple(CLASSES),
        lineage="ab" * 32,
        code="cd" * 32,
        data_sha256="ef" * 32,
        temperature=1.0,
        abstain_below=0.0,
        preprocessing=card.preprocessing,
    )
    return replace(made, **changes)


def save(
    folder: Path,
    network: Grafted,
    learnt: Sequence[str] | None = (),
    measure: Familiarity | None = None,
    **changes: Any,
) -> tuple[Path, str]:
    """Save a package into `folder`; return where it is and its digest. The key is that of DVC_ROOT.

    `learnt`: the ids of the images that it learnt from; None as older versions, which keep no list.
    `measure`: of familiarity; None as older versions, which have none.
    """
    digest = package_writing.write_model(folder / "model", network.state_dict(), facts(**changes), measure)
    beside = {} if learnt is None else {KEPT: packed(learnt)}
    package_writing.save(folder / "saved", folder / "model", digest, beside)
    return folder / "saved", digest


def register(registry: Registry, digest: str, saved: Path) -> str:
    """Register a saved package under a digest, with a run behind it; return the version's number."""
    registry.ensure()
    run = registry.log_run(registry.experiment("any"), Lineage("train_head", digest, "", {}, {}))
    return registry.create(digest, run, saved, {"kind": "head"}, {})


def promote(registry: Registry, number: str) -> Chain:
    """Make the ledger name a version champion, without the gate; the alias follows."""
    package = registry.digest(number)
    for chain in ledger.attempts(registry):
        if chain.champion == number or ledger.append(
            registry, chain, PROMOTE, number, number, ["a test wants it"], package=package
        ):
            break
    return ledger.restore_alias(registry, chain)


def environment(folder: Path, declared: Path) -> Path:
    """Make an environment with what a package's requirements.txt declares, and what that requires; return its programs.

    Nothing is downloaded: the libraries are links to those of this environment, whose versions are the declared ones.
    What the package does not declare, regraft itself above all, cannot be imported there.
    """
    venv.create(folder, with_pip=False)
    inside = next((folder / "lib").glob("python*/site-packages"))
    for name, wanted in (line.split("==") for line in declared.read_text(encoding="utf-8").split()):
        assert metadata.version(name) == wanted
    for library in required(declared.read_text(encoding="utf-8").split()).values():
        for top in {file.parts[0] for file in library.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (inside / top).unlink(missing_ok=True)  # a folder that several share, as nvidia's do
            (inside / top).symlink_to(Path(str(library.locate_file(top))).resolve())
    uvicorn = folder / "bin/uvicorn"  # MLflow starts it by name
    uvicorn.write_text(f"#!{folder / 'bin/python'}\nfrom uvicorn.main import main\n\nmain()\n")
    uvicorn.chmod(0o755)
    asked = [*OURS, *UNDECLARED]
    found = subprocess.run(
        [str(folder / "bin/python"), "-c", f"import importlib.util as u; print([u.find_spec(n) for n in {asked}])"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert found.stdout.strip() == str([None] * len(asked)), found.stdout
    return folder / "bin"


def required(lines: list[str]) -> dict[str, metadata.Distribution]:
    """Return the installed distributions that these requirements ask for, directly or through others."""
    found: dict[str, metadata.Distribution] = {}
    done, todo = set(), [Requirement(line) for line in lines]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        for extra in ({"", *one.extras}) - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            found[name] = metadata.distribution(name)
            told = map(Requirement, found[name].requires or [])
            todo += [other for other in told if other.marker is None or other.marker.evaluate({"extra": extra})]
    return found
