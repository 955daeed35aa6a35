"""Extract features: every accepted image goes through the frozen backbone exactly once; the store keeps it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval

from steps.backbones import models
from steps.backbones.feature_store import FOLDER, FeatureStore
from steps.backbones.fingerprint import cut_digests
from steps.backbones.finite import refuse_infinite
from steps.backbones.forward import Forward, Mode, cut_names
from steps.images import decoding
from steps.images.deep_grey import FULL
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, resized
from steps.runtime import files, stage
from steps.runtime.compute import ComputeParams, configure, refuse_absent
from steps.runtime.cuts import WHOLE
from steps.runtime.feature_file import write_features
from steps.runtime.progress import track

log = logging.getLogger("regraft")


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesParams(Mode):
    """How the forward pass is computed, and at how many depths it is tapped; features are always kept as float32."""

    cuts: Annotated[int, Interval(ge=1, le=8)]


def extract_features(
    params: ExtractFeaturesParams,
    compute: ComputeParams,
    raw: Path,
    accepted: Path,
    preprocessing: Path,
    backbone: Path,
    features: Path,
) -> None:
    """Write float32 features [n, width] of each cut and ids of the accepted images, sorted by id; each image once.

    Only images that the store lacks are computed; the result depends on the arguments alone, and only takes longer
    without a store. Raises RequestError if the machine lacks the device, or if features are not finite.
    """
    refuse_absent(params.device)
    spec = models.read_preprocessing(preprocessing)
    card, network, _ = models.load_backbone(backbone)
    configure(compute)
    forward = Forward(network, cut_names(network, params.cuts), params, compute.batch_size)
    stores = _stores(forward, spec, card, params, compute)
    table = files.read_table(accepted).drop_duplicates("id").sort_values("id")
    ids = table["id"].tolist()

    absent = {identity for store in stores.values() for identity in store.missing(ids)}
    missing = table[table["id"].isin(absent)]
    _compute(forward, stores, _pixels(raw, missing, spec, compute), spec, missing["id"].tolist())
    log.info("extract_features: %d of %d images computed, the others known", len(missing), len(ids))

    rows = {cut: store.rows(ids) for cut, store in stores.items()}
    refuse_infinite(table["path"].tolist(), rows.values(), params.precision)
    write_features(features, ids, rows)


def _stores(
    forward: Forward, spec: Preprocessing, card: models.Card, params: ExtractFeaturesParams, compute: ComputeParams
) -> dict[str, FeatureStore]:
    """Open the store of each cut, keyed by everything that its features depend on."""
    key = {
        "backbone": card.sha256,
        "architecture": card.architecture,
        "preprocessing": spec.to_dict(),
        "mode": {field.name: getattr(params, field.name) for field in fields(Mode)},
        "compute": vars(compute),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    folder = files.project_root() / FOLDER
    keys = {
        cut: ({**key, "cut": cut, "probe": digest}, width)
        for cut, (digest, width) in cut_digests(forward, spec).items()
    }
    _log_new_depth(folder, keys[WHOLE][0])
    return {cut: FeatureStore(folder, of_cut, width) for cut, (of_cut, width) in keys.items()}


def _log_new_depth(folder: Path, key: dict[str, Any]) -> None:
    """Log that all features are computed anew if the store has them at other depths of deep grey alone."""

    def depth_and_rest(key: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        spec = dict(key["preprocessing"])
        return spec.pop("grey_bits", FULL), {**key, "preprocessing": spec}

    depth, rest = depth_and_rest(key)
    known = [depth_and_rest(files.read_json(path)) for path in sorted(folder.glob("*/key.json"))]
    depths = {of_other for of_other, other in known if other == rest}
    if depths and depth not in depths:
        before = " or ".join(f"{other}-bit" for other in sorted(depths))
        log.warning("16-bit grey is read as %d-bit and was read as %s: all features are computed anew", depth, before)


def _pixels(raw: Path, table: Any, spec: Preprocessing, compute: ComputeParams) -> Iterator[list[torch.Tensor]]:
    """Yield batches of cropped uint8 images, decoded by threads while the caller computes on the batch before."""
    items: Sequence[tuple[str, str]] = list(zip(table["path"], table["id"], strict=True))
    pixels = decoding.parallel(
        lambda item: centre_crop(resized(decoding.read_image(raw, *item, spec.grey_bits), spec), spec),
        items,
        compute.threads,
        ahead=2 * compute.batch_size,
    )
    batches = decoding.batched(pixels, compute.batch_size)
    return track(batches, len(items), "extracting features", compute.batch_size)


def _compute(
    forward: Forward,
    stores: dict[str, FeatureStore],
    batches: Iterator[list[torch.Tensor]],
    spec: Preprocessing,
    ids: list[str],
) -> None:
    """Send batches through the network and into the stores, one by one: a kill loses at most one batch."""
    start = 0
    for batch in batches:
        features = forward(normalise(torch.stack(batch), spec))
        for cut, store in stores.items():
            store.add(ids[start : start + len(batch)], features[cut])
        start += len(batch)


if __name__ == "__main__":
    stage.main(extract_features)
