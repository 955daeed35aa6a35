"""Promote: called by the flow and not a stage, because its answer depends on what the registry holds *now*."""

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
from steps.promotion.rematch import Rematch, rematch
from steps.promotion.task import another_task
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
        notes=tuple(answer.notes),
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
    def screened(self) -> Screening | None:
        """Return the report of `screen`, if there is one."""
        path = self.root / SCREENING
        return artefacts.read(Screening, path) if path.is_file() else None

    @cached_property
    def checks(self) -> tuple[RuleResult, ...]:
        """Return the rules of the data gates, as they reported them."""
        path, screened = self.root / VALIDATION, self.screened.rules if self.screened else ()
        return (*(artefacts.read(Validation, path).rules if path.is_file() else ()), *screened)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """Return what could overturn the result."""
        return caveats(self.checks, self.screened.splits if self.screened else (), self.evaluation)

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
    notes: Sequence[str] = ()  # those of the reasons that say what was compared


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
    verdict, notes, compared = _decided(case, chain)
    kind, champion, reasons = REFUSE, before, (*notes, *verdict.reasons)
    if verdict.promote and (verdict.asks or case.rules.approval == REQUIRED):
        wait = f"it may be promoted, once a person says so: regraft approve {challenger} --reason TEXT"
        kind, reasons = PROPOSE, (wait, *reasons)
    elif verdict.promote:
        kind, champion = PROMOTE, challenger
    return Answer(
        kind, champion, before, reasons, question, new=True, comparison=compared, package=package, notes=notes
    )


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
    """Return the verdict, what it is about, and the comparison behind it."""
    match, notes = _match(case, chain)
    alone = f"not compared with version {chain.champion}, the champion" if chain.champion else "no champion before it"
    compared = match.paired if match else None
    evaluation, judged = case.evaluation, case.evaluation.test[case.kind]
    facts = ChallengerFacts(
        challenger=judged,
        comparison=compared.comparison if compared else None,
        unopposed=alone,
        changed_classes=match is not None and not match.task.same,
        another_task=_other_task(match, chain.champion),
        shortage=match.shortage if match else None,
        recalls=compared.recalls if compared else (),
        slice_changes=compared.slices if compared else (),
        slices=evaluation.slices[case.kind],
        calibration_error=judged.classwise_error or evaluation.calibration[case.kind].after.calibration_error,
        latency_ratio=match.latency_ratio if match else None,
        size=case.registry.size(case.challenger) if case.rules.max_bytes is not None else None,
        looks=case.looks,
        checks=case.checks,
    )
    return decide(facts, case.rules), notes, facts.comparison


def _other_task(match: Rematch | None, champion: str | None) -> str | None:
    if match is None or match.shortage or not match.task.another:
        return None
    return another_task(match.task, f"version {champion}, the champion,")


def _match(case: Case, chain: Chain) -> tuple[Rematch | None, list[str]]:
    """Hold the challenger against the champion; return that and the sentences that come before the verdict.

    Without the champion's files there is no comparison: a person may decide, or the challenger is its twin. Raises
    RegistryError if no person is asked, if only some files are gone, if they are not what was signed or decided on, or
    if they are unavailable now: otherwise whoever damages the champion would promote its challenger.
    """
    champion, rules = chain.champion, case.rules
    if gone := production.lost(case.registry, chain):
        twin = chain.package_of(champion) == case.registry.digest(case.challenger)
        if not twin and rules.approval != REQUIRED:
            raise RegistryError(gone)
        return None, [
            f"it is version {champion}, the champion, registered again: its files were gone" if twin else gone
        ]
    if champion is None:
        return None, []
    opponent = package_loading.load(case.registry, champion, chain.package_of(champion))
    match = rematch(case.registry, case.kind, case.challenger, opponent, rules, case.evaluation)
    return match, match.notes


def _digest(path: Path) -> str | None:
    return files.sha256_of(path) if path.is_file() else None
