"""Validate: the gate. Nothing downstream reads an image or a preprocessing that has not passed here."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, get_args

import numpy as np
import pandas as pd
from annotated_types import Gt, Interval

from steps.backbones import models
from steps.checks import decision_files as decided
from steps.checks import duplicates, expectations, selection
from steps.checks.curation import DROP, KEEP, Decision, absent, counted, named, obeyed
from steps.checks.duplicates import CopyLimits
from steps.checks.expectations import MORE
from steps.checks.preprocessing_check import contract, observe
from steps.checks.reports import Copies, Coverage, Nothing, Observation, PopulationFit, Shortcut, Unsound, Validation
from steps.checks.rule import MAY_BE_ABSENT, Table, refusal, some
from steps.checks.rules import DECLARED, UNTOLD, DataLimits, Severity, rules, totals
from steps.errors import ParamsError
from steps.images.dataset import Images
from steps.images.decoding import read_image
from steps.images.deep_grey import LARGEST, used_bits
from steps.images.file_kinds import LOST
from steps.images.listing import splits_of_ours
from steps.images.manifest import (
    SPLITS,
    TEST,
    TRAIN,
    UNLABELLED,
    VAL,
    Row,
    class_counts,
    classes_of,
    in_use,
    independent,
    look_alikes,
)
from steps.images.preprocessing import Preprocessing
from steps.images.splitting import Shares, more_needed
from steps.runtime import files, stage
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.seeding import numpy_generator

log = logging.getLogger("regraft")
MORE_IMAGES = (
    "Add such images, or, for splits, lay the images out in one folder per class: `regraft use FOLDER` then makes the "
    "splits. A class that is to be left out has to go from every split."
)


@dataclass(frozen=True, kw_only=True)
class ValidateParams(DataLimits, CopyLimits):
    """Limits of the gate, and the preprocessing that the pipeline will apply: it must be the backbone's own."""

    drop_leaking: bool
    population_prior: dict[str, Annotated[float, Gt(0)]]
    sample_images: Annotated[int, Interval(ge=2, le=1024)]
    severity: Severity
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class SplitShares(Shares):
    """The shares by which `ingest` makes splits: how many images a refused class needs depends on them."""

    PART_OF: ClassVar[str] = "ingest"


def validate(
    params: ValidateParams,
    shares: SplitShares,
    seed: int,
    compute: ComputeParams,
    manifest: Path,
    quarantine: Path,
    decisions: Path,
    lost_classes: Path,
    raw: Path,
    backbone: Path,
    accepted: Path,
    preprocessing: Path,
    validation: Path,
    docs: Path,
) -> None:
    """Apply the decisions; check manifest, copies, selection and preprocessing; write the verdict, then the images.

    `validation` (tracked) and `docs` (not tracked: GX's pages carry the time) are written before the verdict falls,
    so that a refusal can be read. Raises DataError listing every broken rule with its remedy.
    """
    images = files.read_table(manifest)
    rejected = _quarantined(quarantine)
    configure(compute)
    report = Unsound(accepted=False, rules=(), quarantined=len(_missed(rejected)))
    tables: dict[Table, pd.DataFrame] = {"images": _without_largest(images)}
    counted_files = dict[str, list[str]]()
    absent = frozenset[Table](get_args(Table))
    if sound(images):
        images, rejected, report = _examined(params, seed, compute, images, rejected, decisions, raw, backbone)
        tables, counted_files = _tables(images, report, rejected), _counted_files(images, report, rejected)
        tables["classes"] = _with_needs(tables["classes"], params, shares, raw)
        absent = MAY_BE_ABSENT
    if lost := files.read_json(lost_classes):
        tables["lost"] = pd.DataFrame([{"label": label, "images": 0} for label in lost])
    asked = [rule for rule in rules(params, params.severity) if rule.table in tables or rule.table not in absent]
    results = expectations.check(tables, asked, docs, counted_files)
    refused = refusal(results) or selection.untrainable(images, MORE_IMAGES)

    files.write_json(validation, replace(report, accepted=refused is None, rules=results))
    if refused:
        raise refused
    files.write_table(accepted, images)
    files.write_json(preprocessing, _applied(params, images).to_dict())


def sound(images: pd.DataFrame) -> bool:
    """Return True if the table is a manifest; if not, the manifest's rules say why and no others can be checked."""
    return (
        tuple(_without_largest(images).columns) == Row._fields
        and images["path"].is_unique
        and set(images["split"]) <= set(SPLITS)
        and bool(images["id"].str.fullmatch("[0-9a-f]{64}").all())
    )


def _without_largest(images: pd.DataFrame) -> pd.DataFrame:
    """Return a manifest without the column that only sets with deep grey have."""
    return images.drop(columns=LARGEST, errors="ignore")


