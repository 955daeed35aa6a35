"""Where backbones come from: torchvision or timm by name, a local file, MLflow's registry, or the project itself."""

import difflib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from steps.backbones import models, timm_networks
from steps.backbones.backbone import OWN, architectures
from steps.backbones.models import Basis, Card, ModelFacts, Reading
from steps.commands import published, state_dicts, timm_catalogue, weight_files
from steps.commands.wishes import AS_IT_IS, Wishes
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


def named(name: str, weights: str | None, wishes: Wishes = AS_IT_IS) -> Loaded:
    """Return a backbone by the name that a user gives it; RequestError if it does not exist or does not fit."""
    if name.startswith(REGISTRY) or (name in OWN and not weights):
        if weights:
            raise RequestError(f"{name} has weights of its own; leave --weights out")
        if wishes != AS_IT_IS:
            raise RequestError(f"{name} has a card of its own; leave --preprocessing and --weights-part out")
        return registered(name) if name.startswith(REGISTRY) else embedded()
    return timm(name, weights, wishes) if timm_networks.is_timm(name) else torchvision(name, weights, wishes)


def embedded() -> Loaded:
    """Return the backbone that the project trained itself and ships."""
    card = artefacts.read(Card, EMBEDDED / "glyphnet.json")
    return card, files.read_tensors(EMBEDDED / "glyphnet.safetensors")


def torchvision(name: str, weights: str | None, wishes: Wishes = AS_IT_IS) -> Loaded:
    """Return a torchvision classification model by name.

    `weights` is a local file (safetensors, or tensors saved by `torch.save`), the name of one of torchvision's own
    weights, or None for its default ones. Raises RequestError if name, weights or file do not exist or do not fit.
    """
    _refuse_unknown(name)
    return _of_library("torchvision", name, weights, wishes)


def timm(name: str, weights: str | None, wishes: Wishes = AS_IT_IS) -> Loaded:
    """Return a network of timm's by `timm:NAME` or `timm:NAME.TAG`.

    `weights` as for torchvision's; its own weights have tags as names. A tag beside a file states its preprocessing.
    Raises RequestError as there, and if timm is not installed or the network cannot be cut into blocks.
    """
    architecture, tag = timm_catalogue.split(name)
    if tag and weights and wishes.preprocessing is None:
        wishes = replace(wishes, preprocessing=tag)
    base = published.entries(architecture)[tag or "DEFAULT"]
    timm_catalogue.refuse_indivisible(architecture, published.preprocessing_of(base).crop)
    return _of_library("timm", architecture, weights or tag or None, wishes)


def _of_library(library: str, name: str, weights: str | None, wishes: Wishes) -> Loaded:
    entry = published.entry_of(name, weights)
    file = Path(weights or "").expanduser()
    tensors = published.state_of(name, entry) if entry else weight_files.read(file)
    recognised = entry or published.recognised(published.entries(name), file)
    basis: Basis = "published" if entry else "recognised" if recognised else "assumed"
    # A file does not say how it was trained; torchvision's first weights of the name are the common case.
    entries = published.entries(name)
    stated = entries.__members__.get(wishes.preprocessing) or recognised
    bases = [stated] if stated else list(entries)
    base, spec, weights_of = _first_that_fits(name, tensors, bases, wishes)
    card = Card(
        name=name,
        architecture=name,
        num_classes=weights_of.classes,
        sha256="",
        source=f"{library} {entry}" if entry else f"local file {file.name}",
        licence=_licence(recognised, library),
        preprocessing=spec,
        input_statistics=None,
        notes={
            "preprocessing_of": Path(wishes.preprocessing).name if wishes.preprocessing else str(base),
            "url": entry.url if entry else "",
            **timm_catalogue.notes(base),
        },
        cut=weights_of.cut,
        reading=_reading(weights_of, "chosen" if wishes.preprocessing else basis),
    )
    _refuse_broken(weights_of.state)
    return card, weights_of.state


def _licence(entry: published.Entry | None, library: str) -> str:
    if isinstance(entry, timm_catalogue.Tag):
        return entry.licence
    return f"not stated; {library}'s weights may carry terms of their training data (ImageNet: research)"


def _refuse_unknown(name: str) -> None:
    if name not in architectures():
        close = difflib.get_close_matches(name, architectures(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RequestError(f"no backbone {name!r}{hint} (torchvision.models.list_models() has them all)")
    if name in OWN:
        raise RequestError(f"{name} comes with the project and takes no --weights")


def _first_that_fits(
    name: str, tensors: Mapping[str, torch.Tensor], bases: Sequence[published.Entry], wishes: Wishes
) -> tuple[published.Entry, Preprocessing, state_dicts.Fitted]:
    """Return the first entry for whose pictures the weights are (a ViT's fit one size), its preprocessing, the weights.

    Raises RequestError that says what differs from the nearest, and which architecture the weights fit.
    """
    misfits: list[state_dicts.MisfitError] = []
    sides: set[int] = set()
    for base in bases:
        spec = published.preprocessing_of(base)
        if wishes.preprocessing:
            spec = published.chosen(name, wishes.preprocessing, spec)
        if spec.crop in sides:
            continue  # the same weights would be misfits for the same reason
        sides.add(spec.crop)
        try:
            return base, spec, state_dicts.fitted(name, spec.crop, tensors, wishes.part)
        except state_dicts.MisfitError as misfit:
            misfits.append(misfit)
    fitting = [other for other in state_dicts.others_that_fit(misfits[0]) if other != name]
    way = f"they fit {' and '.join(fitting)}: --backbone {fitting[0]}" if fitting else f"give weights of {name}"
    raise RequestError(f"{misfits[0]}; {way}")


def _reading(weights: state_dicts.Fitted, basis: Basis) -> Reading:
    return Reading(
        part=weights.part,
        other_parts=weights.other_parts,
        renamed=weights.renamed,
        counters=weights.counters,
        cast=weights.cast,
        ignored=weights.ignored,
        preprocessing=basis,
    )


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
    _refuse_broken(state)


def _refuse_broken(state: State) -> None:
    broken = [k for k, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise RequestError(f"the weights hold NaN or infinity in {len(broken)} tensors (first: {broken[0]})")
