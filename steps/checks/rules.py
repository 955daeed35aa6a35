"""The rules of the gates as data. Each name is written only here; elsewhere a rule is identified by its key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Interval

from steps.checks.rule import NATS, OFF, POINTS, SHARE, TIMES, Level, Rule
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
PASSES = "`screen.severity.domain_shift: warn` in params.yaml"
INTO = "into data/decisions.csv (first line `image,decision,label,note`)"


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
class ScreenSeverity:
    """The same for the rules on features; `domain_shift` governs the splits and `regraft validate --against`."""

    label_errors: Level
    like_images: Level
    domain_shift: Level


@dataclass(frozen=True, kw_only=True)
class DataLimits(Minima):
    """The numbers of the gate: images per class and split, ratios and shares, effects and distances."""

    min_train_per_class: Annotated[int, Ge(1)]
    max_imbalance: Annotated[float, Ge(1), Because("largest over smallest class")]
    quarantine_limit: Annotated[float, Interval(ge=0, lt=1)]
    max_prior_effect: Annotated[float, Ge(0)]
    max_coverage_gap: Annotated[float, Ge(0)]
    max_shortcut: Annotated[float, Ge(0)]
    max_input_distance: Annotated[float, Ge(0)]


def rules(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
    """Return the rules of the gate, without those that are switched off."""
    return _governed(_of_validate(limits), severity)


def screen_rules(max_label_errors: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on features; `max_label_errors` is the largest share of wrong labels."""
    return _governed(_of_screen(max_label_errors), severity)


def _governed(every: Iterable[Rule], severity: Severity | ScreenSeverity) -> Sequence[Rule]:
    """Give each rule that has a key its severity; leave out those that are off."""
    governed = [replace(rule, severity=getattr(severity, rule.key)) if rule.key else rule for rule in every]
    return [rule for rule in governed if rule.severity != OFF]


def _of_validate(limits: DataLimits) -> Sequence[Rule]:
    return (*_structure(), *_classes(limits), *_copies(), *_selection(limits), *_preprocessing(limits))


def _structure() -> Sequence[Rule]:
    """Return the rules that always have to hold: without them no other rule means anything."""
    again = "Run `regraft validate`: it reads the images again and writes data/manifest.parquet anew."
    return (
        Rule(
            "the manifest is whole",
            "images",
            "columns",
            "id",
            "the columns of the manifest",
            again,
            allowed=Row._fields,
        ),
        Rule("ids are digests", "images", "matches", "id", "the id of each image", again, allowed=("[0-9a-f]{64}",)),
        Rule("splits are known", "images", "in_set", "split", "the split of each image", again, allowed=SPLITS),
        Rule(
            "paths are unique",
            "images",
            "unique",
            "path",
            "each file appears once",
            "Remove the repeated line of each path from the listing.",
        ),
        Rule("images have area", "images", "between", "width", "the width of each image", again, low=1, unit="pixels"),
    )


