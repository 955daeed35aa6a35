"""The loop of the official PyTorch tutorial on transfer learning, as it is usually written: what regraft is held to.

`python -m tests.bench.plain FOLDER ARCHITECTURE SPEC.json EPOCHS_A EPOCHS_B` prints the seconds of both phases as
JSON. The backbone is frozen for A, its last block learns too in B; every epoch runs every training and validation
image through the whole network, in training mode, float32, channels first, decoded anew by two worker processes.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from steps.backbones.backbone import build, last_blocks, top_of

BATCH, WORKERS, THREADS = 32, 2, 2


def loaders(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the loaders of `train` (augmented) and `val`."""
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec["mean"], spec["std"])]
    looks = {
        "train": v2.Compose([v2.RandomResizedCrop(spec["crop"]), v2.RandomHorizontalFlip(), *end]),
        "val": v2.Compose([v2.Resize(spec["resize"]), v2.CenterCrop(spec["crop"]), *end]),
    }
    return {
        name: DataLoader(ImageFolder(folder / name, look), BATCH, shuffle=name == "train", num_workers=WORKERS)
        for name, look in looks.items()
    }


def train(network: nn.Module, data: dict[str, Any], epochs: int, rate: float) -> None:
    """Train what takes a gradient; validate after each epoch."""
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=rate, momentum=0.9)
    for _ in range(epochs):
        network.train()
        for images, targets in data["train"]:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), targets).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            for images, _ in data["val"]:
                network(images).argmax(1)


def main(folder: str, architecture: str, spec: str, head_epochs: str, block_epochs: str) -> None:
    torch.set_num_threads(THREADS)
    data = loaders(Path(folder), json.loads(Path(spec).read_text()))
    network = build(architecture, len(data["train"].dataset.classes))
    start = time.perf_counter()
    top = network.get_submodule(top_of(network))
    network.requires_grad_(False)
    top.requires_grad_(True)
    train(network, data, int(head_epochs), 1e-3)
    middle = time.perf_counter()
    top_name = top_of(network)
    block = last_blocks(network, 2)[0]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith((f"{block}.", f"{top_name}.")))
    train(network, data, int(block_epochs), 1e-4)
    print(json.dumps({"a": middle - start, "b": time.perf_counter() - middle}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
