"""Reports of the gates: data/reports/validation.json, data/reports/screen.json, and the comparison with a reference.

Nothing is computed here, so that readers of a report import nothing else.
"""

from dataclasses import dataclass
from typing import Literal

from steps.checks.rule import RuleResult
from steps.runtime.figure import Figure

Counts = dict[str, dict[str, int]]  # split -> label -> images
Value = bool | int | str | list[float]  # of a field of the preprocessing
Vote = Literal["for", "against", "silent"]


@dataclass(frozen=True)
class Nothing:
    """An empty object in JSON, if there was nothing to measure; false, like an empty mapping."""

    def __bool__(self) -> Literal[False]:
        """Return False."""
        return False


@dataclass(frozen=True)
class Pictured:
    """The path and id of an image that a page shows."""

    path: str
    id: str


@dataclass(frozen=True)
class Listed:
    """An image of the manifest, as reports list it."""

    id: str
    path: str
    split: str
    label: str


@dataclass(frozen=True)
class Copies:
    """Images that show the same picture; `identical`: their bytes are the same, which separate rules check."""

    images: tuple[Listed, ...]
    leaking: bool  # they lie in two splits
    conflicting: bool  # they carry two labels
    identical: bool


@dataclass(frozen=True)
class Obeyed:
    """The number of applied decisions of each kind, and the named images that do not exist (any more)."""

    keep: int
    relabel: int
    drop: int
    absent: tuple[str, ...]


@dataclass(frozen=True)
class PopulationFit:
    """The class shares of a split against the stated ones.

    `effect` is Cohen's w. Here and below `adjusted` is p corrected over the family of tests by Holm's method.
    """

    split: str
    effect: float
    p: float
    adjusted: float
    significant: bool


@dataclass(frozen=True)
class Source:
    """A source of images; `only` names its class if all are of one class, p is the probability of that by chance."""

    source: str
    images: int
    classes: int
    only: str
    p: float
    adjusted: float
    significant: bool


@dataclass(frozen=True)
class Coverage:
    """The share of a source or month in training and in the other labelled splits; `effect` is their distance."""

    column: str
    value: str
    images: int
    training: float
    elsewhere: float
    effect: float
    p: float
    adjusted: float
    significant: bool


@dataclass(frozen=True)
class Groups:
    """The groups behind the training images; `effective` is exp of the entropy of their shares."""

    groups: int
    effective: float
    largest: str
    largest_share: float


@dataclass(frozen=True)
class Shortcut:
    """How well a simple measure alone predicts the label; `effect` runs from chance (0) to certainty (1)."""

    measure: str
    balanced_accuracy: float
    effect: float
    p: float
    adjusted: float
    significant: bool


@dataclass(frozen=True)
class Account:
    """How well one account of the preprocessing fits a sample of tensors."""

    account: str
    on_grid: float  # share of the values that lie on a whole grey level
    inputs: float  # nats from the source's inputs; see `observed.input_distance`


@dataclass(frozen=True)
class Evidence:
    """One witness's evidence on one account against the declared preprocessing.

    `declared` and `figure` are its measurements under each, lower is nearer to the source: for BatchNorm the divergence
    in nats, for the top the mean log-probability of its classes. `t` tests the difference over images; it is positive
    if the account is nearer.
    """

    account: str
    witness: str
    declared: float
    figure: float
    t: float
    vote: Vote


@dataclass(frozen=True)
class Finding:
    """The answer to one question: DECLARED, UNTOLD or the account that the weights recognise; and why, in words."""

    question: str
    account: str
    why: str


@dataclass(frozen=True)
class SupportedFinding(Finding):
    """A finding with the fields of the preprocessing that the account `wants`, and the evidence behind it."""

    wants: dict[str, Value]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Observation:
    """The preprocessing as observed on a sample of training and validation images.

    `done` and `accounts`: what was done to the tensors, and how each account of it fits. `wanted`: what the weights
    recognise; empty if this was not tested. `source_divergence`: block -> nats between its activations and the
    statistics of its BatchNorms; None without BatchNorm. `shown`: the most colourful of the images.
    """

    done: str
    accounts: tuple[Account, ...]
    wanted: tuple[SupportedFinding, ...]
    source_divergence: dict[str, float | None]
    shown: tuple[Pictured, ...]


