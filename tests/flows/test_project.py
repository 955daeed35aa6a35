"""A process becomes one of a project: what it keeps, it keeps there."""

import os
from pathlib import Path

import pytest

from flows.project import enter
from tests.conftest import make_project

SHARED = ("TORCHINDUCTOR_CACHE_DIR", "DVC_SITE_CACHE_DIR")  # by default folders of known names in /tmp and /var/tmp


def test_compiled_code_and_pickles_are_kept_where_no_other_user_can_put_them_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "project", {})
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    for name in (*SHARED, "MLFLOW_TRACKING_URI", "DVC_ROOT"):
        os.environ.pop(name, None)
    enter(project.root)
    assert [Path(os.environ[name]).parent for name in SHARED] == [project.root / ".regraft"] * 2
    os.environ["DVC_SITE_CACHE_DIR"] = "/somewhere/else"
    enter(project.root)
    assert os.environ["DVC_SITE_CACHE_DIR"] == "/somewhere/else", "what the user has set is left"
