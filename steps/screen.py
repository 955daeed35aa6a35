"""Screen: search the accepted images for suspects by the backbone's features; a person decides on a sheet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pandas as pd
from annotated_types import Interval

from steps.checks import decision_files as decided
from steps.checks import duplicates, expectations, label_errors, shift
from steps.checks.curation import KEEP, named
from steps.checks.feature_rules import ScreenSeverity, screen_rules, split_rules
from steps.checks.oddities import OddityLimits, odd
from steps.checks.reports import Copies, Listed, Mislabelled, Screening, SplitShift, Suspects
from steps.checks.rule import INTO, Table, refusal
from steps.checks.selection import ALPHA, untrainable
from steps.images.deep_grey import used_bits
from steps.images.manifest import TRAIN, UNLABELLED, VAL, in_use, units_of
from steps.pages.album import Album
from steps.pages.rendering import Picture, render
from steps.runtime import files, stage
from steps.runtime.arrays import Bools, Floats, Ints
from steps.runtime.binding import Because, Share
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.feature_file import read_features
from steps.runtime.seeding import derive, numpy_generator
from steps.training.linear_probe import Labelled

BUDGET = 3_000_000  # characters for all pictures of the sheet
SIDE = 160
KEPT_BACK = (
    "Set `screen.drop_suspects: false` and `screen.drop_leaking: false` in params.yaml, or write a line `PATH,keep,,` "
    f"{INTO} for each image in data/reports/suspects.csv that is all right."
)
Image = TypeVar("Image", bound=Listed)


@dataclass(frozen=True, kw_only=True)
class ScreenParams(OddityLimits):
    """The limits beyond which an image is a suspect, and the remedies that are enabled."""

    max_label_errors: Share
    least_agreement: Share
    like: Share
    most_shown: Annotated[int, Interval(ge=1, le=1000)]
    drop_suspects: bool
    drop_leaking: bool
    max_shift_auc: Annotated[float, Interval(ge=0.5, le=1), Because("0.5: no difference")]
    max_importance: Annotated[float, Interval(gt=1, le=1000)]
    severity: ScreenSeverity


def screen(
    params: ScreenParams,
    seed: int,
    compute: ComputeParams,
    raw: Path,
    accepted: Path,
    features: Path,
    decisions: Path,
    weights: Path,
    screened: Path,
    screening: Path,
    sheet: Path,
    suspects: Path,
    docs: Path,
) -> None:
    """Write the suspects (JSON, a page with pictures, a CSV for decisions) and the images that go on.

    `screened` has the rows and columns of `accepted`; requested remedies set weights to 0, `weights` (importance)
    multiply those of training images, nothing else changes. The rules check what the remedies leave.
    Raises DataError if a rule of severity fail is broken.
    """
    images = files.read_table(accepted)
    vectors = read_features(features).of(images["id"])
    factors = decided.read_weights(weights, images).where(images["split"] == TRAIN, 1.0)
    kept = named(images, decided.obeyed_before(decisions), KEEP)
    configure(compute)

    findings = _suspects(images, vectors, kept, derive(seed, "screen") % 2**32, params)
    dropped = _dropped(findings, params)
    left = _left(findings, dropped)
    rng, split_seed = numpy_generator(seed, "screen", "splits"), derive(seed, "screen", "splits") % 2**32
    heavy = in_use(images)
    of_heavy = vectors[images.index.get_indexer(heavy.index)]
    splits = shift.between_splits(heavy, of_heavy, params.max_shift_auc, split_seed, rng)
    rules = (
        *screen_rules(params.max_label_errors, params.severity),
        *split_rules(params.max_shift_auc, params.severity),
    )
    tables: dict[Table, pd.DataFrame] = {"features": pd.DataFrame([_figures(left)]), "splits": _excess(splits)}
    results = expectations.check(tables, rules, docs, _counted_files(left)) if rules else ()
    report = Screening(
        **vars(findings),
        rules=results,
        kept=int(kept.sum()),
        dropped=tuple(dropped),
        reweighted=int((factors != 1).sum()),
        splits=splits,
    )

    files.write_json(screening, report)
    files.write_text(sheet, _page(findings, Album(raw, SIDE, BUDGET, used_bits(images)), params.most_shown))
    decided.write_questions(suspects, _questions(findings))
    if refused := refusal(results):
        raise refused
    weight = (images["weight"] * factors).where(~images["path"].isin(dropped), 0.0)
    if refused := untrainable(images.assign(weight=weight), KEPT_BACK):
        raise refused
    files.write_table(screened, images.assign(weight=weight))


def _excess(splits: Sequence[SplitShift]) -> pd.DataFrame:
    """Return the AUC of each split beside training, 0.5 where chance explains it."""
    rows = [(row.split, row.auc.known if row.significant else 0.5) for row in splits]
    return pd.DataFrame(rows, columns=["label", "auc"]).astype({"auc": float})


def _suspects(
    images: pd.DataFrame, features: Floats, kept: "pd.Series[bool]", seed: int, params: ScreenParams
) -> Suspects:
    """Return the suspects that no person has confirmed as right."""
    searched = _searched(images, features, seed)
    targets, answers, groups = searched.targets, searched.answers, searched.groups
    agreement = float((answers.argmax(axis=1) == targets).mean()) if searched.images else 0.0
    suspected = [
        Mislabelled(
            **vars(searched.images[i]),
            suggested=searched.classes[answers[i].argmax()],
            credibility=round(answers[i, targets[i]], 4),
        )
        for i in (label_errors.suspects(targets, answers) if searched.images else ())
    ]
    noise = label_errors.noise(targets, answers, groups) if searched.images else label_errors.Noise(0.0, 1.0)
    confirmed = set(images["path"][kept])
    return Suspects(
        searched=len(searched.images),
        agreement=round(agreement, 4),
        # A head that often errs contradicts many right labels: its suspects are shown, but break no rule.
        credible=agreement >= params.least_agreement,
        wrong_share=round(noise.share, 4),
        wrong_p=float(f"{noise.p:.3g}"),
        suspected=len(suspected),
        label_errors=tuple(row for row in suspected if row.path not in confirmed),
        like=_like(images, features, ~kept.to_numpy(), params.like),
        odd=tuple(row for row in odd(images, features, params) if row.path not in confirmed),
    )


@dataclass(frozen=True)
class _Searched:
    """The images [n] among which label errors are sought, their classes and groups, and the heads' answers [n, k]."""

    images: list[Listed]
    classes: list[str]
    targets: Ints
    groups: Ints
    answers: Floats


