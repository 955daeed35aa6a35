"""Promotion against a real registry: versions that were really packaged, a champion that is really judged anew."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking._tracking_service import utils
from torch import nn

from flows.finish import Report, headline
from steps.backbones.backbone import Grafted, build, without_top
from steps.commands.compare import compare
from steps.errors import IntegrityError, RegistryError, RequestError
from steps.evaluation.judgement import judge
from steps.evaluation.results import Evaluation
from steps.promotion import release
from steps.promotion.promote import promote
from steps.promotion.terms import EVALUATION, PREDICTIONS, RECEIPT, SCREENED, VALIDATION, Promotion, confirming
from steps.promotion.unseen import Unseen
from steps.registry import comparisons, ledger, look_ledger, package_loading, signing, tracking
from steps.registry.chain import Decision
from steps.registry.model_registry import CHALLENGER, CHAMPION, Registry
from steps.registry.production import present
from steps.runtime import artefacts, files
from steps.runtime.seeding import numpy_generator
from tests import packaged
from tests.conftest import REPOSITORY, write_images
from tests.outputs import evaluated, honest, validated
from tests.packaged import CLASSES
from tests.registered import NAME, spec

ALWAYS_0, ALWAYS_1 = [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]  # a head's bias, and so all of its answers


@dataclass
class World:
    """A project's folder with test images, and a registry beside it."""

    root: Path
    table: pd.DataFrame
    packages: Path  # those of every test: a package takes seconds, and the same answers make the same

    def register(self, bias: list[float], learnt: Sequence[str] | None = ()) -> str:
        """Register a model that always answers by `bias` and learnt from these ids; return its digest."""
        saved, digest = self._package(bias, learnt)
        packaged.register(self.registry, digest, saved)
        return digest

    def _package(self, bias: list[float], learnt: Sequence[str] | None) -> tuple[Path, str]:
        from_which = hashlib.sha256(repr(learnt).encode()).hexdigest()[:8]
        folder = self.packages / "-".join([*map(str, bias), from_which])
        if (folder / "digest").exists():
            return folder / "saved", (folder / "digest").read_text()
        torch.manual_seed(0)
        backbone, width = without_top(build("glyphnet", 10))
        head = nn.Linear(width, len(bias))
        nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor(bias)
        saved, digest = packaged.save(folder, Grafted(backbone, head), learnt, num_classes=10, preprocessing=spec(32))
        (folder / "digest").write_text(digest)
        return saved, digest

    @property
    def registry(self) -> Registry:
        """Return a registry as a command that begins now has it."""
        return Registry(self.root, NAME)

    def challenge(self, bias: list[float]) -> None:
        """Register a model that always answers by `bias` as the challenger of this run."""
        self.receive(self.register(bias), bias)

    def receive(self, digest: str, bias: list[float]) -> None:
        """Write what `evaluate` and `register` leave for a model that always answers by `bias`."""
        targets = np.searchsorted(CLASSES, self.table["label"].tolist())
        odds = np.exp(np.array(bias))
        probabilities = np.tile(odds / odds.sum(), (len(targets), 1))
        judged = judge(targets, probabilities, CLASSES, 0.95, 200, numpy_generator(0))
        judged = replace(judged, classwise_error=None)  # a model of one answer is not calibrated: no test's subject
        calibration, slices = {"head": honest(CLASSES)["calibration"]["fine_tuned"]}, dict[str, Any](head=())
        found = replace(evaluated({"head": judged}, CLASSES, "head"), calibration=calibration, slices=slices)
        files.write_json(self.root / EVALUATION, found)
        answers = [CLASSES[i] for i in probabilities.argmax(axis=1)]
        told = self.table.assign(model="head", predicted=answers, probabilities=list(probabilities))
        files.write_table(self.root / PREDICTIONS, told)
        receipt = {"model_name": NAME, "chosen": "head", "versions": {"head": digest}}
        files.write_json(self.root / RECEIPT, receipt)

    def replace(self, path: str, data: bytes) -> None:
        """Let the manifest hold other bytes under this path."""
        (self.root / "data/raw" / path).write_bytes(data)
        self.table.loc[self.table["path"] == path, "id"] = hashlib.sha256(data).hexdigest()
        files.write_table(self.root / SCREENED, self.table)

    def promote(self, **rules: float | str | None) -> Promotion:
        document: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        document["promote"] |= {"floor": 0.0, **rules}
        document["evaluate"] |= {"bootstrap_draws": 200, "slice_least": 3}
        (self.root / "params.yaml").write_text(yaml.safe_dump(document))
        return promote(self.root, "python -m steps.register")

    def decisions(self) -> list[Decision]:
        chain, faults = release.history(self.root)
        assert not faults
        return [decision for _, decision in chain.entries]

    def alias(self) -> str | None:
        return self.registry.alias(CHAMPION)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for packages, with the key that signs them; each project of a test gets that key."""
    root = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_ROOT", str(root))
        signing.sign("")
    return root


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: Path, empty_registry: Callable[[Path], None]
) -> World:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    empty_registry(tmp_path)
    shutil.copy(packages / ".regraft/key.pem", tmp_path / ".regraft/key.pem")
    raw = write_images(tmp_path / "data/raw", per_class=6)
    # class 0 twice as often, so that answering "0" is right more often than answering "1"
    paths = sorted(p for p in raw.rglob("*.png") if p.parent.name == "0" or int(p.stem) < 3)
    rows = [
        {
            "id": hashlib.sha256(p.read_bytes()).hexdigest(),
            "path": p.relative_to(raw).as_posix(),
            "label": p.parent.name,
            "split": "test",
            "group": "",
            "source": "",
            "width": 8,
            "height": 8,
            "brightness": 0.5,
            "format": "PNG",
        }
        for p in paths
    ]
    table = pd.DataFrame(rows)
    files.write_table(tmp_path / SCREENED, table)
    return World(tmp_path, table, packages)


def test_the_first_model_above_the_floor_becomes_champion(world: World) -> None:
    world.challenge(ALWAYS_0)
    done = world.promote(floor=0.3)
    assert (done.champion, done.changed, world.alias()) == ("1", True, "1")
    again = world.promote(floor=0.3)
    assert (again.champion, again.changed, again.comparison) == ("1", False, None)
    assert again.reasons == (
        "the model of this run is version 1, the champion itself: nothing was compared",
        f"why it is champion: {done.reasons[0]}",
    )
    recalled, wanted = vars(confirming(done)), vars(again)
    assert recalled == wanted, "a run that recalls the answer tells another story than one that asks again"


def test_a_model_under_the_floor_is_refused_with_figure_and_rule(world: World) -> None:
    world.challenge(ALWAYS_0)
    done = world.promote(floor=0.9)
    assert (done.champion, world.alias()) == (None, None)
    assert done.reasons == ("balanced accuracy 33.3 % (20.9 to 50.2) is under the floor of 90 % (promote.floor)",)
    tags = world.registry.client.get_model_version(NAME, "1").tags
    assert tags["regraft.verdict"] == "refuse"
    assert (tags["regraft.reasons"], tags["regraft.compared_with"]) == (done.reasons[0], "no champion")


def test_the_version_carries_what_could_overturn_it_as_long_as_it_could(world: World) -> None:
    world.challenge(ALWAYS_0)
    checks = validated(world.table, CLASSES)
    said = "classes are balanced: 2.5 (limit: at most 2); the figures rest on fewer images than they should"
    for rules, wanted in ((checks.rules, (said,)), (checks.rules[:1], ())):
        files.write_json(world.root / VALIDATION, replace(checks, rules=rules))
        assert tuple(caveat.sentence for caveat in world.promote().caveats) == wanted
        tags = world.registry.client.get_model_version(NAME, "1").tags
        assert tags["regraft.warnings"] == "\n".join(wanted)


def test_a_challenger_that_is_no_better_leaves_the_champion(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    done = world.promote(floor=0.9, max_recall_drop=0.0)
    assert (done.champion, done.challenger, world.alias()) == ("1", "2", "1")
    assert len(done.reasons) == 3, "a refusal lists all its reasons"
    assert done.reasons[1].startswith("as good as the champion (interval ")
    assert "on the same 12 test images, 3 won and 6 lost (exact sign-flip test, one-sided p = 0.59)" in done.reasons[1]
    assert done.reasons[2].startswith("class 0: recall falls by 100.0 points against the champion, of 6 images 6 lost")
    assert world.registry.alias(CHALLENGER) == "2"


def test_a_slice_that_the_champion_answers_better_refuses(world: World) -> None:
    """Every 0 was taken at night: the challenger, which always answers 1, loses the night, and wins by day."""
    world.table["source"] = np.where(world.table["label"] == "0", "night", "day")
    files.write_table(world.root / SCREENED, world.table)
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    done = world.promote(comparison=None, max_recall_drop=None)
    assert (done.champion, world.alias()) == ("1", "1")
    assert done.reasons == (
        "slice source = night: accuracy falls by 100.0 points against the champion, of 6 images 6 lost and 0 won: that "
        "it falls by more than 10 points is shown, Holm's p = 0.031 (promote.max_slice_drop)",
    )
    assert world.promote(comparison=None, max_recall_drop=None, max_slice_drop=None).champion == "2"


def test_a_challenger_without_a_class_of_the_champions_waits_for_a_person(world: World) -> None:
    world.challenge(ALWAYS_1)
    world.promote()
    world.challenge(ALWAYS_0)
    evaluation = artefacts.read(Evaluation, world.root / EVALUATION)
    files.write_json(world.root / EVALUATION, replace(evaluation, classes=("0", "1")))
    answers = files.read_table(world.root / PREDICTIONS)
    files.write_table(world.root / PREDICTIONS, answers.assign(probabilities=[p[:2] for p in answers["probabilities"]]))
    off: dict[str, Any] = dict.fromkeys(("comparison", "max_recall_drop", "max_slice_drop"))
    done = world.promote(**off)
    assert (done.verdict, done.champion, world.alias()) == ("propose", "1", "1")
    sentence = (
        "the classes differ from those of version 1, the champion: '2' dropped; the two are compared on the 2 classes "
        "in common (a person approves if promote.keep_classes is true)"
    )
    assert done.notes == (sentence,) == done.reasons[1:2]
    assert done.comparison is not None and done.comparison.n == 9
    assert Report({"a": "Ran"}, done).lines()[2:4] == [sentence, headline(done)], "before any verdict"
    assert world.promote(**off, keep_classes=False).champion == "2"


CHANGED = {  # what happens to the classes: the new name of '1', the challenger's classes, what the sentence says
    "a class is added": ("1", ("0", "1", "2", "3"), "'3' added; the two are compared on the 3 classes"),
    "a class is renamed": ("one", ("0", "2", "one"), "'1' renamed 'one'; the two are compared on the 3 classes"),
    "both": ("one", ("0", "2", "3", "one"), "'3' added, '1' renamed 'one'; the two are compared on the 3 classes"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_class_that_is_added_or_renamed_is_said_and_waits_for_a_person(world: World, change: str) -> None:
    name, classes, sentence = CHANGED[change]
    world.receive(world.register(ALWAYS_1, learnt=None), ALWAYS_1)
    world.promote()
    world.challenge(ALWAYS_0)
    world.table["label"] = world.table["label"].replace("1", name)
    files.write_table(world.root / SCREENED, world.table)
    files.write_json(
        world.root / EVALUATION, replace(artefacts.read(Evaluation, world.root / EVALUATION), classes=classes)
    )
    answers = files.read_table(world.root / PREDICTIONS)
    odds = [[dict(zip(CLASSES, p, strict=True)).get(label, 0.0) for label in classes] for p in answers["probabilities"]]
    files.write_table(world.root / PREDICTIONS, answers.assign(label=world.table["label"], probabilities=odds))
    off: dict[str, Any] = dict.fromkeys(("comparison", "max_recall_drop", "max_slice_drop"))
    done = world.promote(**off)
    assert (done.verdict, done.champion, world.alias()) == ("propose", "1", "1")
    assert sentence in done.notes[0]
    assert world.promote(**off, keep_classes=False).champion == "2"


def test_another_task_is_refused_before_any_figure(world: World) -> None:
    world.challenge(ALWAYS_1)
    world.promote()
    world.table["label"] = "fox " + world.table["label"]
    files.write_table(world.root / SCREENED, world.table)
    digest = world.register(ALWAYS_0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(globals(), "CLASSES", ["fox 0", "fox 1", "fox 2"])
        world.receive(digest, ALWAYS_0)
    evaluation = artefacts.read(Evaluation, world.root / EVALUATION)
    files.write_json(world.root / EVALUATION, replace(evaluation, classes=("fox 0", "fox 1", "fox 2")))
    done = world.promote()
    assert (done.champion, done.comparison) == ("1", None)
    assert done.reasons == (
        "another task: version 1, the champion, knows '0', '1', '2'; these images have 'fox 0', 'fox 1', 'fox 2', and "
        "none of them in common; another task needs another model name: set register.model_name in params.yaml, then "
        "`regraft run`",
    )


def test_test_images_that_the_champion_learnt_from_are_left_out_and_too_few_decide_nothing(world: World) -> None:
    seen = list(world.table.groupby("label")["id"].first())
    world.receive(world.register(ALWAYS_0, seen), ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    note = "3 of 12 test images are left out: version 1, the champion, learnt from them"
    done = world.promote()
    assert done.champion == "1" and done.comparison is None
    assert f"{note}; too few are left of '1' 2, '2' 2: at least 5 per class are needed." in done.reasons[1]
    done = world.promote(min_unseen_per_class=2)
    assert done.notes == (note,) and done.comparison is not None and done.comparison.n == 9


@pytest.mark.parametrize(
    ("classes", "left", "least", "short"),
    [
        (["0", "1"], "001", 2, "too few are left of '1' 1"),
        (["0", "1"], "001", 1, None),
        (["0", "1"], "001", None, None),
        (["0", "1"], "222", None, "none is left"),  # all of them are images of a class that only one of the two knows
        (["0", "1"], "", None, "none is left"),
        ([], "001", None, None),  # whether classes were renamed shows in the answers
        ([], "", None, "none is left"),
    ],
)
def test_what_is_left_has_to_be_of_classes_that_both_know(
    classes: list[str], left: str, least: int | None, short: str | None
) -> None:
    labels = [*left, *"001122"]
    mask = np.array([True] * len(left) + [False] * 6)
    shortage = Unseen(mask, ["6 test images are left out"]).shortage(labels, classes, least)
    assert (shortage is None) == (short is None) and (short or "") in (shortage or "")


def test_a_challenger_that_no_image_is_left_to_compare_on_is_refused_whatever_the_least_is(world: World) -> None:
    world.receive(world.register(ALWAYS_0, list(world.table["id"])), ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    done = world.promote(min_unseen_per_class=None)
    assert done.champion == "1" and done.comparison is None
    assert "12 of 12 test images are left out" in done.reasons[-1] and "none is left" in done.reasons[-1]


def test_the_champion_is_judged_on_the_images_of_today(world: World) -> None:
    """The champion always answers 1; once no test image is a 1, a challenger that answers 0 beats it."""
    world.challenge(ALWAYS_1)
    world.promote()
    world.table = world.table[world.table["label"] == "0"]
    files.write_table(world.root / SCREENED, world.table)
    world.challenge(ALWAYS_0)
    done = world.promote()
    assert (done.champion, done.previous) == ("2", "1")
    assert done.reasons == (
        "balanced accuracy 100.0 % (52.1 to 100.0) clears the floor of 0 %; 100.0 points better than the champion "
        "(interval +50.0 to +100.0) on the same 6 test images, 6 won and 0 lost (exact sign-flip test, one-sided "
        "p = 0.016)",
    )


def test_a_question_once_answered_is_not_answered_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    first = world.promote()
    monkeypatch.setattr(package_loading, "load", lambda *_: pytest.fail("the champion was judged again"))
    again = world.promote()
    assert again.reasons == first.reasons
    assert again.comparison == first.comparison and first.comparison.n == 12, "the page shows what decided"
    tags = world.registry.client.get_model_version(NAME, "2").tags
    (key,) = [key for key in tags if key.startswith(comparisons.TAG)]
    world.registry.client.set_model_version_tag(NAME, "2", key, tags[key].replace('"n": 12', '"n": 99'))
    assert world.promote().comparison is None, "changed by hand it is not shown"


def test_a_test_image_that_changed_on_the_disk_judges_nobody(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    path = world.root / "data/raw/1/001.png"
    path.write_bytes((world.root / "data/raw/2/001.png").read_bytes())
    for judged in (world.promote, lambda: compare(world.root, "1", "2")):
        with pytest.raises(IntegrityError, match=r"1/001\.png has changed since ingest"):
            judged()
    assert world.alias() == "1" and [d.kind for d in world.decisions()] == ["promote"]


def test_a_kill_between_entry_and_alias_is_mended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.challenge(ALWAYS_0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Registry, "point", killed)
        world.promote()
    assert world.alias() is None
    done = world.promote()
    assert (done.champion, world.alias()) == ("1", "1")
    assert [d.kind for d in world.decisions()] == ["promote"]


def test_time_and_size_are_measured_where_a_rule_asks_and_time_makes_no_new_question(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    rules = {"comparison": None, "max_recall_drop": None, "max_latency_ratio": 1e-6, "max_bytes": 1000}
    done = world.promote(**rules)
    assert [reason.split("(")[-1] for reason in done.reasons] == ["promote.max_latency_ratio)", "promote.max_bytes)"]
    files_of = [*(world.root / ".regraft/mlartifacts").rglob("models/*/artifacts/**/*")]
    saved = sum(path.stat().st_size for path in files_of if path.is_file())
    assert world.registry.size("1") + world.registry.size("2") == saved
    assert world.promote(**rules).reasons == done.reasons
    assert [d.kind for d in world.decisions()] == ["promote", "refuse"]


def test_a_challenger_whose_files_were_changed_is_refused_by_name(world: World) -> None:
    world.challenge(ALWAYS_0)
    facts = next((world.root / ".regraft/mlartifacts").rglob("model.json"))
    facts.write_bytes(facts.read_bytes().replace(b"glyphnet", b"glyphNet"))
    with pytest.raises(RegistryError, match=r"model\.json"):
        world.promote()
    assert world.alias() is None


def better_comes(world: World) -> None:
    """Leave version 1 as the champion before and version 2 as champion."""
    world.challenge(ALWAYS_1)
    world.promote()
    world.table = world.table[world.table["label"] == "0"]
    files.write_table(world.root / SCREENED, world.table)
    world.challenge(ALWAYS_0)
    assert world.promote().champion == "2"


def test_an_alias_moved_by_hand_is_set_back_and_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PATIENCE", 1)
    better_comes(world)
    world.registry.point(CHAMPION, "1")
    assert present(world.registry) == "2", "an alias is no decision"
    done = world.promote()
    assert (done.champion, done.changed, world.alias()) == ("2", False, "2")
    assert done.reasons == (
        "the model of this run is version 2, the champion itself: nothing was compared",
        "why it is champion: the alias champion stood on version 1, moved by hand or by a run that was killed; "
        "set back",
    )
    assert [d.kind for d in world.decisions()] == ["promote", "promote", "restore"]


def test_a_champion_that_was_rolled_back_stays_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    better_comes(world)
    back = release.rollback(world.root, None, "Ada", "wrong on Mondays")
    assert (back.version, back.previous, back.by, world.alias()) == ("1", "2", "Ada", "1")
    done = world.promote()
    assert (done.champion, done.changed, world.alias()) == ("1", False, "1")
    assert done.reasons == ("promoted earlier and rolled back since: it is not promoted again",)
    with pytest.raises(RequestError, match="no champion before version 1"):
        release.rollback(world.root, None, "Ada", "again")
    with pytest.raises(RequestError, match="version 7 was never champion, or is now; earlier champions: 2"):
        release.rollback(world.root, "7", "Ada", "again")
    assert release.rollback(world.root, "2", "Ada", "Mondays are over").champion == "2"
    reported_is_ones_own(world, monkeypatch)


def reported_is_ones_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else decides between our entry and our look at it; what is told is ours all the same."""
    append = ledger.append

    def overtaken(*told: Any, by: str, **more: Any) -> bool:
        counts = append(*told, by=by, **more)
        if by == "Ada":
            release.rollback(world.root, "2", "Bob", "no")
        return counts

    monkeypatch.setattr(ledger, "append", overtaken)
    ours = release.rollback(world.root, "1", "Ada", "yes")
    assert (ours.by, ours.version, ours.reasons) == ("Ada", "1", ("yes",))
    assert [d.by for d in world.decisions()[-2:]] == ["Ada", "Bob"] and world.alias() == "2"