@dataclass(frozen=True)
class FieldAgreement:
    """One field of the preprocessing, in the pipeline and on the backbone's card."""

    field: str
    pipeline: Value
    backbone: Value
    agree: bool


@dataclass(frozen=True, kw_only=True)
class Unsound:
    """The report of `validate` on a table that is no manifest: the manifest's rules say why; no others apply."""

    accepted: bool
    rules: tuple[RuleResult, ...]
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class Validation(Unsound):
    """The report of `validate`: the verdict of every rule, and the figures behind it.

    `dropped` are the paths that `drop_leaking` left out, `left_out` counts them by split; `effective_classes` is the
    effective number of classes of each split.
    """

    decisions: Obeyed
    dropped: tuple[str, ...]
    left_out: dict[str, int]
    counts: Counts
    effective_classes: dict[str, float]
    copies: tuple[Copies, ...]
    population: tuple[PopulationFit, ...]
    sources: tuple[Source, ...]
    coverage: tuple[Coverage, ...]
    groups: Groups | Nothing
    shortcuts: tuple[Shortcut, ...]
    observed: Observation | Nothing
    preprocessing: tuple[FieldAgreement, ...]


@dataclass(frozen=True)
class Mislabelled(Listed):
    """A suspected label error; `credibility` is the probability that a head that has not seen it gives its label."""

    suggested: str
    credibility: float


@dataclass(frozen=True)
class Oddity(Listed):
    """An odd image, with its distance to the nearest others and what is odd about it, in words."""

    distance: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """The findings of `screen`: label errors among the images `searched`, groups of similar images, and odd ones.

    `agreement` is the share of labels with which a head agrees, and `credible` whether that is enough to accuse any;
    `wrong_share` estimates the share of wrong labels, `wrong_p` is its probability if all labels were right.
    """

    searched: int
    agreement: float
    credible: bool
    wrong_share: float
    wrong_p: float
    suspected: int  # label errors, before a person confirmed any label
    label_errors: tuple[Mislabelled, ...]
    like: tuple[Copies, ...]
    odd: tuple[Oddity, ...]


@dataclass(frozen=True)
class Unreadable:
    """A file of the reference that is no image, and the reason."""

    path: str
    reason: str
    exception: str


@dataclass(frozen=True)
class Covariate:
    """A measure in training and in the reference: the middle or most frequent value of each side, and a test."""

    measure: str
    test: str
    effect: float
    p: float
    first: int | float | str
    second: int | float | str
    adjusted: float
    significant: bool


@dataclass(frozen=True)
class SplitShift:
    """Training against another split of the project: how separable the two are.

    `images` counts the split's images that were compared: one per group. Where they differ beyond chance and the limit,
    `kind` says of what kind the shift probably is, and `measures` by what; both are empty elsewhere.
    """

    split: str
    images: int
    auc: Figure
    p: float
    measures: tuple[Covariate, ...]
    kind: str
    adjusted: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class Screening(Suspects):
    """The report of `screen`; `dropped` are the paths whose weight the remedies set to 0."""

    rules: tuple[RuleResult, ...]
    kept: int
    dropped: tuple[str, ...]
    reweighted: int
    splits: tuple[SplitShift, ...] = ()  # absent in older reports


@dataclass(frozen=True)
class Stranger:
    """An image with its log-odds of belonging to its own side."""

    id: str
    path: str
    label: str
    odds: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The comparison of training with a reference: how separable the two are, by what, and the images that show it.

    `left_out` counts images beyond the sample; `effective` is the effective number of reweighted training images,
    `covered` the share of the reference that training covers.
    """

    reference: int
    training: int
    left_out: int
    unreadable: tuple[Unreadable, ...]
    auc: Figure
    p: float
    effective: float
    covered: float
    measures: tuple[Covariate, ...]
    strange: tuple[Stranger, ...]
    unseen: tuple[Stranger, ...]
    rules: tuple[RuleResult, ...]
    page: str


Report = Unsound | Screening | Shift
