"""What the in-process driver does to DVC's records when the world changes under it."""

import re
from pathlib import Path

import pytest

from flows import graph as module
from flows.graph import Graph
from steps.errors import GraphError, RequestError
from tests.conftest import Project, make_project, write_images


@pytest.fixture
def project(tmp_path: Path, isolated: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    project = make_project(tmp_path / "project", isolated)
    monkeypatch.chdir(project.root)
    write_images(project / "data/raw", per_class=2)
    graph = Graph(project.root)
    graph.add("data/raw")
    graph.close()
    return project


def make_outputs(project: Project) -> None:
    (project / "data/manifest.parquet").write_text("made")
    (project / "data/quarantine.csv").write_text("made")


def test_stages_come_in_order_and_a_target_brings_what_it_needs(project: Project) -> None:
    graph = Graph(project.root)
    names = list(graph.stages)
    assert all(names.index(up) < names.index(s.name) for s in graph.stages.values() for up in s.upstream)
    assert [stage.name for stage in graph.select(["extract_features"])] == ["ingest", "validate", "extract_features"]
    with pytest.raises(RequestError, match=r"no stage 'extract' in dvc\.yaml.*\(stages: ingest, "):
        graph.select(["extract"])


def test_a_committed_stage_is_fresh_and_a_cleared_one_is_not(project: Project) -> None:
    graph = Graph(project.root)
    before = graph.clear("ingest")
    make_outputs(project)
    graph.commit("ingest", before)
    assert graph.is_fresh("ingest") and Graph(project.root).is_fresh("ingest")
    graph.clear("ingest")
    assert not (project / "data/manifest.parquet").exists()
    assert not graph.is_fresh("ingest")


def test_a_dependency_that_changes_while_the_stage_runs_is_not_recorded(project: Project) -> None:
    graph = Graph(project.root)
    before = graph.clear("ingest")
    make_outputs(project)
    project.edit("params.yaml", "test_share: 0.2", "test_share: 0.3")
    with pytest.raises(GraphError, match=r"params\.yaml changed while ingest ran"):
        graph.commit("ingest", before)
    assert not graph.is_fresh("ingest"), "a retry would skip what was never recorded"
    assert not (project / "dvc.lock").exists()


def test_code_edited_since_the_run_began_is_refused(project: Project) -> None:
    graph = Graph(project.root)
    for path in ("steps/ingest.py", "steps/images/listing.py", "steps/images/new.py"):
        before = (project / path).read_text() if (project / path).exists() else None
        (project / path).write_text("# other code\n")
        with pytest.raises(GraphError, match=rf"{re.escape(path)} is not the code that this run loaded"):
            graph.clear("ingest")
        (project / path).write_text(before) if before is not None else (project / path).unlink()
    (project / "steps/pages/new.py").write_text("# in a room that ingest does not enter\n")
    graph.clear("ingest")


def test_an_output_linked_into_the_cache_is_never_written_through(project: Project) -> None:
    graph = Graph(project.root)
    before = graph.clear("ingest")
    make_outputs(project)
    graph.commit("ingest", before)
    kept = {path: path.read_bytes() for path in (project / ".dvc/cache").rglob("*") if path.is_file()}
    again = graph.clear("ingest")
    (project / "data/manifest.parquet").write_text("other")
    (project / "data/quarantine.csv").write_text("other")
    graph.commit("ingest", again)
    assert kept and all(path.read_bytes() == content for path, content in kept.items())


def test_a_lock_that_is_held_is_waited_for_and_then_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    holder, graph = Graph(project.root), Graph(project.root)
    with holder._locked("test"), pytest.raises(GraphError, match="DVC's lock is held by another command"):
        graph.is_fresh("ingest")


def test_a_lock_file_that_a_kill_left_half_written_is_mended(project: Project) -> None:
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text('{"data/raw": {"wri')
    graph = Graph(project.root)
    assert not graph.is_fresh("ingest")
    graph.clear("ingest")


def test_an_unknown_policy_is_refused(project: Project) -> None:
    project.edit("dvc.yaml", "{retries: 2, timeout_minutes: 30}", "{retrys: 2}")
    with pytest.raises(GraphError, match="register: unknown meta key 'retrys'; known: isolate, retries"):
        Graph(project.root)
