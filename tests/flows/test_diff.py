"""Two versions of the data, compared by a person: what came, what went, what changed its label or its split."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.diff import ImageDifference, between, compare
from flows.graph import Graph
from steps.errors import RequestError
from steps.runtime import stage
from tests.conftest import Project, make_project, write_images

Rows = list[tuple[str, str, str, str]]
COLUMNS = ["id", "path", "label", "split"]
rows = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.text("xyz/", min_size=1, max_size=3),
        st.sampled_from(["ant", "bee", ""]),
        st.sampled_from(["train", "val", "test", "unlabelled"]),
    ),
    unique_by=lambda row: row[1],
)


def table(made: Rows) -> pd.DataFrame:
    return pd.DataFrame(made, columns=COLUMNS)


def ids(items: list[ImageDifference]) -> set[str]:
    return {item.id for item in items}


@given(rows, rows)
def test_the_lists_are_the_differences_of_the_sets_of_images(before: Rows, after: Rows) -> None:
    found = compare("one", "two", table(before), table(after))
    old, new = {row[0] for row in before}, {row[0] for row in after}
    assert found.images == (len(old), len(new))
    assert (ids(found.added), ids(found.removed)) == (new - old, old - new)
    for column, items in ((1, found.renamed), (2, found.relabelled), (3, found.moved)):
        sides = [{(row[0], row[column]) for row in side if row[0] in old & new} for side in (before, after)]
        assert ids(items) == {key for key, _ in sides[0] ^ sides[1]}
    for side, made in enumerate((before, after)):
        counted = {(s, la): pair[side][0] for s, las in found.balance.items() for la, pair in las.items()}
        assert {key: n for key, n in counted.items() if n} == table(made).groupby(["split", "label"]).size().to_dict()
        for labels in found.balance.values():
            assert sum(pair[side][1] for pair in labels.values()) == pytest.approx(1) or not any(
                pair[side][0] for pair in labels.values()
            )
    assert found.lines() == compare("one", "two", table(before[::-1]), table(after[::-1])).lines()


def test_nothing_changed_is_told_as_nothing() -> None:
    made = table([("a", "x.png", "ant", "train"), ("b", "y.png", "bee", "test")])
    assert compare("v1", "v2", made, made).lines() == [
        "v1 -> v2: 2 images, then 2",
        "  added      0",
        "  removed    0",
        "  relabelled 0",
        "  moved      0",
        "  renamed    0",
        "  train",
        "    ant: 1 (100.0%) -> 1 (100.0%)",
        "  test",
        "    bee: 1 (100.0%) -> 1 (100.0%)",
    ]


def test_a_change_is_told_with_both_sides_and_long_lists_are_cut() -> None:
    before = [(f"{i:02}", f"{i:02}.png", "ant", "train") for i in range(12)]
    after = [("00", "00.png", "bee", "val"), ("new", "new.png", "", "unlabelled")]
    told = compare("v1", "v2", table(before), table(after)).lines()
    assert "    00.png  ant -> bee  val" in told
    assert "    00.png  bee  train -> val" in told
    assert "    new.png  unlabelled" in told
    assert "    and 1 more (--json lists all)" in told
    assert "    ant: 12 (100.0%) -> 0 (0.0%)   -12" in told


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, isolated: dict[str, str]) -> Iterator[Project]:
    """Make a project with two committed versions of its data and a third in the workspace."""
    home = tmp_path_factory.mktemp("versions")
    project = make_project(home / "project", isolated)
    raw = write_images(project / "data/raw", per_class=12, classes=2)

    def ingest() -> None:
        graph = Graph(project.root)
        graph.add("data/raw")
        before = graph.clear("ingest")
        stage.run(graph.stages["ingest"].cmd, project.root)
        graph.commit("ingest", before)
        graph.close()

    def commit(name: str) -> None:
        author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        for command in (["add", "-A"], [*author, "commit", "-qm", name], ["tag", name]):
            subprocess.run(["git", *command], cwd=project.root, env=isolated, check=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc"))
        patch.chdir(project.root)
        commit("empty")
        ingest()
        commit("one")
        (raw / "0/000.png").unlink()
        (raw / "0/001.png").rename(raw / "0/renamed.png")
        shutil.move(raw / "0/002.png", raw / "1/was zero.png")
        ingest()
        commit("two")
        (raw / "1/000.png").unlink()
        ingest()
        yield project


def test_two_revisions_are_compared(versions: Project) -> None:
    found = between(versions.root, "one", "two")
    assert [item.path for item in found.removed] == ["0/000.png"]
    assert sorted(item.path for item in found.renamed) == [
        ["0/001.png", "0/renamed.png"],
        ["0/002.png", "1/was zero.png"],
    ]
    assert [item.label for item in found.relabelled] == [["0", "1"]]
    assert found.images == (24, 23)
    assert found.added == []
    assert len(found.moved) == 3, "small classes: what takes the place of a removed and a relabelled image"


def test_the_command_prints_the_same_as_json_and_its_faults_as_a_sentence(versions: Project) -> None:
    assert "    1/000.png  1  " in "\n".join(between(versions.root, "two", "workspace").lines())
    printed = json.loads(versions.must("regraft", "diff", "one", "two", "--json"))
    assert printed == json.loads(json.dumps(between(versions.root, "one", "two").plain(), default=vars))
    done = versions.run("regraft", "diff", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "regraft: 'nonsense' is no revision of this project's git: unknown Git revision 'nonsense'\n"


def test_what_cannot_be_compared_is_told_in_a_sentence(versions: Project) -> None:
    def refusal(*revisions: str) -> str:
        with pytest.raises(RequestError) as caught:
            between(versions.root, *revisions)
        return str(caught.value)

    assert refusal("one", "HEAD~7") == "'HEAD~7' is no revision of this project's git: unknown Git revision 'HEAD~7'"
    assert refusal("empty", "two") == (
        "empty has no data/manifest.parquet: no run was committed with it (`git add dvc.lock`)"
    )
    cache = versions / ".dvc/cache"
    cache.rename(versions / "elsewhere")
    try:
        assert "data/manifest.parquet of one is neither in DVC's cache nor in its remote" in refusal("one", "two")
    finally:
        (versions / "elsewhere").rename(cache)
    manifest = versions / "data/manifest.parquet"
    manifest.rename(versions / "elsewhere")
    try:
        assert refusal("two", "workspace") == "there is no data/manifest.parquet here yet; `regraft run` makes it"
    finally:
        (versions / "elsewhere").rename(manifest)
