"""The rules of `validate` as data. Each name is written only here; elsewhere a rule is identified by its key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from steps.checks.feature_rules import of_screen, of_splits
from steps.checks.rule import INTO, NATS, POINTS, SHARE, TIMES, Level, Rule, governed
from steps.images.manifest import SPLITS, TEST, TRAIN, VAL, Row
from steps.images.splitting import Minima
from steps.runtime.binding import Because

DECLARED = "as declared"  # the account of the preprocessing that ought to fit
SWAPPED = "colour order swapped"  # an account of what was done to the pictures, or of what the weights want
UNTOLD = "cannot be told"  # the finding on the weights if their witnesses are silent or disagree
ALIKE_REMEDY = (
    "Where they are one class, rename the folders of one (or its labels in the listing) to the other. Where they are "
    "two, set `validate.severity.alike_labels: off` in params.yaml."
)


@dataclass(frozen=True, kw_only=True)
class Severity:
    """What a broken rule of `validate` does, by its key: fail (the data is rejected), warn or off (not checked)."""

    minimum: Level
    lost_classes: Level
    alike_labels: Level
    imbalance: Level
    quarantine: Level
    leakage: Level
    conflicting_labels: Level
    population: Level
    sources: Level
    coverage: Level
    shortcuts: Level
    preprocessing: Level
    observed: Level
    wanted: Level


@dataclass(frozen=True, kw_only=True)
class DataLimits(Minima):
    """The numbers of the gate: images per class and split, ratios and shares, effects and distances."""

    max_imbalance: Annotated[float, Ge(1), Because("largest over smallest class")]
    quarantine_limit: Annotated[float, Interval(ge=0, lt=1)]
    max_prior_effect: Annotated[float, Ge(0)]
    max_coverage_gap: Annotated[float, Ge(0)]
    max_shortcut: Annotated[float, Ge(0)]
    max_input_distance: Annotated[float, Ge(0)]


def rules(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
    """Return the rules of the gate, without those that are switched off."""
    return governed(_of_validate(limits), severity)


def _of_validate(limits: DataLimits) -> Sequence[Rule]:
    return (*_structure(), *_classes(limits), *_copies(), *_selection(limits), *_preprocessing(limits))


def _structure() -> Sequence[Rule]:
    """Return the rules that always have to hold: without them no other rule means anything."""
    again = "Run `regraft validate`: it reads the images again and writes data/manifest.parquet anew."
    return (
        Rule(
            "the manifest is whole",
            table="images",
            kind="columns",
            column="id",
            what="the columns of the manifest",
            remedy=again,
            allowed=Row._fields,
        ),
        Rule(
            "ids are digests",
            table="images",
            kind="matches",
            column="id",
            what="the id of each image",
            remedy=again,
            allowed=("[0-9a-f]{64}",),
        ),
        Rule(
            "splits are known",
            table="images",
            kind="in_set",
            column="split",
            what="the split of each image",
            remedy=again,
            allowed=SPLITS,
        ),
        Rule(
            "paths are unique",
            table="images",
            kind="unique",
            column="path",
            what="each file appears once",
            remedy="Remove the repeated line of each path from the listing.",
        ),
        Rule(
            "images have area",
            table="images",
            kind="between",
            column="width",
            what="the width of each image",
            remedy=again,
            low=1,
            unit="pixels",
        ),
    )


def _classes(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "two classes or more",
            table="totals",
            kind="between",
            column="classes",
            what="the number of classes",
            remedy="Put the images of each class into a folder of its own; there have to be two such folders or more.",
            low=2,
            unit="classes",
        ),
        Rule(
            "every class can be learnt",
            table="classes",
            kind="between",
            column=TRAIN,
            what="training images of each class, without which no head can know it",
            remedy="Add training images of the class, or remove the class from the folder of images (from every split)."
            "",
            low=1,
            unit="images",
        ),
        _enough("enough to learn from", TRAIN, "training", limits.min_train_per_class),
        _enough("enough to choose by", VAL, "validation", limits.min_val_per_class),
        _enough("enough to judge by", TEST, "test", limits.min_test_per_class),
        Rule(
            "no class is lost",
            table="lost",
            kind="between",
            column="images",
            what="classes that the last images had and today's have not",
            remedy="Bring the images of the class back (is a disk not mounted, a folder renamed?). If the class is "
            "gone for good, `regraft use FOLDER` with the same folder accepts today's classes.",
            low=1,
            key="lost_classes",
            unit="images",
        ),
        Rule(
            "labels do not look alike",
            table="alike",
            kind="in_set",
            column="labels",
            what="classes whose names differ only in case, spaces or separators",
            remedy=ALIKE_REMEDY,
            allowed=("none",),
            key="alike_labels",
        ),
        Rule(
            "classes are balanced",
            table="totals",
            kind="between",
            column="imbalance",
            what="largest over smallest class in training",
            remedy="Add training images of the smallest class, or set `validate.max_imbalance` in params.yaml above "
            "the ratio found: class weights even out the loss.",
            high=limits.max_imbalance,
            key="imbalance",
            unit=TIMES,
        ),
        Rule(
            "files can be decoded",
            table="totals",
            kind="between",
            column="quarantined_share",
            what="share of pictures that cannot be read",
            remedy="Repair, convert or remove the files that data/quarantine.csv lists as `damaged` or `other format` "
            f"(the reason says how), or, where they have to stay, write a line `PATH,drop,,` for each {INTO}.",
            high=limits.quarantine_limit,
            key="quarantine",
            unit=SHARE,
        ),
    )


def _enough(name: str, split: str, images: str, least: int) -> Rule:
    remedy = (
        "Add images of the class, or remove the class from the folder of images; or set "
        f"`validate.min_{split}_per_class` in params.yaml to the number found, if that is 1 or more."
    )
    what = f"{images} images of each class"
    return Rule(
        name,
        table="classes",
        kind="between",
        column=split,
        what=what,
        remedy=remedy,
        low=least,
        key="minimum",
        unit="images",
    )


def _copies() -> Sequence[Rule]:
    drop = (
        "Set `validate.drop_leaking: true` in params.yaml: test images stay; their copies in validation and "
        "training, and copies of validation images in training, are left out."
    )
    label = (
        f"For each copy with a wrong label write a line `PATH,relabel,LABEL,` (the right one) or `PATH,drop,,` {INTO}."
    )
    if_another = "if a picture is not a copy but a different one"
    return (
        Rule(
            "no image in two splits",
            table="labelled",
            kind="one_value",
            column="split",
            what="identical files in two splits",
            remedy=drop,
            per="id",
            key="leakage",
        ),
        Rule(
            "no copy in two splits",
            table="labelled",
            kind="one_value",
            column="split",
            what="re-encoded or resized copies of one picture in two splits",
            remedy=f"{drop} Write a line `PATH,keep,,` {INTO} {if_another}.",
            per="copy",
            key="leakage",
        ),
        Rule(
            "no group in two splits",
            table="labelled",
            kind="one_value",
            column="split",
            what="groups whose images stand in two splits",
            remedy="Give all lines of a group the same split in the listing, or leave its column split out: regraft "
            "keeps groups together.",
            per="group",
            key="leakage",
        ),
        Rule(
            "one image, one label",
            table="labelled",
            kind="one_value",
            column="label",
            what="identical files with two labels",
            remedy=label,
            per="id",
            key="conflicting_labels",
        ),
        Rule(
            "one picture, one label",
            table="labelled",
            kind="one_value",
            column="label",
            what="re-encoded or resized copies of one picture with two labels",
            remedy=f"{label} Or `PATH,keep,,` {if_another}.",
            per="copy",
            key="conflicting_labels",
        ),
    )


def _selection(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "classes are as in the population",
            table="population",
            kind="between",
            column="effect",
            what="how far class shares lie from validate.population_prior (Cohen's w; 0 where chance explains it)",
            remedy="Set `validate.population_prior` in params.yaml to the shares that the world has, or to {} where "
            "nobody knows them; or collect the classes as they occur (class weights do not correct the test split).",
            high=limits.max_prior_effect,
            key="population",
        ),
        Rule(
            "no source of one class alone",
            table="sources",
            kind="between",
            column="alone",
            what="sources whose images are all of one class",
            remedy="Add images of the other classes from that source: otherwise its look predicts the label. If there "
            "can be none, set `validate.severity.sources: warn` in params.yaml.",
            high=0,
            key="sources",
            unit="sources",
        ),
        Rule(
            "training covers what is tested",
            table="coverage",
            kind="between",
            column="effect",
            what="how far the share of a source or month in training lies from that elsewhere (0 where chance explains "
            "it)",
            remedy="Add training images of the sources and months named, or move some of theirs to training (column "
            "split of the listing). Where there can be none, set `validate.severity.coverage: warn` in params.yaml.",
            high=limits.max_coverage_gap,
            key="coverage",
            unit=POINTS,
        ),
        Rule(
            "no shortcut to the label",
            table="shortcuts",
            kind="between",
            column="effect",
            what="how far a plain measure alone comes from chance (0 %) to certainty (100 %) about the label; 0 % "
            "where chance explains it",
            remedy="Collect the classes under the same conditions, or store all files alike (size, format, light) "
            "before they come here. Where the classes do differ in that measure, set `validate.severity.shortcuts: "
            "warn` in params.yaml.",
            high=limits.max_shortcut,
            key="shortcuts",
            unit=SHARE,
        ),
    )


def _preprocessing(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "same preprocessing as the backbone",
            table="preprocessing",
            kind="preprocessing",
            column="pipeline",
            what="each field of validate.preprocessing against the backbone's card",
            remedy="Set each field named, under validate.preprocessing in params.yaml, to the value that the backbone "
            "wants (`regraft use IMAGES --backbone NAME` writes them all).",
            key="preprocessing",
        ),
        Rule(
            "tensors are what is declared",
            table="observed",
            kind="in_set",
            column="done",
            what="what was done to a sample of the images",
            remedy="Fix the loader: it does not do what validate.preprocessing says.",
            allowed=(DECLARED,),
            key="observed",
        ),
        Rule(
            "the weights know such inputs",
            table="wanted",
            kind="in_set",
            column="account",
            what="the preprocessing that the weights recognise, by their BatchNorm and by the answers of their own top",
            remedy="With `validate.severity.wanted: warn` in params.yaml `regraft run` goes on, and Checks in "
            "data/reports/report.html shows pictures of both. Where those with red and blue exchanged look natural, "
            "write the files again in the folder that `regraft use` was given: cv2.imwrite(path, cv2.cvtColor(image, "
            "cv2.COLOR_RGB2BGR)). Otherwise set what was found (colour_order; value_range, mean and std) under "
            "validate.preprocessing in params.yaml and in data/backbone/card.json. This is evidence and no proof: "
            "if you know better, set `validate.severity.wanted: off` in params.yaml.",
            allowed=(DECLARED, UNTOLD),
            key="wanted",
        ),
        Rule(
            "inputs lie where the backbone's did",
            table="observed",
            kind="between",
            column="inputs",
            what="divergence of a sample's channels from the source's inputs",
            remedy="Compare value_range, mean and std in data/backbone/card.json with what the weights were trained "
            "on. Where they are right and the pictures are so, set `validate.severity.wanted: off` in params.yaml.",
            high=limits.max_input_distance,
            key="wanted",
            unit=NATS,
        ),
    )


def _keys() -> dict[str, str]:
    limits = DataLimits(**dict.fromkeys(DataLimits.__dataclass_fields__, 0))
    return {rule.name: rule.key for rule in (*_of_validate(limits), *of_screen(0), of_splits(0.5))}


KEY_OF = _keys()  # rule of the two gates -> the field of its severity; "" if it cannot be switched off


def totals(images: int, counts: Mapping[str, Mapping[str, int]], quarantined: int) -> dict[str, float]:
    """Summarise counts of images into the figures that the rules on totals use."""
    train = counts.get(TRAIN, {})
    return {
        "classes": len({label for split in (TRAIN, VAL, TEST) for label in counts.get(split, {})}),
        "imbalance": max(train.values(), default=1) / max(1, min(train.values(), default=1)),
        "quarantined_share": quarantined / max(1, images + quarantined),
    }
