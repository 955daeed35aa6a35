"""The task of a model is its classes. A challenger of another task is not a better champion."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from steps.images.manifest import TRAIN, in_use, normal
from steps.training.learnt_from import among

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 2  # classes in common; with one there is nothing to tell apart
MOST = 0.5  # share of the images of a class
MOST_NAMED = 5


@dataclass(frozen=True)
class Task:
    """The classes of a champion and of its challenger; `renamed`: the challenger's name of a class -> the champion's.

    Names are compared in one form of Unicode: an old version may spell a class in another.
    """

    champion: tuple[str, ...]
    challenger: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Return True if both know the same classes by the same names."""
        return set(self.champion) == set(self.challenger)

    @property
    def common(self) -> dict[str, str]:
        """Return the classes that both know: the challenger's name -> the champion's."""
        known = set(self.champion)
        return {label: label for label in self.challenger if label in known} | dict(self.renamed)

    @property
    def dropped(self) -> list[str]:
        """Return the classes that only the champion knows."""
        return [label for label in self.champion if label not in self.common.values()]

    @property
    def added(self) -> list[str]:
        """Return the classes that only the challenger knows."""
        return [label for label in self.challenger if label not in self.common]

    @property
    def another(self) -> bool:
        """Return True if the two have fewer than two classes in common, or fewer than half of the smaller task's."""
        return len(self.common) < max(FEWEST, min(len(self.champion), len(self.challenger)) / 2)

    def changes(self) -> str:
        """Return what became of the champion's classes, in words."""
        parts = [
            f"{_few(self.dropped)} dropped" if self.dropped else "",
            f"{_few(self.added)} added" if self.added else "",
            *(f"{old!r} renamed {new!r}" for new, old in self.renamed.items()),
        ]
        return ", ".join(part for part in parts if part)


def task_of(champion: Sequence[str], challenger: Sequence[str]) -> Task:
    """Return the two tasks by their classes' names."""
    return Task(tuple(map(normal, champion)), tuple(map(normal, challenger)))


def with_names(
    task: Task, labels: Sequence[str], answers: Sequence[str | None], table: "pd.DataFrame", learnt: bytes | None
) -> Task:
    """Return the task with the classes that were only renamed: the same images under another name.

    An added class is a dropped one if the champion learnt from more than half of its training images (if `learnt`,
    the list of them, is known), and answers more than half of its test images with the dropped one's name: `labels`
    [n] are those of the test images, `answers` [n] the champion's. `table` is the manifest.
    """
    renamed: dict[str, str] = {}
    training = in_use(table, TRAIN)
    for label in task.added:
        ids = training["id"][training["label"] == label]
        same = learnt is None or (len(ids) > 0 and among(ids, learnt).mean() > MOST)
        given = Counter(answer for answer, held in zip(answers, labels, strict=True) if held == label)
        answer, count = (given.most_common(1) or [(None, 0)])[0]
        if same and answer in task.dropped and answer not in renamed.values() and count > MOST * given.total():
            renamed[label] = answer
    return replace(task, renamed=renamed)


def changed_classes(task: Task, opponent: str) -> str:
    """Return the sentence about classes that only one of the two knows; it comes before any figure."""
    return (
        f"the classes differ from those of {opponent}: {task.changes()}; the two are compared on the "
        f"{len(task.common)} classes in common (a person approves if promote.keep_classes is true)"
    )


def another_task(task: Task, opponent: str) -> str:
    """Return the sentence of a refusal, with the remedy."""
    return (
        f"another task: {opponent} knows {_few(task.champion)}; these images have {_few(task.challenger)}, and "
        f"{len(task.common) or 'none'} of them in common; another task needs another model name: set "
        "register.model_name in params.yaml, then `regraft run`"
    )


def _few(labels: Sequence[str]) -> str:
    named = ", ".join(repr(label) for label in labels[:MOST_NAMED])
    return f"{named} and {len(labels) - MOST_NAMED:,} more" if len(labels) > MOST_NAMED else named
