"""`regraft doctor`: what is missing or misconfigured, and the fix. Changes nothing; works where little else does."""

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from flows import preflight
from flows.graph import remotes
from flows.preflight import FAULT, GOOD, WARNING, Finding, Findings
from flows.sources import BACKBONE, RAW, read_source
from steps.errors import RegistryError, RegraftError
from steps.promotion.terms import SECTIONS
from steps.registry import ledger, signing, tracking
from steps.registry.model_registry import Registry
from steps.runtime import files, stage

PYTHON = ((3, 11), (3, 14))  # from, and below
ROOM = 5 * 2**30  # bytes: with less free, a run with real images may not end
DECIDING = ("dvc.yaml", "params.yaml", "data", ".regraft")  # what results and trust follow from
DENSE = 0.5  # share of parameters in fully connected layers above which transfer is known to be weak


@dataclass(frozen=True)
class Diagnosis:
    """The findings of all checks."""

    findings: list[Finding]

    @property
    def faulty(self) -> bool:
        """Return whether any finding is a fault."""
        return any(finding.state == FAULT for finding in self.findings)

    def plain(self) -> list[dict[str, object]]:
        """Return JSON values."""
        return [vars(finding) for finding in self.findings]

    def lines(self) -> list[str]:
        """Return text for a person."""
        return [finding.line() for finding in self.findings]


Checks = tuple[tuple[str, Callable[[Path], Findings]], ...]


def examine(root: Path) -> Diagnosis:
    """Run every check; a check that cannot run is a fault like any other."""
    everywhere: Checks = (("Python", _python), ("project", _project), ("disk", _disk))
    here: Checks = (
        ("merge", preflight.merges),
        ("packages", _packages),
        ("git", _git),
        ("DVC remote", _remote),
        ("images", _images),
        ("backbone", _backbone),
        ("params", _params),
        ("keys", _keys),
        ("rights", _rights),
        ("MLflow", _mlflow),
        ("Prefect", _prefect),
        ("transfer", _transfer),
    )
    findings: list[Finding] = []
    for what, check in (*everywhere, *here) if (root / "dvc.yaml").exists() else everywhere:
        try:
            findings += list(check(root))
        except (
            RegraftError,
            OSError,
            ImportError,
            ValueError,
            KeyError,
            TypeError,
            subprocess.SubprocessError,
        ) as error:
            findings.append(Finding(what, FAULT, f"{type(error).__name__}: {' '.join(str(error).split())}"))
    return Diagnosis(findings)


def _python(_: Path) -> Findings:
    version = sys.version_info[:2]
    installed = f"Python {sys.version.split()[0]}"
    if PYTHON[0] <= version < PYTHON[1]:
        yield Finding("Python", GOOD, installed)
    else:
        yield Finding("Python", FAULT, installed, "regraft needs 3.11 to 3.13: make PYTHON=python3.12")


def _packages(root: Path) -> Findings:
    """Compare the installed packages with requirements.lock."""
    lock = root / "requirements.lock"
    if not lock.is_file():
        yield Finding("packages", FAULT, "there is no requirements.lock", "restore it from git; stages depend on it")
        return
    text = lock.read_text(encoding="utf-8")
    differing = unlike(text)
    if differing:
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        yield Finding("packages", FAULT, shown, "install the lock anew: rm -rf .venv && make check")
    else:
        yield Finding("packages", GOOD, f"all {len([*_locked(text)])} as requirements.lock says")


def unlike(lock: str) -> list[str]:
    """List packages that are missing, or installed in a version other than the one the lock pins."""
    return [
        f"{name} {_installed(name) or 'is missing'} (locked: {version})"
        for name, version in _locked(lock)
        if _installed(name) != version
    ]


def _locked(text: str) -> Iterator[tuple[str, str]]:
    from packaging.requirements import Requirement

    for line in text.splitlines():
        if line and line[0] not in " #-":
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, str(requirement.specifier).removeprefix("==")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _project(root: Path) -> Findings:
    missing = [name for name in ("dvc.yaml", "params.yaml", ".dvc/config", "steps") if not (root / name).exists()]
    if missing:
        yield Finding("project", FAULT, f"{root} lacks {', '.join(missing)}", "change to the folder of a project")
    else:
        yield Finding("project", GOOD, str(root))


