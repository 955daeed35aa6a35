"""Promote: called by the flow and not a stage, because its answer depends on what the registry holds *now*."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters import files, params, registry, stage, tracking
from steps.adapters.stage import digest_of
from steps.core.decision import decide
from steps.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECEIPT, EVALUATION, ACCEPTED, RAW = (
    "data/reports/register.json", "data/reports/evaluation.json", "data/accepted.parquet", "data/raw",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromoteParams:
    """What a challenger has to earn: a balanced accuracy on the test images, and a margin over the champion."""

    floor: float
    margin: float

    def faults(self) -> Iterator[str]:
        """Yield rules that would promote anything or nothing."""
        if not 0 <= self.floor < 1:
            yield f"floor is {self.floor}; a balanced accuracy from 0 to below 1"
        if not 0 <= self.margin < 1:
            yield f"margin is {self.margin}; from 0 to below 1"


@dataclass(frozen=True)
class Promotion:
    """What was decided, and between whom; `changed` says whether the alias moved just now."""

    model_name: str
    champion: str | None  # the version in production after the decision
    challenger: str  # the version that was judged
    previous: str | None
    changed: bool
    reasons: tuple[str, ...]
    run_id: str
    judged: dict[str, Any]  # the challenger's test figures


def promote(root: Path, register_cmd: str) -> Promotion:
    """Move the alias `champion` to the chosen version if it earned it; otherwise leave it and say why.

    Versions that the registry lacks (wiped, or DVC restored the receipt alone) are registered again first, by
    `register_cmd`. The champion is judged anew, on today's test images.
    """
    rules = params.bind(PromoteParams, params.read(root).get("promote"), "promote")
    mlflow = tracking.client()
    receipt = files.read_json(root / RECEIPT)
    name, kind = receipt["model_name"], receipt["chosen"]
    challenger = _ensure_registered(mlflow, root, register_cmd, receipt)
    judged = files.read_json(root / EVALUATION)["test"][kind]
    champion = registry.alias_version(mlflow, name, registry.CHAMPION)
    found = _settle(mlflow, root, name, challenger, champion, judged, rules)
    now = challenger if found["promote"] else champion
    return Promotion(
        model_name=name, champion=now, challenger=challenger, previous=champion, changed=now != champion,
        reasons=tuple(found["reasons"]), run_id=str(mlflow.get_model_version(name, challenger).run_id), judged=judged,
    )  # fmt: skip


def production(root: Path) -> str | None:
    """Return the version that the alias `champion` points to now, or None."""
    name = params.read(root)["register"]["model_name"]
    return registry.alias_version(tracking.client(), name, registry.CHAMPION)


def _ensure_registered(mlflow: "MlflowClient", root: Path, register_cmd: str, receipt: dict[str, Any]) -> str:
    """Return the chosen version's number; register again where the registry does not know every version."""

    def find() -> dict[str, str | None]:
        return {
            kind: registry.find_version(mlflow, receipt["model_name"], digest)
            for kind, digest in receipt["versions"].items()
        }

    found = find()
    if None in found.values():
        stage.run(register_cmd, root)
        found = find()
    chosen = found[receipt["chosen"]]
    if chosen is None:
        raise RegistryError(
            f"no version of {receipt['model_name']} has the receipt's digest, though it was registered just now; "
            "`regraft run --force` makes receipt and registry agree"
        )
    return chosen


def _settle(
    mlflow: "MlflowClient", root: Path, name: str, challenger: str, champion: str | None, judged: dict[str, Any],
    rules: PromoteParams,
) -> dict[str, Any]:  # fmt: skip
    """Decide, keep the verdict on the version, then move the aliases; a question answered before keeps its answer."""
    if challenger == champion:
        return registry.recall_verdict(mlflow, name, challenger) or {
            "promote": True, "reasons": [f"version {challenger} is the champion already"],
        }  # fmt: skip
    question = digest_of({"champion": champion, "judged": judged, "rules": vars(rules)})
    found = registry.recall_verdict(mlflow, name, challenger)
    if found and found["question"] == question and found["applied"]:
        # Carried out once already: whoever has set the alias back since (a rollback) meant it.
        back = ["promoted before and set back since: it stays back"] if found["promote"] else []
        return {**found, "promote": False, "reasons": back or found["reasons"]}
    if found is None or found["question"] != question:
        found = {**_decided(root, name, champion, judged, rules), "question": question, "applied": False}
        registry.remember_verdict(mlflow, name, challenger, found)
    # A kill may come between any two of these: the verdict counts as applied when the aliases stand.
    mlflow.set_registered_model_alias(name, registry.CHALLENGER, challenger)
    if found["promote"]:
        mlflow.set_registered_model_alias(name, registry.CHAMPION, challenger)
    registry.remember_verdict(mlflow, name, challenger, {**found, "applied": True})
    return found


def _decided(
    root: Path, name: str, champion: str | None, judged: dict[str, Any], rules: PromoteParams
) -> dict[str, Any]:
    """Decide; a champion whose files are gone cannot be judged, answers nobody, and is no opponent."""
    try:
        opponent, lost = (_judge_champion(root, name, champion) if champion else None), []
    except RegistryError as error:
        opponent, lost = None, [str(error)]
    verdict = decide(judged, opponent, rules.floor, rules.margin)
    return {"promote": verdict.promote, "reasons": [*lost, *verdict.reasons]}


def _judge_champion(root: Path, name: str, version: str) -> dict[str, Any]:
    """Judge a registered version on the current test images, from their raw bytes."""
    import numpy as np
    import pandas as pd

    from steps.adapters.images import batched
    from steps.core.manifest import TEST
    from steps.core.metrics import judge
    from steps.core.seeding import numpy_generator
    from steps.evaluate import EvaluateParams

    document = params.read(root)
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    table = files.read_table(root / ACCEPTED)
    part = table[table["split"] == TEST].sort_values("path")
    model = registry.load(name, version)
    told = pd.concat(
        [
            model.predict(pd.DataFrame({"image": [(root / RAW / path).read_bytes() for path in some]}))
            for some in batched(part["path"], 256)
        ]
    )
    classes = model.unwrap_python_model().classes
    today = files.read_json(root / EVALUATION)["classes"]
    probabilities = _aligned(np.array(told["probabilities"].tolist()), classes, today)
    targets = np.searchsorted(today, part["label"].tolist())
    return judge(
        targets, probabilities, today, rules.confidence, rules.bootstrap_draws,
        numpy_generator(document["seed"], "promote", version),
    )  # fmt: skip


def _aligned(probabilities: Any, classes: list[str], today: list[str]) -> Any:
    """Put the champion's columns into today's order; a class that it never learnt gets probability 0."""
    import numpy as np

    columns = [probabilities[:, classes.index(c)] if c in classes else np.zeros(len(probabilities)) for c in today]
    return np.stack(columns, axis=1)
