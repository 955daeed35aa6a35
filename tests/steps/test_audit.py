"""The chain from alias to raw images, in a real registry, and each of its gaps."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flows.audit import Audit
from steps.adapters import files, ledger, registry, tracking
from steps.adapters.stage import Lineage
from steps.audit import Link, audit, place_of, tampered
from steps.core.ledger import PROMOTE
from steps.errors import RequestError

NAME = "regraft"


@dataclass
class World:
    """A project whose one version was registered and promoted; `store` is DVC's cache."""

    root: Path
    store: Path

    def links(self) -> dict[str, Link]:
        version, links = audit(self.root, None, self.store)
        assert version == "1"
        return {link.what: link for link in links}

    def gaps(self) -> list[str]:
        return [gap for link in self.links().values() for gap in link.gaps]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("project")
    store = root / ".dvc" / "cache"
    raw = [kept(store, f"image {number}".encode()) for number in range(3)]
    listed = [{"md5": digest, "relpath": f"{number}.png"} for number, digest in enumerate(raw)]
    card = kept(store, json.dumps({"name": "tiny", "source": "here", "licence": "MIT", "sha256": "feed"}).encode())
    carded = [{"md5": card, "relpath": "card.json"}]
    folder, weights = (kept(store, json.dumps(entries).encode(), ".dir") for entries in (listed, carded))
    manifest = kept(store, b"a table")
    lock = {"stages": {
        "ingest": {"cmd": "c", "deps": [item("data/raw", folder)], "outs": [item("data/manifest.parquet", manifest)]},
        "train_head": {"cmd": "c", "deps": [item("data/manifest.parquet", manifest), item("data/backbone", weights),
                                         item("steps/templates", "0.dir")]},
    }}  # fmt: skip
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    (root / "params.yaml").write_text("register: {model_name: regraft}\n")
    (root / ".gitignore").write_text(".regraft/\n.dvc/cache/\n")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "-"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.setenv("DVC_ROOT", str(root))
        register(root, files.sha256_of(place_of(store, manifest)))
    return World(root, store)


def register(root: Path, manifest: str) -> None:
    saved = root / ".regraft" / "saved"
    files.write_text(saved / "MLmodel", "flavors: {}\n")
    mlflow = tracking.client()
    registry.ensure_model(mlflow, NAME)
    inputs = {"data/manifest.parquet": manifest, "data/backbone": "folder.dir"}
    lineage = Lineage("train_head", "1234", "c0de", {"seed": 7}, inputs)
    run = tracking.log_run(mlflow, tracking.experiment(mlflow, NAME), lineage, [], (), {})
    registry.create_version(mlflow, NAME, "abcd", run, saved, {"kind": "head"}, {})
    chain = ledger.decide(
        mlflow, NAME,
        lambda seen: bool(seen.entries) or ledger.append(mlflow, NAME, seen, PROMOTE, "1", "1", ["good"], by="Ada"),
    )  # fmt: skip
    assert chain.champion == "1"


def kept(store: Path, data: bytes, suffix: str = "") -> str:
    import hashlib

    digest = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
    place = place_of(store, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return digest


def item(path: str, digest: str) -> dict[str, str]:
    return {"path": path, "md5": digest}


@pytest.fixture
def world(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of the project, to be spoilt."""
    root = tmp_path / "project"
    shutil.copytree(made.root, root)
    monkeypatch.setenv("DVC_ROOT", str(made.root))  # the registry's own files lie where they were made
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return World(root, root / ".dvc" / "cache")


def test_the_chain_runs_from_the_alias_to_the_images_without_a_gap(world: World) -> None:
    links = world.links()
    assert list(links) == ["alias", "decision", "version", "run", "commit", "lineage", "code", "params", "inputs",
                           "table", "backbone", "images"]  # fmt: skip
    assert world.gaps() == []
    assert links["alias"].found == "champion is version 1"
    assert "entry 1: promote, by Ada" in links["decision"].found and links["decision"].found.endswith(": good")
    assert "digest abcd" in links["version"].found and links["lineage"].found == "digest 1234"
    assert links["params"].found == "seed: 7" and links["code"].found == "digest c0de"
    assert "of stage train_head, by " in links["run"].found and "processors" in links["run"].found
    assert links["images"].found.startswith("data/raw, digest ") and links["images"].found.endswith(", 3 files")
    assert links["backbone"].found == "tiny (here; licence: MIT), weights feed"
    assert links["inputs"].found == "1 files hashed again, lineage and dvc.lock agree"


def lose_an_image(world: World) -> None:
    listings = [json.loads(path.read_bytes()) for path in world.store.rglob("*.dir")]
    place_of(world.store, max(listings, key=len)[2]["md5"]).unlink()


def lose_the_listing(world: World) -> None:
    for listed in world.store.rglob("*.dir"):
        listed.unlink()


def change_the_manifest(world: World) -> None:
    next(path for path in world.store.rglob("*") if path.is_file() and path.read_bytes() == b"a table").write_bytes(
        b"?"
    )


def lose_the_repository(world: World) -> None:
    shutil.rmtree(world.root / ".git")


@pytest.mark.parametrize(
    ("spoil", "gap"),
    [
        (lose_an_image, "1 of 3 files are not in DVC's cache: data/raw/2.png"),
        (lose_the_listing, "data/raw is not in DVC's cache (nor in the workspace); `dvc fetch`"),
        (change_the_manifest, "data/manifest.parquet: lineage and dvc.lock name different bytes"),
        (lose_the_repository, "is not in this repository: fetch it"),
    ],
)
def test_a_gap_is_named(world: World, spoil: Callable[[World], None], gap: str) -> None:
    spoil(world)
    assert [told for told in world.gaps() if gap in told], world.gaps()


def test_a_run_without_its_files_and_an_alias_moved_by_hand_are_gaps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "fetch", lambda *_: {})
    mlflow = tracking.client()
    monkeypatch.setattr(registry, "alias_version", lambda *_: "9")
    assert [gap for gap in world.gaps() if "the alias points to version 9" in gap]
    assert [gap for gap in world.gaps() if "dvc.lock is not among the run's files" in gap]
    assert [gap for gap in world.gaps() if "lineage.json is not among the run's files" in gap]
    assert mlflow.get_model_version(NAME, "1").tags["kind"] == "head"


def test_a_version_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(RequestError, match="regraft has no version 7"):
        audit(world.root, "7", world.store)


def test_verification_names_what_is_wrong_with_ledger_export_and_packages(world: World) -> None:
    files.write_text(world.root / ledger.EXPORT, "another line\n")
    found = tampered(world.root, "1")
    assert found[0] == "entry 1 differs from line 1 of the export"
    assert len(found) == 2 and found[1].startswith("version 1 of regraft is not signed")


def test_the_text_counts_the_gaps_and_names_the_faults() -> None:
    links = [Link("alias", "champion is version 1"), Link("run", "none", ("it is gone",))]
    told = Audit("1", links, ["entry 2 is missing: deleted"]).lines()
    assert told == [
        "  alias  champion is version 1", "  run    none", "         gap: it is gone", "version 1: 2 links, 1 gap",
        "fault: entry 2 is missing: deleted",
    ]  # fmt: skip
    assert Audit("1", links, []).lines()[-1].startswith("verified: ")