def _examined(
    params: ValidateParams,
    seed: int,
    compute: ComputeParams,
    images: pd.DataFrame,
    rejected: pd.DataFrame,
    decisions: Path,
    raw: Path,
    backbone: Path,
) -> tuple[pd.DataFrame, pd.DataFrame, Validation]:
    """Apply decisions and remedies; return the images and rejected files that are left, and a report without rules."""
    judged = decided.read(decisions, images, set(rejected["path"]))
    gone = absent(judged, images, set(rejected["path"]))
    rejected = rejected[~rejected["path"].isin([d.image for d in judged if d.decision == DROP])]
    images = obeyed(images, judged)
    copies, dropped = _copies(images, judged, raw, params, compute)
    leaking = images["path"].isin(dropped)
    left_out = {split: int(count) for split, count in images["split"][leaking].value_counts().items()}
    _log_removed(gone, left_out)
    images = duplicates.counted_once(images[~leaking].reset_index(drop=True))

    counts = class_counts(zip(images["split"], images["label"], strict=True))
    labelled = in_use(images)
    shortcuts = selection.shortcuts(labelled, numpy_generator(seed, "validate"))
    _check_prior(params.population_prior, classes_of(counts))
    of_labelled = {split: of_class for split, of_class in counts.items() if split != UNLABELLED}
    report = Validation(
        accepted=False,
        rules=(),
        quarantined=len(_missed(rejected)),
        decisions=counted(judged, gone),
        dropped=tuple(dropped),
        left_out=left_out,
        counts=counts,
        effective_classes={split: selection.effective_number([*of.values()]) for split, of in counts.items()},
        copies=copies,
        population=selection.population_fit(of_labelled, params.population_prior, _of_units(labelled)),
        sources=selection.representation(labelled),
        coverage=selection.coverage(labelled),
        groups=selection.groups(labelled),
        shortcuts=shortcuts,
        observed=_observed(images, raw, backbone, params, seed, compute),
        preprocessing=contract(params.preprocessing, models.read_card(backbone).preprocessing),
    )
    _log_recognised(report.observed)
    return images, rejected, report


