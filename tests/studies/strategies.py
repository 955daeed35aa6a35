"""Does the choice of strategy hold up? `python -m tests.studies.strategies` runs every strategy and compares.

Each task is a data set with a few labels a class, drawn anew by each seed. The project's own stages run on it: the
choice first, then every strategy by name; each answers for the same test images, which no stage has seen. Reads
REGRAFT_DATASETS and REGRAFT_WEIGHTS; what is done is kept in FOLDER, so a measurement that was stopped goes on.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from steps.backbones import models
from steps.backbones.inference import predict_probabilities
from steps.commands import origins
from steps.images.dataset import Images
from steps.images.manifest import TEST, TRAIN, VAL, uniform
from steps.runtime import files, stage
from steps.runtime.compute import ComputeParams
from steps.runtime.progress import track
from steps.runtime.seeding import numpy_generator
from steps.training.metrics import proportion
from steps.training.strategy import FROM_SCRATCH, HEAD_ONLY, LATER_BLOCKS, STRATEGIES

HOME = Path(__file__).parents[2]
WEIGHTS = "squeezenet1_1-imagenet.safetensors"
CONFIDENCE, DRAWS = 0.95, 2000
MARGIN = 0.01  # of accuracy: how much worse than the best strategy the choice may be
VALIDATION = 0.25  # of the labels
TUNED, SCRATCH = (6, 2), (20, 5)  # epochs at most, and patience; random weights need longer
TRANSFER = tuple(strategy for strategy in STRATEGIES if strategy != FROM_SCRATCH)  # what every task runs


@dataclass(frozen=True)
class Task:
    """A data set, how many labels a class are drawn (None: all there are), and which strategies are run."""

    name: str
    images: str  # a folder of REGRAFT_DATASETS, or "digits"
    labels: int | None
    seeds: tuple[int, ...] = (0, 1, 2)
    strategies: tuple[str, ...] = TRANSFER
    floor: float | None = None  # the accuracy that the frozen head is meant to reach


TASKS = (
    Task("digits, 10 per class", "digits", 10, strategies=STRATEGIES),
    Task("hymenoptera, 20 per class", "hymenoptera", 20),
    Task("hymenoptera, all", "hymenoptera", None, (0,), (HEAD_ONLY, LATER_BLOCKS), 0.92),
    Task("cifar10-mini, all", "cifar10-mini", None, (0,), (HEAD_ONLY, LATER_BLOCKS), 0.63),
    Task("pacs-photo, all", "pacs-photo", None, (0,), (HEAD_ONLY,), 0.95),
    Task("pacs-photo, 10 per class", "pacs-photo", 10),
    Task("cifar10-mini, 100 per class", "cifar10-mini", 100),
)


class Bench:
    """A project's folder in which the stages of dvc.yaml run on one data set, without DVC."""

    def __init__(self, root: Path, images: str, threads: int) -> None:
        self.root = root
        self.cmds = {name: " ".join(of["cmd"].split()) for name, of in _graph().items()}
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            self._set_up(images, threads)
            (root / "done").touch()
        self.table = self._path("choose_strategy", "screened")
        self.whole = root / "whole.parquet"
        if not self.whole.exists():
            shutil.copy(self.table, self.whole)

    def _set_up(self, images: str, threads: int) -> None:
        self.root.mkdir(parents=True)
        for name in ("dvc.yaml", "requirements.lock", "steps"):
            (self.root / name).symlink_to(HOME / name)
        for name in ("decisions.csv", "importance.csv"):
            files.write_text(self.root / "data" / name, (HOME / "data" / name).read_text(encoding="utf-8"))
        card, state = _backbone(images)
        self._inputs(images, card, state)
        self._params(card, threads)
        for name in self.cmds:
            if name == "choose_strategy":
                break
            self.run(name)

    def _inputs(self, images: str, card: models.Card, state: origins.State) -> None:
        folder = self.root / "data/backbone"
        files.write_tensors(folder / models.WEIGHTS, state)
        digest = files.sha256_of(folder / models.WEIGHTS)
        models.write_card(folder, models.Card(**{**vars(card), "sha256": digest}))
        if images == "digits":
            from steps.embedded.digits import write_digits

            write_digits(self.root / "data/raw", seed=0)
        else:
            shutil.copytree(Path(os.environ["REGRAFT_DATASETS"], images), self.root / "data/raw")

    def _params(self, card: models.Card, threads: int) -> None:
        document = yaml.safe_load((HOME / "params.yaml").read_text(encoding="utf-8"))
        document["compute"]["threads"] = threads
        document["extract_features"]["cuts"] = 3
        document["validate"]["preprocessing"] = card.preprocessing.to_dict()
        document["fine_tune"]["horizontal_flip"] = card.architecture != "glyphnet"
        self._write_params(document)

    def set(self, section: str, **values: Any) -> None:
        """Change values of params.yaml."""
        document = yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))
        document[section] |= values
        self._write_params(document)

    def _write_params(self, document: dict[str, Any]) -> None:
        files.write_text(self.root / "params.yaml", yaml.safe_dump(document, sort_keys=False))

    def run(self, name: str) -> None:
        """Run one stage by its command in dvc.yaml."""
        stage.run(self.cmds[name], self.root)

    def _path(self, name: str, argument: str) -> Path:
        return self.root / stage.parse(self.cmds[name])[1][argument]

    def draw(self, labels: int | None, seed: int) -> None:
        """Draw labels a class among the images that are no test images, and divide them into train and validation."""
        table = pd.read_parquet(self.whole)
        table = table[table["label"] != ""]
        pool, test = table[table["split"] != TEST], table[table["split"] == TEST]
        order = pool["id"].map(lambda identity: uniform(f"{seed}/{identity}"))
        pool = pool.assign(order=order).sort_values("order")
        place, of_class = pool.groupby("label").cumcount(), pool.groupby("label")["id"].transform("size")
        count = of_class if labels is None else of_class.clip(upper=labels)
        split = np.where(place < (VALIDATION * count).round(), VAL, TRAIN)
        drawn = pool.assign(split=split)[place < count].drop(columns="order")
        files.write_table(self.table, pd.concat([drawn, test]).sort_values("path"))

    def chosen(self, strategy: str) -> dict[str, Any]:
        """Let `choose_strategy` choose (`auto`) or take a strategy by name; return what it wrote."""
        self.set("choose_strategy", strategy=strategy)
        self.run("choose_strategy")
        return dict(files.read_json(self._path("choose_strategy", "strategy")))

    def answer(self, blocks: int) -> dict[str, Any]:
        """Train as the strategy says; return validation figures and which test images were named correctly."""
        self.run("train_head")
        backbone, head = self.root / "data/backbone", self._path("train_head", "head")
        told = files.read_json(self._path("train_head", "history"))["validation"]
        network = models.load_head_model(backbone, head)
        if blocks:
            self.run("fine_tune")
            told = files.read_json(self._path("fine_tune", "history"))["validation"]
            network = models.load_fine_tuned(backbone, self._path("fine_tune", "fine_tuned"))
        return {"validation": told, "correct": self._correct(network, head)}

    def _correct(self, network: Any, head: Path) -> list[int]:
        classes = files.read_json(head / models.FACTS)["classes"]
        spec = models.read_preprocessing(self._path("extract_features", "preprocessing"))
        compute = ComputeParams(**self._section("compute"))
        images = Images(self.root / "data/raw", files.read_table(self.table), classes, spec, compute)
        return [
            int(right)
            for pixels, targets, _ in images.batches(TEST)
            for right in predict_probabilities(network, pixels).argmax(axis=1) == targets.numpy()
        ]

    def _section(self, name: str) -> dict[str, Any]:
        return dict(yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))[name])


