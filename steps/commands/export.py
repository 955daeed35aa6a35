"""Export: a registered version as one file for another runtime, written only once it is shown to answer alike."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import IntegrityError, RegistryError, RequestError
from steps.promotion.rematch import answers
from steps.registry import packages, signing, tracking
from steps.registry.production import chosen
from steps.runtime import files, params

if TYPE_CHECKING:
    import pandas as pd

ACCEPTED, RAW, OUTPUT = "data/screened.parquet", "data/raw", "data/outcome/exports"
MODEL = "artifacts/model"  # inside a package


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """How alike an exported model has to answer or, for int8, how good it has to be, and on how many images."""

    most_images: int
    calibration_images: int
    tolerance: float
    max_loss: float

    def faults(self) -> Iterator[str]:
        """Yield limits that would prove nothing."""
        for name in ("most_images", "calibration_images"):
            if not 1 <= getattr(self, name) <= 100_000:
                yield f"{name} is {getattr(self, name)}; 1 to 100000"
        if not 0 < self.tolerance < 0.1:
            yield f"tolerance is {self.tolerance}; a probability, above 0 and below 0.1"
        if not 0 < self.max_loss < 1:
            yield f"max_loss is {self.max_loss}; above 0 and below 1"


def export(root: Path, which: str, kind: str, output: Path) -> dict[str, Any]:
    """Write version `which` in the format `kind` into a signed folder under `output`.

    `which` is a number or an alias; `champion` is the ledger's. Returns what was found: folder, sizes in bytes, images,
    the greatest difference of a probability and, for int8, how it compares with the version. Raises RequestError for an
    unknown format or version, RegistryError where the version is not what was signed or decided about or cannot read a
    test image, IntegrityError where the file does not answer alike or, for int8, where the gate refuses it; nothing is
    written then.
    """
    from steps.serving import formats

    if kind not in formats.FILES:
        raise RequestError(f"no format {kind!r}; one of {', '.join(formats.FILES)}")
    name = params.read(root)["register"]["model_name"]
    mlflow = tracking.client()
    package = packages.load(mlflow, name, *chosen(mlflow, name, root, which))
    folder = output / f"{name}-{package.version}-{kind}"
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        found = _made(root, package, kind, made)
        signing.sign_folder(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return {"version": package.version, "folder": str(folder), **found}


def _made(root: Path, package: packages.Package, kind: str, folder: Path) -> dict[str, Any]:
    """Write the file and its facts into `folder`, and say how it compares."""
    from steps.backbones import models
    from steps.promotion.smaller import smaller
    from steps.runtime.compute import ComputeParams, configure
    from steps.serving import formats
    from steps.serving.exported import Exported

    rules = params.bind(ExportParams, params.read(root).get("export"), "export")
    compute = params.bind(ComputeParams, params.read(root).get("compute"), "compute")
    configure(compute)
    held = package.folder / MODEL
    facts, table = models.read_facts(held), files.read_table(root / ACCEPTED)
    spec = facts.preprocessing
    module = Exported(package.model.unwrap_python_model().model, spec, facts.temperature)
    test = _some(table, "test", rules.most_images)

    eager = _eager(root, package, test)
    file = formats.write(kind, folder, module, _pixels(root, _some(table, "train", rules.calibration_images), spec))
    answers = formats.runner(kind, file, compute.threads)(_pixels(root, test, spec))
    found: dict[str, Any] = {"images": len(test), "difference": float(abs(eager - answers).max())}
    if kind == formats.INT8 and math.isfinite(found["difference"]):
        verdict, found["comparison"] = smaller(root, package, test, file, (eager, answers), rules.max_loss)
        found["verdict"], reasons = verdict.reasons[0], () if verdict.promote else verdict.reasons
    else:
        reasons = _unlike(found["difference"], rules.tolerance)
    if reasons:
        told = "\n  ".join(reasons)
        raise IntegrityError(f"the {kind} export is refused on {len(test)} test images; nothing is written:\n  {told}")

    sizes = {"bytes": file.stat().st_size, "bytes_before": (held / models.WEIGHTS).stat().st_size}
    signed = files.read_json(held / models.FACTS)  # whole: a version of another release may hold more than the class
    files.write_json(folder / models.FACTS, {**signed, "version": package.digest, "format": kind, "checked": found})
    return {"file": file.name, **sizes, **found}


def _some(table: "pd.DataFrame", split: str, most: int) -> "pd.DataFrame":
    """Return at most `most` images of a split, picked by their hash."""
    from steps.images.manifest import in_hash_order

    part = table[table["split"] == split].drop_duplicates("id")
    if part.empty:
        raise RequestError(f"data/screened.parquet has no image of the split {split!r} to check an export with")
    return in_hash_order(part)[:most]


def _pixels(root: Path, table: "pd.DataFrame", spec: Any) -> Any:
    """Return the images as uint8 [n, 3, crop, crop]: decoded, resized, cropped."""
    import numpy as np

    from steps.images.decoding import read_image
    from steps.images.preprocessing import centre_crop, resized

    pictures = (read_image(root / RAW, row.path, row.id) for row in table.itertuples())
    return np.stack([centre_crop(resized(picture, spec), spec).numpy() for picture in pictures])


def _eager(root: Path, package: packages.Package, table: "pd.DataFrame") -> Any:
    """Return the probabilities that the package gives for these images' files; RegistryError where it reads not all."""
    import numpy as np

    told = answers(package, root / RAW, list(zip(table["path"], table["id"], strict=True)), "probabilities")
    lost = [path for path, answer in zip(table["path"], told, strict=True) if answer is None]
    if lost:
        raise RegistryError(
            f"version {package.version} cannot read {len(lost)} of {len(told)} test images (first: {lost[0]}), so no "
            "export can be shown to answer as it does; nothing is written"
        )
    return np.array(told)


def _unlike(difference: float, tolerance: float) -> tuple[str, ...]:
    if difference <= tolerance:  # the other way round, NaN would pass
        return ()
    return (f"a probability differs by {difference:.2g}; at most {tolerance} (export.tolerance)",)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings of `export` as lines of text."""
    sizes = f"{found['bytes'] / 1e6:.2f} MB; the version's weights {found['bytes_before'] / 1e6:.2f} MB"
    told = [f"{found['folder']}/{found['file']}", f"  {sizes}"]
    if "verdict" in found:
        told.append(f"  {found['verdict']}")
    else:
        told.append(
            f"  answers as the version does: probabilities within {found['difference']:.1g} "
            f"on {found['images']} test images"
        )
    return told
