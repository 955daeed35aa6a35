"""Two models on the same test images, as the gate asks it: overall, by class, by slice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from steps.evaluation.comparison import compare_answers
from steps.evaluation.falls import Change, changes
from steps.evaluation.intervals import groups_of, sampled
from steps.evaluation.protocol import EvaluateParams
from steps.evaluation.results import PairedComparison
from steps.evaluation.slices import COLUMNS, slices_of
from steps.runtime import params
from steps.runtime.arrays import Bools
from steps.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Paired:
    """One model (a) against another (b), as `gate.ChallengerFacts` has it."""

    comparison: PairedComparison
    recalls: list[Change]
    slices: list[Change]


def paired(document: dict[str, Any], part: pd.DataFrame, a: Bools, b: Bools, rng: tuple[str, str]) -> Paired:
    """Compare two models on the images of `part` (the manifest's columns), by whether each was right [n].

    `document` is params.yaml, whose section `evaluate` says how sure to be and what a slice is; `rng` names the
    generator.
    """
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    classes, targets = np.unique(part["label"].tolist(), return_inverse=True)
    sample, generator = sampled(targets, groups_of(part)), numpy_generator(document["seed"], *rng)
    found = compare_answers(targets, a, b, sample, rules, generator)
    found_in = slices_of(part, (*COLUMNS, *rules.slice_columns))
    slices = [
        (f"slice {one.column} = {one.shown}", one.members)
        for one in found_in
        if one.members.sum() >= rules.slice_least and not one.members.all()
    ]
    return Paired(
        PairedComparison(
            n=found.n,
            only_a=found.only_a,
            only_b=found.only_b,
            mcnemar_p=found.mcnemar_p,
            confidence=found.confidence,
            difference=found.balanced_accuracy.known,
            low=found.balanced_accuracy.low,
            high=found.balanced_accuracy.high,
        ),
        changes([(f"class {label}", targets == i) for i, label in enumerate(classes)], a, b, sample.cluster),
        changes(slices, a, b, sample.cluster),
    )
