"""Promote: called by the flow and not a stage, because its answer depends on what the registry holds *now*."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.checks.reports import Screening, Validation
from steps.checks.rule import RuleResult
from steps.errors import RegistryError
from steps.promotion.gate import ChallengerFacts, GateRules, Verdict, decide
from steps.promotion.rematch import ACCEPTED, EVALUATION, PREDICTIONS, rematch
from steps.registry import comparisons, ledger, packages, tracking, versions
from steps.registry.chain import PROMOTE, PROPOSE, REFUSE, Chain
from steps.runtime import artefacts, files, params, stage
from steps.runtime.stage import digest_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECEIPT, VALIDATION, SCREENING = (
    "data/reports/register.json",
    "data/reports/validation.json",
    "data/reports/screen.json",
)
LOOKED_AT = (ACCEPTED, EVALUATION, PREDICTIONS, VALIDATION, SCREENING)  # beside the registry and params.yaml
AUTO, REQUIRED = "auto", "required"


@dataclass(frozen=True, kw_only=True)
class PromoteParams(GateRules):
    """What a challenger has to earn, and whether a person has the last word."""

    approval: str
    wait_minutes: float

    def faults(self) -> Iterator[str]:
        """Yield what `GateRules` finds wrong, and an approval that is none."""
        yield from super().faults()
        if self.approval not in (AUTO, REQUIRED):
            yield f"approval is {self.approval!r}; {AUTO} or {REQUIRED}"
        if self.wait_minutes < 0:
            yield f"wait_minutes is {self.wait_minutes}; 0 or more"

    def rules(self) -> dict[str, Any]:
        """Return what an answer follows from: how long a run waits for a person is not part of it."""
        return {name: value for name, value in vars(self).items() if name != "wait_minutes"}


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
    verdict: str  # promote | refuse | propose
    comparison: Mapping[str, Any] | None  # of the two by `evaluation.comparison`, where one was decided on


def promote(root: Path, register_cmd: str) -> Promotion:
    """Make the chosen version champion if it earned it; otherwise say why not. The ledger keeps every decision.

    Versions that the registry lacks (wiped, or DVC restored the receipt alone) are registered again first, by
    `register_cmd`. The champion is judged anew, on today's test images. Where another decision comes first, this
    one is made again, against the champion of then.
    """
    rules = params.bind(PromoteParams, params.read(root).get("promote"), "promote")
    mlflow = tracking.client()
    receipt = files.read_json(root / RECEIPT)
    name = receipt["model_name"]
    challenger = _ensure_registered(mlflow, root, register_cmd, receipt)
    case = Case(root, name, receipt["chosen"], challenger, rules)
    outcomes: list[Answer] = []

    def turn(chain: Chain) -> bool:
        outcomes.append(_answer(mlflow, case, chain))
        found = outcomes[-1]
        return not found.new or ledger.append(
            mlflow,
            name,
            chain,
            found.kind,
            challenger,
            found.champion,
            found.reasons,
            found.question,
            package=found.package,
        )

    ledger.reconcile(mlflow, name, root)
    chain = ledger.decide(mlflow, name, turn)
    ledger.export(chain, root)
    found = outcomes[-1]
    _project(mlflow, case, found)
    return Promotion(
        model_name=name,
        champion=found.champion,
        challenger=challenger,
        previous=found.previous,
        changed=found.champion != found.previous,
        reasons=found.reasons,
        run_id=str(mlflow.get_model_version(name, challenger).run_id),
        judged=case.evaluation["test"][case.kind],
        verdict=found.kind,
        comparison=found.comparison,
    )


@dataclass(frozen=True)
class Case:
    """One challenger and the rules that it is held to."""

    root: Path
    name: str
    kind: str
    challenger: str
    rules: PromoteParams

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """Return what `evaluate` wrote."""
        found: dict[str, Any] = files.read_json(self.root / EVALUATION)
        return found

    def question(self, champion: str | None) -> str:
        """Return the digest of all that the answer follows from; no clock: measured time is evidence, not question."""
        document = params.read(self.root)
        return digest_of(
            {
                "champion": champion,
                "rules": self.rules.rules(),
                "kind": self.kind,
                "seed": document["seed"],
                "evaluate": document["evaluate"],
                "exhausted": self.looks is not None,
                "files": {path: _digest(self.root / path) for path in LOOKED_AT},
            }
        )

    @cached_property
    def looks(self) -> str | None:
        """Return why the test images may decide no more, if so; asked before the champion is evaluated on them."""
        if self.rules.look_limit is None:
            return None
        from steps.registry import look_ledger as looks  # SciPy takes its time

        return looks.exhausted(self.root)


@dataclass(frozen=True)
class Answer:
    """The answer to one question: may this challenger replace this champion? `new` where the ledger lacks it."""

    kind: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    question: str
    new: bool
    comparison: Mapping[str, Any] | None = None
    package: str | None = None  # digest of the challenger's package, as it was verified


def _answer(mlflow: "MlflowClient", case: Case, chain: Chain) -> Answer:
    """Recall the answer where the question is an old one; decide otherwise."""
    before, challenger = chain.champion, case.challenger
    question = case.question(before)
    if challenger == before:
        reasons = confirmed(challenger, chain.made_champion(challenger).reasons)
        return Answer(PROMOTE, before, before, reasons, question, new=False)
    if found := chain.last(challenger, question):
        # Carried out once already: whoever has set the champion back since (a rollback) meant it.
        reasons = ("promoted before and set back since: it stays back",) if found.kind == PROMOTE else found.reasons
        compared = comparisons.recall(mlflow, case.name, challenger, question)
        return Answer(found.kind, before, before, reasons, question, new=False, comparison=compared)
    package = packages.verify(mlflow, case.name, challenger, chain.package_of(challenger))
    verdict, lost, compared = _decided(mlflow, case, chain)
    kind, champion, reasons = REFUSE, before, (*lost, *verdict.reasons)
    if verdict.promote and case.rules.approval == REQUIRED:
        wait = f"it may be promoted, once a person says so: regraft approve {challenger} --reason TEXT"
        kind, reasons = PROPOSE, (wait, *reasons)
    elif verdict.promote:
        kind, champion = PROMOTE, challenger
    return Answer(kind, champion, before, reasons, question, new=True, comparison=compared, package=package)


def confirmed(version: str, reasons: Sequence[str]) -> tuple[str, ...]:
    """Return the reasons of a run whose model is the champion itself; `reasons` are those that made it champion."""
    nothing = f"the model of this run is version {version}, the champion itself: nothing was compared"
    return (nothing, *(f"why it is champion: {reason}" for reason in reasons))


def confirming(promotion: Promotion) -> Promotion:
    """Return a promotion as a later run has to tell it that finds nothing to do: production does not change again."""
    if not promotion.changed:
        return promotion
    reasons = confirmed(promotion.challenger, promotion.reasons)
    return replace(promotion, previous=promotion.champion, changed=False, reasons=reasons, comparison=None)


def _project(mlflow: "MlflowClient", case: Case, found: Answer) -> None:
    """Write the decision to the alias and tags in MLflow, for display; the ledger is authoritative."""
    if versions.alias_version(mlflow, case.name, versions.CHALLENGER) != case.challenger:
        mlflow.set_registered_model_alias(case.name, versions.CHALLENGER, case.challenger)
    if found.new and found.comparison is not None:
        comparisons.keep(mlflow, case.name, case.challenger, found.question, found.comparison)
    if found.new:
        versions.tag_verdict(mlflow, case.name, case.challenger, found.kind, found.reasons, found.previous)


def production(root: Path) -> str | None:
    """Return the champion, or None: the ledger's, and that of the alias where a project is older than its ledger."""
    mlflow, name = tracking.client(), params.read(root)["register"]["model_name"]
    chain = ledger.read(mlflow, name)
    return chain.champion if chain.entries else versions.alias_version(mlflow, name, versions.CHAMPION)


