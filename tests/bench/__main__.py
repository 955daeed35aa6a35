"""`make bench`: one table of speed, with the limits that this machine set in the same run; JSON beside it.

Hymenoptera and resnet18 with random weights (time does not care for them) where REGRAFT_DATASETS is set, otherwise the
embedded digits and glyphnet. Ratios count; seconds belong to the machine. `--images N` takes N a class and split, to
try it out.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from flows.tune import fastest
from steps.backbones import models
from steps.backbones.backbone import build
from steps.backbones.forward import Mode
from steps.backbones.speed import BFLOAT16, COMPILED, EAGER, FOLDED, decode_rate, rate, sample, speeds
from steps.embedded.digits import write_digits
from steps.images import decoding
from steps.images.preprocessing import preprocess
from steps.runtime import files
from steps.runtime.feature_file import read_features
from tests.bench.pipeline import Run, add_images, phase, plain, run, set_params
from tests.conftest import Project, make_project

EPOCHS = (10, 3)
THREADS = 2
console = Console()


def gemm_peak(dtype: torch.dtype, threads: int) -> float:
    """Return the floating-point operations a second of a large matrix product: what this machine has to give."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return rate(lambda: left @ right, 2 * 1024**3)


@dataclass(frozen=True)
class Line:
    """One row: what was measured, the figure with its unit, the aim, and what to know."""

    what: str
    figure: float
    unit: str
    aim: str = ""
    note: str = ""


