"""The gate to production for a smaller model: may it replace the version that it was made from?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.evaluation.intervals import groups_of, sampled
from steps.evaluation.judgement import judge
from steps.evaluation.protocol import EvaluateParams
from steps.evaluation.results import Judgement, PairedComparison, SliceJudgement
from steps.evaluation.slices import COLUMNS, judge_slices
from steps.images.manifest import normal
from steps.promotion.gate import NON_INFERIOR, ChallengerFacts, GateRules, Verdict, decide
from steps.promotion.paired import paired
from steps.promotion.rematch import weights_of
from steps.promotion.terms import PromoteParams
from steps.registry import look_ledger
from steps.registry.looks import Standing, optimism
from steps.registry.package_loading import Package
from steps.runtime import files, params
from steps.runtime.arrays import Floats
from steps.runtime.seeding import numpy_generator


def smaller(
    root: Path, package: Package, part: pd.DataFrame, file: Path, told: tuple[Floats, Floats], margin: float
) -> tuple[Verdict, PairedComparison]:
    """Decide by the rules under `promote:` whether the model in `file` is as good as its version; both are looks.

    `told`: the probabilities [n, the version's classes] of version and file for the images of `part`. Non-inferiority
    by `margin` replaces the rule `promote.comparison`. Latency is not checked, because it depends on the runtime; nor
    are the data gates, which do not concern this model. Returns the verdict and the comparison.
    """
    document = params.read(root)
    rules = params.bind(PromoteParams, document.get("promote"), "promote")
    asked = replace(rules, comparison=NON_INFERIOR, margin=margin, max_latency_ratio=None, blocking_warnings=())
    evaluate = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    before = look_ledger.count(part["id"])
    look_ledger.record([weights_of(package), files.sha256_of(file)], part["id"])

    learnt = [normal(label) for label in package.model.unwrap_python_model().classes]
    classes = sorted({*learnt, *part["label"]})  # today's; a class that the version never learnt gets probability 0
    targets, groups = np.searchsorted(classes, part["label"].tolist()), groups_of(part)
    original, made = (_widened(answers, learnt, classes) for answers in told)
    wide = _widened(np.array([package.facts.weights]), learnt, classes)
    answered, before_it = ((answers * wide).argmax(axis=1) for answers in (made, original))
    right = answered == targets
    rng = numpy_generator(document["seed"], "export", package.digest)
    judged = judge(targets, made, classes, evaluate.confidence, evaluate.bootstrap_draws, rng, groups, answered)
    compared = paired(document, part, right, before_it == targets, ("export", package.digest), asked.least)
    facts = ChallengerFacts(
        challenger=judged,
        opponent=f"version {package.version}",
        comparison=compared.comparison,
        recalls=compared.recalls,
        slice_changes=compared.slices,
        slices=_slices(evaluate, part, right),
        size=file.stat().st_size,
        calibration_error=judged.classwise_error,
        looks=_exhausted(before, judged, asked),
    )
    return decide(facts, asked), compared.comparison


def _widened(answers: Floats, learnt: list[str], classes: list[str]) -> Floats:
    wide = np.zeros((len(answers), len(classes)))
    wide[:, np.searchsorted(classes, learnt)] = answers
    return wide


def _slices(rules: EvaluateParams, images: pd.DataFrame, right: Any) -> tuple[SliceJudgement, ...]:
    cluster = sampled(np.zeros(len(images), dtype=int), groups_of(images)).cluster
    columns = (*COLUMNS, *rules.slice_columns)
    return judge_slices(images, right, cluster, columns, rules.slice_least, rules.slice_limits, rules.confidence)


def _exhausted(looked: int, judged: Judgement, rules: GateRules) -> str | None:
    by_luck = optimism(looked, judged.n, judged.accuracy.ends[0])
    standing = Standing(looked, by_luck, rules.look_budget, rules.look_limit)
    return standing.sentence if standing.exhausted else None
