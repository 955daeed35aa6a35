"""Files: atomic writes and the formats that stages exchange."""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `regraft status` hashes and reads JSON; it must load neither pandas nor torch
    import pandas as pd
    import torch

# Files and folders that operating and storage systems leave, in lower case; hidden ones are passed over anyway.
LITTER = frozenset(
    (
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
        "lost+found",
        "network trash folder",
        "temporary items",
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "__pycache__",
    )
)
TEMPORARY = re.compile(r"\.(\d+)-\w{8}")  # what `replacing` writes, with the number of its process
COMPILED = Path(".regraft/compiled")  # torch's compiled code: by default under /tmp, with a name others can take first


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` and rename it at the end: a kill or a power cut leaves the old or the new.

    What a kill leaves of the temporary file, `sweep` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is hidden, and short: beside a name of 255 bytes no longer one is possible. `sweep` asks for its process.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{os.getpid()}-")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what `replacing` has left in a folder because its process was killed; call it before writing anything."""
    for path in folder.glob(".*-*"):
        match = TEMPORARY.fullmatch(path.name)
        if match and not _at_work(int(match[1])):
            path.unlink(missing_ok=True)


def _at_work(process: int) -> bool:
    """Return True if another process has this number; our own may be that of one killed in an earlier container."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def project_root() -> Path:
    """Return the project's root: DVC names it in the environment of a stage, elsewhere it is the current folder."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, by which DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, two spaces deep, in the order given; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=plain) + "\n")


def plain(value: Any) -> dict[str, Any]:
    """Return an artefact's dataclass as the mapping for JSON: fields in their order."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if not (field.metadata.get("optional") and getattr(value, field.name) is None)
    }


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Read a YAML file that a program wrote."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a Parquet file atomically: same rows, same bytes."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path) -> "pd.DataFrame":
    """Read a Parquet file."""
    import pandas as pd

    return pd.read_parquet(path)


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Write a safetensors file atomically; names in sorted order, so same tensors, same bytes."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: tensors[name].detach().contiguous() for name in sorted(tensors)}, temporary)


def read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Read a safetensors file: no pickle, no code."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def passed_over(name: str) -> bool:
    """Return whether a file or folder of this name is ignored: hidden, or left by the system."""
    return name.startswith(".") or name.lower() in LITTER


def speakable(path: str) -> bool:
    """Return whether a path is UTF-8: tables and DVC can hold no other."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
