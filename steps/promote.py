"""Promote: called by the flow and not a stage, because its answer depends on what the registry holds *now*."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters import files, ledger, packages, params, registry, stage, tracking
from steps.adapters.stage import digest_of
from steps.core.decision import Verdict, decide
from steps.core.ledger import PROMOTE, PROPOSE, REFUSE, Chain
from steps.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECEIPT, EVALUATION, ACCEPTED, RAW = (
    "data/reports/register.json", "data/reports/evaluation.json", "data/screened.parquet", "data/raw",
)  # fmt: skip


AUTO, REQUIRED = "auto", "required"


@dataclass(frozen=True, kw_only=True)
class PromoteParams:
    """What a challenger has to earn: a balanced accuracy on the test images, and a margin over the champion."""

    approval: str
    floor: float
    margin: float

    def faults(self) -> Iterator[str]:
        """Yield rules that would promote anything or nothing."""
        if self.approval not in (AUTO, REQUIRED):
            yield f"approval is {self.approval!r}; {AUTO} or {REQUIRED}"
        if not 0 <= self.floor < 1:
            yield f"floor is {self.floor}; a balanced accuracy from 0 to below 1"
        if not 0 <= self.margin < 1:
            yield f"margin is {self.margin}; from 0 to below 1"


@dataclass(frozen=True)
class Promotion:
    """What was decided, and between whom; `changed` says whether production changed just now."""

    model_name: str
    champion: str | None  # the version in production after the decision
    challenger: str  # the version that was judged
    previous: str | None
    changed: bool
    reasons: tuple[str, ...]
    run_id: str
    judged: dict[str, Any]  # the challenger's test figures


def promote(root: Path, register_cmd: str) -> Promotion:
    """Make the chosen version champion if it earned it; otherwise say why not. The ledger keeps every decision.

    Versions that the registry lacks (wiped, or DVC restored the receipt alone) are registered again first, by
    `register_cmd`. The champion is judged anew, on today's test images. Where another decision comes first, this
    one is made again, against the champion of then.
    """
    rules = params.bind(PromoteParams, params.read(root).get("promote"), "promote")
    mlflow = tracking.client()
    receipt = files.read_json(root / RECEIPT)
    name, kind = receipt["model_name"], receipt["chosen"]
    challenger = _ensure_registered(mlflow, root, register_cmd, receipt)
    judged = files.read_json(root / EVALUATION)["test"][kind]
    outcomes: list[Answer] = []

    def turn(chain: Chain) -> bool:
        outcomes.append(_answer(root, name, challenger, chain, judged, rules))
        found = outcomes[-1]
        return not found.new or ledger.append(
            mlflow, name, chain, found.kind, challenger, found.champion, found.reasons, found.question
        )

    ledger.reconcile(mlflow, name, root)
    chain = ledger.decide(mlflow, name, turn)
    ledger.export(chain, root)
    if registry.alias_version(mlflow, name, registry.CHALLENGER) != challenger:
        mlflow.set_registered_model_alias(name, registry.CHALLENGER, challenger)
    found = outcomes[-1]
    return Promotion(
        model_name=name, champion=found.champion, challenger=challenger, previous=found.previous,
        changed=found.champion != found.previous, reasons=found.reasons,
        run_id=str(mlflow.get_model_version(name, challenger).run_id), judged=judged,
    )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The answer to one question: may this challenger replace this champion? `new` where the ledger lacks it."""

    kind: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    question: str
    new: bool


def _answer(
    root: Path, name: str, challenger: str, chain: Chain, judged: dict[str, Any], rules: PromoteParams
) -> Answer:
    """Recall the answer where the question is an old one; decide otherwise."""
    before = chain.champion
    question = digest_of({"champion": before, "judged": judged, "rules": vars(rules)})
    if challenger == before:
        reasons = chain.made_champion(challenger).reasons
        return Answer(PROMOTE, before, before, reasons, question, new=False)
    if found := chain.last(challenger, question):
        # Carried out once already: whoever has set the champion back since (a rollback) meant it.
        reasons = ("promoted before and set back since: it stays back",) if found.kind == PROMOTE else found.reasons
        return Answer(found.kind, before, before, reasons, question, new=False)
    verdict, lost = _decided(root, name, before, judged, rules)
    if not verdict.promote:
        return Answer(REFUSE, before, before, (*lost, *verdict.reasons), question, new=True)
    if rules.approval == REQUIRED:
        wait = f"it may be promoted, once a person says so: regraft approve {challenger} --reason TEXT"
        return Answer(PROPOSE, before, before, (wait, *lost, *verdict.reasons), question, new=True)
    return Answer(PROMOTE, challenger, before, (*lost, *verdict.reasons), question, new=True)


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


def _decided(
    root: Path, name: str, champion: str | None, judged: dict[str, Any], rules: PromoteParams
) -> tuple[Verdict, list[str]]:
    """Decide; a champion whose files are gone cannot be judged, answers nobody, and is no opponent."""
    try:
        opponent, lost = (_judge_champion(root, name, champion) if champion else None), []
    except RegistryError as error:
        opponent, lost = None, [str(error)]
    return decide(judged, opponent, rules.floor, rules.margin), lost


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
    model = packages.load(tracking.client(), name, version).model
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