def test_with_approval_required_a_person_has_the_last_word(world: World) -> None:
    world.challenge(ALWAYS_0)
    done = world.promote(approval="required")
    assert (done.champion, world.alias()) == (None, None)
    assert done.reasons[0] == "it may be promoted, once a person says so: regraft approve 1 --reason TEXT"
    assert world.registry.alias(CHALLENGER) == "1"
    assert world.promote(approval="required").reasons == done.reasons
    with pytest.raises(RequestError, match=r"version 2 is not waiting for approval \(waiting: 1\)"):
        release.approve(world.root, "2", "Ada", "looks good")
    entry = release.approve(world.root, "1", "Ada", "looks good")
    assert (entry.kind, entry.by, entry.reasons[0], world.alias()) == ("promote", "Ada", "approved: looks good", "1")
    assert [d.kind for d in world.decisions()] == ["propose", "promote"]


def test_an_approval_is_refused_where_the_test_images_decide_nothing_more(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote(approval="required", look_budget=1, look_limit=2)
    look_ledger.record(["one model", "another", "a third"], world.table["id"])
    with pytest.raises(RequestError, match=r"More than 2 \(promote\.look_limit\): they decide nothing"):
        release.approve(world.root, "1", "Ada", "looks good")
    assert (world.alias(), [d.kind for d in world.decisions()]) == (None, ["propose"])
    (world.root / SCREENED).unlink()
    with pytest.raises(RequestError, match=r"data/screened\.parquet is not here"):
        release.approve(world.root, "1", "Ada", "looks good")


def test_a_stale_approval_is_refused(world: World) -> None:
    world.challenge(ALWAYS_1)
    world.promote(approval="required")
    world.challenge(ALWAYS_0)
    world.promote()
    with pytest.raises(RequestError, match="proposed in place of no champion, but production is now version 2"):
        release.approve(world.root, "1", "Ada", "late")
    assert world.alias() == "2"


def test_an_export_that_the_ledger_no_longer_holds_stops_every_decision(world: World) -> None:
    better_comes(world)
    export = world.root / ledger.EXPORT
    held = export.read_text()
    assert len(held.splitlines()) == 2
    world.registry.client.delete_model_version(ledger.of(world.registry).name, "2")
    with pytest.raises(RegistryError, match="its end was cut off"):
        release.rollback(world.root, None, "Ada", "why")
    assert export.read_text() == held


def test_an_export_that_was_deleted_is_written_again_and_an_edited_one_is_said(world: World) -> None:
    better_comes(world)
    export = world.root / ledger.EXPORT
    held = export.read_text()
    export.unlink()
    world.promote()
    assert export.read_text() == held
    export.write_text(held.replace('"champion":"2"', '"champion":"1"'))
    with pytest.raises(RegistryError, match=r"entry 2 differs from line 2 of the export"):
        world.promote()


def test_a_wiped_registry_waits_for_a_person_and_the_old_export_is_kept(world: World) -> None:
    export = world.root / ledger.EXPORT
    export.parent.mkdir(parents=True, exist_ok=True)
    export.write_text("of before\n")
    world.challenge(ALWAYS_0)
    with pytest.raises(RegistryError, match=r"data/ledger\.jsonl holds 1: .*`regraft adopt 1 --reason TEXT`"):
        world.promote()
    assert world.alias() is None and export.read_text() == "of before\n"
    assert release.adopt(world.root, "1", "Ada", "the server is new").champion == world.alias() == "1"
    assert world.promote().champion == "1" and len(export.read_text().splitlines()) == 1
    assert [path.read_text() for path in export.parent.glob("ledger-*.jsonl")] == ["of before\n"]


def test_a_champion_older_than_the_ledger_is_adopted_by_a_person(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.registry.point(CHAMPION, "1")
    with pytest.raises(RegistryError, match=r"the alias champion, .* stands on version 1.*`regraft adopt 1 --reason"):
        world.promote()
    assert not world.decisions()
    release.adopt(world.root, "1", "Ada", "it has served us since March")
    assert (world.promote().champion, world.alias()) == ("1", "1")
    (decision,) = world.decisions()
    assert (decision.kind, decision.by, decision.reasons[0]) == ("adopt", "Ada", "it has served us since March")


def test_nobody_adopts_past_a_champion_or_a_gate(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.challenge(ALWAYS_1)
    with pytest.raises(RequestError, match="the champion is version 1, and nothing is lost: `regraft run` decides"):
        release.adopt(world.root, "2", "Ada", "why")
    assert world.alias() == "1" and len(world.decisions()) == 1


def lose_the_files(world: World) -> None:
    shutil.rmtree(world.root / ".regraft/mlartifacts")


def delete_the_version(world: World) -> None:
    world.registry.client.delete_model_version(NAME, "1")


LOSSES = [
    (lose_the_files, "version 1 of regraft, the champion, has no files at file:"),
    (delete_the_version, "version 1 of regraft, the champion by the ledger, was deleted in MLflow"),
]


def lose_the_champion(world: World, lose: Callable[[World], None]) -> None:
    """Promote version 1, lose it, and register version 2."""
    world.challenge(ALWAYS_0)
    world.promote()
    lose(world)
    world.challenge(ALWAYS_1)


@pytest.mark.parametrize(("lose", "sentence"), LOSSES)
def test_nothing_is_promoted_against_a_lost_champion_unless_a_person_says_so(
    world: World, lose: Callable[[World], None], sentence: str
) -> None:
    lose_the_champion(world, lose)
    with pytest.raises(RegistryError, match=f"{sentence}.*set promote.approval: required"):
        world.promote()
    done = world.promote(approval="required")
    assert (done.verdict, done.champion) == ("propose", "1") and sentence in done.reasons[1]
    assert done.reasons[2].endswith("; not compared with version 1, the champion")
    release.approve(world.root, "2", "Ada", "seen")
    assert [decision.champion for decision in world.decisions()] == ["1", "1", "2"]
    assert world.alias() == "2"


@pytest.mark.parametrize(("lose", "sentence"), LOSSES)
def test_a_person_says_that_the_champion_is_lost_by_the_command_that_is_printed(
    world: World, lose: Callable[[World], None], sentence: str
) -> None:
    lose_the_champion(world, lose)
    with pytest.raises(RegistryError, match="`regraft adopt 2 --reason TEXT` says that it is lost"):
        world.promote()
    assert world.alias() != "2" and [decision.kind for decision in world.decisions()] == ["promote"]
    decision = release.adopt(world.root, "2", "Ada", "the disk burnt")
    assert (decision.kind, decision.previous, world.alias()) == ("adopt", "1", "2")
    assert decision.reasons[0] == "the disk burnt" and decision.reasons[1].startswith(sentence)
    assert world.promote().champion == "2"


def test_the_way_back_from_a_lost_champion_is_printed_and_works(world: World) -> None:
    for bias in (ALWAYS_0, [1.0, 0.0, 0.0]):
        world.challenge(bias)
        world.promote(comparison="non_inferior", margin=0.9)
    assert world.alias() == "2"
    world.registry.client.delete_model_version(NAME, "2")
    world.challenge(ALWAYS_1)
    with pytest.raises(RegistryError, match="`regraft rollback --to 1 --reason TEXT`"):
        world.promote()
    assert release.rollback(world.root, "1", "Ada", "2 was deleted").champion == world.alias() == "1"


def test_a_lost_champion_that_is_registered_again_is_the_champion(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    delete_the_version(world)
    world.register(ALWAYS_0)
    done = world.promote()
    assert (done.champion, done.previous) == ("2", "1")
    assert done.reasons[0] == "it is version 1, the champion, registered again: its files were gone"


@pytest.mark.exhaustive
def test_another_version_under_the_number_of_a_deleted_one_is_no_champion(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    world.registry.client.delete_registered_model(NAME)
    world.challenge(ALWAYS_1)
    with pytest.raises(RegistryError, match=r"numbers anew; name another in params.yaml \(register.model_name\)"):
        world.promote()


def test_whoever_damages_the_champion_promotes_nothing(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    facts = next((world.root / ".regraft/mlartifacts").rglob("model.json"))
    world.challenge(ALWAYS_1)
    facts.write_bytes(facts.read_bytes().replace(b"glyphnet", b"glyphNet"))
    with pytest.raises(RegistryError, match=r"model\.json"):
        world.promote()
    assert world.alias() == "1" and [d.kind for d in world.decisions()] == ["promote"]


def test_a_store_that_does_not_answer_or_lost_some_files_is_no_champion_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    world.challenge(ALWAYS_0)
    world.promote()
    held = next((world.root / ".regraft/mlartifacts").rglob("MLmodel"))
    world.challenge(ALWAYS_1)

    def stored_at(location: str) -> None:
        with sqlite3.connect(world.root / ".regraft/mlflow.db") as database:
            (source,) = database.execute("select source from model_versions where version = 1").fetchone()
            model = source.removeprefix("models:/")
            database.execute("update logged_models set artifact_location = ? where model_id = ?", (location, model))
        utils._artifact_repos_cache.clear()  # as a new process begins

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as refusing:  # 501 to whatever it is asked
        Thread(target=refusing.serve_forever, daemon=True).start()
        stored_at(f"http://127.0.0.1:{refusing.server_port}/api/2.0/mlflow-artifacts/artifacts/1")
        with pytest.raises(RegistryError, match=r"version 1 of regraft has its files cannot be told now: .*: 501"):
            world.promote()
        refusing.shutdown()
    with pytest.raises(RegistryError, match=r"version 1 of regraft has its files cannot be told now: .*: API request"):
        world.promote()
    stored_at(held.parent.as_uri())
    held.unlink()
    with pytest.raises(RegistryError, match="version 1 of regraft is registered but cannot be loaded"):
        world.promote()
    assert world.alias() == "1" and [d.kind for d in world.decisions()] == ["promote"]


def swapped(world: World, number: str) -> None:
    """Let a version number stand for another package, validly signed: what the database's owner can do."""
    world.register([0.0, 0.0, 2.0])
    with sqlite3.connect(world.root / ".regraft/mlflow.db") as database:
        for table, columns in (("model_versions", "source, storage_location"), ("model_version_tags", "value")):
            key = f"and key = '{tracking.LINEAGE}'" if table == "model_version_tags" else ""
            newest = f"select {columns} from {table} where name = '{NAME}' {key} order by version desc limit 1"
            where = f"where name = '{NAME}' and version = {number} {key}"
            database.execute(f"update {table} set ({columns}) = ({newest}) {where}")


def test_a_package_that_was_swapped_is_neither_judged_nor_approved_nor_rolled_back_to(world: World) -> None:
    better_comes(world)
    entries = world.decisions()
    assert [d.package for d in entries] == [world.registry.digest(n) for n in ("1", "2")]
    swapped(world, "1")
    with pytest.raises(RegistryError, match=f"but was decided about as {str(entries[0].package)[:16]}"):
        release.rollback(world.root, None, "Ada", "wrong on Mondays")
    with pytest.raises(RegistryError, match=f"but was decided about as {str(entries[0].package)[:16]}"):
        compare(world.root, "2", "1")
    swapped(world, "2")
    world.challenge([0.0, 1.0, 0.0])
    with pytest.raises(RegistryError, match=f"but was decided about as {str(entries[1].package)[:16]}"):
        world.promote()
    assert world.alias() == "2" and world.decisions() == entries


def test_an_image_that_the_champion_cannot_read_counts_as_wrong_and_is_named(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote()
    unreadable = sorted(world.table["path"][world.table["label"] == "0"])[1]
    world.replace(unreadable, b"of a format that version 1 does not know")
    world.challenge([1.0, 0.0, 0.0])
    done = world.promote()
    assert done.reasons[0] == (
        f"version 1, the champion, cannot read 1 test images, which count as wrong: {unreadable}"
    )
    assert done.comparison is not None and (done.comparison.only_a, done.comparison.only_b) == (1, 0)
    found = compare(world.root, "2", "1")
    recalls = [(row.recall_a, row.recall_b) for row in found.per_class]
    assert recalls == [(pytest.approx(5 / 6), pytest.approx(5 / 6)), (0, 0), (0, 0)], "neither of the two can read it"
    third = world.register([3.0, 0.0, 0.0])
    for path in world.table["path"]:
        world.replace(path, path.encode())
    world.receive(third, [3.0, 0.0, 0.0])
    with pytest.raises(RegistryError, match="version 1, the champion, answers none of 12 test images here"):
        world.promote(margin=0.01)


def test_a_version_whose_files_are_gone_counts_as_not_registered(world: World) -> None:
    digest = world.register(ALWAYS_0)
    assert world.registry.find(digest) == "1"
    shutil.rmtree(world.root / ".regraft/mlartifacts")
    assert world.registry.find(digest) is None


def test_test_images_that_were_looked_at_too_often_promote_nothing_until_fresh_ones_come(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.promote(floor=0.9)
    look_ledger.record(["one model", "another", "a third"], world.table["id"])
    done = world.promote(look_budget=1, look_limit=2)
    assert (done.champion, world.alias()) == (None, None)
    assert done.reasons[0].startswith("3 models were judged on these test images; the best of so many looks better")
    assert done.reasons[0].endswith("More than 2 (promote.look_limit): they decide nothing until fresh ones come")
    assert world.promote(look_budget=1, look_limit=3).champion == "1"


def test_two_versions_are_compared_image_by_image_and_each_is_a_look(world: World) -> None:
    world.challenge(ALWAYS_0)
    world.challenge(ALWAYS_1)
    world.promote()
    found = compare(world.root, "1", "2")
    assert (found.overall.only_a, found.overall.only_b, found.overall.difference) == (6, 3, pytest.approx(0.25))
    assert [(row.recall_a, row.recall_b) for row in found.per_class] == [(1, 0), (0, 1), (0, 0)]
    assert len(found.differ) == 12 and (found.differ[0].a, found.differ[0].b) == ("0", "1")
    assert look_ledger.count(world.table["id"]) == 2
    compare(world.root, "2", "1")
    assert look_ledger.count(world.table["id"]) == 2
    said = found.lines()
    assert said[0] == f"version 1 against version 2 on 12 test images, in accuracy: {found.overall.sentence}"
    assert "  0/000.png is 0: 1 says 0 (0.79), 2 says 1 (0.79)" in said
    with pytest.raises(RequestError, match="regraft has no version 9"):
        compare(world.root, "1", "9")