def set_up(root: Path, count: int) -> tuple[Project, Path, str]:
    """Make a project that uses a copy of the pictures; return it, the pictures and the architecture."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "DVC_"))}
    project = make_project(root / "project", {**kept, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / "dvc")})
    datasets = os.environ.get("REGRAFT_DATASETS")
    if datasets:
        _copy(Path(datasets, "hymenoptera"), root / "pictures", count)
        save_file(build("resnet18", 1000).state_dict(), root / "random.safetensors")
        backbone = ("resnet18", "--weights", str(root / "random.safetensors"))
    else:
        write_digits(root / "digits", seed=0)
        (root / "digits" / "test").rename(root / "digits" / "val")
        _copy(root / "digits", root / "pictures", count)
        backbone = ("glyphnet",)
    project.must("regraft", "use", str(root / "pictures"), "--backbone", *backbone)
    set_params(project, "fine_tune", epochs=EPOCHS[1], patience=EPOCHS[1])
    set_params(project, "baselines", scratch=False)  # the loop that is compared with trains none either
    set_params(project, "choose_strategy", strategy="later_blocks", later_share=0.2)  # as the loop: the last block
    set_params(project, "validate", min_val_per_class=1)  # a small try would not pass the gate
    return project, root / "pictures", backbone[0]


def choose_mode(project: Project, pictures: Path) -> Mode:
    """Write float32 or bfloat16, whichever is the faster eager way here, into extraction and fine-tuning; return it."""
    backbone = project / "data/backbone"
    spec, network = models.read_card(backbone).preprocessing, models.load_backbone(backbone)[1]
    paths = sorted(path for path in pictures.rglob("*") if path.is_file())[:32]
    pixels = torch.stack([preprocess(decoding.decode(path.read_bytes()), spec) for path in paths])
    mode = fastest(list(speeds(network, pixels, (FOLDED, BFLOAT16), [THREADS])), len(paths)).mode
    set_params(project, "extract_features", **vars(mode))
    set_params(project, "fine_tune", precision=mode.precision)
    return mode


def _copy(source: Path, target: Path, count: int) -> None:
    for folder in (path for split in ("train", "val") for path in sorted((source / split).iterdir())):
        place = target / folder.relative_to(source)
        place.mkdir(parents=True)
        for path in sorted(folder.iterdir())[: count or None]:
            shutil.copy(path, place)


def limits(project: Project, compiled: bool) -> Iterator[Line]:
    """Yield what the machine can do: matrix products, decoding, and the forward pass in each mode."""
    data, pixels, network = sample(project.root, 32)
    spec = models.read_preprocessing(project / "data/preprocessing.json")
    for threads in (1, THREADS):
        yield Line(f"decode and resize, {threads} threads", decode_rate(data, spec, threads), "images/s")
    peaks = {name: gemm_peak(getattr(torch, name), THREADS) for name in ("float32", "bfloat16")}
    for name, peak in peaks.items():
        yield Line(f"matrix product, {name}", peak / 1e9, "GFLOP/s")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(pixels[:1])
    for speed in speeds(network, pixels, EAGER + (COMPILED if compiled else ()), [THREADS]):
        share = speed.per_second * counter.get_total_flops() / peaks[speed.mode.precision]
        first = f", first call {speed.first_seconds:.0f} s" if speed.mode.compiled else ""
        note = f"{share:.0%} of the matrix product; features off by {speed.deviation:.0e}{first}"
        yield Line(f"forward, {_named(speed.mode)}", speed.per_second, "images/s", "", note)


def _named(mode: Mode) -> str:
    return " ".join([mode.precision, *(name for name, on in vars(mode).items() if on is True)])


def against_the_loop(project: Project, loop: dict[str, float], cold: Run, mode: Mode) -> Iterator[Line]:
    """Yield phases and whole against the plain loop; phase B with augmentation and, where it can, without."""
    shutil.rmtree(project / ".regraft/features", ignore_errors=True)
    extraction = phase(project, "extract_features")
    head = phase(project, "train_head")
    augmented = phase(project, "fine_tune")
    set_params(project, "fine_tune", augmentation="none")
    cached = phase(project, "fine_tune")
    _, pixels, network = sample(project.root, 32)
    (speed,) = speeds(network, pixels, (mode,), [THREADS])
    count = len(read_features(project / "data/features.safetensors")[0])
    yield Line(
        "extraction",
        count / extraction,
        "images/s",
        ">= 60 %",
        f"{count / extraction / speed.per_second:.0%} of the forward pass alone, {mode.precision} both",
    )
    for name, ours, theirs, aim in (
        ("phase A: features and head", extraction + head, loop["a"], 25),
        ("phase B: last block, augmented", augmented, loop["b"], 3),
        ("phase B: last block, no augmentation", cached, loop["b"], 10),
        ("the whole, cold", cold.seconds, loop["whole"], 3),
    ):
        yield Line(name, ours, "s", f">= {aim}x", f"{theirs / ours:.1f}x; the plain loop took {theirs:.1f} s")


def runs(project: Project, pictures: Path, aside: Path) -> tuple[Run, list[Line]]:
    """Run the pipeline cold, copy the project aside, run with nothing to do and with 1 % and 10 % more images.

    What is counted is what `extract_features` says that it decoded and sent through the backbone. The other stages
    that read pictures (`ingest`, `validate`, `fine_tune`, `baselines`, `evaluate`, `inspect`) are in the seconds alone.
    """
    cold = run(project)
    shutil.copytree(project.root, aside, symlinks=True)
    lines = [_line("the whole, cold", cold, "<= 45 s")]
    lines += [Line(f"  {name}", seconds, "s") for name, seconds in cold.stages.items()]
    lines.append(_line("the whole, nothing new", run(project), "<= 4 s"))
    count = sum(path.is_file() for path in pictures.rglob("*"))
    for share in (0.01, 0.1):
        new = max(1, round(share * count))
        add_images(pictures, new)
        lines.append(_line(f"the whole, {new} new images ({share:.0%})", run(project), f"{new} computed"))
    return cold, lines


def _line(what: str, done: Run, aim: str) -> Line:
    return Line(what, done.seconds, "s", aim, f"features of {done.computed} images computed; other stages decode anew")


def main(
    count: Annotated[int, typer.Option("--images", help="Pictures a class and split; 0 takes all.")] = 0,
    compiled: Annotated[bool, typer.Option("--compiled", help="Measure compiled modes too.")] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("data/outcome/bench.json"),
) -> None:
    """Measure everything, print the table, write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        project, pictures, architecture = set_up(Path(folder), count)
        files.write_json(
            Path(folder) / "spec.json", models.read_card(project / "data/backbone").preprocessing.to_dict()
        )
        loop = plain(pictures, architecture, Path(folder) / "spec.json", EPOCHS)
        mode = choose_mode(project, pictures)
        cold, lines = runs(project, pictures, Path(folder) / "aside")
        project = Project(Path(folder) / "aside", project.environment)
        lines += [*against_the_loop(project, loop, cold, mode), *limits(project, compiled)]
    title = f"{architecture}, {THREADS} threads, torch {torch.__version__}, {_named(mode)}"
    table = Table("what", "figure", "unit", "aim", "note", title=title)
    for line in lines:
        table.add_row(line.what, f"{line.figure:,.1f}", line.unit, line.aim, line.note)
    console.print(table)
    told: list[dict[str, Any]] = [dict(vars(line)) for line in lines]
    files.write_json(
        out,
        {
            "backbone": architecture,
            "mode": dict(vars(mode)),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "plain_loop": loop,
            "lines": told,
        },
    )
    console.print(f"JSON: {out}")


if __name__ == "__main__":
    typer.run(main)
