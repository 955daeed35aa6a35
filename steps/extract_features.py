"""Extract features: every accepted image goes through the frozen backbone once, however long the head trains."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from steps.adapters import files, images, models, stage
from steps.adapters.compute import ComputeParams, configure
from steps.adapters.progress import track
from steps.core.preprocessing import preprocess

Floats = npt.NDArray[np.float32]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesParams:
    """Precision of the forward pass; the features themselves are always kept as float32."""

    precision: str

    def faults(self) -> Iterator[str]:
        """Yield a precision that is not offered."""
        if self.precision not in PRECISIONS:
            yield f"precision is {self.precision!r}; one of {', '.join(PRECISIONS)}"


def extract_features(
    params: ExtractFeaturesParams,
    compute: ComputeParams,
    raw: Path,
    accepted: Path,
    preprocessing: Path,
    backbone: Path,
    features: Path,
) -> None:
    """Write float32 features [n, width] and ids of the accepted images, sorted by id; equal images appear once."""
    spec = models.read_preprocessing(preprocessing)
    _, network, width = models.load_backbone(backbone)
    table = files.read_table(accepted).drop_duplicates("id").sort_values("id")
    items = list(zip(table["path"], table["id"], strict=True))
    configure(compute)

    tensors = images.parallel(lambda item: preprocess(images.read_image(raw, *item), spec), items, compute.threads)
    rows = np.empty((len(items), width), dtype=np.float32)
    batches = images.batched(tensors, compute.batch_size)
    total = len(items)
    for number, batch in enumerate(track(batches, total, "extracting features", compute.batch_size)):
        start = number * compute.batch_size
        rows[start : start + len(batch)] = _forward(network, batch, compute.batch_size, params.precision)

    files.write_features(features, [identity for _, identity in items], {files.WHOLE: rows})


def _forward(network: nn.Module, batch: list[torch.Tensor], size: int, precision: str) -> Floats:
    """Return the features of a batch, padded to `size`: a batch of 1 and a batch of 32 differ in their last bits."""
    padded = torch.stack([*batch, *[torch.zeros_like(batch[0])] * (size - len(batch))])
    dtype = PRECISIONS[precision]
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        return network(padded)[: len(batch)].flatten(1).float().numpy()  # type: ignore[no-any-return]


if __name__ == "__main__":
    stage.main(extract_features)
