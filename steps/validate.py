"""Validate: the gate. Nothing downstream reads an image or a preprocessing that has not passed here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steps.adapters import expectations, files, models, stage
from steps.core import preprocessing as pre
from steps.core.manifest import TEST, TRAIN, VAL, class_counts, classes_of
from steps.core.preprocessing import Preprocessing
from steps.core.rules import rules, totals
from steps.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ValidateParams:
    """Limits of the gate, and the preprocessing that the pipeline will apply: it must be the backbone's own."""

    min_train_per_class: int
    min_val_per_class: int
    min_test_per_class: int
    max_imbalance: float
    quarantine_limit: float
    preprocessing: Preprocessing

    def faults(self) -> Iterator[str]:
        """Yield limits that would let an unusable set through or nothing at all."""
        for name in ("min_train_per_class", "min_val_per_class", "min_test_per_class"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; at least 1"
        if self.max_imbalance < 1:
            yield f"max_imbalance is {self.max_imbalance}; at least 1 (largest over smallest class)"
        if not 0 <= self.quarantine_limit < 1:
            yield f"quarantine_limit is {self.quarantine_limit}; a share from 0 to below 1"


def validate(
    params: ValidateParams,
    manifest: Path,
    quarantine: Path,
    backbone: Path,
    accepted: Path,
    preprocessing: Path,
    validation: Path,
    docs: Path,
) -> None:
    """Check the manifest and the preprocessing contract; write the verdict and Data Docs, then the accepted data.

    `validation` (tracked) and `docs` (not tracked: GX's pages carry the time) are written before the verdict falls,
    so that a refusal can be read. Raises DataError listing every broken rule with its remedy.
    """
    images = files.read_table(manifest)
    quarantined = len(pd.read_csv(quarantine))
    contract = pre.contract(params.preprocessing, models.read_card(backbone).preprocessing)

    counts = class_counts(zip(images["split"], images["label"], strict=True))
    found = expectations.check(_tables(images, counts, quarantined, contract), _rules(params), docs)
    broken = [rule for rule in found if not rule["passed"] and rule["severity"] == "fail"]

    verdict = {"accepted": not broken, "rules": found, "preprocessing": contract, "counts": counts,
               "quarantined": quarantined}  # fmt: skip
    files.write_json(validation, verdict)
    if broken:
        raise DataError(refusal(broken))
    files.write_table(accepted, images)
    files.write_json(preprocessing, params.preprocessing.to_dict())


def _rules(params: ValidateParams) -> Any:
    return rules(
        params.min_train_per_class, params.min_val_per_class, params.min_test_per_class,
        params.max_imbalance, params.quarantine_limit,
    )  # fmt: skip


def _tables(
    images: pd.DataFrame, counts: dict[str, dict[str, int]], quarantined: int, contract: list[dict[str, Any]]
) -> dict[str, pd.DataFrame]:
    weighty = images[images["weight"] > 0]  # an image of weight 0 teaches nothing, so it does not count
    heavy = class_counts(zip(weighty["split"], weighty["label"], strict=True))
    per_class = [
        {"label": label, **{split: heavy.get(split, {}).get(label, 0) for split in (TRAIN, VAL, TEST)}}
        for label in classes_of(counts)
    ]
    rows = list(zip(images["id"], images["label"], images["split"], images["group"], strict=True))
    as_text = [{**row, "pipeline": str(row["pipeline"]), "backbone": str(row["backbone"])} for row in contract]
    return {
        "images": images,
        "classes": pd.DataFrame(per_class, columns=["label", TRAIN, VAL, TEST]),
        "totals": pd.DataFrame([totals(rows, counts, quarantined)]),
        "preprocessing": pd.DataFrame(as_text),
    }


def refusal(broken: list[dict[str, Any]]) -> str:
    """Say what is wrong, where, the limit and the remedy, rule by rule."""
    lines = [f"the data was rejected: {len(broken)} rule{'s' if len(broken) > 1 else ''} broken"]
    for rule in broken:
        lines += [
            f"  {rule['name']}: {rule['what']}",
            f"      found   {rule['observed']}",
            f"      limit   {rule['limit']}",
            f"      remedy  {rule['remedy']}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    stage.main(validate)
