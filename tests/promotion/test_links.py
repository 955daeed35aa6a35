"""The chain from alias to raw images, in a real registry: what of it is proven, and each gap and contradiction."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps.commands.audit import Audit
from steps.commands.audit import audit as command_audit
from steps.errors import RequestError
from steps.promotion.dvc_cache import place_of
from steps.promotion.links import Link, audit, tampered
from steps.promotion.terms import EVALUATION
from steps.registry import circumstances, ledger, signing, tracking
from steps.registry.chain import PROMOTE
from steps.registry.model_registry import Registry
from steps.runtime import files
from steps.runtime.stage import Lineage, digest_of

NAME = "regraft"


@dataclass
class World:
    """A project whose version 1 was registered and promoted; `store` is DVC's cache."""

    root: Path
    store: Path

    def links(self, number: str | None = None) -> dict[str, Link]:
        version, links = audit(self.root, number, self.store)
        assert version == (number or "1")
        return {link.what: link for link in links}

    def gaps(self, number: str | None = None) -> list[str]:
        return [gap for link in self.links(number).values() for gap in link.gaps]

    def contradictions(self, number: str) -> list[str]:
        return [one for link in self.links(number).values() for one in link.contradictions]

    def signed(self, number: str | None = None) -> list[str]:
        return [what for what, link in self.links(number).items() if link.signed]

    def register(self, seed: int, signs: bool = True, older: bool = False) -> str:
        """Register a version whose run is one of its own; return its number."""
        manifest = next(dep["md5"] for dep in self.lock()["train_head"]["deps"] if "manifest" in dep["path"])
        inputs = {"data/manifest.parquet": files.sha256_of(place_of(self.store, manifest)), "data/backbone": "f.dir"}
        return register(self.root, inputs, seed, signs, older)

    def lock(self) -> dict[str, Any]:
        return dict(files.read_yaml(self.root / "dvc.lock")["stages"])


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
    lock = {
        "stages": {
            "ingest": {
                "cmd": "c",
                "deps": [item("data/raw", folder)],
                "outs": [item("data/manifest.parquet", manifest)],
            },
            "train_head": {
                "cmd": "c",
                "deps": [
                    item("data/manifest.parquet", manifest),
                    item("data/backbone", weights),
                    item("steps/templates", "0.dir"),
                ],
            },
        }
    }
    judged = kept(store, b'{"test": {}}')
    (root / EVALUATION).parent.mkdir(parents=True)
    (root / EVALUATION).write_bytes(place_of(store, judged).read_bytes())
    lock["stages"]["evaluate"] = {"cmd": "c", "deps": [], "outs": [item(EVALUATION, judged)]}
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
        found = World(root, store)
        assert found.register(seed=7) == "1"
        registry = Registry(root)
        assert ledger.append(registry, ledger.read(registry), PROMOTE, "1", "1", ["good"], by="Ada")
        assert ledger.restore_alias(registry).champion == "1"
    return found


def register(root: Path, inputs: dict[str, str], seed: int, signs: bool, older: bool) -> str:
    """Register as the stage does, without a model: facts, circumstances where it `signs` them, signature."""
    saved, registry = root / ".regraft" / f"saved-{seed}", Registry(root)
    facts: dict[str, Any] = {"stage": "train_head", "code": "c0de", "params": {"seed": seed}, "inputs": inputs}
    lineage = Lineage(digest=digest_of({"cmd": "c", **facts}), **facts)
    around = circumstances.gather(root)
    registry.ensure()
    run = registry.log_run(registry.experiment(NAME), lineage, artifacts=[root / EVALUATION], around=around)
    digest = f"{seed:04}"
    files.write_text(saved / "MLmodel", f"flavors: {{}}\nmetadata: {{regraft.digest: '{digest}'}}\n")
    told = {"lineage": lineage.digest, "kind": "head", "backbone_sha256": "feed"}
    files.write_json(saved / "artifacts/model/model.json", told)
    if signs:
        (saved / circumstances.FOLDER).mkdir()
        for path, content in around.beside(run, older).items():
            (saved / path).write_bytes(content)
    signing.sign_folder(saved)
    return registry.create(digest, run, saved, {"kind": "head"}, {})


def run_of(number: str) -> str:
    return str(tracking.client().get_model_version(NAME, number).run_id)


