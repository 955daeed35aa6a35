"""Export a registered version as one file for another runtime, written only once its answers are shown to agree."""

import math
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.backbones import models
from steps.errors import IntegrityError, RegistryError, RequestError
from steps.evaluation.results import PairedComparison
from steps.images.decoding import read_image
from steps.images.manifest import in_hash_order, in_use
from steps.images.preprocessing import centre_crop, resized
from steps.promotion.rematch import answers
from steps.promotion.smaller import smaller
from steps.promotion.terms import RAW, SCREENED, ExportParams
from steps.registry import package_loading, signing
from steps.registry.model_registry import Registry
from steps.registry.production import chosen
from steps.runtime import files, params
from steps.runtime.artefacts import OPTIONAL
from steps.runtime.compute import ComputeParams, configure
from steps.serving import formats
from steps.serving.exported import Exported

OUTPUT = "data/outcome/exports"
MODEL = "artifacts/model"  # inside a package


@dataclass(frozen=True)
class Checked:
    """The check of a file on `images` test images: the largest difference of a probability and, for int8, the gate."""

    images: int
    difference: float
    comparison: PairedComparison | None = field(default=None, metadata=OPTIONAL)
    verdict: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Export:
    """A written file, the sizes of it and of the version's weights in bytes, and how it was checked."""

    version: str
    folder: Path
    file: str
    bytes: int
    bytes_before: int
    checked: Checked

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        facts = {**vars(self), "folder": str(self.folder), **files.plain(self.checked)}
        return {name: value for name, value in facts.items() if name != "checked"}

    def lines(self) -> list[str]:
        """Return lines of text."""
        sizes = f"{self.bytes / 1e6:.2f} MB; the version's weights {self.bytes_before / 1e6:.2f} MB"
        difference, images = self.checked.difference, self.checked.images
        alike = f"answers as the version does: probabilities within {difference:.1g} on {images} test images"
        return [f"{self.folder}/{self.file}", f"  {sizes}", f"  {self.checked.verdict or alike}"]


def export(root: Path, which: str, kind: str, output: Path) -> Export:
    """Write version `which` in the format `kind` into a signed folder under `output`.

    `which` is a number or an alias; `champion` is the ledger's. Raises RequestError for an unknown format or version,
    RegistryError if the version is not what was signed or decided on or cannot read a test image, IntegrityError if the
    file's answers differ too much or, for int8, if the gate refuses it; nothing is written then.
    """
    if kind not in formats.FILES:
        raise RequestError(f"no format {kind!r}; one of {', '.join(formats.FILES)}")
    registry = Registry(root)
    package = package_loading.load(registry, *chosen(registry, which))
    folder = output / f"{registry.name}-{package.version}-{kind}"
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        file, checked = _made(root, package, kind, made)
        size = file.stat().st_size
        signing.sign_folder(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    before = (package.folder / MODEL / models.WEIGHTS).stat().st_size
    return Export(package.version, folder, file.name, size, before, checked)


def _made(root: Path, package: package_loading.Package, kind: str, folder: Path) -> tuple[Path, Checked]:
    """Write the file and its facts into `folder`; return the file and its check."""
    rules = params.bind(ExportParams, params.read(root).get("export"), "export")
    compute = params.bind(ComputeParams, params.read(root).get("compute"), "compute")
    configure(compute)
    held = package.folder / MODEL
    facts, table = models.read_facts(held), files.read_table(root / SCREENED)
    shift = facts.prior_shift or (0.0,) * len(facts.classes)
    module = Exported(package.model.unwrap_python_model().model, facts.preprocessing, facts.temperature, shift)
    test = _some(table, "test", rules.most_images)

    eager = _eager(root, package, test)
    learnt = _some(table, "train", rules.calibration_images)
    file = formats.write(kind, folder, module, _pixels(root, learnt, facts.preprocessing))
    answers = formats.runner(kind, file, compute.threads)(_pixels(root, test, facts.preprocessing))
    checked = Checked(len(test), float(abs(eager - answers).max()))
    if kind == formats.INT8 and math.isfinite(checked.difference):
        verdict, comparison = smaller(root, package, test, file, (eager, answers), rules.max_loss)
        checked = replace(checked, comparison=comparison, verdict=verdict.reasons[0])
        reasons = () if verdict.promote else verdict.reasons
    else:
        reasons = _unlike(checked.difference, rules.tolerance)
    if reasons:
        text = "\n  ".join(reasons)
        raise IntegrityError(f"the {kind} export is refused on {len(test)} test images; nothing is written:\n  {text}")

    signed = files.read_json(held / models.FACTS)  # read whole: another release may hold more than the class
    files.write_json(folder / models.FACTS, {**signed, "version": package.digest, "format": kind, "checked": checked})
    return file, checked


def _some(table: pd.DataFrame, split: str, most: int) -> pd.DataFrame:
    """Return at most `most` images of a split, picked by their hash."""
    candidates = in_use(table, split).drop_duplicates("id")
    if candidates.empty:
        raise RequestError(f"data/screened.parquet has no image of the split {split!r} to check an export with")
    return in_hash_order(candidates)[:most]


def _pixels(root: Path, table: pd.DataFrame, spec: Any) -> Any:
    """Return the images as uint8 [n, 3, crop, crop]: decoded, resized, cropped."""
    pictures = (read_image(root / RAW, row.path, row.id, spec.grey_bits) for row in table.itertuples())
    return np.stack([centre_crop(resized(picture, spec), spec).numpy() for picture in pictures])


def _eager(root: Path, package: package_loading.Package, table: pd.DataFrame) -> Any:
    """Return the package's probabilities for these images' files; RegistryError if it cannot read all of them."""
    values = answers(package, root / RAW, list(zip(table["path"], table["id"], strict=True)), "probabilities")
    lost = [path for path, answer in zip(table["path"], values, strict=True) if answer is None]
    if lost:
        raise RegistryError(
            f"version {package.version} cannot read {len(lost)} of {len(values)} test images (first: {lost[0]}), so no "
            "export can be shown to answer as it does; nothing is written"
        )
    return np.array(values)


def _unlike(difference: float, tolerance: float) -> tuple[str, ...]:
    if difference <= tolerance:  # the other way round, NaN would pass
        return ()
    return (f"a probability differs by {difference:.2g}; at most {tolerance} (export.tolerance)",)
