"""The evidence about one version in registry, run and package: what a signature proves, and what contradicts it.

Anyone with write access to MLflow's store can change a run's tags and artifacts. A version's package is signed together
with the circumstances of its registration, so those count, and the run's own record is checked against them.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import RegistryError, RequestError
from steps.promotion.terms import EVALUATION
from steps.registry import circumstances, package_loading
from steps.registry.chain import Chain
from steps.registry.model_registry import Registry
from steps.registry.tracking import LINEAGE
from steps.runtime import artefacts, files
from steps.runtime.stage import digest_of

FACTS = "artifacts/model/model.json"  # in a package; `backbones.models`, which owns it, loads torch
IDENTITY = {"stage": str, "digest": str, "code": str, "params": dict, "inputs": dict}  # of a Lineage


@dataclass(frozen=True)
class SignedFacts:
    """The facts of a version's model.json that serve as evidence; packages of older releases may lack them."""

    kind: str | None = None
    lineage: str | None = None
    backbone_sha256: str | None = None
    data_sha256: str | None = None


@dataclass(frozen=True)
class Proof:
    """What the signature of a version's package proves; `around` is None if the package predates it."""

    facts: SignedFacts
    around: dict[str, Any] | None  # circumstances.json: run, whether it is older than the version, tags
    kept: dict[str, Path]  # the files that restore the run, by name


@dataclass(frozen=True)
class Evidence:
    """The evidence about one version. `told`: the run's own files by name; `doubt`: why there is no proof."""

    root: Path
    chain: Chain
    name: str
    version: str
    tags: dict[str, str]
    run: Any
    told: dict[str, Path]
    proof: Proof | None
    doubt: str

    @property
    def around(self) -> dict[str, Any] | None:
        """Return the signed circumstances, None if nothing is signed."""
        return self.proof.around if self.proof else None

    @property
    def kept(self) -> dict[str, Path]:
        """Return the files that reproduce the run: the signed ones, otherwise the run's own, which are unproven."""
        return self.proof.kept if self.proof and self.proof.around else self.told

    def circumstance(self, tag: str) -> str | None:
        """Return where, when or by whom the version was made: as signed, otherwise as its run records it."""
        if self.around:
            return dict(self.around["tags"]).get(tag)
        return dict(self.run.data.tags).get(tag) if self.run else None

    def lineage(self) -> dict[str, Any]:
        """Return the run's identity: stage, digest, code, params and inputs; empty if it is lost or malformed."""
        if "lineage.json" not in self.told:
            return {}
        try:
            record = files.read_json(self.told["lineage.json"])
        except (ValueError, RecursionError):
            return {}
        whole = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in IDENTITY.items())
        return {name: record[name] for name in IDENTITY} if whole else {}

    def lineage_is_proven(self) -> bool | None:
        """Return whether the lineage hashes to the signed digest; None without a lineage or a signed dvc.lock."""
        lock = self.lock()
        if not (self.proof and self.around and lock and "lineage.json" in self.told):
            return None
        lineage = self.lineage()
        if lineage.get("stage") not in lock:
            return False
        facts = {name: value for name, value in lineage.items() if name != "digest"}
        made = digest_of({"cmd": lock[lineage["stage"]]["cmd"], **facts})
        return bool(made == lineage["digest"] == self.proof.facts.lineage)

    def lock(self) -> dict[str, Any]:
        """Return the stages of the run's dvc.lock; empty if it is lost."""
        if circumstances.LOCK not in self.kept:
            return {}
        return dict(files.read_yaml(self.kept[circumstances.LOCK])["stages"])

    def read(self) -> dict[str, str]:
        """Return the data that the run read from outside of the graph: path -> DVC's digest."""
        made = self.made()
        deps = {dep["path"]: dep["md5"] for stage in self.lock().values() for dep in stage["deps"]}
        return {p: digest for p, digest in sorted(deps.items()) if p.startswith("data/") and p not in made}

    def made(self) -> dict[str, str]:
        """Return the outputs of the run's stages: path -> DVC's digest."""
        return {out["path"]: out["md5"] for stage in self.lock().values() for out in stage.get("outs", ())}

    def contradictions(self) -> Iterator[str]:
        """Yield where MLflow's present record of the run differs from what was signed."""
        if self.proof is None or self.run is None:
            return
        tags, signed = dict(self.run.data.tags), self.proof.facts.lineage
        if tags.get(LINEAGE) != signed:
            yield f"the run's lineage digest is {tags.get(LINEAGE)}, the signed one {signed}"
        if self.around is None:
            return
        if self.run.info.run_id != self.around["run"]:
            yield f"the version names run {self.run.info.run_id}, the signed package {self.around['run']}"
        elif not self.around["run_is_older"]:  # an older run has the circumstances of its own time
            yield from self._changed(tags, dict(self.around["tags"]))

    def _changed(self, tags: dict[str, str], signed: dict[str, str]) -> Iterator[str]:
        for tag in circumstances.TAGS:
            if tags.get(tag) != signed.get(tag):
                yield f"the run's tag {tag} is {tags.get(tag)!r}, the signed one {signed.get(tag)!r}"
        for name in circumstances.NAMES:
            ours, theirs = (of.get(name) for of in (self.kept, self.told))
            if theirs and (ours is None or ours.read_bytes() != theirs.read_bytes()):
                yield f"the run's {name} is not the signed one: it was changed"
        judged, named = self.told.get(Path(EVALUATION).name), self.made().get(EVALUATION)
        if judged and named and files.md5_of(judged) != named:
            yield f"the run's {judged.name} is not the one that the signed dvc.lock names: it was changed"


def gather(registry: Registry, chain: Chain, version: str, folder: Path) -> Evidence:
    """Collect what is known about a version; copy its files into `folder`.

    Raises RequestError if the version is unknown, RegistryError if MLflow does not answer.
    """
    record = registry.version(version)
    if record is None:
        raise RequestError(f"{registry.name} has no version {version}")
    proof, doubt = _proof(registry, chain, version, folder / "signed")
    run = registry.run(record.run_id)
    run_files = registry.fetch_run(record.run_id, folder) if run else {}
    return Evidence(registry.root, chain, registry.name, version, dict(record.tags), run, run_files, proof, doubt)


def _proof(registry: Registry, chain: Chain, version: str, folder: Path) -> tuple[Proof | None, str]:
    """Verify the package, also against the ledger, before reading any of its files; return the reason if that fails."""
    try:
        with package_loading.verified(registry, version, chain.package_of(version)) as package:
            facts = artefacts.read(SignedFacts, package / FACTS, lenient=True)
            there = package / circumstances.FOLDER
            if not there.is_dir():
                return Proof(facts, None, {}), ""
            shutil.copytree(there, folder)
    except RegistryError as error:
        return None, str(error)
    kept = {name: folder / name for name in circumstances.NAMES if (folder / name).is_file()}
    return Proof(facts, files.read_json(folder / circumstances.FILE), kept), ""
