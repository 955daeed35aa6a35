"""Train glyphnet on rendered characters and write it with its card: `python -m tests.studies.pretrain`.

Afterwards `python -m tests.studies.measure` fills in the card's figures. Same seed, versions and kind of processor,
same bytes. One thread, so that neither the number of cores nor who else uses them shows in the weights or doubles the
three minutes.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from steps.backbones.glyphnet import GlyphNet, glyphnet
from steps.images.preprocessing import Preprocessing, normalise
from steps.runtime import files
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.progress import track
from steps.runtime.seeding import derive, torch_generator
from tests.studies.glyphs import CHARACTERS, FONTS, render

HOME = Path(__file__).parents[2] / "steps" / "embedded"
WEIGHTS, CARD = HOME / "glyphnet.safetensors", HOME / "glyphnet.json"
SEED, THREADS, GLYPHS, EPOCHS, BATCH, RATE, DECAY = 0, 1, 60_000, 3, 256, 2e-3, 1e-3
SIDE = 16


def enlarge(images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> torch.Tensor:
    """Resize uint8 [n, 8, 8] as the pipeline does (Pillow, bilinear); return uint8 RGB [n, 3, 16, 16]."""
    resized = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for i in images]
    return torch.from_numpy(np.stack(resized))[:, None].expand(-1, 3, -1, -1)


def statistics(images: torch.Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of uint8 images in [0, 1], rounded to what a card can say."""
    scaled = images[:, 0].double() / 255
    return round(float(scaled.mean()), 4), round(float(scaled.std()), 4)


def preprocessing(mean: float, std: float) -> Preprocessing:
    """Return the specification that the card declares."""
    return Preprocessing(
        resize=SIDE,
        crop=SIDE,
        interpolation="bilinear",
        antialias=True,
        colour_order="RGB",
        value_range=(0.0, 1.0),
        mean=(mean,) * 3,
        std=(std,) * 3,
    )


def train(images: torch.Tensor, classes: torch.Tensor, spec: Preprocessing) -> tuple[GlyphNet, float]:
    """Train on uint8 [n, 3, 16, 16]; return the network and its accuracy in the last epoch, as it went along."""
    torch.manual_seed(derive(SEED, "initialisation"))
    network = glyphnet(len(CHARACTERS)).to(memory_format=torch.channels_last)  # a quarter faster
    steps = EPOCHS * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    correct = 0
    for epoch in range(EPOCHS):
        order, correct = torch.randperm(len(images), generator=torch_generator(SEED, "order", epoch)), 0
        batches = torch.split(order[: steps // EPOCHS * BATCH], BATCH)
        for batch in track(batches, len(images), f"pretraining, epoch {epoch + 1} of {EPOCHS}", BATCH):
            inputs = normalise(images[batch], spec).contiguous(memory_format=torch.channels_last)
            logits = network(inputs)
            optimiser.zero_grad()
            F.cross_entropy(logits, classes[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            correct += int((logits.argmax(1) == classes[batch]).sum())
    return network.eval(), correct / (steps // EPOCHS * BATCH)


def main() -> None:
    """Render, train, write weights and card."""
    configure(ComputeParams(threads=THREADS, batch_size=BATCH))
    glyphs, classes = render(GLYPHS, torch_generator(SEED, "glyphs"))
    images = enlarge(glyphs.numpy())
    mean, std = statistics(images)
    network, accuracy = train(images, classes, preprocessing(mean, std))
    files.write_tensors(WEIGHTS, network.state_dict())
    files.write_json(
        CARD,
        {
            "name": "glyphnet",
            "architecture": "glyphnet",
            "num_classes": len(CHARACTERS),
            "sha256": files.sha256_of(WEIGHTS),
            "source": "trained by this project",
            "licence": "MIT; the fonts it learned from come with matplotlib and keep theirs (DejaVu, STIX, BaKoMa)",
            "preprocessing": preprocessing(mean, std).to_dict(),
            "input_statistics": {"mean": [mean] * 3, "std": [std] * 3},
            "notes": {
                "source_task": f"{len(CHARACTERS)} characters without any digit, {len(FONTS)} fonts, {GLYPHS} drawings",
                "training_command": "python -m tests.studies.pretrain",
                "settings": {"seed": SEED, "threads": THREADS, "epochs": EPOCHS, "batch": BATCH, "rate": RATE},
                "source_accuracy_in_last_epoch": round(accuracy, 4),
            },
        },
    )


if __name__ == "__main__":
    main()