def _searched(images: pd.DataFrame, features: Floats, seed: int) -> _Searched:
    """Let heads that have seen neither an image nor its group answer for it; no images if fewer than two can be judged.

    Sought in train and val: fixing test labels where a model disagrees would flatter the model.
    """
    table = in_use(images, TRAIN, VAL)
    classes, targets = np.unique(table["label"].to_numpy(str), return_inverse=True)
    groups = np.unique(units_of(table).to_numpy(str), return_inverse=True)[1]
    rows = features[images.index.get_indexer(table.index)]
    data = Labelled(rows, targets, table["weight"].to_numpy(np.float64))
    if len(classes) < 2:
        return _Searched([], [], targets[:0], groups[:0], np.empty((0, 0)))
    answers, judged = label_errors.out_of_fold(data, len(classes), seed, groups)
    known = np.unique(targets[judged])
    listed = [
        Listed(*row) for row in table[judged][list(Listed.__dataclass_fields__)].itertuples(index=False, name=None)
    ]
    return _Searched(
        images=listed if len(known) > 1 else [],
        classes=[str(classes[k]) for k in known],
        targets=np.searchsorted(known, targets[judged]),
        groups=groups[judged],
        answers=answers[judged][:, known],
    )


def _like(images: pd.DataFrame, features: Floats, asked: Bools, nearness: float) -> tuple[Copies, ...]:
    """Return the groups of similar images, without images that a person keeps."""
    part = asked & (images["split"] != UNLABELLED).to_numpy()
    return duplicates.groups(images[part], duplicates.near_by_features(features[part], nearness))


def _dropped(findings: Suspects, params: ScreenParams) -> list[str]:
    """Return the paths of the images whose weight the requested remedies set to 0; test images stay as they are."""
    suspected = [row.path for row in findings.label_errors] if params.drop_suspects and _shown(findings) else []
    leaking = duplicates.leaking_copies(findings.like) if params.drop_leaking else []
    return sorted({*suspected, *leaking})


def _shown(findings: Suspects) -> bool:
    """Return whether label errors are beyond doubt: else the suspects are mostly right labels, hard to learn."""
    return findings.credible and findings.wrong_p < ALPHA


def _left(findings: Suspects, dropped: Sequence[str]) -> Suspects:
    """Return the findings that the remedies have not settled."""
    unsettled = tuple(row for row in findings.label_errors if row.path not in dropped)
    return replace(findings, label_errors=unsettled, like=duplicates.without(findings.like, dropped))


def _figures(findings: Suspects) -> dict[str, float]:
    """Return the figures that the rules check; each suspect confirmed as right lowers the estimate by its part."""
    left = len(findings.label_errors) / max(1, findings.suspected)
    return {
        "wrong_share": round(findings.wrong_share * left, 4) if _shown(findings) else 0.0,
        "leaking": sum(group.leaking for group in findings.like),
        "conflicting": sum(group.conflicting for group in findings.like),
    }


def _counted_files(findings: Suspects) -> dict[str, list[str]]:
    """Return the files behind each of the figures."""
    leaking, conflicting = (
        sorted({image.path for group in findings.like if getattr(group, kind) for image in group.images})
        for kind in ("leaking", "conflicting")
    )
    suspected = [row.path for row in findings.label_errors] if findings.credible else []
    return {"wrong_share": suspected, "leaking": leaking, "conflicting": conflicting}


def _page(findings: Suspects, album: Album, most: int) -> str:
    def shown(rows: Sequence[Image]) -> list[tuple[Image, Picture | None]]:
        return [(row, album.add(row.path, row.id)) for row in rows[:most]]

    return render(
        "screen.html",
        found=findings,
        label_errors=shown(findings.label_errors),
        odd=shown(findings.odd),
        like=[(group, shown(group.images)) for group in findings.like[:most]],
        unlabelled=UNLABELLED,
    )


def _questions(findings: Suspects) -> Iterator[tuple[str, str]]:
    """Yield (path, reason) of every suspect, in the order of the sheet."""
    for row in findings.label_errors:
        yield row.path, f"labelled {row.label}, looks like {row.suggested}"
    for group in findings.like:
        first, *others = (image.path for image in group.images)
        yield from ((path, f"looks like {first}") for path in others)
    for image in findings.odd:
        yield image.path, "; ".join(image.reasons)


if __name__ == "__main__":
    stage.main(screen)
