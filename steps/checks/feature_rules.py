"""The rules on features as data: those of `screen`, and that of `regraft validate --against`."""

from collections.abc import Sequence
from dataclasses import dataclass

from steps.checks.rule import INTO, SHARE, Level, Rule, governed

LIKE_SPLITS = "splits look alike"
PASSES = "`screen.severity.domain_shift: warn` in params.yaml"


@dataclass(frozen=True, kw_only=True)
class ScreenSeverity:
    """What a broken rule on features does; `domain_shift` governs the splits and `regraft validate --against`."""

    label_errors: Level
    like_images: Level
    domain_shift: Level


def screen_rules(max_label_errors: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on features; `max_label_errors` is the largest share of wrong labels."""
    return governed(of_screen(max_label_errors), severity)


def of_screen(max_label_errors: float) -> Sequence[Rule]:
    """Return every rule of `screen`, whatever its severity."""
    sheet = "Look at data/reports/screen.html. For each image that is"
    keep = f"all right (a right label, another picture) write a line `PATH,keep,,` {INTO}"
    return (
        Rule(
            "labels are credible",
            table="features",
            kind="between",
            column="wrong_share",
            what="estimated share of wrong labels (0 where chance explains it)",
            remedy=f"{sheet} {keep}, else `PATH,relabel,LABEL,` or `PATH,drop,,`; or set `screen.drop_suspects: true` "
            "in params.yaml: suspects get weight 0.",
            high=max_label_errors,
            key="label_errors",
            hints=True,
            unit=SHARE,
        ),
        Rule(
            "no like image in two splits",
            table="features",
            kind="between",
            column="leaking",
            what="groups of images that look alike to the backbone in two splits",
            remedy=f"{sheet} {keep}; or set `screen.drop_leaking: true` in params.yaml: test images stay, and images "
            "like them in validation and training, or like validation images in training, get weight 0.",
            high=0,
            key="like_images",
            unit="groups",
        ),
        Rule(
            "like images, one label",
            table="features",
            kind="between",
            column="conflicting",
            what="groups of images that look alike to the backbone with two labels",
            remedy=f"{sheet} {keep}, else `PATH,relabel,LABEL,` or `PATH,drop,,`.",
            high=0,
            key="like_images",
            unit="groups",
        ),
    )


def shift_rules(max_auc: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on a comparison with a reference."""
    rule = Rule(
        "training looks like the reference",
        table="shift",
        kind="between",
        column="auc",
        what="how well a classifier of features tells the two apart (AUC; 0.5 where chance explains it)",
        remedy="Look at data/outcome/against.html: label images of the kind that training lacks and add them to it, "
        f"or mend what differs (camera, crop, light) on either side. Until then {PASSES} lets the comparison pass.",
        high=max_auc,
        key="domain_shift",
    )
    return governed([rule], severity)


def split_rules(max_auc: float, severity: ScreenSeverity) -> Sequence[Rule]:
    """Return the rules on the project's own splits, compared with training by their features."""
    return governed([of_splits(max_auc)], severity)


def of_splits(max_auc: float) -> Rule:
    """Return the rule on the splits, whatever its severity."""
    return Rule(
        LIKE_SPLITS,
        table="splits",
        kind="between",
        column="auc",
        what="how well a classifier tells validation or test features from training "
        "(AUC; 0.5 where chance explains it)",
        remedy="`splits` in data/reports/screen.json names what differs. Make the splits anew from all images (a "
        "listing without a column split, one folder per class), or train on such images too. If it is meant so: "
        f"{PASSES}.",
        high=max_auc,
        key="domain_shift",
    )
