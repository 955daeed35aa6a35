"""The whole pipeline on real digits: two drivers and one truth. Each test is a claim of the README."""

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from steps.registry.package_writing import made_up_picture
from tests.conftest import BIN, Project, write_images
from tests.test_graph import STAGES

MARKER = "PATIENT-Ada-Lovelace"
BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4}){20,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
QUICK = {  # what takes time and changes no claim
    "  epochs: 20 ": "  epochs: 2 ",
    "  epochs: 12 ": "  epochs: 2 ",
    "  least_steps: 100 ": "  least_steps: 0 ",
    "  folds: 5 ": "  folds: 2 ",
    "  draws: 3 ": "  draws: 1 ",
    "  rates: [3.0e-4, 1.0e-3, 3.0e-3] ": "  rates: [1.0e-3] ",
    "  bootstrap_draws: 2000": "  bootstrap_draws: 200",
    "  answers: 8 ": "  answers: 2 ",
    "  robustness_images: 100 ": "  robustness_images: 5 ",
}
DOWNSTREAM_OF_HEAD = ["train_head", "fine_tune", "evaluate", "describe", "inspect", "register", "report"]


@pytest.fixture(scope="module")
def built(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first run. The tests that use it put back what they change."""
    project = new_project(tmp_path_factory.mktemp("project"))
    images = write_images(tmp_path_factory.mktemp("images"), per_class=40)
    for path in images.rglob("*.png"):
        _mark(path)
    project.must("regraft", "use", str(images), "--backbone", "glyphnet")
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["add", "--all"], [*who, "commit", "--quiet", "--message", "a project"]):
        subprocess.run(["git", *command], cwd=project.root, env=dict(project.environment), check=True)
    for before, after in QUICK.items():  # a run of a dirty tree
        project.edit("params.yaml", before, after)
    project.must("regraft", "run")
    return project


def _mark(path: Path) -> None:
    """Name a person in a picture's EXIF, as cameras and clinics do."""
    exif = Image.Exif()
    exif[0x013B] = MARKER
    with Image.open(path) as picture:
        picture.load()
    picture.save(path, exif=exif)


def stages(project: Project, *flags: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(project.must("regraft", "run", "--json", *flags))["stages"]
    return found


def registered(project: Project) -> dict[str, int]:
    """Count what the registry holds, straight from its database."""
    with sqlite3.connect(project / ".regraft/mlflow.db") as db:
        return {
            "runs": db.execute("select count(*) from runs").fetchone()[0],
            "model_versions": db.execute("select count(*) from model_versions where name = 'regraft'").fetchone()[0],
        }


def lock(project: Project) -> bytes:
    return (project / "dvc.lock").read_bytes()


def test_the_first_run_leaves_a_champion_and_a_report(built: Project) -> None:
    told = json.loads(built.must("regraft", "run", "--json"))
    promotion = told["promotion"]
    assert promotion["champion"] == promotion["challenger"]
    accuracy = promotion["judged"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] <= 1 and accuracy["value"] > 0.8
    assert promotion["headline"] in Path(told["report"]).read_text(encoding="utf-8")
    assert registered(built) == {"runs": 2, "model_versions": 2}


def test_no_picture_of_the_data_travels_with_a_version(built: Project) -> None:
    pictures = [path.read_bytes() for path in (built / "data/raw").rglob("*.png")]
    assert len(pictures) == 120 and all(MARKER.encode() in picture for picture in pictures)
    held = {path: _said(path) for path in (built / ".regraft/mlartifacts").rglob("*") if path.is_file()}
    examples = {path.name for path, said in held.items() if made_up_picture() in said}
    assert examples == {"input_example.json", "serving_input_example.json"}
    for said in held.values():
        assert not any(MARKER.encode() in text or picture in text for text in said for picture in pictures)


def _said(path: Path) -> list[bytes]:
    """Return a file's bytes, and those that it holds as base64; in JSON, its lines end in two characters."""
    content = path.read_bytes()
    return [content, *map(base64.b64decode, BASE64.findall(content.replace(b"\\n", b"")))]


@pytest.mark.exhaustive
def test_the_champion_is_made_again_to_the_byte(built: Project) -> None:
    held, before = registered(built), lock(built)
    champion = json.loads(built.must("regraft", "status", "--json"))["champion"]
    told = json.loads(built.must("regraft", "replay", champion, "--json", timeout=900))
    assert told["verdict"] == "identical", told
    assert (registered(built), lock(built)) == (held, before), "the replay left traces in the project"
    audit = json.loads(built.must("regraft", "audit", "--verify", "--json"))
    assert (audit["version"], audit["faults"]) == (champion, [])
    assert [gap for link in audit["links"] for gap in link["gaps"]] == []


@pytest.mark.browser
def test_the_outcome_page_asks_for_nothing_and_fits_a_phone_and_a_desk(built: Project, tmp_path: Path) -> None:
    from tests.browser import look

    page = built / "data/outcome/index.html"
    for width, seen in look(page, tmp_path, (390, 1280)).items():
        assert [url for url in seen.requests if not url.startswith("data:")] == [page.as_uri()]
        assert seen.width <= width, "the page scrolls sideways"
        assert seen.picture is not None and seen.picture.width == width
        assert len(seen.picture.convert("RGB").resize((64, 64)).getcolors(4096) or []) > 100, "the page is blank"


def test_a_second_run_finds_nothing_to_do_and_starts_neither_prefect_nor_torch(built: Project) -> None:
    before, held = lock(built), registered(built)
    code = (
        "import sys; sys.argv = ['regraft', 'run']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'prefect', 'mlflow'} & set(sys.modules)))"
    )
    said = built.must("python", "-c", code, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert said.splitlines()[-1] == "0 []"
    assert said.count("fresh") == len(STAGES)
    assert (lock(built), registered(built)) == (before, held)


def test_dvc_finds_nothing_to_do_after_the_flow(built: Project) -> None:
    assert "up to date" in built.must("dvc", "status")
    before = lock(built)
    assert "Running stage" not in built.must("dvc", "repro")
    assert lock(built) == before


@pytest.mark.exhaustive
def test_a_forced_repro_ends_in_the_same_lock_and_registers_nothing_twice(built: Project) -> None:
    before, held = lock(built), registered(built)
    assert built.must("dvc", "repro", "--force").count("Running stage") == len(STAGES)
    assert (lock(built), registered(built)) == (before, held)
    assert set(stages(built).values()) == {"Fresh"}


@pytest.mark.exhaustive
def test_a_forced_flow_ends_in_the_same_lock_too(built: Project) -> None:
    before, held = lock(built), registered(built)
    assert set(stages(built, "--force").values()) == {"Ran"}
    assert (lock(built), registered(built)) == (before, held)


def test_a_comment_in_a_step_makes_its_stage_stale(built: Project) -> None:
    module = built / "steps/train_head.py"
    before = module.read_text(encoding="utf-8")
    module.write_text(before + "# a remark\n", encoding="utf-8")
    told = json.loads(built.must("dvc", "status", "--json"))
    module.write_text(before, encoding="utf-8")
    assert list(told) == ["train_head"]


def test_policy_in_meta_does_not_touch_freshness(built: Project) -> None:
    before = (built / "dvc.yaml").read_text(encoding="utf-8")
    built.edit("dvc.yaml", "{retries: 2, timeout_minutes: 30}", "{retries: 1, timeout_minutes: 31}")
    told = built.must("dvc", "status")
    (built / "dvc.yaml").write_text(before, encoding="utf-8")
    assert "up to date" in told


def test_a_wiped_registry_is_filled_again_from_the_same_receipt(built: Project) -> None:
    before = lock(built)
    shutil.rmtree(built / ".regraft/mlartifacts")
    (built / ".regraft/mlflow.db").unlink()
    done = built.run("regraft", "run", "--json")
    assert done.returncode == 1 and "data/ledger.jsonl holds " in done.stderr, "who was champion is a person's to say"
    command = re.search(r"`regraft (adopt \d+ --reason TEXT)`", done.stderr)
    assert command and registered(built) == {"runs": 2, "model_versions": 2}
    built.must("regraft", *command[1].split())
    told = json.loads(built.must("regraft", "run", "--json"))
    assert set(told["stages"].values()) == {"Fresh"} and told["promotion"]["champion"] == command[1].split()[1]
    assert lock(built) == before


def test_preprocessing_that_contradicts_the_backbone_is_rejected_field_by_field(built: Project) -> None:
    held, before = registered(built), (built / "params.yaml").read_text(encoding="utf-8")
    wrong = {"mean": "[0.1, 0.5, 0.5]", "resize": "48", "colour_order": "BGR", "antialias": "false"}
    for field, value in wrong.items():
        line = next(text for text in before.splitlines() if text.strip().startswith(f"{field}:"))
        built.edit("params.yaml", line, f"    {field}: {value}")
    done = built.run("regraft", "run")
    (built / "params.yaml").write_text(before, encoding="utf-8")
    assert done.returncode == 3, done.stderr
    for field, value in wrong.items():
        assert f"{field} is {value.replace('false', 'False')}, the backbone wants" in done.stderr
    assert "value_range" not in done.stderr, "a field that agrees was accused"
    assert "Traceback" not in done.stderr
    assert json.loads((built / "data/reports/validation.json").read_text())["accepted"] is False
    assert (built / "data/outcome/data_docs/index.html").exists()
    assert registered(built) == held


def test_faults_in_params_are_told_all_at_once_before_anything_runs(built: Project) -> None:
    before = (built / "params.yaml").read_text(encoding="utf-8")
    for old, new in (("  patience: 4", "  patiens: 4"), ("  margin:", "  margn:"), ("threads: 2", "threads: 0")):
        built.edit("params.yaml", old, new)
    done = built.run("regraft", "run", PREFECT_API_URL="http://127.0.0.1:9/api")
    (built / "params.yaml").write_text(before, encoding="utf-8")
    assert done.returncode == 2
    assert "fine_tune.patiens: no such parameter; did you mean 'patience'?" in done.stderr
    assert "promote.margn: no such parameter; did you mean 'margin'?" in done.stderr
    assert "compute.threads is 0; 1 to 256" in done.stderr


def test_the_champion_answers_in_a_fresh_process_as_evaluate_recorded(built: Project, tmp_path: Path) -> None:
    """Loaded without this repository's code: from another folder, and `steps` must not even be imported."""
    code = f"""
import hashlib, json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///{built / ".regraft/mlflow.db"}")
model = mlflow.pyfunc.load_model("models:/regraft@champion")
table = pd.read_parquet("{built / "data/predictions.parquet"}")
chosen = json.load(open("{built / "data/reports/evaluation.json"}"))["chosen"]
table = table[table["model"] == chosen].head(10)
encoded = [open("{built / "data/raw"}/" + path, "rb").read() for path in table["path"]]
answers = model.predict(pd.DataFrame({{"image": encoded}}))
gap = max(abs(a - b) for x, y in zip(answers["probabilities"], table["probabilities"]) for a, b in zip(x, y))
print(json.dumps([len(table), list(answers["label"]) == list(table["predicted"]), gap, "steps" in sys.modules]))
"""
    done = subprocess.run(
        [str(BIN / "python"), "-c", code],
        cwd=tmp_path,
        env=dict(built.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    count, same_labels, gap, repository = json.loads(done.stdout.splitlines()[-1])
    assert (count, same_labels, repository) == (10, True, False)
    assert gap < 1e-5


def test_no_pickle_in_a_registered_version(built: Project) -> None:
    artifacts = [path for path in (built / ".regraft/mlartifacts").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in artifacts)
    assert not [path for path in artifacts if path.suffix in (".pkl", ".pickle", ".pth", ".pt", ".pt2", ".bin")]


@pytest.mark.exhaustive
def test_a_run_killed_in_the_middle_is_mended_by_the_next(built: Project) -> None:
    before, held = lock(built), registered(built)
    process = subprocess.Popen(
        [str(BIN / "regraft"), "run", "--force"],
        cwd=built.root,
        env=dict(built.environment),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("fine_tune"):
            break
    end = time.monotonic() + 60
    while (built / "data/models/fine_tuned").exists() and time.monotonic() < end:
        time.sleep(0.01)  # the worst moment: the old outputs are gone, the new ones not there
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (built / "data/models/fine_tuned").exists()
    assert stages(built)["fine_tune"] == "Ran"
    assert (lock(built), registered(built)) == (before, held)


def test_a_second_run_at_once_is_told_to_wait(built: Project) -> None:
    import fcntl

    with (built / ".regraft/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = built.run("regraft", "run")
    assert done.returncode == 1
    assert "another run holds this project" in done.stderr


@pytest.mark.exhaustive
def test_an_alias_moved_behind_our_back_is_seen_by_the_next_run(built: Project) -> None:
    """With nothing to do, a run recalls the last answer; only while the registry is as it was then."""
    champion = json.loads(built.must("regraft", "run", "--json"))["promotion"]["champion"]
    other = {"1": "2", "2": "1"}[champion]
    code = (
        "import sys, mlflow; client = mlflow.MlflowClient(sys.argv[1])\n"
        "client.set_registered_model_alias('regraft', 'champion', sys.argv[2])"
    )
    uri = f"sqlite:///{built / '.regraft/mlflow.db'}"
    built.must("python", "-c", code, uri, other)
    moved = json.loads(built.must("regraft", "run", "--json"))["promotion"]
    assert moved["champion"] == champion
    assert moved["reasons"][1:] == [
        f"why it is champion: the alias champion stood on version {other}, moved by hand or by a run that was killed; "
        "set back"
    ]
    assert json.loads(built.must("regraft", "status", "--json"))["champion"] == champion


def test_a_head_parameter_reruns_the_head_and_what_follows(built: Project) -> None:
    built.edit("params.yaml", "1.0, 10.0]", "1.0]")
    ran = [name for name, state in stages(built).items() if state == "Ran"]
    assert set(ran) <= set(DOWNSTREAM_OF_HEAD)
    assert {"train_head", "fine_tune"} <= set(ran)


def test_new_images_in_the_source_are_found_and_no_old_one_changes_split(built: Project) -> None:
    source = Path(json.loads((built / "data/source.json").read_text())["images"])
    before = pd.read_parquet(built / "data/manifest.parquet").set_index("path")["split"]
    fresh = write_images(built.root.parent / "more", per_class=50)
    for path in sorted(fresh.rglob("*.png")):
        target = source / path.relative_to(fresh)
        if not target.exists():
            shutil.copy(path, target)
    ran = stages(built, "validate")
    after = pd.read_parquet(built / "data/manifest.parquet").set_index("path")["split"]
    assert ran == {"ingest": "Ran", "validate": "Ran"}
    assert len(after) == 150 and len(before) == 120
    assert after.loc[before.index].equals(before)
