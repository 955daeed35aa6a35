"""`regraft use`: what it sets, and what it refuses with a sentence and without changing anything."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flows.use import use
from steps.backbones.backbone import build
from steps.errors import RegraftError, RequestError
from steps.runtime import files
from tests.conftest import Project, write_images


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    return new_project(tmp_path / "project")


LOADED = """import sys; sys.argv = ['regraft', *{}]
from flows.cli import main
try: main()
except SystemExit as end: print(end.code, sorted(set({}) & set(sys.modules)))
"""


def fails(project: Project, code: int, sentence: str, *command: str) -> None:
    done = project.run("regraft", *command)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


NO_PICTURE = "holds no picture that can be used (2 files looked at; the first, a/note.txt: not an image format);"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make folders of images, of nothing and of text."""
    root = tmp_path_factory.mktemp("folders")
    write_images(root / "images", 1)
    write_images(root / "sites/a", 1)
    write_images(root / "sites/b", 1)
    (root / "nested.rar").write_bytes(b"Rar!")
    (root / "listing.csv").write_text("path,label\nimages/0/000.png,a\nimages/0/000.png,b\n")
    (root / "empty/cats").mkdir(parents=True)
    for label in ("a", "b"):
        (root / "texts" / label).mkdir(parents=True)
        (root / "texts" / label / "note.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def untouched(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    return new_project(tmp_path_factory.mktemp("untouched") / "project")


def test_a_refusal_is_a_sentence_and_an_exit_code(untouched: Project, folders: Path) -> None:
    fails(untouched, 2, "did you mean 'resnet18'?", "use", str(folders / "images"), "--backbone", "resnet_18")


@pytest.mark.parametrize(
    ("images", "backbone", "sentence"),
    [
        ("nowhere", "glyphnet", "/nowhere does not exist"),
        ("empty", "glyphnet", "holds no files"),
        ("images", "resnet_18", "did you mean 'resnet18'?"),
        ("images", None, "which backbone?"),
        ("texts", "glyphnet", NO_PICTURE),
        ("nested.rar", "glyphnet", "is a RAR archive; unpack it"),
        ("listing.csv", "glyphnet", "000.png has two labels"),
        ("sites", "glyphnet", "a/ and b/ hold the same folders (0, 1, 2): if they are splits, rename them"),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(
    untouched: Project, folders: Path, images: str, backbone: str | None, sentence: str
) -> None:
    with pytest.raises(RegraftError) as refusal:
        use(untouched.root, str(folders / images), backbone, weights=None, accept=False)
    assert sentence in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert not (untouched / "data/backbone").exists() and not (untouched / "data/raw").exists()


@pytest.mark.parametrize("images", ["sites", "empty", "texts", "listing.csv", "images"])
def test_images_are_refused_before_torch_is_loaded(untouched: Project, folders: Path, images: str) -> None:
    backbone = [] if images == "images" else ["--backbone", "glyphnet"]
    done = untouched.run("python", "-c", LOADED.format(["use", str(folders / images), *backbone], ["torch", "dvc"]))
    assert done.stdout == "2 []\n", done.stderr


def test_a_run_without_images(untouched: Project) -> None:
    fails(untouched, 2, "`regraft use IMAGES` sets them", "run")


def test_one_class_only(project: Project, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=40, classes=1)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    fails(project, 3, "two classes or more: the number of classes found 1 class limit at least 2 classes", "run")


def test_a_misspelt_stage_is_refused_before_anything_heavy_is_loaded(untouched: Project) -> None:
    heavy = ["torch", "prefect", "mlflow", "dvc"]
    done = untouched.run("python", "-c", LOADED.format(["run", "fine_tun"], heavy))
    assert done.stdout == "2 []\n"
    assert "no stage 'fine_tun' in dvc.yaml; did you mean 'fine_tune'? (stages: ingest, " in done.stderr


def test_a_folder_that_is_no_project(project: Project) -> None:
    (project / "dvc.yaml").unlink()
    fails(project, 2, "is no regraft project", "run")


def test_the_source_is_never_touched_and_the_mirror_follows_it(project: Project, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 3)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.rglob("*.png")}
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    mirrored = {path.relative_to(project / "data/raw") for path in (project / "data/raw").rglob("*.png")}
    assert mirrored == {path.relative_to(images) for path in before}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.rglob("*.png")} == before
    assert "glyphnet" in (project / "data/backbone/card.json").read_text()
    assert (project / "data/raw.dvc").exists() and (project / "data/backbone.dvc").exists()


def test_images_are_looked_at_once_and_a_warning_is_given_once(project: Project, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 2)
    (images / "0/gone.png").symlink_to(tmp_path / "nowhere.png")
    (images / "@eaDir").mkdir()
    done = project.run("regraft", "use", str(images), "--backbone", "glyphnet")
    for part in ("gone.png -> ", "left by the system", "horizontal_flip"):
        assert (done.stdout + done.stderr).count(part) == (2 if part == "horizontal_flip" else 1), part


def test_use_shows_its_reading_and_ingest_follows_it(project: Project, tmp_path: Path) -> None:
    write_images(tmp_path / "photos/Training/even", 5, classes=2)
    write_images(tmp_path / "photos/Training/odd", 5, classes=2)
    write_images(tmp_path / "photos/Testing", 3, classes=2)
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    command = ("regraft", "use", str(tmp_path / "photos.zip"), "--backbone", "glyphnet")

    shown = project.must(*command)
    assert "layout    split folders (Testing/ is test, Training/ is train)\n" in shown
    assert "classes   4: 0 3, 1 3, even 10, odd 10\n" in shown
    assert "train (with val set aside by a hash of each image) 20, test 6\n" in shown

    assert "classes   2: 0 13, 1 13\n" in project.must(*command, "--labels", "leaf")
    project.must("regraft", "run", "ingest")
    table = files.read_table(project / "data/manifest.parquet")
    assert table["label"].value_counts().to_dict() == {"0": 13, "1": 13}
    assert set(table["split"][table["path"].str.contains("Testing")]) == {"test"}
    assert files.read_json(project / "data/source.json")["labels"] == "leaf"


def test_a_name_keeps_the_weights_of_its_first_use(
    project: Project, tmp_path: Path, isolated: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", isolated["DVC_SITE_CACHE_DIR"])
    monkeypatch.chdir(project.root)
    images, weights = write_images(tmp_path / "images", 1), tmp_path / "base.safetensors"
    card = project / "data/backbone/card.json"

    def use_weights(path: Path, accept: bool = False) -> None:
        use(project.root, str(images), "squeezenet1_1", str(path), accept)

    def written(path: Path, seed: int) -> str:
        torch.manual_seed(seed)
        files.write_tensors(path, build("squeezenet1_1", 3).state_dict())
        return files.sha256_of(path)

    first = written(weights, 0)
    for _ in range(2):
        use_weights(weights)
    assert files.read_json(card)["sha256"] == first

    second = written(weights, 1)
    before = {path: path.read_bytes() for path in (project / "data").rglob("*") if path.is_file()}
    sentence = (
        f"squeezenet1_1 (local file base.safetensors) is pinned to digest {first[:12]}, these weights have "
        f"{second[:12]};"
    )
    with pytest.raises(RequestError, match=re.escape(sentence)):
        use_weights(weights)
    assert {path: path.read_bytes() for path in (project / "data").rglob("*") if path.is_file()} == before

    use_weights(weights, accept=True)
    assert files.read_json(card)["sha256"] == second
    third = written(tmp_path / "other.safetensors", 2)
    use_weights(tmp_path / "other.safetensors")
    assert files.read_json(card)["sha256"] == third


def test_a_checkpoint_is_read_and_what_was_done_to_it_is_printed(project: Project, tmp_path: Path) -> None:
    images, weights, own = write_images(tmp_path / "images", 1), tmp_path / "last.ckpt", tmp_path / "own.yaml"
    state = {f"model.{key}": tensor for key, tensor in build("squeezenet1_1", 3).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, weights)
    own.write_text("mean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n")
    command = ("use", str(images), "--backbone", "squeezenet1_1", "--weights", str(weights))
    said = project.must("regraft", *command, "--preprocessing", str(own))
    assert "weights   read from the part 'state_dict.model' of the file" in said
    assert "its own top, for 3 classes, is cut off" in said and "preprocessing of own.yaml (chosen)" in said
    assert "horizontal_flip are true; false where a mirrored image means another thing" in said
    card, params = files.read_json(project / "data/backbone/card.json"), files.read_yaml(project / "params.yaml")
    assert card["reading"]["preprocessing"] == "chosen" and card["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert params["validate"]["preprocessing"]["std"] == [0.25, 0.25, 0.25]
    fails(project, 2, "the weights do not fit resnet18: ", *command[:3], "resnet18", *command[4:])
    assert files.read_json(project / "data/backbone/card.json") == card