def _classes(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "two classes or more",
            "totals",
            "between",
            "classes",
            "the number of classes",
            "Put the images of each class into a folder of its own; there have to be two such folders or more.",
            low=2,
            unit="classes",
        ),
        Rule(
            "every class can be learnt",
            "classes",
            "between",
            TRAIN,
            "training images of each class, without which no head can know it",
            "Add training images of the class, or remove the class from the folder of images (from every split).",
            low=1,
            unit="images",
        ),
        _enough("enough to learn from", TRAIN, "training", limits.min_train_per_class),
        _enough("enough to choose by", VAL, "validation", limits.min_val_per_class),
        _enough("enough to judge by", TEST, "test", limits.min_test_per_class),
        Rule(
            "no class is lost",
            "lost",
            "between",
            "images",
            "classes that the last images had and today's have not",
            "Bring the images of the class back (is a disk not mounted, a folder renamed?). If the class is gone for "
            "good, `regraft use FOLDER` with the same folder accepts today's classes.",
            low=1,
            key="lost_classes",
            unit="images",
        ),
        Rule(
            "labels do not look alike",
            "alike",
            "in_set",
            "labels",
            "classes whose names differ only in case, spaces or separators",
            ALIKE_REMEDY,
            allowed=("none",),
            key="alike_labels",
        ),
        Rule(
            "classes are balanced",
            "totals",
            "between",
            "imbalance",
            "largest over smallest class in training",
            "Add training images of the smallest class, or set `validate.max_imbalance` in params.yaml above the "
            "ratio found: class weights even out the loss.",
            high=limits.max_imbalance,
            key="imbalance",
            unit=TIMES,
        ),
        Rule(
            "files can be decoded",
            "totals",
            "between",
            "quarantined_share",
            "share of pictures that cannot be read",
            "Repair, convert or remove the files that data/quarantine.csv lists as `damaged` or `other format` (the "
            f"reason says how), or, where they have to stay, write a line `PATH,drop,,` for each {INTO}.",
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
    return Rule(name, "classes", "between", split, what, remedy, low=least, key="minimum", unit="images")


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
            "labelled",
            "one_value",
            "split",
            "identical files in two splits",
            drop,
            per="id",
            key="leakage",
        ),
        Rule(
            "no copy in two splits",
            "labelled",
            "one_value",
            "split",
            "re-encoded or resized copies of one picture in two splits",
            f"{drop} Write a line `PATH,keep,,` {INTO} {if_another}.",
            per="copy",
            key="leakage",
        ),
        Rule(
            "no group in two splits",
            "labelled",
            "one_value",
            "split",
            "groups whose images stand in two splits",
            "Give all lines of a group the same split in the listing, or leave its column split out: regraft keeps "
            "groups together.",
            per="group",
            key="leakage",
        ),
        Rule(
            "one image, one label",
            "labelled",
            "one_value",
            "label",
            "identical files with two labels",
            label,
            per="id",
            key="conflicting_labels",
        ),
        Rule(
            "one picture, one label",
            "labelled",
            "one_value",
            "label",
            "re-encoded or resized copies of one picture with two labels",
            f"{label} Or `PATH,keep,,` {if_another}.",
            per="copy",
            key="conflicting_labels",
        ),
    )


def _selection(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "classes are as in the population",
            "population",
            "between",
            "effect",
            "how far class shares lie from validate.population_prior (Cohen's w; 0 where chance explains it)",
            "Set `validate.population_prior` in params.yaml to the shares that the world has, or to {} where nobody "
            "knows them; or collect the classes as they occur (class weights do not correct the test split).",
            high=limits.max_prior_effect,
            key="population",
        ),
        Rule(
            "no source of one class alone",
            "sources",
            "between",
            "alone",
            "sources whose images are all of one class",
            "Add images of the other classes from that source: otherwise its look predicts the label. If there can be "
            "none, set `validate.severity.sources: warn` in params.yaml.",
            high=0,
            key="sources",
            unit="sources",
        ),
        Rule(
            "training covers what is tested",
            "coverage",
            "between",
            "effect",
            "how far the share of a source or month in training lies from that elsewhere (0 where chance explains it)",
            "Add training images of the sources and months named, or move some of theirs to training (column split of "
            "the listing). Where there can be none, set `validate.severity.coverage: warn` in params.yaml.",
            high=limits.max_coverage_gap,
            key="coverage",
            unit=POINTS,
        ),
        Rule(
            "no shortcut to the label",
            "shortcuts",
            "between",
            "effect",
            "how far a plain measure alone comes from chance (0 %) to certainty (100 %) about the label; 0 % where "
            "chance explains it",
            "Collect the classes under the same conditions, or store all files alike (size, format, light) before "
            "they come here. Where the classes do differ in that measure, set `validate.severity.shortcuts: warn` in "
            "params.yaml.",
            high=limits.max_shortcut,
            key="shortcuts",
            unit=SHARE,
        ),
    )


