"""The whole pipeline and its two phases, driven as a user drives them, in a project of its own."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageOps

from tests.conftest import BIN, Project

COMPUTED = re.compile(r"(\d+) of (\d+) images computed")
STAGE = re.compile(r"^(\w+) \.\.\.")


@dataclass
class Run:
    """One `regraft run`: its seconds, those of each stage by its own lines, how many images had features computed."""

    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    computed: int = 0


def run(project: Project) -> Run:
    """Run the pipeline, telling the time of each line that it prints."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(BIN / "regraft"), "run"],
        cwd=project.root,
        env=dict(project.environment),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    lines = [(time.perf_counter() - start, line) for line in process.stderr]
    if process.wait():
        raise RuntimeError("".join(line for _, line in lines))
    told = COMPUTED.search("".join(line for _, line in lines))
    seconds = time.perf_counter() - start
    return Run(seconds, _stages(lines, seconds), int(told[1]) if told else 0)


def _stages(lines: list[tuple[float, str]], end: float) -> dict[str, float]:
    """Return the seconds from each stage's line to the next one's; the first also tells what came before."""
    starts = [(moment, match[1]) for moment, line in lines if (match := STAGE.match(line))]
    if not starts:
        return {}
    ends = [*(moment for moment, _ in starts[1:]), end]
    spent = {name: stop - moment for (moment, name), stop in zip(starts, ends, strict=True)}
    return {"start": starts[0][0], **spent}  # the last stage's share holds the verdict and the way out


def phase(project: Project, *stages: str) -> float:
    """Return the seconds that these stages take in one process that has imported what they need; writes as they do."""
    code = (
        "import sys, time; from pathlib import Path; import yaml; from steps.runtime import stage;"
        "cmds = yaml.safe_load(Path('dvc.yaml').read_text())['stages']; names = sys.argv[1:];"
        "[stage.parse(cmds[name]['cmd']) for name in names]; start = time.perf_counter();"
        "[stage.run(cmds[name]['cmd'], Path.cwd()) for name in names]; print(time.perf_counter() - start)"
    )
    return float(project.must("python", "-c", code, *stages, timeout=3600, DVC_ROOT=str(project.root)).splitlines()[-1])


def set_params(project: Project, section: str, **values: Any) -> None:
    """Change values of params.yaml, those that it has: a graph without the section is measured as it is."""
    path = project / "params.yaml"
    document = yaml.safe_load(path.read_text())
    found = document.get(section, {})
    found.update({name: value for name, value in values.items() if name in found})
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def add_images(folder: Path, count: int) -> None:
    """Add `count` pictures that were not there: mirror images of some that were."""
    paths = sorted(path for path in (folder / "train").rglob("*") if path.is_file() and "mirror" not in path.stem)
    seen = len(list((folder / "train").rglob("mirror-*")))
    for number, path in enumerate(paths[seen : seen + count], seen):
        with Image.open(path) as image:
            ImageOps.mirror(image.convert("RGB")).save(path.with_name(f"mirror-{number:04}{path.suffix}"))


def plain(folder: Path, architecture: str, spec: Path, epochs: tuple[int, int]) -> dict[str, float]:
    """Return the seconds of the plain loop: phase a, phase b, and the whole process."""
    command = [str(BIN / "python"), "-m", "tests.bench.plain", str(folder), architecture, str(spec), *map(str, epochs)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - start}
