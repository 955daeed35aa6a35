"""The gate's rules as data: what is looked at, which limit holds, what to say and what to do when it does not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steps.core.manifest import SPLITS, TEST, TRAIN, UNLABELLED, VAL, Row

Table = Literal["images", "classes", "totals", "preprocessing"]


@dataclass(frozen=True)
class Rule:
    """One expectation over one table, with its words for a person.

    `kind` is columns | matches | between | in_set | unique | equal_columns; `severity` is fail (the gate
    refuses) or warn.
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

    @property
    def limit(self) -> str:
        """Say the limit in words."""
        if self.kind == "between":
            bounds = [f"at least {self.low:g}" if self.low is not None else "",
                      f"at most {self.high:g}" if self.high is not None else ""]  # fmt: skip
            return " and ".join(filter(None, bounds))
        listed = ", ".join(self.allowed)
        words = {"in_set": f"one of {listed}", "matches": listed, "columns": listed, "unique": "no two alike"}
        return words.get(self.kind, "equal")


def rules(min_train: int, min_val: int, min_test: int, max_imbalance: float, quarantine_limit: float) -> Sequence[Rule]:
    """Return the gate of the pipeline: schema, labels, minimum per class, balance, decodable share, leakage, contract.

    Minimums count images; `max_imbalance` is largest over smallest class; `quarantine_limit` a share of all files.
    """
    label = "Add images of the class, or remove the class."
    return (
        Rule("the manifest is whole", "images", "columns", "id", "the columns of the manifest", "Run ingest again.",
             allowed=Row._fields),
        Rule("ids are digests", "images", "matches", "id", "the id of each image", "Run ingest again.",
             allowed=("[0-9a-f]{64}",)),
        Rule("splits are known", "images", "in_set", "split", "the split of each image",
             "Correct the split column of the listing.", allowed=SPLITS),
        Rule("paths are unique", "images", "unique", "path", "each file appears once",
             "Remove the repeated line from the listing."),
        Rule("images have area", "images", "between", "width", "the width in pixels", "Remove the file.", low=1),
        Rule("two classes or more", "totals", "between", "classes", "the number of classes",
             "Put the images of each class into a folder of its own.", low=2),
        Rule("enough to learn from", "classes", "between", TRAIN, "training images of each class",
             f"{label} Or lower validate.min_train_per_class.", low=min_train),
        Rule("enough to choose by", "classes", "between", VAL, "validation images of each class",
             f"{label} Or raise ingest.validation_share, or lower validate.min_val_per_class.", low=min_val),
        Rule("enough to judge by", "classes", "between", TEST, "test images of each class",
             f"{label} Or raise ingest.test_share, or lower validate.min_test_per_class.", low=min_test),
        Rule("classes are balanced", "totals", "between", "imbalance", "largest over smallest class in training",
             "Collect more of the rare class; class weights correct the rest.", high=max_imbalance, severity="warn"),
        Rule("files can be decoded", "totals", "between", "quarantined_share", "share of files that are no image",
             "Repair or remove the files listed in data/quarantine.csv.", high=quarantine_limit),
        Rule("no image in two splits", "totals", "between", "leaking", "images whose very bytes stand in two splits",
             "Remove the copy from the training folder: a copied test image flatters the test.", high=0),
        Rule("no group in two splits", "totals", "between", "straddling", "groups whose images stand in two splits",
             "Give all images of a group the same split in the listing.", high=0),
        Rule("one image, one label", "totals", "between", "conflicting", "images whose very bytes carry two labels",
             "Decide on one label and remove the other copy.", high=0),
        Rule("same preprocessing as the backbone", "preprocessing", "equal_columns", "pipeline",
             "each field of validate.preprocessing against the backbone's card",
             "Set validate.preprocessing in params.yaml to the backbone's values (`regraft use` writes them)."),
    )  # fmt: skip


def totals(
    rows: Sequence[tuple[str, str, str, str]], counts: Mapping[str, Mapping[str, int]], quarantined: int
) -> dict[str, Any]:
    """Summarise (id, label, split, group) rows into the figures that the rules over totals look at.

    Unlabelled rows leak nothing: a copy in the pool of an image that was labelled since is no fault.
    """
    labelled = [row for row in rows if row[2] != UNLABELLED]
    train = counts.get(TRAIN, {})
    return {
        "classes": len({label for split in (TRAIN, VAL, TEST) for label in counts.get(split, {})}),
        "imbalance": max(train.values(), default=1) / max(1, min(train.values(), default=1)),
        "quarantined_share": quarantined / max(1, len(rows) + quarantined),
        "leaking": _torn((identity, split) for identity, _, split, _ in labelled),
        "straddling": _torn((group, split) for _, _, split, group in labelled if group),
        "conflicting": _torn((identity, label) for identity, label, _, _ in labelled),
    }


def _torn(pairs: Iterable[tuple[str, str]]) -> int:
    """Count the keys that come with more than one value; a set for each of a million keys would take a gigabyte."""
    return sum(count > 1 for count in Counter(key for key, _ in set(pairs)).values())
