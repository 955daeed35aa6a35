"""The package of a registered version: weights, facts, and the code that reads them, under a name of its own."""

import io
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image

from steps.backbones import familiarity, models
from steps.registry import bill, served_model, signing, unpacked
from steps.registry.package_loading import DIGEST
from steps.runtime import files
from steps.runtime.stage import code_dependencies, digest_of

HOME = Path(__file__).parents[2]
REQUIREMENTS = (
    "annotated-types",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
    "torch",
    "torchvision",
)


def write_model(
    folder: Path,
    state: dict[str, torch.Tensor],
    facts: models.ModelFacts,
    measure: familiarity.Familiarity | None = None,
) -> str:
    """Write weights, facts, familiarity and bill of materials to `folder`; return the digest of content and code."""
    code = {path: files.sha256_of(HOME / path) for path in _code()}
    lock = (HOME / "requirements.lock").read_text(encoding="utf-8")
    files.write_tensors(folder / models.WEIGHTS, state)
    files.write_json(folder / models.FACTS, facts)
    if measure:
        files.write_tensors(folder / familiarity.FILE, measure.tensors())
    tensors = (models.WEIGHTS, familiarity.FILE) if measure else (models.WEIGHTS,)
    digests = [files.sha256_of(folder / name) for name in tensors]
    files.write_text(folder / bill.FILE, bill.bill_of_materials(facts, digests[0], digest_of(code), lock, *digests[1:]))
    content = {name: files.sha256_of(folder / name) for name in (*tensors, models.FACTS, bill.FILE)}
    return digest_of({**content, **code})


def save(folder: Path, model: Path, digest: str, beside: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Save the output of `write_model` as a signed MLflow model in the new `folder`; it loads without this repository.

    `beside`: path -> bytes of files that are signed with it but are not part of its digest. Models from code: MLflow
    stores a three-line script instead of a pickle. The code's package is named after the digest, because a package
    `steps` in `code_paths` would lose to a repository on Python's path.
    """
    import mlflow.pyfunc
    import pandas as pd

    name = f"regraft_{digest[:16]}"
    code = model.parent / "code" / name
    _copy_code(code, name)
    script = model.parent / "model.py"
    script.write_text(
        f"from mlflow.models import set_model\nfrom {name}.registry.served_model import ImageClassifier\n\n"
        f"set_model(ImageClassifier({digest[:16]!r}))\n",
        encoding="utf-8",
    )
    with _importable(code):
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(script),
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            signature=served_model.SIGNATURE,
            input_example=pd.DataFrame({served_model.IMAGE: [made_up_picture()]}),
            pip_requirements=[f"{requirement}=={version(requirement)}" for requirement in _requirements(model)],
            metadata={DIGEST: digest},
        )
    for path, content in beside.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    signing.sign_folder(folder)


def _requirements(model: Path) -> list[str]:
    return sorted([*REQUIREMENTS, *(models.read_facts(model).extras or ())])


@contextmanager
def _importable(package: Path) -> Iterator[None]:
    """Allow MLflow to run the model's script once while saving; leave no trace in this process."""
    scratch = package.parents[1]  # also of the script
    try:
        with unpacked.importing(scratch):
            sys.path.insert(0, str(package.parent))
            yield
    finally:
        unpacked.forget(scratch)


def _code() -> list[str]:
    return sorted(code_dependencies(HOME, "steps.registry.served_model"))


def _copy_code(target: Path, name: str) -> None:
    """Copy the serving code; `steps` in its imports becomes `name`."""
    shutil.rmtree(target, ignore_errors=True)
    for path in _code():
        copy = target / Path(path).relative_to("steps")
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = (HOME / path).read_text(encoding="utf-8")
        copy.write_text(text.replace("from steps", f"from {name}"), encoding="utf-8")
    for package in {target, *(p.parent for p in target.rglob("*.py"))}:
        (package / "__init__.py").touch()


def made_up_picture() -> bytes:
    """Return the input example of every package: a colour gradient, for a picture of the data belongs to people.

    BMP holds the pixels as they are, so the bytes depend on no compressor.
    """
    side = np.linspace(0, 255, 32).astype(np.uint8)
    across, down = np.meshgrid(side, side)
    picture = io.BytesIO()
    Image.fromarray(np.stack([across, down, across[:, ::-1]], axis=2)).save(picture, "BMP")
    return picture.getvalue()
