"""Screen: the accepted images through the eyes of the backbone. Suspects go to a sheet on which a person decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval

from steps.checks import decisions as decided
from steps.checks import duplicates, expectations, importance, label_errors
from steps.checks.curation import KEEP, named
from steps.checks.oddities import OddityLimits, odd
from steps.checks.rules import Level, refusal, screen_rules
from steps.checks.selection import ALPHA
from steps.errors import DataError
from steps.images.manifest import TRAIN, UNLABELLED, VAL
from steps.pages.album import Album
from steps.pages.rendering import render
from steps.runtime import files, stage
from steps.runtime.arrays import Bools, Floats
from steps.runtime.binding import Because, Share
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.features import read_features
from steps.runtime.seeding import derive
from steps.training.linear_probe import Labelled

BUDGET = 3_000_000  # characters for all pictures of the sheet
SIDE = 160
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScreenSeverity:
    """The severity of a finding: fail | warn | off."""

    label_errors: Level
    like_images: Level
    domain_shift: Level


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

    `screened` has the rows and columns of `accepted`; remedies on request set weights to 0, `weights` (importance)
    multiply those of training images, nothing else changes. The rules look at what the remedies leave.
    Raises DataError where a finding that is set to fail was made.
    """
    images = files.read_table(accepted)
    rows = read_features(features).of(images["id"])
    factors = importance.read(weights, images).where(images["split"] == TRAIN, 1.0)
    kept = named(images, decided.obeyed_before(decisions), KEEP)
    configure(compute)

    found = {
        **_label_errors(images, rows, derive(seed, "screen") % 2**32, params.least_agreement),
        "like": _like(images, rows, ~kept.to_numpy(), params.like),
        "odd": odd(images, rows, params),
    }
    found = _without(found, set(images["path"][kept]))
    dropped = _dropped(found, params)
    left = _left(found, dropped)
    facts = pd.DataFrame([_facts(left)])
    rules = screen_rules(params.max_label_errors, params.severity.label_errors, params.severity.like_images)
    where = _where(left)
    checked = expectations.check({"features": facts}, rules, docs) if rules else []
    verdicts = [{**rule, "where": where[rule["name"]]} for rule in checked]

    files.write_json(
        screening,
        {
            **found,
            "rules": verdicts,
            "kept": int(kept.sum()),
            "dropped": dropped,
            "reweighted": int((factors != 1).sum()),
        },
    )
    files.write_text(sheet, _page(found, Album(raw, SIDE, BUDGET), params.most_shown))
    decided.write_questions(suspects, _questions(found))
    broken = [rule for rule in verdicts if not rule["passed"] and rule["severity"] == "fail"]
    if broken:
        raise DataError(refusal(broken))
    weight = (images["weight"] * factors).where(~images["path"].isin(dropped), 0.0)
    files.write_table(screened, images.assign(weight=weight))


def _label_errors(images: pd.DataFrame, rows: Floats, seed: int, least_agreement: float) -> Found:
    """Find label errors in train and val; fixing test labels where a model disagrees would flatter the model."""
    part = (images["split"].isin([TRAIN, VAL]) & (images["weight"] > 0)).to_numpy()
    classes, targets = np.unique(images["label"][part].astype(str), return_inverse=True)
    data = Labelled(rows[part], targets, images["weight"][part].to_numpy(np.float64))
    answers = label_errors.out_of_fold(data, len(classes), seed)
    agreement = float((answers.argmax(axis=1) == targets).mean())
    searched = images[part][["id", "path", "split", "label"]].to_dict("records")
    suspected = [
        {**searched[i], "suggested": str(classes[answers[i].argmax()]), "credibility": round(answers[i, targets[i]], 4)}
        for i in label_errors.suspects(targets, answers)
    ]
    noise = label_errors.noise(targets, answers)
    # A head that often errs by itself contradicts many a right label: what it says is shown, but accuses nobody.
    return {
        "searched": len(searched),
        "agreement": round(agreement, 4),
        "credible": agreement >= least_agreement,
        "wrong_share": round(noise.share, 4),
        "wrong_p": float(f"{noise.p:.3g}"),
        "suspected": len(suspected),
        "label_errors": suspected,
    }


def _like(images: pd.DataFrame, rows: Floats, asked: Bools, nearness: float) -> list[Found]:
    """Return the groups of like images; one that a person keeps is like no other."""
    part = asked & (images["split"] != UNLABELLED).to_numpy()
    return duplicates.groups(images[part], duplicates.near_by_features(rows[part], nearness))


def _without(found: Found, kept: set[str]) -> Found:
    """Leave out findings that a person has confirmed as right."""
    return {
        **found,
        **{kind: [row for row in found[kind] if row["path"] not in kept] for kind in ("label_errors", "odd")},
    }


def _dropped(found: Found, params: ScreenParams) -> list[str]:
    """Return the paths of the images whose weight the requested remedies set to 0; test images stay as they are."""
    suspected = [row["path"] for row in found["label_errors"]] if params.drop_suspects else []
    leaking = duplicates.leaking_copies(found["like"]) if params.drop_leaking else []
    return sorted({*suspected, *leaking})


def _left(found: Found, dropped: Sequence[str]) -> Found:
    """Return the findings that the remedies have not settled."""
    rows = [row for row in found["label_errors"] if row["path"] not in dropped]
    return {**found, "label_errors": rows, "like": duplicates.without(found["like"], dropped)}


def _facts(found: Found) -> dict[str, float]:
    """Return what the rules look at; each suspect that a person has found right takes its part of the estimate away."""
    left = len(found["label_errors"]) / max(1, found["suspected"])
    told = found["credible"] and found["wrong_p"] < ALPHA
    return {
        "wrong_share": round(found["wrong_share"] * left, 4) if told else 0.0,
        "leaking": sum(group["leaking"] for group in found["like"]),
        "conflicting": sum(group["conflicting"] for group in found["like"]),
    }


def _where(found: Found) -> dict[str, list[str]]:
    """Return the files that each rule has counted, by the rule's name."""

    def members(kind: str) -> list[str]:
        return sorted({image["path"] for group in found["like"] if group[kind] for image in group["images"]})

    return {
        "labels are credible": [row["path"] for row in found["label_errors"]] if found["credible"] else [],
        "no like image in two splits": members("leaking"),
        "like images, one label": members("conflicting"),
    }


def _page(found: Found, album: Album, most: int) -> str:
    def shown(rows: Sequence[Found]) -> list[tuple[Found, Any]]:
        return [(row, album.add(row["path"], row["id"])) for row in rows[:most]]

    return render(
        "screen.html",
        found=found,
        label_errors=shown(found["label_errors"]),
        odd=shown(found["odd"]),
        like=[(group, shown(group["images"])) for group in found["like"][:most]],
        unlabelled=UNLABELLED,
    )


def _questions(found: Found) -> Iterator[tuple[str, str]]:
    """Yield (path, reason) of every suspect, in the order of the sheet."""
    for row in found["label_errors"]:
        yield row["path"], f"labelled {row['label']}, looks like {row['suggested']}"
    for group in found["like"]:
        first, *others = (image["path"] for image in group["images"])
        yield from ((path, f"looks like {first}") for path in others)
    for row in found["odd"]:
        yield row["path"], "; ".join(row["reasons"])


if __name__ == "__main__":
    stage.main(screen)