def _git(root: Path) -> Findings:
    (head,) = preflight.commit(root)
    if head.state != GOOD:
        yield head
        return
    command = ["git", "status", "--porcelain", "--", "dvc.lock", "params.yaml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        yield Finding("git", WARNING, f"`git status` fails: {' '.join(done.stderr.split())}", "mend the repository")
    elif done.stdout.strip():
        changed = ", ".join(line[3:] for line in done.stdout.splitlines())
        yield Finding("git", WARNING, f"not committed: {changed}", "commit them, or the last results have no history")
    else:
        yield Finding("git", GOOD, "dvc.lock and params.yaml are committed")


def _remote(root: Path) -> Findings:
    if not (root / ".dvc").is_dir():
        yield Finding("DVC remote", FAULT, "DVC is not set up here", "`dvc init` (a clone of regraft has it)")
        return
    names = remotes(root)
    if names:
        yield Finding("DVC remote", GOOD, ", ".join(names))
    else:
        yield Finding(
            "DVC remote", WARNING, "none", "`dvc remote add -d NAME URL`: data and models are on this disk only"
        )


def _disk(root: Path) -> Findings:
    free = shutil.disk_usage(root).free
    space = f"{free / 2**30:.1f} GiB free"
    short = f"at least {ROOM / 2**30:.0f} GiB are needed; `dvc gc --workspace` drops what no version needs"
    yield Finding("disk", GOOD if free >= ROOM else WARNING, space, "" if free >= ROOM else short)


def _images(root: Path) -> Findings:
    source = read_source(root)
    if not (root / RAW).is_dir():
        yield Finding(
            "images", FAULT, f"none in {RAW}", "`regraft use IMAGES --backbone NAME`, or `regraft use digits`"
        )
    else:
        yield Finding("images", GOOD, f"mirrored from {source.path}" if source else f"in {RAW}")


def _backbone(root: Path) -> Findings:
    folder = root / BACKBONE
    if not (folder / "card.json").exists() or not (folder / "weights.safetensors").exists():
        yield Finding("backbone", FAULT, f"none in {BACKBONE}", "`regraft use IMAGES --backbone NAME`")
        return
    from steps.backbones import models

    card = models.read_card(folder)
    if files.sha256_of(folder / models.WEIGHTS) != card.sha256:
        fault = f"the weights of {card.name} are not those that its card pins"
        yield Finding("backbone", FAULT, fault, "set it anew with `regraft use`")
    else:
        yield Finding("backbone", GOOD, f"{card.name}, digest {card.sha256[:12]}")


def _params(root: Path) -> Findings:
    """Bind every section as the stages will: the only check that has to import them, and torch with them."""
    import yaml

    graph = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    stage.check_params(root, (" ".join(node["cmd"].split()) for node in graph.values()), SECTIONS)
    yield Finding("params", GOOD, "params.yaml is complete and in range")


def _keys(_: Path) -> Findings:
    """Describe the signing key and the trusted keys, each by the first digits of its SHA-256."""
    private, public = signing.key_path(), signing.public_path()
    named = signing.is_named(signing.ENVIRONMENT) or signing.is_named(signing.PUBLIC)
    if not (named or private.exists() or public.exists()):
        yield Finding("keys", GOOD, "none yet: made where the first version is signed")
        return
    known = ", ".join(hashlib.sha256(key).hexdigest()[:12] for key in signing.trusted())
    signs = f"{private} signs" if private.exists() else "nothing signs here"
    summary = f"{signs}; trusted to verify: {known}"
    if private.exists() and private.stat().st_mode & 0o077:
        yield Finding("keys", WARNING, f"{summary}; others on this machine can read {private}", f"chmod 600 {private}")
    else:
        yield Finding("keys", GOOD, summary)


def _rights(root: Path) -> Findings:
    """Name what decides about trust or results and can be changed by each user of this machine."""
    public = signing.public_path()
    deciding = dict.fromkeys((public, public.parent, root, *(root / name for name in DECIDING)))
    exposed = [path for path in deciding if path.exists() and path.stat().st_mode & stat.S_IWOTH]
    if exposed:
        paths = [shlex.quote(str(path)) for path in exposed]
        yield Finding(
            "rights",
            WARNING,
            f"each user of this machine can change {', '.join(paths)}",
            f"chmod o-w {' '.join(paths)}",
        )
    else:
        yield Finding("rights", GOOD, "keys and project are closed to other users' writing, but for their group")


def _mlflow(root: Path) -> Findings:
    uri = tracking.tracking_uri()
    if uri.startswith("http"):
        (answer,) = _mlflow_server(uri)
    else:
        answer = Finding("MLflow", GOOD, "the project's own SQLite file" if tracking.is_own(uri) else uri)
    tried = answer.state == GOOD and (root / "params.yaml").is_file()
    wrong = list(preflight.registry(root)) if tried else []
    if not any(finding.what == answer.what for finding in wrong):  # a database that cannot be read gets no tick
        yield answer
    if tried:
        yield from wrong or _champion(root)


def _champion(root: Path) -> Findings:
    """Load the champion and let it answer, as `regraft serve` does."""
    if tracking.is_own(tracking.tracking_uri()) and not (root / ".regraft" / "mlflow.db").exists():
        return
    from steps.serving import served_version

    registry = Registry(root)
    chain = ledger.read(registry)
    if chain.champion is None:
        return
    try:
        served = served_version.load(registry, chain.champion, chain.package_of(chain.champion))
    except RegistryError as error:
        yield Finding("champion", FAULT, str(error), "nothing can be served, or compared with it")
        return
    served.package.files.remove()
    yield Finding("champion", GOOD, f"version {chain.champion} is what was signed, and answers")


def _mlflow_server(uri: str) -> Findings:
    who = os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if trouble := _silence(f"{uri.rstrip('/')}/health", who if all(who) else None):
        yield Finding("MLflow", FAULT, f"{uri} does not answer ({trouble})", "start it, or unset MLFLOW_TRACKING_URI")
        return
    try:  # MLflow's own passwords do not guard /health
        tracking.client()
        yield Finding("MLflow", GOOD, f"{uri} answers")
    except RegistryError as error:
        yield Finding("MLflow", FAULT, str(error), "or unset MLFLOW_TRACKING_URI")


def _prefect(_: Path) -> Findings:
    from flows import orchestration

    api = orchestration.address()
    if not api:
        yield Finding("Prefect", GOOD, "no server set: each run starts its own")
    elif trouble := orchestration.trouble():
        fix = f"start it, or {orchestration.origin()}"
        yield Finding("Prefect", FAULT, f"{api} does not answer ({trouble})", fix)
    else:
        yield Finding("Prefect", GOOD, f"{api} answers")


def _silence(url: str, who: tuple[str, str] | None = None) -> str:
    """Return why a server does not answer, "" if it does. User and password (also the address's) go in a header."""
    import httpx

    try:
        answer = httpx.get(url, auth=who, timeout=5, follow_redirects=True)
    except httpx.InvalidURL:  # its text may quote half a password
        return "it is no address"
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return "" if answer.is_success else f"HTTP {answer.status_code} {answer.reason_phrase}".rstrip()


def _transfer(root: Path) -> Findings:
    """Warn if most of a backbone is fully connected: such layers learn the patterns of their own task."""
    if not (root / BACKBONE / "card.json").exists():
        return
    from steps.backbones import models
    from steps.backbones.cost import dense_share

    card = models.read_card(root / BACKBONE)
    share = dense_share(card.architecture, card.num_classes, card.preprocessing.crop)
    summary = f"{100 * share:.0f} % of {card.architecture}'s parameters are in fully connected layers"
    if share > DENSE:
        advice = (
            "transfer is known to be weak there; prefer another backbone or choose_strategy.strategy: early_features"
        )
        yield Finding("transfer", WARNING, summary, advice)
    else:
        yield Finding("transfer", GOOD, summary)
