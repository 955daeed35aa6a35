"""Where backbones come from: torchvision by name, a local file, MLflow's registry, or the project itself."""

import difflib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from steps.backbones import models
from steps.backbones.backbone import OWN, architectures, build, top_of
from steps.backbones.models import Card, ModelFacts
from steps.errors import GraphError, RegraftError, RequestError
from steps.images.preprocessing import Preprocessing
from steps.registry import ledger, package_loading, signing
from steps.registry.model_registry import Registry
from steps.runtime import artefacts, files

log = logging.getLogger("regraft")
State = dict[str, torch.Tensor]
Loaded = tuple[Card, State]
REGISTRY = "models:"
MODEL = "artifacts/model"  # inside a package
EMBEDDED = Path(__file__).parents[1] / "embedded"


def named(name: str, weights: str | None) -> Loaded:
    """Return a backbone by the name that a user gives it; RequestError if it does not exist or does not fit."""
    if name.startswith(REGISTRY):
        if weights:
            raise RequestError(f"{name} has weights of its own; leave --weights out")
        return registered(name)
    return embedded() if name == "glyphnet" and not weights else torchvision(name, weights)


def embedded() -> Loaded:
    """Return the backbone that the project trained itself and ships."""
    card = artefacts.read(Card, EMBEDDED / "glyphnet.json")
    return card, files.read_tensors(EMBEDDED / "glyphnet.safetensors")


def torchvision(name: str, weights: str | None) -> Loaded:
    """Return a torchvision classification model by name.

    `weights` is a local file (safetensors, or a state dict read with `weights_only=True`), the name of one of
    torchvision's own weights, or None for its default ones. Raises RequestError if name, weights or file do not exist
    or do not fit.
    """
    if name not in architectures():
        close = difflib.get_close_matches(name, architectures(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RequestError(f"no backbone {name!r}{hint} (torchvision.models.list_models() has them all)")
    if name in OWN:
        raise RequestError(f"{name} comes with the project and takes no --weights")
    from torchvision import models as tv

    own = tv.get_model_weights(name)
    if weights is None or (weights in own.__members__ and not Path(weights).exists()):
        entry = own[weights] if weights else own.DEFAULT
        return _card(name, entry, f"torchvision {entry}", entry.url), _download(name, entry)
    state = _read(Path(weights).expanduser())
    # A file does not say how it was trained; torchvision's first weights of the name are the common case.
    card = _card(name, next(iter(own)), f"local file {Path(weights).name}", "", *_top(name, state))
    _check(card, state)
    return card, state


def registered(address: str) -> Loaded:
    """Return the backbone under the head of a version that regraft registered, ending where it was cut.

    `address` is `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Only two of the version's files are read, JSON and
    safetensors; its code does not run and nothing is unpickled. Raises RequestError if there is no such version or
    regraft did not make it, RegistryError if regraft did and it is not what was signed.
    """
    registry, version = Registry(files.project_root()).resolve(address)
    name = registry.name
    try:
        with _model_of(registry, version) as folder:
            facts, state = models.read_facts(folder), files.read_tensors(folder / models.WEIGHTS)
        card = _card_of_version(name, version, facts)
        state = models.under("backbone.", state)
        _check(card, state)
    except GraphError as error:
        raise RequestError(f"version {version} of {name} is none that regraft registered ({error})") from None
    except RegraftError:
        raise
    except Exception as error:  # a registry may hold anything else
        raise RequestError(
            f"version {version} of {name} is none that regraft registered ({type(error).__name__}: {error})"
        ) from None
    return card, state


@contextmanager
def _model_of(registry: Registry, version: str) -> Iterator[Path]:
    """Yield the folder of facts and weights, verified if regraft registered the version or decided on it.

    Otherwise nothing proves them: the digest that the first use writes into data/backbone/card.json is the guard.
    """
    decided = ledger.package_of(registry, version)
    if decided or registry.digest(version) or signing.SIGNATURE in registry.listing(version):
        with package_loading.verified(registry, version, decided) as folder:
            yield folder / MODEL
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield registry.fetch(version, MODEL, Path(scratch))
    log.warning(
        "version %s of %s is not signed by regraft: from now on the digest of its weights is the guard",
        version,
        registry.name,
    )


def _card_of_version(name: str, version: str, facts: ModelFacts) -> Card:
    notes = {key: getattr(facts, key) for key in ("kind", "backbone", "backbone_sha256", "classes", "lineage")}
    return Card(
        name=name,
        architecture=facts.architecture,
        num_classes=facts.num_classes,
        sha256="",
        source=f"models:/{name}/{version}",
        licence=f"that of {facts.backbone}, on which it was grafted",
        preprocessing=facts.preprocessing,
        input_statistics=None,
        notes=notes,
        cut=facts.cut,
    )


def _card(name: str, entry: Any, source: str, url: str, classes: int = 1000, cut: str | None = None) -> Card:
    return Card(
        name=name,
        architecture=name,
        num_classes=classes,
        sha256="",
        source=source,
        licence="not stated; torchvision's weights may carry terms of their training data (ImageNet: research)",
        preprocessing=preprocessing_of(entry),
        input_statistics=None,
        notes={"preprocessing_of": str(entry), "url": url},
        cut=cut,
    )


def preprocessing_of(entry: Any) -> Preprocessing:
    """Return the transforms of a torchvision weights entry, field by field."""
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


def _download(name: str, entry: Any) -> State:
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network, or the download does not match the digest in its name
        raise RequestError(
            f"the weights of {name} could not be downloaded ({error}); give a local file with --weights FILE"
        ) from None


def _read(path: Path) -> State:
    if not path.is_file():
        raise RequestError(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return files.read_tensors(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise many types of their own
        # torch's own message suggests unpickling the file after all; ours never does
        raise RequestError(
            f"--weights {path}: not readable as weights ({type(error).__name__}); "
            "expected safetensors, or a state dict saved by torch.save"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise RequestError(f"--weights {path}: holds no plain state dict (name -> tensor)")
    return dict(loaded)


def _top(name: str, state: State) -> tuple[int, str | None]:
    """Return the number of classes, and the cut (as in `Card.cut`) of a file that was saved without its top."""
    top = top_of(build(name, 1000))
    if any(key.startswith(f"{top}.") for key in state):
        weight = state.get(f"{top}.weight")
        return (len(weight) if weight is not None and weight.dim() else 1000), None
    return 1000, ""


def _check(card: Card, state: State) -> None:
    wanted = models.untrained(card).state_dict()
    missing, foreign = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in sorted(wanted.keys() & state.keys()) if wanted[k].shape != state[k].shape]
    if missing or foreign or shapes:
        first = (missing or foreign or shapes)[0]
        raise RequestError(
            f"the weights do not fit {card.architecture}: {len(missing)} tensors missing, {len(foreign)} unknown, "
            f"{len(shapes)} of another shape (first: {first})"
        )
    broken = [k for k, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise RequestError(f"the weights hold NaN or infinity in {len(broken)} tensors (first: {broken[0]})")