def kept_by(number: str, name: str) -> Path:
    """Return where MLflow keeps a file of a version's run: whoever can write there can change it."""
    artifacts = tracking.client().get_run(run_of(number)).info.artifact_uri
    return Path(str(artifacts).removeprefix("file://")) / name


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
    assert list(links) == [
        "alias",
        "decision",
        "version",
        "run",
        "commit",
        "lineage",
        "code",
        "params",
        "inputs",
        "table",
        "backbone",
        "images",
    ]
    assert world.gaps() == [] and world.signed() == list(links), "everything is proven by a signature"
    assert links["alias"].found == "champion is version 1"
    assert "entry 1: promote, by Ada" in links["decision"].found and links["decision"].found.endswith(": good")
    assert "digest 0007" in links["version"].found and len(links["lineage"].found) == len("digest ") + 64
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
    monkeypatch.setattr(Registry, "fetch_run", lambda *_: {})
    monkeypatch.setattr(Registry, "alias", lambda *_: "9")
    assert [gap for gap in world.gaps() if "the alias points to version 9" in gap]
    assert [gap for gap in world.gaps() if "lineage.json is not among the run's files" in gap]
    assert "commit" in world.signed() and "images" in world.signed(), "the package holds what the run has lost"
    assert Registry(world.root).version("1").tags["kind"] == "head"


def test_a_version_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(RequestError, match="regraft has no version 99"):
        audit(world.root, "99", world.store)


def test_a_run_that_says_something_else_than_was_signed_is_contradicted_file_by_file(world: World) -> None:
    number = world.register(seed=20)
    assert world.contradictions(number) == []
    for name, content in (
        (circumstances.LOCK, "stages: {}\n"),
        (circumstances.PATCH, "evil"),
        (circumstances.PARAMS, "seed: 9\n"),
    ):
        kept_by(number, f"{circumstances.FOLDER}/{name}").write_text(content)
    tracking.client().set_tag(run_of(number), circumstances.COMMIT, "0" * 40)
    lineage = kept_by(number, "lineage.json")
    lineage.write_text(lineage.read_text().replace("c0de", "c0da"))
    told = world.contradictions(number)
    assert [one for one in told if f"tag {circumstances.COMMIT} is '{'0' * 40}', the signed one" in one]
    for name in circumstances.NAMES:
        assert f"the run's {name} is not the signed one: it was changed" in told
    assert told.count("the run's lineage.json is not what the signed digest was made of") == 2  # code and params
    assert not {"code", "params", "inputs"} & set(world.signed(number))
    assert "c0da" not in world.links(number)["commit"].found and len(world.links(number)["images"].found) > 20


