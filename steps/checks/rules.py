"""The gate's rules as data: what is looked at, which limit holds, what to say and what to do when it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pandas as pd
from annotated_types import Ge, Interval

from steps.images.manifest import SPLITS, TEST, TRAIN, VAL, Row
from steps.runtime.binding import Because

Level = Literal["fail", "warn", "off"]
Table = Literal[
    "images",
    "classes",
    "totals",
    "labelled",
    "population",
    "sources",
    "coverage",
    "shortcuts",
    "preprocessing",
    "observed",
    "wanted",
    "features",
    "shift",
]
DECLARED = "as declared"  # the account of the preprocessing that ought to fit
SWAPPED = "colour order swapped"  # an account of what was done to the pictures, or of what the weights want
UNTOLD = "cannot be told"  # what is said of the weights where their witnesses are silent or disagree
SHOWN = 10  # files or values named in a message
SHARE, POINTS, TIMES, NATS = "%", "points", "times", "nats"  # units; of counts, the plural of what is counted
INTO = "into data/decisions.csv (first line `image,decision,label,note`)"
ONE = {"images": "image", "classes": "class", "groups": "group", "sources": "source", "pixels": "pixel"}


@dataclass(frozen=True)
class Rule:
    """One expectation over one table, with its words for a person.

    `kind` is columns | matches | between | in_set | unique | one_value (of `column` for each `key`) | preprocessing;
    `severity` is fail (the gate refuses) or warn.
    """

    name: str
    table: Table
    kind: str
    column: str
    what: str
    remedy: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[str, ...] = ()
    severity: str = "fail"
    key: str = ""
    unit: str = ""

    @property
    def limit(self) -> str:
        """Return the limit in words, with every digit as given."""
        if self.kind == "between":
            if self.low is None and self.high == 0:
                return "none"
            bounds = [("at least", self.low), ("at most", self.high)]
            return " and ".join(
                f"{word} {self._with_unit(self._exact(bound), bound)}" for word, bound in bounds if bound is not None
            )
        listed = ", ".join(self.allowed)
        words = {
            "in_set": f"one of {listed}" if len(self.allowed) > 1 else listed,
            "unique": "no two alike",
            "matches": f"the pattern {listed}",
            "columns": listed,
            "one_value": "none",
            "preprocessing": "equal",
        }
        return words[self.kind]

    def number(self, value: float) -> str:
        """Format a value of `column` without its unit: a share in per cent, a count with thousands separators.

        Rounded, but never onto the other side of a limit: what breaks a rule is not said to be what the rule allows.
        """
        scaled = self._scaled(value)
        finer = (f"{scaled:,.{digits}g}" for digits in range(2, 17))
        usual = f"{scaled:.1f}" if self.unit in (SHARE, POINTS) else _short(scaled)
        return next((text for text in (usual, *finer) if self._is_true(text, value)), f"{scaled:,}")

    def shown(self, value: float) -> str:
        """Format a value of `column` with its unit."""
        return self._with_unit(self.number(value), value)

    def _scaled(self, value: float) -> float:
        return float(100 * value if self.unit in (SHARE, POINTS) else value)

    def _exact(self, bound: float) -> str:
        return f"{self._scaled(bound):,.15g}"  # 100 * 0.07 is 7.000000000000001

    def _is_true(self, text: str, value: float) -> bool:
        """Return whether a rounded text lies on the same side of each (printed) limit as the value itself."""
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        return all(_side(_parsed(text), _parsed(self._exact(bound))) == _side(value, bound) for bound in bounds)

    def _with_unit(self, text: str, value: float) -> str:
        return f"{text} {ONE.get(self.unit, self.unit) if value == 1 else self.unit}".rstrip()


def _short(value: float) -> str:
    whole = value.is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{round(value, 3):g}"


def _parsed(text: str) -> float:
    return float(text.replace(",", ""))


def _side(value: float, bound: float) -> int:
    return int(value > bound) - int(value < bound)


@dataclass(frozen=True, kw_only=True)
class Severity:
    """What a broken rule of each kind does: fail (the data is rejected), warn (reported) or off (not checked)."""

    minimum: Level
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
class DataLimits:
    """The numbers of the gate: images per class and split, ratios and shares, effects and distances."""

    min_train_per_class: Annotated[int, Ge(1)]
    min_val_per_class: Annotated[int, Ge(1)]
    min_test_per_class: Annotated[int, Ge(1)]
    max_imbalance: Annotated[float, Ge(1), Because("largest over smallest class")]
    quarantine_limit: Annotated[float, Interval(ge=0, lt=1)]
    max_prior_effect: Annotated[float, Ge(0)]
    max_coverage_gap: Annotated[float, Ge(0)]
    max_shortcut: Annotated[float, Ge(0)]
    max_input_distance: Annotated[float, Ge(0)]


def rules(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
    """Return the gate of the pipeline; a rule that is switched off is not there."""
    every = (
        *_structure(),
        *_classes(limits, severity),
        *_copies(severity),
        *_selection(limits, severity),
        *_preprocessing(limits, severity),
    )
    return [rule for rule in every if rule.severity != "off"]


def _structure() -> Sequence[Rule]:
    """Return the rules that always have to hold: without them no other means anything."""
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


def _classes(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
    add = "Add images of the class, or remove the class from the folder of images; or set"
    found = "in params.yaml to the number found, if that is 1 or more."
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
            "enough to learn from",
            "classes",
            "between",
            TRAIN,
            "training images of each class",
            f"{add} `validate.min_train_per_class` {found}",
            low=limits.min_train_per_class,
            severity=severity.minimum,
            unit="images",
        ),
        Rule(
            "enough to choose by",
            "classes",
            "between",
            VAL,
            "validation images of each class",
            f"{add} `validate.min_val_per_class` {found}",
            low=limits.min_val_per_class,
            severity=severity.minimum,
            unit="images",
        ),
        Rule(
            "enough to judge by",
            "classes",
            "between",
            TEST,
            "test images of each class",
            f"{add} `validate.min_test_per_class` {found}",
            low=limits.min_test_per_class,
            severity=severity.minimum,
            unit="images",
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
            severity=severity.imbalance,
            unit=TIMES,
        ),
        Rule(
            "files can be decoded",
            "totals",
            "between",
            "quarantined_share",
            "share of files that are no image",
            "Repair or remove the files listed in data/quarantine.csv, or, where they have to stay, write a line "
            f"`PATH,drop,,` for each {INTO}.",
            high=limits.quarantine_limit,
            severity=severity.quarantine,
            unit=SHARE,
        ),
    )


def _copies(severity: Severity) -> Sequence[Rule]:
    drop = (
        "Set `validate.drop_leaking: true` in params.yaml: test images stay; their copies in validation and "
        "training, and copies of validation images in training, are left out."
    )
    label = (
        f"For each copy with a wrong label write a line `PATH,relabel,LABEL,` (the right one) or `PATH,drop,,` {INTO}."
    )
    other = "where a picture is no copy but another one"
    return (
        Rule(
            "no image in two splits",
            "labelled",
            "one_value",
            "split",
            "images whose very bytes stand in two splits",
            drop,
            key="id",
            severity=severity.leakage,
        ),
        Rule(
            "no copy in two splits",
            "labelled",
            "one_value",
            "split",
            "re-encoded or resized copies of one picture in two splits",
            f"{drop} Write a line `PATH,keep,,` {INTO} {other}.",
            key="copy",
            severity=severity.leakage,
        ),
        Rule(
            "no group in two splits",
            "labelled",
            "one_value",
            "split",
            "groups whose images stand in two splits",
            "Give all lines of a group the same split in the listing, or leave its column split out: regraft keeps "
            "groups together.",
            key="group",
            severity=severity.leakage,
        ),
        Rule(
            "one image, one label",
            "labelled",
            "one_value",
            "label",
            "images whose very bytes carry two labels",
            label,
            key="id",
            severity=severity.conflicting_labels,
        ),
        Rule(
            "one picture, one label",
            "labelled",
            "one_value",
            "label",
            "re-encoded or resized copies of one picture with two labels",
            f"{label} Or `PATH,keep,,` {other}.",
            key="copy",
            severity=severity.conflicting_labels,
        ),
    )


def _selection(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
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
            severity=severity.population,
        ),
        Rule(
            "no source of one class alone",
            "sources",
            "between",
            "alone",
            "sources whose images are all of one class",
            "Add images of the other classes from that source: else its look stands for the label. Where there can be "
            "none, set `validate.severity.sources: warn` in params.yaml.",
            high=0,
            severity=severity.sources,
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
            severity=severity.coverage,
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
            severity=severity.shortcuts,
            unit=SHARE,
        ),
    )


def _preprocessing(limits: DataLimits, severity: Severity) -> Sequence[Rule]:
    return (
        Rule(
            "same preprocessing as the backbone",
            "preprocessing",
            "preprocessing",
            "pipeline",
            "each field of validate.preprocessing against the backbone's card",
            "Set each field named, under validate.preprocessing in params.yaml, to the value that the backbone wants "
            "(`regraft use IMAGES --backbone NAME` writes them all).",
            severity=severity.preprocessing,
        ),
        Rule(
            "tensors are what is declared",
            "observed",
            "in_set",
            "done",
            "what was done to a sample of the images",
            "Mend the loader: it does something else than validate.preprocessing says.",
            allowed=(DECLARED,),
            severity=severity.observed,
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
            "where you know better, set `validate.severity.wanted: off` in params.yaml.",
            allowed=(DECLARED, UNTOLD),
            severity=severity.wanted,
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
            severity=severity.wanted,
            unit=NATS,
        ),
    )


def screen_rules(max_label_errors: float, label_errors: str, copies: str) -> Sequence[Rule]:
    """Return the rules on features: the largest share of wrong labels, and the severities of the two kinds."""
    sheet = "Look at data/reports/screen.html. For each image that is"
    other = f"all right (a right label, another picture) write a line `PATH,keep,,` {INTO}"
    found = (
        Rule(
            "labels are credible",
            "features",
            "between",
            "wrong_share",
            "estimated share of wrong labels (0 where chance explains it)",
            f"{sheet} {other}, else `PATH,relabel,LABEL,` or `PATH,drop,,`; or set `screen.drop_suspects: true` in "
            "params.yaml: suspects get weight 0.",
            high=max_label_errors,
            severity=label_errors,
            unit=SHARE,
        ),
        Rule(
            "no like image in two splits",
            "features",
            "between",
            "leaking",
            "groups of images alike to the backbone in two splits",
            f"{sheet} {other}; or set `screen.drop_leaking: true` in params.yaml: test images stay, and images like "
            "them in validation and training, or like validation images in training, get weight 0.",
            high=0,
            severity=copies,
            unit="groups",
        ),
        Rule(
            "like images, one label",
            "features",
            "between",
            "conflicting",
            "groups of images alike to the backbone with two labels",
            f"{sheet} {other}, else `PATH,relabel,LABEL,` or `PATH,drop,,`.",
            high=0,
            severity=copies,
            unit="groups",
        ),
    )
    return [rule for rule in found if rule.severity != "off"]


def shift_rules(max_auc: float, severity: str) -> Sequence[Rule]:
    """Return the rules on a comparison with a reference."""
    found = Rule(
        "training looks like the reference",
        "shift",
        "between",
        "auc",
        "how well a classifier of features tells the two apart (AUC; 0.5 where chance explains it)",
        "Look at data/outcome/against.html: label images of the kind that training lacks and add them to it, "
        "or mend what differs (camera, crop, light) on either side. Until then `screen.severity.domain_shift: warn` in "
        "params.yaml lets the comparison pass.",
        high=max_auc,
        severity=severity,
    )
    return [found] if severity != "off" else []


def totals(images: int, counts: Mapping[str, Mapping[str, int]], quarantined: int) -> dict[str, Any]:
    """Summarise counts of images into the figures that the rules on totals use."""
    train = counts.get(TRAIN, {})
    return {
        "classes": len({label for split in (TRAIN, VAL, TEST) for label in counts.get(split, {})}),
        "imbalance": max(train.values(), default=1) / max(1, min(train.values(), default=1)),
        "quarantined_share": quarantined / max(1, images + quarantined),
    }


def torn(keys: "pd.Series[Any]", values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return for each row whether its key occurs with more than one value; empty keys are ignored."""
    pairs = pd.DataFrame({"key": keys, "value": values}).drop_duplicates()
    return keys.isin(pairs["key"][pairs["key"].duplicated()]) & (keys != "")


def refusal(broken: Sequence[dict[str, Any]]) -> str:
    """Describe each broken rule: what is wrong, where, the limit and the remedy."""
    lines = [f"the data was rejected: {len(broken)} rule{'s' if len(broken) > 1 else ''} broken"]
    for rule in broken:
        lines += [
            f"  {rule['name']}: {rule['what']}",
            f"      found   {rule['observed']}",
            *([f"      where   {some(rule['where'])}"] if rule.get("where") else []),
            f"      limit   {rule['limit']}",
            f"      remedy  {rule['remedy']}",
        ]
    return "\n".join(lines)


def some(items: Sequence[str]) -> str:
    """Name the first few, and say how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
