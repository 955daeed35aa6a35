"""Promote: called by the flow and not a stage, because its answer depends on what the registry holds *now*."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.checks.reports import Screening, Validation
from steps.checks.rule import RuleResult
from steps.errors import RegistryError
from steps.evaluation.results import Evaluation, PairedComparison
from steps.pages.caveats import Caveat, caveats
from steps.promotion.gate import ChallengerFacts, Verdict, decide
from steps.promotion.rematch import rematch
from steps.promotion.terms import (
    EVALUATION,
    LOOKED_AT,
    RECEIPT,
    REQUIRED,
    SCREENING,
    VALIDATION,
    PromoteParams,
    Promotion,
    confirmed,
)
from steps.registry import comparisons, ledger, look_ledger, package_loading, production
from steps.registry.chain import PROMOTE, PROPOSE, REFUSE, Chain
from steps.registry.model_registry import CHALLENGER, Registry
from steps.runtime import artefacts, files, params, stage
from steps.runtime.stage import digest_of


def promote(root: Path, register_cmd: str) -> Promotion:
    """Make the chosen version champion if it passes the gate; otherwise say why. The ledger keeps every decision.

    Versions that the registry lacks (wiped, or DVC restored only the receipt) are first registered again, by
    `register_cmd`. The champion is evaluated again on today's test images. If another decision comes first, this one is
    repeated against the new champion.
    """
    rules = params.bind(PromoteParams, params.read(root).get("promote"), "promote")
    receipt = files.read_json(root / RECEIPT)
    registry = Registry(root, receipt["model_name"])
    challenger = _ensure_registered(registry, register_cmd, receipt)
    case = Case(registry, receipt["chosen"], challenger, rules)
    ledger.reconcile(registry)
    for chain in ledger.attempts(registry):
        answer = _answer(case, chain)
        if not answer.new or ledger.append(
            registry,
            chain,
            answer.kind,
            challenger,
            answer.champion,
            answer.reasons,
            answer.question,
            package=answer.package,
        ):
            break
    ledger.export(ledger.restore_alias(registry, chain), root)
    _project(case, answer)
    return Promotion(
        model_name=registry.name,
        champion=answer.champion,
        challenger=challenger,
        previous=answer.previous,
        changed=answer.champion != answer.previous,
        reasons=answer.reasons,
        run_id=str(registry.client.get_model_version(registry.name, challenger).run_id),
        judged=case.evaluation.test[case.kind],
        verdict=answer.kind,
        comparison=answer.comparison,
        caveats=case.caveats,
    )


@dataclass(frozen=True)
class Case:
    """One challenger and the rules that apply to it."""

    registry: Registry
    kind: str
    challenger: str
    rules: PromoteParams

    @property
    def root(self) -> Path:
        """Return the project's root."""
        return self.registry.root

    @cached_property
    def evaluation(self) -> Evaluation:
        """Return the output of `evaluate`."""
        return artefacts.read(Evaluation, self.root / EVALUATION)

    @cached_property
    def checks(self) -> tuple[RuleResult, ...]:
        """Return the rules of the data gates, as they reported them."""
        return (*_checks(Validation, self.root / VALIDATION), *_checks(Screening, self.root / SCREENING))

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """Return what could overturn the result."""
        return caveats(self.checks, self.evaluation)

    def question(self, champion: str | None) -> str:
        """Return the digest of all that the answer depends on; no clock: measured time is evidence, not question."""
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
        """Return why the test images may no longer decide, if so; read before the champion is evaluated on them."""
        if self.rules.look_limit is None:
            return None
        return look_ledger.exhausted(self.root)


@dataclass(frozen=True)
class Answer:
    """The answer to one question: may this challenger replace this champion? `new` if the ledger lacks it."""

    kind: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    question: str
    new: bool
    comparison: PairedComparison | None = None
    package: str | None = None  # digest of the challenger's package, as it was verified


def _answer(case: Case, chain: Chain) -> Answer:
    """Return the recorded answer if the question was asked before; otherwise decide."""
    before, challenger = chain.champion, case.challenger
    _refuse_renumbered(case.registry, challenger, chain)
    question = case.question(before)
    if challenger == before:
        reasons = confirmed(challenger, chain.made_champion(challenger).reasons)
        return Answer(PROMOTE, before, before, reasons, question, new=False)
    if earlier := chain.last(challenger, question):
        # Already carried out once: whoever has set the champion back since (a rollback) meant it.
        reasons = (
            ("promoted earlier and rolled back since: it is not promoted again",)
            if earlier.kind == PROMOTE
            else earlier.reasons
        )
        compared = comparisons.recall(case.registry, challenger, question)
        return Answer(earlier.kind, before, before, reasons, question, new=False, comparison=compared)
    package = package_loading.verify(case.registry, challenger, chain.package_of(challenger))
    verdict, lost, compared = _decided(case, chain)
    kind, champion, reasons = REFUSE, before, (*lost, *verdict.reasons)
    if verdict.promote and case.rules.approval == REQUIRED:
        wait = f"it may be promoted, once a person says so: regraft approve {challenger} --reason TEXT"
        kind, reasons = PROPOSE, (wait, *reasons)
    elif verdict.promote:
        kind, champion = PROMOTE, challenger
    return Answer(kind, champion, before, reasons, question, new=True, comparison=compared, package=package)


