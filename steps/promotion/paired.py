"""Comparison of two models on the same test images for the gate: overall, by class, by slice."""

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
from steps.evaluation.superiority import balanced
from steps.runtime import params
from steps.runtime.arrays import Bools
from steps.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Paired:
    """One model (a) against another (b), in the form of `gate.ChallengerFacts`."""

    comparison: PairedComparison
    recalls: list[Change]
    slices: list[Change]


def paired(
    document: dict[str, Any], part: pd.DataFrame, a: Bools, b: Bools, rng: tuple[str, str], least: float
) -> Paired:
    """Compare two models on the images of `part` (the manifest's columns), given whether each was right [n].

    `document` is params.yaml, whose section `evaluate` sets the confidence and the slices; `rng` names the generator.
    `least` is the difference in balanced accuracy that the test has to exceed.
    """
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    classes, targets = np.unique(part["label"].tolist(), return_inverse=True)
    sample, generator = sampled(targets, groups_of(part)), numpy_generator(document["seed"], *rng)
    comparison = compare_answers(targets, a, b, sample, rules, generator)
    tested = balanced(a.astype(float) - b, targets, sample.cluster, least)
    candidates = slices_of(part, (*COLUMNS, *rules.slice_columns))
    slices = [
        (f"slice {candidate.column} = {candidate.shown}", candidate.members)
        for candidate in candidates
        if candidate.members.sum() >= rules.slice_least and not candidate.members.all()
    ]
    return Paired(
        PairedComparison(
            n=comparison.n,
            only_a=comparison.only_a,
            only_b=comparison.only_b,
            p=tested.p,
            test=tested.test,
            confidence=comparison.confidence,
            difference=comparison.balanced_accuracy.known,
            low=comparison.balanced_accuracy.low,
            high=comparison.balanced_accuracy.high,
        ),
        changes([(f"class {label}", targets == i) for i, label in enumerate(classes)], a, b, sample.cluster),
        changes(slices, a, b, sample.cluster),
    )
