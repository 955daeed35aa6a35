"""What a replay needs before it begins; the replay itself is run in tests/test_pipeline.py."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from flows.doctor import unlike
from flows.project import TELEMETRY_OFF
from flows.replay import EVALUATION, PREDICTIONS, Replay, _dvc, _looked_at, _refuse
from steps.errors import GraphError, RequestError
from steps.promotion.evidence import Evidence, Proof, SignedFacts
from steps.promotion.reproduction import Verdict
from steps.registry import look_ledger
from steps.registry.chain import Chain
from steps.registry.circumstances import CHANGES, COMMIT, KEPT, LOCK, NONE, PATCH, UNKNOWN
from steps.registry.tracking import LINEAGE
from steps.runtime import files


@pytest.fixture
def commit(tmp_path: Path) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], [*who, "commit", "-qm", "empty", "--allow-empty"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def evidence(root: Path, signed: dict[str, str] | None, *kept: str, run: dict[str, str] | None = None) -> Evidence:
    """A version with these circumstances signed (None: registered before they were), and a run that says the same."""
    lock = {"stages": {"ingest": {"deps": [{"path": "data/raw", "md5": "0123.dir"}], "outs": []}}}
    (root / LOCK).write_text(yaml.safe_dump(lock))
    files = {name: root / name for name in kept}
    tags = {LINEAGE: "1", **(signed or {} if run is None else run)}
    made = SimpleNamespace(data=SimpleNamespace(tags=tags), info=SimpleNamespace(run_id="r"))
    around = None if signed is None else {"run": "r", "run_is_older": False, "tags": signed}
    proof = Proof(SignedFacts(kind="head", lineage="1"), around, files)
    return Evidence(root, Chain((), (), (), True), "regraft", "7", {}, made, files, proof, "")


def refusals(held: Evidence) -> list[str]:
    with pytest.raises(RequestError) as caught:
        _refuse(held, held.root / "cache")
    first, *rest = str(caught.value).splitlines()
    assert first == "version 7 cannot be replayed:"
    return [line.strip() for line in rest]


def test_a_replay_is_refused_with_every_reason(tmp_path: Path, commit: str) -> None:
    assert refusals(evidence(tmp_path, {})) == ["it was made in no git commit", "it was registered without a dvc.lock"]
    far = evidence(tmp_path, {COMMIT: "0" * 40, CHANGES: KEPT}, LOCK)
    assert refusals(far) == [
        "commit 000000000000 is not in this repository: fetch it",
        "the tree was dirty and the changes are not kept (kept)",
        "data/raw is not in DVC's cache (nor in the workspace); `dvc fetch` where it was pushed",
    ]
    assert len(refusals(evidence(tmp_path, {COMMIT: commit, CHANGES: NONE}, LOCK))) == 1
    unknown = refusals(evidence(tmp_path, {COMMIT: commit, CHANGES: UNKNOWN}, LOCK))
    assert unknown[0] == "whether the tree was clean is unknown: git failed while it was registered"


def with_data(root: Path) -> Path:
    (root / "cache/files/md5/01").mkdir(parents=True)
    (root / "cache/files/md5/01/23.dir").write_text("[]")
    return root / "cache"


def test_a_replay_begins_where_commit_changes_and_data_are_there(tmp_path: Path, commit: str) -> None:
    (tmp_path / PATCH).write_text("a patch")
    held = evidence(tmp_path, {COMMIT: commit, CHANGES: KEPT}, LOCK, PATCH)
    _refuse(held, with_data(tmp_path))
    _refuse(replace(held, run=None, told={}), tmp_path / "cache")  # all that it takes lies in the package


def test_nothing_that_is_not_signed_is_run(tmp_path: Path, commit: str) -> None:
    store = with_data(tmp_path)
    held = evidence(tmp_path, {COMMIT: commit, CHANGES: KEPT}, LOCK, PATCH)
    (tmp_path / PATCH).write_text("a patch")
    (tmp_path / "evil").write_text("another patch")
    assert refusals(replace(held, told={**held.told, PATCH: tmp_path / "evil"})) == [
        "the run's changes.patch is not the signed one: it was changed"
    ]
    moved = replace(held, run=evidence(tmp_path, {}, run={COMMIT: "0" * 40, CHANGES: KEPT}).run)
    assert refusals(moved) == [f"the run's tag {COMMIT} is {'0' * 40!r}, the signed one {commit!r}"]
    added = replace(held, proof=replace(held.proof, kept={LOCK: tmp_path / LOCK}))  # type: ignore[type-var]
    assert "the run's changes.patch is not the signed one: it was changed" in refusals(added)
    assert refusals(replace(held, proof=None, doubt="version 7 of regraft is not what was signed: conda.yaml")) == [
        "version 7 of regraft is not what was signed: conda.yaml"
    ]
    assert refusals(evidence(tmp_path, None, LOCK, PATCH)) == [
        "it was registered before regraft signed commit, changes and dvc.lock: nothing vouches for their code"
    ]
    assert store.is_dir()


def test_of_dvc_only_the_stages_are_told_and_all_that_is_said_to_stderr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "regraft")
    command = "printf '\\377' && echo from the stage >&2 && echo made > out"  # a byte that is no text
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"speak": {"cmd": command, "outs": ["out"]}}}))
    quiet = {**os.environ, **TELEMETRY_OFF, "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    _dvc(tmp_path, quiet, "init", "--quiet", "--no-scm")
    _dvc(tmp_path, quiet, "repro", "speak")
    assert caplog.messages == ["speak ..."]
    assert capfd.readouterr() == ("", "from the stage\n")
    with pytest.raises(GraphError, match="the replay ended in `dvc repro`"):
        _dvc(tmp_path, quiet, "repro", "nobody")
    assert "nobody" in capfd.readouterr().err, "what went wrong is said"


def test_models_made_with_other_params_count_as_looks_and_the_very_same_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tree, images = tmp_path / ".regraft/replay", [f"{i:02x}" * 32 for i in range(9)]
    answers = pd.DataFrame({"id": images * 2, "split": ["val"] * 3 + ["test"] * 6 + ["val"] * 3 + ["test"] * 6})
    files.write_table(tree / PREDICTIONS, answers)
    look_ledger.record(["the head", "the network"], images[3:])
    for weights, count in (({"head": "the head", "fine_tuned": "the network"}, 2), ({"head": "another head"}, 3)):
        files.write_json(tree / EVALUATION, {"weights": weights})
        _looked_at(tree)
        assert look_ledger.count(images[3:]) == count
    assert look_ledger.count(images[:3]) == 0, "validation images are nobody's test"


def test_packages_that_differ_from_the_lock_are_named() -> None:
    told = unlike("numpy==0.1 \\\n    --hash=sha256:00\nno-such-package==2.0\n")
    assert len(told) == 2
    assert told[0].startswith("numpy ") and told[0].endswith("(locked: 0.1)")
    assert told[1] == "no-such-package is missing (locked: 2.0)"


def test_the_text_names_verdict_reasons_and_surroundings() -> None:
    found = Replay("7", Verdict("identical", ("the same bytes",)), ("numpy 2 (locked: 1)",))
    assert found.lines() == ["version 7: identical", "  the same bytes", "  not as it was: numpy 2 (locked: 1)"]
    assert found.plain()["verdict"] == "identical"
