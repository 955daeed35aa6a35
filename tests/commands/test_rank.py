"""The ranking on real digits: the backbone that learned characters against the same one with random weights."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom, norm
from torchvision.models import squeezenet1_1

from steps.commands.rank import Candidate, Ranked, _ranked, _weights, rank, ranking, verdict
from steps.commands.wishes import Wishes
from steps.errors import DataError, RequestError
from steps.runtime import files
from steps.runtime.figure import Figure
from steps.training.transferability import Divided, Held
from tests.conftest import write_images

TARGETS = np.arange(300) % 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("raw") / "images", per_class=12)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(squeezenet1_1(weights=None, num_classes=3).state_dict(), path)
    return str(path)


def table(raw: Path) -> pd.DataFrame:
    paths = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.png"))
    return pd.DataFrame(
        {
            "id": [files.sha256_of(raw / path) for path in paths],
            "path": paths,
            "label": [path.split("/")[0] for path in paths],
            "split": "train",
            "group": "",
        }
    )


@pytest.fixture(scope="module")
def rows(raw: Path, random_weights: str) -> list[Ranked]:
    return ranking(raw, table(raw), ["squeezenet1_1", "glyphnet"], {"squeezenet1_1": random_weights}, most=1000, seed=0)


def test_the_backbone_that_knows_characters_comes_first(rows: list[Ranked]) -> None:
    assert [row.backbone for row in rows] == ["glyphnet", "squeezenet1_1"]
    assert rows[0].balanced_accuracy.known > 0.9
    assert rows[0].logme > rows[1].logme
    assert all(row.milliseconds_per_image > 0 and row.images == 36 for row in rows)


def test_the_difference_is_paired_and_the_best_is_no_worse_than_itself(rows: list[Ranked]) -> None:
    best, other = rows
    gap = other.balanced_accuracy.known - best.balanced_accuracy.known
    assert other.against_best.value == pytest.approx(gap)
    assert best.against_best.value == 0
    assert not best.told_apart_from_best


def drawn(name: str, ahead: float, shared: np.ndarray, rng: np.random.Generator) -> Candidate:
    """Answers right with probability 0.85 and `ahead`, alike for all backbones but for noise of their own."""
    right = np.sqrt(0.6) * shared + np.sqrt(0.4) * rng.normal(size=len(shared)) < norm.ppf(0.85 + ahead)
    answer = np.where(right, TARGETS, 1 - TARGETS)
    return Candidate(name, Held(np.eye(2)[answer] * 0.8 + 0.1, TARGETS, 1.0), 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("count", "sets"), [(2, 30), (5, 15), (10, 4)])
def test_equal_backbones_are_rarely_told_apart_however_many_and_a_worse_one_is(count: int, sets: int) -> None:
    """Without a correction, 7, 27 and 64 % of these sets told some equal backbone apart from the best."""
    task = Divided(pd.DataFrame(), TARGETS, np.arange(len(TARGETS)), 2, [])
    apart = 0
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=len(TARGETS))
        equal = [drawn(f"equal {i}", 0.0, shared, rng) for i in range(count)]
        apart += any(row.told_apart_from_best for row in _ranked(equal, task, seed))
    worse = _ranked([*equal[1:], drawn("worse", -0.2, shared, rng)], task, seed)
    assert next(row.told_apart_from_best for row in worse if row.backbone == "worse")
    assert apart <= binom.ppf(0.99, sets, 0.05)


def test_a_tie_is_called_a_tie_and_the_cheapest_is_named() -> None:
    unknown = Figure(None, None, None, "none")
    made = [
        Ranked(name, 40, unknown, 0.5, 0.1, 0.1, ms, unknown, told_apart_from_best=apart)
        for name, apart, ms in (("a", False, 9.0), ("b", False, 2.0), ("c", True, 1.0))
    ]
    assert verdict(made) == "a, b cannot be told apart on 40 images; the cheapest of them is b"
    assert verdict([made[0], made[2]]) == "a is the best of these on your images"
    assert verdict(made[:1]) == "a is the only one"


def test_the_test_split_and_unlabelled_images_are_not_looked_at(raw: Path) -> None:
    splits = table(raw).assign(split=lambda t: ["test" if i % 4 == 0 else "train" for i in range(len(t))])
    gone = splits.assign(path=splits["path"].where(splits["split"] == "train", "no such file"))
    (row,) = ranking(raw, gone, ["glyphnet"], {}, most=1000, seed=0)
    assert row.images == 27


def test_no_more_images_are_used_than_asked_for_and_equal_ones_count_once(raw: Path) -> None:
    twice = pd.concat([table(raw), table(raw)])
    (row,) = ranking(raw, twice, ["glyphnet"], {}, most=18, seed=0)
    assert row.images == 18


def test_what_cannot_be_ranked_is_refused_before_an_image_is_read(raw: Path) -> None:
    with pytest.raises(DataError, match="at least two classes with two training images each"):
        ranking(raw, table(raw).head(3), ["glyphnet"], {}, most=100, seed=0)
    with pytest.raises(RequestError, match="did you mean 'resnet18'"):
        ranking(Path("nowhere"), table(raw), ["glyphnet", "resnet_18"], {}, most=100, seed=0)


def test_what_is_said_about_a_file_of_weights_reaches_it(raw: Path, random_weights: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("resize: 64\ncrop: 48\n")
    name, given = "squeezenet1_1", {"squeezenet1_1": random_weights}
    said = {name: Wishes(str(tmp_path / "own.yaml"), None)}
    small, usual = (ranking(raw, table(raw), [name], given, 100, 0, wishes)[0] for wishes in (said, {}))
    assert small.log_loss != usual.log_loss
    with pytest.raises(RequestError, match="teacher"):
        ranking(raw, table(raw), [name], given, 100, 0, {name: Wishes(None, "teacher")})


@pytest.mark.parametrize(("option", "value"), [("--preprocessing", "ENTRY or NAME=FILE"), ("--weights-part", "PART")])
def test_an_option_about_weights_names_its_backbone(tmp_path: Path, option: str, value: str) -> None:
    given = {"--preprocessing": (["own.yaml"], []), "--weights-part": ([], ["teacher"])}[option]
    with pytest.raises(RequestError, match=rf"^{option} \w.*: expected NAME={value}, NAME one of glyphnet"):
        rank(tmp_path, ["glyphnet", "resnet18"], [], 100, *given)


@pytest.mark.parametrize("given", ["resnet50=file", "glyphnet", "glyphnet="])
def test_weights_for_a_backbone_that_is_not_ranked_are_refused(given: str) -> None:
    with pytest.raises(RequestError, match="expected NAME=FILE, NAME one of glyphnet, resnet18"):
        _weights([given], ["glyphnet", "resnet18"])
    assert _weights(["resnet18=a=b"], ["resnet18"]) == {"resnet18": "a=b"}
