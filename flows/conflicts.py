"""Merge conflicts in the project's own files: git leaves both versions in them, and no reader takes those."""

import re
import subprocess
from pathlib import Path

# Written by programs (either version will do) and by people (who have to choose line by line).
WRITTEN = (
    "dvc.lock",
    "data/*.dvc",
    "data/*.jsonl",
    "data/source.json",
    "data/reports/*.json",
    "data/.gitignore",
    "requirements.lock",
)
EDITED = ("params.yaml", "dvc.yaml", "data/*.csv", ".dvc/config", "prefect.yaml")
MARKERS = re.compile(rb"^<{7} .*?^={7}\r?$.*?^>{7} ", re.MULTILINE | re.DOTALL)


def remedies(root: Path) -> list[str]:
    """Return a sentence for each kind of file that holds a merge conflict: the files, and how to resolve it."""
    written, edited = _conflicting(root, WRITTEN), _conflicting(root, EDITED)
    sentences = []
    if edited:
        keep = "keep the lines that you mean and delete the markers (<<<<<<<, =======, >>>>>>>)"
        sentences.append(f"{_held(edited)}; {keep}, then `git add {' '.join(edited)}`")
    if written:
        names = " ".join(written)
        ours = f"take either side (`git checkout --ours {names}`), then `git add {names}` and `regraft run`"
        older = f"restore an earlier version (`git log {names}` lists them; `git checkout COMMIT -- {names}`)"
        sentences.append(f"{_held(written)}; {ours if _unmerged(root, written) else older}")
    return sentences


def _held(names: list[str]) -> str:
    return f"{' and '.join(names)} hold{'s' if len(names) == 1 else ''} a merge conflict"


def _conflicting(root: Path, patterns: tuple[str, ...]) -> list[str]:
    paths = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    return [path.relative_to(root).as_posix() for path in paths if MARKERS.search(path.read_bytes())]


def _unmerged(root: Path, names: list[str]) -> bool:
    """Return whether git still holds both sides of all these files: after `git add` it has forgotten them."""
    command = ["git", "diff", "--name-only", "--diff-filter=U", "--relative", "--", *names]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return set(names) <= set(done.stdout.splitlines())