def _ensure_registered(mlflow: "MlflowClient", root: Path, register_cmd: str, receipt: dict[str, Any]) -> str:
    """Return the chosen version's number; register again where the registry does not know every version."""

    def find() -> dict[str, str | None]:
        return {
            kind: versions.find_version(mlflow, receipt["model_name"], digest)
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


def _decided(mlflow: "MlflowClient", case: Case, chain: Chain) -> tuple[Verdict, list[str], Mapping[str, Any] | None]:
    """Decide; a champion whose files are gone, all of them, cannot be judged, and is no opponent.

    Raises RegistryError where some are gone, where they are not what was signed or decided about, and where they cannot
    be had just now: nothing is decided then, or whoever damages the champion would promote its challenger.
    """
    champion, rules, lost, match = chain.champion, case.rules, list[str](), None
    if champion and not versions.listing(mlflow, case.name, champion):
        lost = [f"the files of version {champion}, the champion, are gone: it cannot be judged"]
    elif champion:
        timed = rules.max_latency_ratio is not None
        opponent = packages.load(mlflow, case.name, champion, chain.package_of(champion))
        match = rematch(mlflow, case.root, case.name, case.kind, case.challenger, opponent, timed)
        lost = match.unanswered
    evaluation = case.evaluation
    calibration = evaluation.get("calibration", {}).get(case.kind, {}).get("after", {})
    facts = ChallengerFacts(
        challenger=evaluation["test"][case.kind],
        comparison=match.paired.comparison if match else None,
        recalls=match.paired.recalls if match else (),
        slice_changes=match.paired.slices if match else (),
        slices=evaluation.get("slices", {}).get(case.kind, ()),
        calibration_error=calibration.get("calibration_error"),
        latency_ratio=match.latency_ratio if match else None,
        size=versions.size(mlflow, case.name, case.challenger) if rules.max_bytes is not None else None,
        looks=case.looks,
        checks=[*_checks(Validation, case.root / VALIDATION), *_checks(Screening, case.root / SCREENING)],
    )
    return decide(facts, rules), lost, facts.comparison


def _checks(kind: type[Validation] | type[Screening], report: Path) -> tuple[RuleResult, ...]:
    return artefacts.read(kind, report).rules if report.is_file() else ()


def _digest(path: Path) -> str | None:
    return files.sha256_of(path) if path.is_file() else None
