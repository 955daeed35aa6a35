"""Register: each training stage becomes an MLflow run, both models become versions. Done once per lineage digest.

The receipt holds digests only, no run id, version number or time: its bytes must not depend on the driver.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Predicate
from torch import Tensor

from steps.backbones import familiarity, models, timm_networks
from steps.backbones.backbone import Grafted
from steps.evaluation.results import Evaluation, Judgement
from steps.images import decoding
from steps.registry import circumstances, package_writing
from steps.registry.circumstances import Circumstances
from steps.registry.model_registry import Registry
from steps.runtime import artefacts, files, stage
from steps.runtime.binding import Because
from steps.runtime.stage import Lineage, digest_of
from steps.training.choice import FINE_TUNED, HEAD
from steps.training.histories import Epoch, FineTuneHistory, HeadHistory, LinearTrial, TrainedFacts, Trial
from steps.training.learnt_from import FILE, learnt_from, packed

# What both MLflow and its filter language accept.
Name = Annotated[
    str,
    Predicate(lambda name: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) is not None),
    Because("letters, digits, '_', '.' and '-', at most 100"),
]


@dataclass(frozen=True, kw_only=True)
class RegisterParams:
    """The names under which MLflow keeps the runs and the versions."""

    experiment: Name
    model_name: Name


@dataclass(frozen=True)
class Candidate:
    """A model about to be registered: its network, its lineage and its figures."""

    kind: str
    network: Grafted
    lineage: Lineage
    facts: models.ModelFacts
    steps: Sequence[Mapping[str, float | None]]  # the metrics of each epoch, or of each strength that was tried
    artifacts: tuple[Path, ...]
    learnt: bytes  # which images it learnt from
    measure: familiarity.Familiarity


def register(
    params: RegisterParams,
    screened: Path,
    preprocessing: Path,
    backbone: Path,
    head: Path,
    head_history: Path,
    fine_tuned: Path,
    fine_tune_history: Path,
    evaluation: Path,
    measures: Path,
    model_card: Path,
    receipt: Path,
) -> None:
    """Register the head model and the fine-tuned model; write the receipt by which `promote` finds them again."""
    judged, kept = artefacts.read(Evaluation, evaluation), files.read_tensors(measures)
    candidates = (
        _candidate(
            HEAD,
            models.load_head_model(backbone, head),
            artefacts.read(HeadHistory, head_history).path,
            head,
            head_history,
            backbone,
            preprocessing,
            screened,
            judged,
            kept,
        ),
        _candidate(
            FINE_TUNED,
            models.load_fine_tuned(backbone, fine_tuned),
            artefacts.read(FineTuneHistory, fine_tune_history).epochs,
            fine_tuned,
            fine_tune_history,
            backbone,
            preprocessing,
            screened,
            judged,
            kept,
        ),
    )

    registry = Registry(files.project_root(), params.model_name)
    registry.ensure()
    around = circumstances.gather(registry.root)
    digests = {
        c.kind: _register(registry, params.experiment, c, judged, around, evaluation, model_card) for c in candidates
    }

    files.write_json(
        receipt,
        {
            "model_name": params.model_name,
            "chosen": judged.chosen,
            "versions": digests,
            "runs": {candidate.kind: candidate.lineage.digest for candidate in candidates},
        },
    )


def _extras(architecture: str, screened: Path) -> tuple[str, ...] | None:
    """Return the optional packages that the network and the pictures need; None if they need none."""
    has_heif = decoding.HEIF in set(files.read_table(screened)["format"])
    names = (*timm_networks.requirements(architecture), *(("pillow-heif",) if has_heif else ()))
    return names or None


def _candidate(
    kind: str,
    network: Grafted,
    metrics: Sequence[Epoch | LinearTrial | Trial],
    folder: Path,
    history: Path,
    backbone: Path,
    preprocessing: Path,
    screened: Path,
    judged: Evaluation,
    measures: dict[str, Tensor],
) -> Candidate:
    made, card = artefacts.read(TrainedFacts, folder / models.FACTS), models.read_card(backbone)
    facts = models.ModelFacts(
        kind=kind,
        architecture=card.architecture,
        num_classes=card.num_classes,
        backbone=card.name,
        backbone_sha256=card.sha256,
        backbone_licence=card.licence,
        cut=card.cut_after(made.cut),
        classes=made.classes,
        lineage=made.lineage.digest,
        code=made.lineage.code,
        data_sha256=files.sha256_of(screened),
        temperature=judged.calibration[kind].temperature,
        prior_shift=judged.calibration[kind].prior_shift,
        answer_weights=judged.calibration[kind].answer_weights,
        abstain_below=judged.calibration[kind].abstain_below,
        preprocessing=models.read_preprocessing(preprocessing),
        extras=_extras(card.architecture, screened),
    )
    learnt = packed(learnt_from(files.read_table(screened), kind))
    measure = familiarity.from_tensors(models.under(f"{kind}.", measures))
    return Candidate(kind, network, made.lineage, facts, [vars(row) for row in metrics], (history,), learnt, measure)


def _register(
    registry: Registry,
    experiment: str,
    candidate: Candidate,
    judged: Evaluation,
    around: Circumstances,
    *artifacts: Path,
) -> str:
    """Log the run and create the version, each only if it does not exist yet; return the version's digest."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        content = package_writing.write_model(model, candidate.network.state_dict(), candidate.facts, candidate.measure)
        digest = digest_of({"run": candidate.lineage.digest, "content": content})
        experiment_id = registry.experiment(experiment)
        older = registry.find_run(experiment_id, candidate.lineage.digest) is not None
        run = registry.log_run(
            experiment_id,
            candidate.lineage,
            candidate.steps,
            (*candidate.artifacts, *artifacts),
            {"kind": candidate.kind, "backbone": candidate.facts.backbone},
            around,
        )
        if registry.find(digest) is None:
            beside = {**around.beside(run, older), f"{circumstances.FOLDER}/{FILE}": candidate.learnt}
            package_writing.save(Path(scratch) / "saved", model, digest, beside)
            registry.create(
                digest,
                run,
                Path(scratch) / "saved",
                {"kind": candidate.kind},
                _test_metrics(judged.test[candidate.kind]),
            )
    return digest


def _test_metrics(test: Judgement) -> dict[str, float]:
    figures = {"accuracy": test.accuracy, "balanced_accuracy": test.balanced_accuracy, "log_loss": test.log_loss}
    return {f"test_{name}": figure.known for name, figure in figures.items()}


if __name__ == "__main__":
    stage.main(register)
