"""Published weights of torchvision and timm: found in caches or downloaded, and the preprocessing that each takes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import try_to_load_from_cache
from torchvision import models

from steps.backbones import timm_networks
from steps.commands import timm_catalogue, weight_files
from steps.errors import RequestError
from steps.images.preprocessing import Preprocessing
from steps.runtime import files, params

Entry = Any  # a member of torchvision's WeightsEnum, or of timm_catalogue.Tag


def preprocessing_of(entry: Entry) -> Preprocessing:
    """Return the preprocessing of an entry; torchvision's is that of its transforms, field by field."""
    if isinstance(entry, timm_catalogue.Tag):
        return entry.preprocessing()
    preset = entry.transforms()
    return Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        antialias=bool(preset.antialias),
        colour_order="RGB",
        value_range=(0.0, 1.0),
        mean=tuple(map(float, preset.mean)),
        std=tuple(map(float, preset.std)),
    )


def entries(name: str) -> Any:
    """Return the published weights of an architecture: torchvision's first ones first, timm's default first."""
    if timm_networks.is_timm(name):
        return timm_catalogue.entries(name)
    return models.get_model_weights(name)


def entry_of(name: str, weights: str | None) -> Entry | None:
    """Return the entry that `weights` names, the library's default for None; None if it names a file."""
    if weights is None:
        return entries(name).DEFAULT
    return entries(name)[weights] if weights in entries(name).__members__ and not Path(weights).exists() else None


def state_of(name: str, entry: Entry) -> weight_files.Tensors:
    """Return the tensors of an entry from a cache, or else from the network, checked against the digest in its name.

    Raises RequestError, with the file that would serve, if neither has it.
    """
    wrong = []
    for file in cached(entry):
        if _as_named(file):
            return weight_files.read(file)
        wrong.append(f"{file} is not used: its SHA-256 does not begin with the digest in its name")
    if not entry.url:
        raise RequestError(f"timm publishes no weights of {name}; give a local file with --weights FILE")
    target = folders()[0] / _file_of(entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(entry.url, str(target), _digest_in(target.name))
    except (OSError, RuntimeError) as error:  # no network, or the download does not match the digest in its name
        raise RequestError(
            f"the weights of {name} could not be downloaded ({error}); {''.join(f'{one}; ' for one in wrong)}"
            f"put {entry.url} at {target}, or give a local file with --weights FILE"
        ) from None
    return weight_files.read(target)


def folders() -> tuple[Path, ...]:
    """Return the folders of downloads: TORCH_HOME's (by default the project's own), then the user's own."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "torch/hub")  # noqa: PTH111
    return tuple(dict.fromkeys(folder / "checkpoints" for folder in (Path(torch.hub.get_dir()), user)))


def cached(entry: Entry) -> Iterator[Path]:
    """Yield the files of an entry in the caches, of Hugging Face's too if it is published there."""
    for folder in folders():
        if (folder / _file_of(entry)).is_file():
            yield folder / _file_of(entry)
    if isinstance(entry, timm_catalogue.Tag) and entry.repository:
        found = try_to_load_from_cache(entry.repository, timm_catalogue.FILE, cache_dir=_hub_cache())
        if isinstance(found, str):
            yield Path(found)


def _hub_cache() -> Path:
    """Return the folder of Hugging Face's downloads, by the variables that its own tools read."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path(cache, "huggingface"), "hub"))


def _file_of(entry: Entry) -> str:
    return entry.file if isinstance(entry, timm_catalogue.Tag) else str(entry.url).rpartition("/")[2]


def _digest_in(name: str) -> str | None:
    match = torch.hub.HASH_REGEX.search(name)
    return match.group(1) if match else None


def _as_named(file: Path) -> bool:
    return files.sha256_of(file).startswith(_digest_in(file.name) or "")


def recognised(entries: Iterable[Entry], file: Path) -> Entry | None:
    """Return the entry whose digest the file has, in its name or as its own; None if there is none.

    timm's are also recognised by their name, of the file or of a folder that it is in (Hugging Face's cache).
    """
    sha256 = files.sha256_of(file)
    for entry in entries:
        address = (
            entry.value.url if isinstance(entry, timm_catalogue.Tag) else entry.url
        )  # timm's older one has a digest
        digest = _digest_in(str(address).rpartition("/")[2])
        if digest and (sha256.startswith(digest) or f"-{digest}" in file.name):
            return entry
        if isinstance(entry, timm_catalogue.Tag) and entry.names(file):
            return entry
    return None


def differences(name: str, spec: Preprocessing) -> dict[str, str]:
    """Return the entries of an architecture with another preprocessing: name -> the fields that differ."""
    differing = {}
    for entry in entries(name):
        try:
            other = preprocessing_of(entry).to_dict()
        except RequestError:  # of pictures that are no squares
            continue
        fields = [f"{field} {other[field]}" for field, value in spec.to_dict().items() if other[field] != value]
        if fields:
            differing[entry.name] = ", ".join(fields)
    return differing


def chosen(name: str, wish: str, base: Preprocessing) -> Preprocessing:
    """Return the preprocessing that `--preprocessing` asks for: of an entry, or from a JSON or YAML file of fields.

    Fields that the file leaves out are those of `base`. Raises RequestError with every fault.
    """
    if wish in entries(name).__members__:
        return preprocessing_of(entries(name)[wish])
    path = Path(wish).expanduser()
    if not path.is_file():
        known = ", ".join(entry.name for entry in entries(name))
        raise RequestError(
            f"--preprocessing {wish}: neither weights of {name} ({known}) nor a file; "
            f"a .json or .yaml file holds fields: {', '.join(base.to_dict())}"
        )
    return _stated(path, base)


def _stated(path: Path, base: Preprocessing) -> Preprocessing:
    try:
        given = files.read_json(path) if path.suffix == ".json" else files.read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"--preprocessing {path}: not readable as JSON or YAML ({type(error).__name__})") from None
    if not isinstance(given, dict):
        raise RequestError(f"--preprocessing {path}: expected fields with values, e.g. mean: [0.5, 0.5, 0.5]")
    values = {**base.to_dict(), **given}
    if faults := list(params.faults_of(Preprocessing, values, "preprocessing")):
        raise RequestError("\n  ".join([f"--preprocessing {path}:", *faults]))
    return params.bind(Preprocessing, values, "preprocessing")