@pytest.fixture(scope="module")
def spoilt(made: World) -> str:
    """A version whose run's files are changed, one after another."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        patched.setenv("DVC_ROOT", str(made.root))
        return made.register(seed=30)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("lineage.json", b'"train_head"', b'"train_heat"', "the run's lineage.json is not what the signed digest"),
        ("lineage.json", b'"digest": "', b'"digest": "0', "the run's lineage.json is not what the signed digest"),
        ("lineage.json", b"{", b"[", "the run's lineage.json is not what regraft writes"),
        ("lineage.json", b"c0de", b"c0d\xff", "the run's lineage.json is not what regraft writes"),
        ("lineage.json", b'"code"', b'"cod"', "the run's lineage.json is not what regraft writes"),
        ("lineage.json", b'"params"', b'"param"', "the run's lineage.json is not what regraft writes"),
        (
            "evaluation.json",
            b"test",
            b"tess",
            "the run's evaluation.json is not the one that the signed dvc.lock names",
        ),
    ],
)
def test_no_byte_of_a_run_is_changed_unseen(
    world: World, spoilt: str, name: str, old: bytes, new: bytes, told: str
) -> None:
    place = kept_by(spoilt, name)
    was = place.read_bytes()
    assert old in was and world.contradictions(spoilt) == []
    place.write_bytes(was.replace(old, new, 1))
    try:
        assert [one for one in world.contradictions(spoilt) if one.startswith(told)]
    finally:
        place.write_bytes(was)


def test_a_run_that_was_there_before_its_version_may_tell_of_its_own_time(world: World) -> None:
    number = world.register(seed=21, older=True)
    tracking.client().set_tag(run_of(number), circumstances.COMMIT, "0" * 40)
    assert world.contradictions(number) == []
    assert "; registered later by " in world.links(number)["run"].found


def test_a_version_that_was_given_another_run_is_contradicted(world: World) -> None:
    number, other = world.register(seed=22), world.register(seed=23)
    with sqlite3.connect(Path(os.environ["DVC_ROOT"]) / ".regraft/mlflow.db") as database:
        database.execute(
            "update model_versions set run_id = ? where name = ? and version = ?", (run_of(other), NAME, number)
        )
    told = world.contradictions(number)
    assert told[0].startswith("the run's lineage digest is ")
    assert told[1].startswith(f"the version names run {run_of(other)}, the signed package ")


def test_a_version_from_before_circumstances_were_signed_says_so_and_goes_by_its_run(world: World) -> None:
    number = world.register(seed=24, signs=False)
    assert world.gaps(number)[-1].startswith("it was registered before regraft signed its circumstances")
    assert world.signed(number) == ["alias", "version", "lineage", "backbone"]
    assert world.links(number)["commit"].found and world.contradictions(number) == []


def test_a_package_that_fails_proves_nothing_and_the_audit_goes_on(world: World) -> None:
    number = world.register(seed=25)
    source = str(tracking.client().get_model_version(NAME, number).source).removeprefix("models:/")
    location = str(tracking.client().get_logged_model(source).artifact_location).removeprefix("file://")
    Path(location, "artifacts/model/model.json").write_text("{}")
    gap = next(gap for gap in world.gaps(number) if gap.startswith("nothing below is proven"))
    assert "Hash mismatch for 'artifacts/model/model.json'" in gap
    assert world.signed(number) == ["alias"]


def test_verification_names_what_is_wrong_with_ledger_export_and_packages(world: World) -> None:
    files.write_text(world.root / ledger.EXPORT, "another line\n")
    unsigned = world.root / "unsigned"
    files.write_text(unsigned / "MLmodel", "flavors: {}\n")
    number = Registry(world.root).create("abcd", run_of("1"), unsigned, {"kind": "head"}, {})
    found, silent = tampered(world.root, number)
    assert found[0] == "entry 1 differs from line 1 of the export"
    assert len(found) == 2 and found[1].startswith(f"version {number} of regraft is not signed")
    assert silent == []


def test_an_export_that_is_gone_emptied_or_short_is_not_passed_over_in_silence(world: World) -> None:
    export = world.root / ledger.EXPORT
    gone = "there is no export to hold the ledger against: its end could have been cut off"
    assert tampered(world.root, "1") == ([], [gone])
    ledger.export(ledger.read(Registry(world.root)), world.root)
    assert tampered(world.root, "1") == ([], [])
    export.write_text("")
    assert tampered(world.root, "1") == (["the export is empty, the ledger is not"], [])


def test_an_export_that_git_holds_is_held_against_the_ledger_whatever_lies_beside(world: World) -> None:
    export = world.root / ledger.EXPORT
    ledger.export(ledger.read(Registry(world.root)), world.root)
    files.write_text(export, f"{export.read_text()}an entry that was cut off since\n")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "add", "--force", str(ledger.EXPORT)], cwd=world.root, check=True)
    subprocess.run([*git, "commit", "-qm", "-"], cwd=world.root, check=True)
    ledger.export(ledger.read(Registry(world.root)), world.root)
    cut = "the export holds 2 entries, the ledger 1: its end was cut off (the export as committed)"
    assert tampered(world.root, "1") == ([cut], [])


def test_verification_hashes_what_it_ticks_and_the_command_that_it_prints_mends_it(world: World) -> None:
    listings = [json.loads(path.read_bytes()) for path in world.store.rglob("*.dir")]
    entry = max(listings, key=len)[1]
    cached, here = place_of(world.store, entry["md5"]), world.root / "data/raw" / entry["relpath"]
    whole = cached.read_bytes()
    assert command_audit(world.root, None, True, world.store).faults == []
    cached.write_bytes(whole + b"!")
    assert command_audit(world.root, None, False, world.store).faults is None
    (fault,) = command_audit(world.root, None, True, world.store).faults or ()
    assert fault.startswith(f"data/raw/{entry['relpath']} in DVC's cache is not what dvc.lock names: `rm -f ")
    here.parent.mkdir(parents=True)
    here.write_bytes(whole)
    (fault,) = command_audit(world.root, None, True, world.store).faults or ()
    subprocess.run(fault.split("`")[1], shell=True, check=True)
    assert command_audit(world.root, None, True, world.store).faults == [] and cached.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".dir", "card.json", "table"])
def test_every_kind_of_file_in_the_cache_is_hashed(world: World, suffix: str) -> None:
    kinds = {
        ".dir": lambda path: path.suffix == ".dir" and len(json.loads(path.read_bytes())) > 1,
        "card.json": lambda path: b"licence" in path.read_bytes(),
        "table": lambda path: path.read_bytes() == b"a table",
    }
    (path,) = (path for path in world.store.rglob("*") if path.is_file() and kinds[suffix](path))
    path.write_bytes(path.read_bytes() + b"!")
    faults = command_audit(world.root, None, True, world.store).faults or []
    assert any("in DVC's cache is not what dvc.lock names" in fault for fault in faults)


def test_the_text_marks_what_is_proven_counts_the_gaps_and_names_the_faults() -> None:
    links = [
        Link("alias", "champion is version 1", signed=True),
        Link("run", "none", ("it is gone",), False, ("it lies",)),
    ]
    told = Audit("1", links, ["entry 2 is missing: deleted"], ["there is no export"]).lines()
    assert told == [
        "  ✓ alias  champion is version 1",
        "    run    none",
        "           gap: it is gone",
        "           contradiction: it lies",
        "version 1: 2 links, 1 proven by a signature (✓), 1 gap",
        "fault: entry 2 is missing: deleted",
        "there is no export",
    ]
    assert Audit("1", links, []).lines()[-1].startswith("verified: ")
