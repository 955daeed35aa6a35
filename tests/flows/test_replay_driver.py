"""What a replay needs before it begins; the replay itself is run in tests/test_pipeline.py."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows.doctor import unlike
from flows.replay import Replay, _refuse
from steps.adapters.circumstances import CHANGES, COMMIT, KEPT, LOCK, NONE, PATCH
from steps.audit import Evidence
from steps.core.ledger import Chain
from steps.core.replay import Verdict
from steps.errors import RequestError


@pytest.fixture
def commit(tmp_path: Path) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], [*who, "commit", "-qm", "empty", "--allow-empty"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def evidence(root: Path, tags: dict[str, str] | None, *kept: str) -> Evidence:
    """A version whose run has these tags and files; None: whose run is gone."""
    lock = {"stages": {"ingest": {"deps": [{"path": "data/raw", "md5": "0123.dir"}], "outs": []}}}
    (root / LOCK).write_text(yaml.safe_dump(lock))
    run = None if tags is None else SimpleNamespace(data=SimpleNamespace(tags=tags))
    return Evidence(root, Chain((), (), (), True), "regraft", "7", {}, run, {name: root / name for name in kept})


def refusals(held: Evidence) -> list[str]:
    with pytest.raises(RequestError) as caught:
        _refuse(held, held.root / "cache")
    first, *rest = str(caught.value).splitlines()
    assert first == "version 7 cannot be replayed:"
    return [line.strip() for line in rest]


def test_a_replay_is_refused_with_every_reason(tmp_path: Path, commit: str) -> None:
    assert refusals(evidence(tmp_path, None)) == ["its run is gone"]
    assert refusals(evidence(tmp_path, {})) == ["it was made in no git commit", "its run holds no dvc.lock"]
    far = evidence(tmp_path, {COMMIT: "0" * 40, CHANGES: KEPT}, LOCK)
    assert refusals(far) == [
        "its commit 000000000000 is not in this repository: fetch it",
        "its uncommitted changes are not kept (kept)",
        "data/raw is not in DVC's cache (nor in the workspace); `dvc fetch` where it was pushed",
    ]
    assert len(refusals(evidence(tmp_path, {COMMIT: commit, CHANGES: NONE}, LOCK))) == 1


def test_a_replay_begins_where_commit_changes_and_data_are_there(tmp_path: Path, commit: str) -> None:
    (tmp_path / "cache/files/md5/01").mkdir(parents=True)
    (tmp_path / "cache/files/md5/01/23.dir").write_text("[]")
    _refuse(evidence(tmp_path, {COMMIT: commit, CHANGES: KEPT}, LOCK, PATCH), tmp_path / "cache")


def test_packages_that_differ_from_the_lock_are_named() -> None:
    told = unlike("numpy==0.1 \\\n    --hash=sha256:00\nno-such-package==2.0\n")
    assert len(told) == 2
    assert told[0].startswith("numpy ") and told[0].endswith("(locked: 0.1)")
    assert told[1] == "no-such-package is missing (locked: 2.0)"


def test_the_text_names_verdict_reasons_and_surroundings() -> None:
    found = Replay("7", Verdict("identical", ("the same bytes",)), ("numpy 2 (locked: 1)",))
    assert found.lines() == ["version 7: identical", "  the same bytes", "  not as it was: numpy 2 (locked: 1)"]
    assert found.plain()["verdict"] == "identical"