def _refuse_renumbered(registry: Registry, version: str, chain: Chain) -> None:
    """Raise RegistryError if the ledger decided about another version under this number.

    MLflow numbers a deleted model anew, whereas the ledger keeps its numbers.
    """
    decided = chain.package_of(version)
    if decided and decided != registry.digest(version):
        raise RegistryError(
            f"version {version} of {registry.name} is not the version {version} of the ledger: the model was deleted "
            "in MLflow, which numbers anew; name another in params.yaml (register.model_name) and run again"
        )


def _project(case: Case, answer: Answer) -> None:
    """Write the decision to the alias and tags in MLflow, for display; the ledger is authoritative."""
    registry, challenger = case.registry, case.challenger
    if registry.alias(CHALLENGER) != challenger:
        registry.point(CHALLENGER, challenger)
    if answer.new and answer.comparison is not None:
        comparisons.keep(registry, challenger, answer.question, answer.comparison)
    if answer.new:
        registry.tag_verdict(challenger, answer.kind, answer.reasons, answer.previous)
    registry.tag_warnings(challenger, [caveat.sentence for caveat in case.caveats])


def _ensure_registered(registry: Registry, register_cmd: str, receipt: dict[str, Any]) -> str:
    """Return the chosen version's number; register again if the registry lacks a version."""

    def find() -> dict[str, str | None]:
        return {kind: registry.find(digest) for kind, digest in receipt["versions"].items()}

    numbers = find()
    if None in numbers.values():
        stage.run(register_cmd, registry.root)
        numbers = find()
    chosen = numbers[receipt["chosen"]]
    if chosen is None:
        raise RegistryError(
            f"no version of {registry.name} has the receipt's digest, though it was registered just now; "
            "`regraft run --force` makes receipt and registry agree"
        )
    return chosen


def _decided(case: Case, chain: Chain) -> tuple[Verdict, list[str], PairedComparison | None]:
    """Decide. Without the champion's files there is no comparison: a person may decide, or the challenger is its twin.

    Raises RegistryError if no person is asked, if only some files are gone, if they are not what was signed or decided
    on, or if they are unavailable now: otherwise whoever damages the champion would promote its challenger.
    """
    champion, rules, lost, match = chain.champion, case.rules, list[str](), None
    if gone := production.lost(case.registry, chain):
        twin = chain.package_of(champion) == case.registry.digest(case.challenger)
        if not twin and rules.approval != REQUIRED:
            raise RegistryError(gone)
        lost = [f"it is version {champion}, the champion, registered again: its files were gone" if twin else gone]
    elif champion:
        timed = rules.max_latency_ratio is not None
        opponent = package_loading.load(case.registry, champion, chain.package_of(champion))
        match = rematch(case.registry, case.kind, case.challenger, opponent, timed)
        lost = match.unanswered
    evaluation = case.evaluation
    facts = ChallengerFacts(
        challenger=evaluation.test[case.kind],
        comparison=match.paired.comparison if match else None,
        lost_classes=_lost(match.classes, evaluation.classes) if match else (),
        recalls=match.paired.recalls if match else (),
        slice_changes=match.paired.slices if match else (),
        slices=evaluation.slices[case.kind],
        calibration_error=evaluation.calibration[case.kind].after.calibration_error,
        latency_ratio=match.latency_ratio if match else None,
        size=case.registry.size(case.challenger) if rules.max_bytes is not None else None,
        looks=case.looks,
        checks=case.checks,
    )
    return decide(facts, rules), lost, facts.comparison


def _lost(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return the classes that only `before` has; an old version may spell a class in another form of Unicode."""
    kept = {unicodedata.normalize("NFC", label) for label in after}
    return [label for label in before if unicodedata.normalize("NFC", label) not in kept]


def _checks(kind: type[Validation] | type[Screening], report: Path) -> tuple[RuleResult, ...]:
    return artefacts.read(kind, report).rules if report.is_file() else ()


def _digest(path: Path) -> str | None:
    return files.sha256_of(path) if path.is_file() else None
