"""Files of weights as flat mappings, name -> tensor; no code that a file names is run.

A checkpoint is a tree: its nestings (`state_dict`, `model`, `model_ema`) become parts of the names, with a dot. What a
file claims is held against its size before anything is allocated for it.
"""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from steps.errors import RequestError
from steps.runtime import files

Tensors = dict[str, torch.Tensor]
DEPTH = 4  # of nestings; a pickle may hold itself
DIRECTORY = 4 * 2**20  # bytes of a safetensors header, which lists the tensors; a network of 2,000 needs 0.2 MB
PICKLE = 16 * 2**20  # bytes of a checkpoint's structure, without its tensors
MEMBERS = 100_000  # files in a checkpoint's archive; each tensor is one
EXPANDS = 4  # content of an archive, in sizes of the archive; torch.save does not compress
# Values that training scripts save beside the weights. They are not made: an empty object stands for each.
BESIDE = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "datetime.datetime",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
SAVE = "torch.save(model.state_dict(), 'weights.pth')"
STARTS = {  # of files that are not weights
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file",
    b"<": "a web page or XML; download the file again",
    b"\x89HDF": "HDF5, as Keras writes it; expected safetensors, or a state dict saved by torch.save",
}


class _Empty:
    """Stands for a value that is not read."""

    def __new__(cls, *_: object, **__: object) -> "_Empty":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass


def read(path: Path) -> Tensors:
    """Return every tensor of a safetensors file or of a file saved by `torch.save`.

    Raises RequestError if there is no such file, or if it holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise RequestError(f"--weights {path}: {'a folder; name the file in it' if path.is_dir() else 'no such file'}")
    try:
        excess = _excess(path)
        loaded = None if excess else files.read_tensors(path) if path.suffix == ".safetensors" else _unpacked(path)
    except OSError as error:
        raise RequestError(f"--weights {path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # safetensors and torch raise many types of their own
        # torch's own message suggests unpickling the file after all; ours never does
        raise RequestError(
            f"--weights {path}: not readable as weights ({type(error).__name__}); {_seen(path)}"
        ) from None
    if excess:
        raise RequestError(f"--weights {path}: {excess}")
    tensors = dict(_flat("", loaded, DEPTH))
    if not tensors:
        raise RequestError(f"--weights {path}: holds no state dict (name -> tensor); save one with {SAVE}")
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise RequestError(
                f"--weights {path}: {name} claims {tensor.numel():,} values, and the file holds "
                f"{tensor.untyped_storage().nbytes() // tensor.element_size():,} for it; save its tensors alone: {SAVE}"
            )
    return tensors


def _excess(path: Path) -> str:
    """Return what of a file is larger than any file of weights needs, by its headers alone; "" if nothing is."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        return _over("its header", header, DIRECTORY) if header <= size else ""  # else it is no safetensors file
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > MEMBERS:
        return f"its archive has {len(members):,} files; at most {MEMBERS:,} are read"
    structure = sum(member.file_size for member in members if member.filename.endswith("/data.pkl"))
    content = sum(member.file_size for member in members)
    return _over("its structure without tensors", structure, PICKLE) or _over("its content", content, EXPANDS * size)


def _over(what: str, size: int, limit: int) -> str:
    return (
        f"{what} has {size:,} bytes; at most {limit:,} are read; save its tensors alone: {SAVE}" if size > limit else ""
    )


def _unpacked(path: Path) -> object:
    with safe_globals([(_Empty, name) for name in BESIDE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises to load TorchScript as the code that it is
        return torch.load(path, map_location="cpu", weights_only=True)


def _flat(prefix: str, value: object, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_quantized and not value.is_meta:
            yield prefix, value.detach()
    elif isinstance(value, Mapping) and depth:
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _flat(f"{prefix}.{key}" if prefix else key, inner, depth - 1)


def _seen(path: Path) -> str:
    """Return what an unreadable file is, and what to do, as the end of a sentence."""
    with path.open("rb") as file:
        start = file.read(32)
    for known, what in STARTS.items():
        if start.lstrip().startswith(known):
            return f"it is {what}"
    if zipfile.is_zipfile(path) and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        return f"it is a TorchScript archive, which is code; save its tensors alone: {SAVE}"
    try:
        foreign = sorted(set(get_unsafe_globals_in_checkpoint(path)) - set(BESIDE))
    except Exception:  # of an older format, or no checkpoint at all
        foreign = []
    if foreign:
        names = ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")
        return f"it holds Python objects, which could run code ({names}); save its tensors alone: {SAVE}"
    return f"expected safetensors, or a state dict saved by {SAVE}"