def _graph() -> dict[str, Any]:
    return dict(yaml.safe_load((HOME / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def _backbone(images: str) -> origins.Loaded:
    if images == "digits":
        return origins.embedded()
    return origins.torchvision("squeezenet1_1", str(Path(os.environ["REGRAFT_WEIGHTS"], WEIGHTS)))


def measure(folder: Path, threads: int, only: str) -> dict[str, Any]:
    """Run the tasks, or what is left of them; return the results: "task/seed" -> choice and answers."""
    kept = folder / "results.json"
    results: dict[str, Any] = files.read_json(kept) if kept.exists() else {}
    for task, seed in ((one, seed) for one in TASKS for seed in one.seeds if one.name.startswith(only)):
        row = results.setdefault(f"{task.name}/{seed}", {"answers": {}})
        for done in _rest(Bench(folder / task.images, task.images, threads), task, seed, row):
            row |= done
            files.write_json(kept, results)
    return results


def _rest(bench: Bench, task: Task, seed: int, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "choice" in row and set(task.strategies) <= set(row["answers"]):
        return
    bench.draw(task.labels, seed)
    yield {"choice": bench.chosen("auto")}
    for strategy in track(task.strategies, len(task.strategies), f"{task.name}, seed {seed}"):
        if strategy not in row["answers"]:
            plan = bench.chosen(strategy)
            epochs, patience = SCRATCH if strategy == FROM_SCRATCH else TUNED
            bench.set("fine_tune", epochs=epochs, patience=patience)
            answer = {**bench.answer(plan["blocks"]), "cut": plan["cut"], "blocks": plan["blocks"]}
            yield {"answers": {**row["answers"], strategy: answer}}


def compare(one: Sequence[int], other: Sequence[int]) -> dict[str, Any]:
    """Return by how much `one` is more accurate than `other` on the same images, with a paired bootstrap interval."""
    difference = np.array(one, float) - np.array(other, float)
    value, rng = float(difference.mean()), numpy_generator(0, "strategies")
    if difference.min() == difference.max():
        return {"value": value, "low": value, "high": value}
    low, high = bootstrap(
        [difference], np.mean, n_resamples=DRAWS, confidence_level=CONFIDENCE, method="percentile", batch=100, rng=rng
    ).confidence_interval
    return {"value": value, "low": float(low), "high": float(high)}


def verdict(difference: dict[str, Any]) -> str:
    """Say what the interval says of the choice against the best strategy, with a margin of a point."""
    if difference["low"] >= -MARGIN:
        return "not inferior"
    return "inferior" if difference["high"] < -MARGIN else "cannot tell"


def floors(results: dict[str, Any]) -> Table:
    """Tabulate the frozen head against its floor, and fine-tuning of the later blocks against the head."""
    table = Table(
        "data", "test images", "frozen head", "aim", "later blocks too", "difference, points", title="All labels"
    )
    for task in TASKS:
        row = results.get(f"{task.name}/0", {}).get("answers", {})
        if task.floor is not None and HEAD_ONLY in row:
            head, tuned = row[HEAD_ONLY]["correct"], row.get(LATER_BLOCKS, {}).get("correct")
            told = [_accuracy(tuned), _interval(compare(tuned, head))] if tuned else ["not run", ""]
            table.add_row(task.name, str(len(head)), _accuracy(head), f">= {task.floor}", *told)
    return table


def choices(results: dict[str, Any]) -> Table:
    """Tabulate what was chosen, what every strategy reached, and the choice against the best of them."""
    table = Table(
        "task",
        "seed",
        "chosen",
        *(name.replace("_", " ") for name in STRATEGIES),
        "validation gain of later blocks",
        "choice less best, points",
        "verdict",
        title="Test accuracy, per cent",
    )
    for task in TASKS:
        if task.labels is None:
            continue
        for seed in task.seeds:
            row = results.get(f"{task.name}/{seed}", {"answers": {}})
            if set(TRANSFER) <= set(row["answers"]):
                table.add_row(task.name, str(seed), *_choice(row))
    return table


def _choice(row: dict[str, Any]) -> list[str]:
    answers, name = row["answers"], row["choice"]["strategy"]
    right = {strategy: answers[strategy]["correct"] for strategy in STRATEGIES if strategy in answers}
    best = max(right, key=lambda strategy: sum(right[strategy]))
    gain = [answers[s]["validation"]["balanced_accuracy"] for s in (LATER_BLOCKS, HEAD_ONLY)]
    difference = compare(right[name], right[best])
    shown = [f"{100 * np.mean(right[strategy]):.1f}" if strategy in right else "not run" for strategy in STRATEGIES]
    return [name, *shown, f"{100 * (gain[0] - gain[1]):+.1f}", _interval(difference), verdict(difference)]


def _accuracy(correct: Sequence[int]) -> str:
    found = proportion(sum(correct), len(correct), CONFIDENCE)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _interval(difference: dict[str, Any]) -> str:
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main(
    folder: Annotated[Path, typer.Argument(help="Where what is done is kept; may be deleted afterwards.")],
    threads: Annotated[int, typer.Option(help="Of the processor.")] = 2,
    only: Annotated[str, typer.Option(help="Tasks whose name begins so.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Run nothing; show what is there.")] = False,
) -> None:
    """Run every strategy on every task, and say whether the automatic choice holds up."""
    results = files.read_json(folder / "results.json") if show else measure(folder.resolve(), threads, only)
    console = Console(width=200)
    console.print(floors(results))
    console.print(choices(results))


if __name__ == "__main__":
    typer.run(main)