def _of_units(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count one image per group, by split and class."""
    units = independent(images)
    return class_counts(zip(units["split"], units["label"], strict=True))


def _log_removed(gone: Sequence[str], left_out: Mapping[str, int]) -> None:
    """Log decisions that name absent images, and how many images `drop_leaking` removed from each split."""
    if gone:
        log.warning("data/decisions.csv: no such image (any more), passed over: %s", some(gone))
    if left_out:
        counts = ", ".join(f"{count} of {split}" for split, count in left_out.items())
        log.warning("validate.drop_leaking left out copies: %s", counts)


def _log_recognised(observed: Observation | Nothing) -> None:
    """Log which other preprocessing the weights recognise, if any."""
    for finding in observed.wanted if observed else ():
        if finding.account not in (DECLARED, UNTOLD):
            log.warning(
                "%s: %s (Checks in data/reports/report.html shows it after the run)", finding.account, finding.why
            )


def _copies(
    images: pd.DataFrame, judged: Sequence[Decision], raw: Path, params: ValidateParams, compute: ComputeParams
) -> tuple[tuple[Copies, ...], list[str]]:
    """Return the groups of copies that stay, and the paths of the images that the remedy drops, if asked for.

    An image that a person keeps is not a copy unless its bytes are the same: about those there is nothing to judge.
    """
    labelled = images[images["split"] != UNLABELLED]
    asked = np.flatnonzero(~named(labelled, judged, KEEP))
    read = partial(read_image, raw, grey_bits=used_bits(images))
    near = asked[duplicates.near_copies(labelled.iloc[asked], read, params, compute.threads)]
    groups = duplicates.groups(labelled, np.concatenate([duplicates.same(labelled["id"].tolist()), near]))
    dropped = duplicates.leaking_copies(groups) if params.drop_leaking else []
    return duplicates.without(groups, dropped), dropped


def _applied(params: ValidateParams, images: pd.DataFrame) -> Preprocessing:
    """Return the preprocessing with the depth that the deep grey of these images uses."""
    return replace(params.preprocessing, grey_bits=used_bits(images))


def _check_prior(prior: Mapping[str, float], classes: list[str]) -> None:
    if prior and sorted(prior) != classes:
        raise ParamsError([f"validate.population_prior names {', '.join(prior)}; the classes are {', '.join(classes)}"])


def _observed(
    images: pd.DataFrame, raw: Path, backbone: Path, params: ValidateParams, seed: int, compute: ComputeParams
) -> Observation | Nothing:
    """Return the observed preprocessing of a sample (see `observe`); `Nothing` without training images."""
    labelled = images[images["split"] != UNLABELLED]
    if not (labelled["split"] == TRAIN).any():
        return Nothing()
    classes = sorted(labelled["label"].unique())
    loader = Images(raw, labelled, classes, _applied(params, images), compute)
    return observe(loader, backbone, params.sample_images, seed, params.severity.wanted != "off")


def _tables(images: pd.DataFrame, report: Validation, rejected: pd.DataFrame) -> dict[Table, pd.DataFrame]:
    """Return the tables that the rules check, by name."""
    weighty = images[images["weight"] > 0]  # an image of weight 0 teaches nothing, so it does not count
    heavy = class_counts(zip(weighty["split"], weighty["label"], strict=True))
    unread = set(_missed(rejected)["label"]) - {""}  # a class none of whose pictures can be read is still one
    per_class = [
        {"label": label, **{split: heavy.get(split, {}).get(label, 0) for split in (TRAIN, VAL, TEST)}}
        for label in sorted({*classes_of(report.counts), *unread})
    ]
    fields = [{name: str(value) for name, value in vars(row).items()} for row in report.preprocessing]
    changed = [group.images for group in report.copies if not group.identical]
    copies = {image.path: str(number) for number, group in enumerate(changed) for image in group}
    labelled = images.loc[images["split"] != UNLABELLED, ["path", "id", "label", "split", "group", "source"]]
    tables: dict[Table, pd.DataFrame] = {
        "images": _without_largest(images),
        "classes": pd.DataFrame(per_class, columns=["label", TRAIN, VAL, TEST]),
        "totals": pd.DataFrame([totals(len(images), report.counts, report.quarantined)]),
        "labelled": labelled.assign(copy=[copies.get(path, "") for path in labelled["path"]]).reset_index(drop=True),
        "sources": pd.DataFrame([{"alone": sum(row.significant for row in report.sources)}]),
        "preprocessing": pd.DataFrame(fields),
    }
    images_of = Counter[str]()
    for split, of_class in report.counts.items():
        images_of.update(of_class if split != UNLABELLED else {})
    if alike := look_alikes(images_of):
        tables["alike"] = pd.DataFrame({"labels": alike})
    if seen := report.observed:
        tables["observed"] = pd.DataFrame([{"done": seen.done, "inputs": seen.accounts[0].inputs}])
        wanted = [(row.question, row.account, row.wants) for row in seen.wanted]
        tables["wanted"] = pd.DataFrame(wanted, columns=["question", "account", "wants"])
    families: dict[Table, list[tuple[str, PopulationFit | Shortcut | Coverage]]] = {
        "population": [(row.split, row) for row in report.population],
        "shortcuts": [(row.measure, row) for row in report.shortcuts],
        "coverage": [(row.value, row) for row in report.coverage],
    }
    for name, results in families.items():
        if results:
            effects = [(label, row.effect if row.significant else 0.0) for label, row in results]
            tables[name] = pd.DataFrame(effects, columns=["label", "effect"])
    return tables


def _with_needs(classes: pd.DataFrame, params: ValidateParams, shares: SplitShares, raw: Path) -> pd.DataFrame:
    """Add to each class that is below a minimum how many new images it needs, where regraft makes the splits.

    Where the splits are given, each lacks what it lacks, and the rules say so.
    """
    least = {TRAIN: params.min_train_per_class, VAL: params.min_val_per_class, TEST: params.min_test_per_class}
    if not any((classes[split] < least[split]).any() for split in least):
        return classes
    ours = splits_of_ours(raw)
    lacking = sum(((least[split] - classes[split]).clip(lower=0) for split in ours), pd.Series(0, classes.index))
    share = (1 - shares.validation_share) * (1 - shares.test_share if TEST in ours else 1)
    more = [more_needed(int(count), share) for count in lacking]
    return classes.assign(**{f"{split}{MORE}": more for split in ours})


def _quarantined(quarantine: Path) -> pd.DataFrame:
    """Read the table of rejected files as text: a file may be called NA, null or 2024."""
    return pd.read_csv(quarantine, dtype=str, keep_default_na=False)


def _missed(rejected: pd.DataFrame) -> pd.DataFrame:
    """Return the rejected files that were meant as pictures: damaged ones, and formats that are not read."""
    return rejected[rejected["kind"].isin(LOST)]


def _counted_files(images: pd.DataFrame, report: Validation, rejected: pd.DataFrame) -> dict[str, list[str]]:
    """Return the files behind the figures that count files, by the figure's column."""
    alone = [row.source for row in report.sources if row.significant]
    labelled = images[images["split"] != UNLABELLED]
    return {
        "quarantined_share": sorted(_missed(rejected)["path"]),
        "alone": sorted(labelled["path"][labelled["source"].isin(alone)]),
    }


if __name__ == "__main__":
    stage.main(validate)
