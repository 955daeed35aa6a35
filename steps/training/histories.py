"""What the training stages write: train_head.json, fine_tune.json, baselines.json and the models' model.json.

Pure and light: reading a history loads neither torch nor scikit-learn.
"""

from dataclasses import dataclass, field

from steps.runtime.artefacts import OPTIONAL
from steps.runtime.stage import Lineage


@dataclass(frozen=True)
class Scores:
    """Metrics on `n` labelled images; log-loss in nats."""

    accuracy: float
    balanced_accuracy: float
    log_loss: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A head fitted on train with the strength `c`, and its figures on validation and on train."""

    c: float
    val_accuracy: float
    val_balanced_accuracy: float
    val_log_loss: float
    train_accuracy: float
    train_balanced_accuracy: float
    train_log_loss: float


@dataclass(frozen=True, kw_only=True)
class LinearTrial:
    """A `Trial` of a linear head: L-BFGS converged, or stopped at its limit of iterations."""

    c: float
    converged: bool
    val_accuracy: float
    val_balanced_accuracy: float
    val_log_loss: float
    train_accuracy: float
    train_balanced_accuracy: float
    train_log_loss: float


@dataclass(frozen=True, kw_only=True)
class HeadHistory:
    """train_head.json: the strengths that were tried, and the figures of the chosen one on validation."""

    classes: tuple[str, ...]
    n_train: int
    n_val: int
    kind: str
    path: tuple[LinearTrial | Trial, ...]
    chosen_c: float
    validation: Scores


@dataclass(frozen=True)
class Epoch:
    """An epoch's mean training loss (None in epoch 0, before training) and its figures on validation."""

    epoch: int
    train_loss: float | None
    val_accuracy: float
    val_balanced_accuracy: float
    val_log_loss: float


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """The epochs of a training, from epoch 0 (the initial model), and the number of the best one.

    `diverged` is the epoch in which loss or answers were no longer finite, if any; it ended the training.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int
    diverged: int | None = field(default=None, metadata=OPTIONAL)

    @property
    def trained(self) -> bool:
        """Return True if anything was trained; False if epoch 0 is all there is."""
        return len(self.epochs) > 1

    def best(self, n: int) -> Scores:
        """Return the best epoch's figures on the `n` validation images."""
        best = self.epochs[self.best_epoch]
        return Scores(best.val_accuracy, best.val_balanced_accuracy, best.val_log_loss, n)


@dataclass(frozen=True)
class Balance:
    """How the classes were balanced, and how many images of each the first epoch showed."""

    by: str
    first_epoch: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class FineTuneHistory(Epochs):
    """fine_tune.json: the epochs, the recipe as used, what was trained, and the proof that the rest did not change."""

    pretrained: bool
    schedule: dict[str, str | int | float]  # a `Recipe`
    validation: Scores
    balance: Balance
    bn_policy: str
    trainable_blocks: tuple[str, ...]
    frozen_blocks: tuple[str, ...]
    trainable_parameters: int
    frozen_parameters: int
    frozen_digest_before: str
    frozen_digest_after: str


@dataclass(frozen=True)
class Majority:
    """The baseline that answers with the most frequent class, whatever the picture."""

    label: str
    validation: Scores


@dataclass(frozen=True)
class Pixels:
    """The linear model on pictures shrunk to `side` x `side` pixels."""

    side: int
    chosen_c: float
    path: tuple[LinearTrial | Trial, ...]
    validation: Scores


@dataclass(frozen=True)
class ScratchRun:
    """One training from random weights: the draw of those weights, its rate, and its best epoch's figures."""

    draw: int
    rate: float
    epochs: int
    best_epoch: int
    validation: Scores


@dataclass(frozen=True)
class FromScratch:
    """The backbone's architecture trained from random weights: every rate once, and the chosen one in every draw."""

    architecture: str
    parameters: int
    rates: tuple[ScratchRun, ...]
    chosen_rate: float
    draws: tuple[ScratchRun, ...]


@dataclass(frozen=True, kw_only=True)
class BaselinesHistory:
    """baselines.json: how many images the baselines learned from, and how each was made; `scratch` may be left out."""

    classes: tuple[str, ...]
    train: int
    train_of: int
    most_images: int
    val: int
    test: int
    scratch: FromScratch | None
    majority: Majority
    pixels: Pixels


@dataclass(frozen=True)
class TrainedFacts:
    """model.json of a trained model: what its tensors do not hold."""

    classes: tuple[str, ...]
    cut: str
    lineage: Lineage