def _preprocessing(limits: DataLimits) -> Sequence[Rule]:
    return (
        Rule(
            "same preprocessing as the backbone",
            "preprocessing",
            "preprocessing",
            "pipeline",
            "each field of validate.preprocessing against the backbone's card",
            "Set each field named, under validate.preprocessing in params.yaml, to the value that the backbone wants "
            "(`regraft use IMAGES --backbone NAME` writes them all).",
            key="preprocessing",
        ),
        Rule(
            "tensors are what is declared",
            "observed",
            "in_set",
            "done",
            "what was done to a sample of the images",
            "Fix the loader: it does not do what validate.preprocessing says.",
            allowed=(DECLARED,),
            key="observed",
        ),
        Rule(
            "the weights know such inputs",
            "wanted",
            "in_set",
            "account",
            "the preprocessing that the weights recognise, by their BatchNorm and by the answers of their own top",
            "With `validate.severity.wanted: warn` in params.yaml `regraft run` goes on, and Checks in "
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
            "observed",
            "between",
            "inputs",
            "divergence of a sample's channels from the source's inputs",
            "Compare value_range, mean and std in data/backbone/card.json with what the weights were trained on. "
            "Where they are right and the pictures are so, set `validate.severity.wanted: off` in params.yaml.",
            high=limits.max_input_distance,
            key="wanted",
            unit=NATS,
        ),
    )


def _of_screen(max_label_errors: float) -> Sequence[Rule]:
    sheet = "Look at data/reports/screen.html. For each image that is"
    keep = f"all right (a right label, another picture) write a line `PATH,keep,,` {INTO}"
    return (
        Rule(
            "labels are credible",
            "features",
            "between",
            "wrong_share",
            "estimated share of wrong labels (0 where chance explains it)",
            f"{sheet} {keep}, else `PATH,relabel,LABEL,` or `PATH,drop,,`; or set `screen.drop_suspects: true` in "
            "params.yaml: suspects get weight 0.",
            high=max_label_errors,
            key="label_errors",
            hints=True,
            unit=SHARE,
        ),
        Rule(
            "no like image in two splits",
            "features",
            "between",
            "leaking",
            "groups of images that look alike to the backbone in two splits",
            f"{sheet} {keep}; or set `screen.drop_leaking: true` in params.yaml: test images stay, and images like "
            "them in validation and training, or like validation images in training, get weight 0.",
            high=0,
            key="like_images",
            unit="groups",
        ),
        Rule(
            "like images, one label",
            "features",
            "between",
            "conflicting",
            "groups of images that look alike to the backbone with two labels",
            f"{sheet} {keep}, else `PATH,relabel,LABEL,` or `PATH,drop,,`.",
            high=0,
            key="like_images",
            unit="groups",
        ),
    )


def shift_rules(max_auc: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on a comparison with a reference."""
    what = "how well a classifier of features tells the two apart (AUC; 0.5 where chance explains it)"
    remedy = (
        "Look at data/outcome/against.html: label images of the kind that training lacks and add them to it, or mend "
        f"what differs (camera, crop, light) on either side. Until then {PASSES} lets the comparison pass."
    )
    name = "training looks like the reference"
    return _governed([Rule(name, "shift", "between", "auc", what, remedy, high=max_auc, key="domain_shift")], severity)


def split_rules(max_auc: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on the project's own splits, compared with training by their features."""
    return _governed([_splits(max_auc)], severity)


def _splits(max_auc: float) -> Rule:
    what = "how well a classifier tells validation or test features from training (AUC; 0.5 where chance explains it)"
    remedy = (
        "`splits` in data/reports/screen.json names what differs. Make the splits anew from all images (a listing "
        f"without a column split, one folder per class), or train on such images too. If it is meant so: {PASSES}."
    )
    return Rule("splits look alike", "splits", "between", "auc", what, remedy, high=max_auc, key="domain_shift")


def _keys() -> dict[str, str]:
    limits = DataLimits(**dict.fromkeys(DataLimits.__dataclass_fields__, 0))
    return {rule.name: rule.key for rule in (*_of_validate(limits), *_of_screen(0), _splits(0.5))}


KEY_OF = _keys()  # rule of the two gates -> the field of its severity; "" if it cannot be switched off


def totals(images: int, counts: Mapping[str, Mapping[str, int]], quarantined: int) -> dict[str, float]:
    """Summarise counts of images into the figures that the rules on totals use."""
    train = counts.get(TRAIN, {})
    return {
        "classes": len({label for split in (TRAIN, VAL, TEST) for label in counts.get(split, {})}),
        "imbalance": max(train.values(), default=1) / max(1, min(train.values(), default=1)),
        "quarantined_share": quarantined / max(1, images + quarantined),
    }
