"""Each image is computed once, ever; what is written never depends on what the store held."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps.backbones import models
from steps.commands import origins
from steps.errors import IntegrityError, RequestError
from steps.extract_features import ExtractFeaturesParams, extract_features
from steps.images import decoding
from steps.images.preprocessing import preprocess
from steps.runtime import files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import read_features
from tests.conftest import write_images

PLAIN = ExtractFeaturesParams(
    cuts=1, precision="float32", channels_last=False, fold_norms=False, compiled=False, device="cpu"
)
SHIPPED = replace(PLAIN, channels_last=True, fold_norms=True)
COMPUTE = ComputeParams(threads=1, batch_size=8)


@dataclass(frozen=True)
class Bench:
    """A project's folder with a backbone, preprocessing and some images; `extract` runs the stage on them."""

    root: Path
    log: pytest.LogCaptureFixture

    def extract(
        self, table: pd.DataFrame, params: ExtractFeaturesParams = SHIPPED, compute: ComputeParams = COMPUTE
    ) -> tuple[int, bytes]:
        """Return how many images went through decoder and backbone, and the bytes that were written."""
        files.write_table(self.root / "accepted.parquet", table)
        self.log.clear()
        extract_features(params, compute, *arguments(self.root))
        (told,) = re.findall(r"(\d+) of \d+ images computed", self.log.text)
        return int(told), (self.root / "features").read_bytes()

    def table(self) -> pd.DataFrame:
        paths = sorted((self.root / "raw").rglob("*.png"))
        ids = [files.sha256_of(path) for path in paths]
        return pd.DataFrame({"path": [str(path.relative_to(self.root / "raw")) for path in paths], "id": ids})

    def stores(self) -> list[Path]:
        return sorted(self.root.glob(".regraft/features/*/rows"))


def arguments(root: Path) -> list[Path]:
    return [root / name for name in ("raw", "accepted.parquet", "preprocessing.json", "backbone", "features")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Bench:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    caplog.set_level(logging.INFO, logger="regraft")
    write_images(tmp_path / "raw", per_class=9)
    card, state = origins.embedded()
    files.write_tensors(tmp_path / "backbone" / models.WEIGHTS, state)
    models.write_card(tmp_path / "backbone", card)
    files.write_json(tmp_path / "preprocessing.json", card.preprocessing.to_dict())
    return Bench(tmp_path, caplog)


def reference(bench: Bench, table: pd.DataFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Compute the features one image at a time, in order of id, with nothing but the network."""
    card, network, _ = models.load_backbone(bench.root / "backbone")
    rows = table.sort_values("id")
    read = [decoding.read_image(bench.root / "raw", *item, None) for item in zip(rows["path"], rows["id"], strict=True)]
    return np.concatenate([network(preprocess(i, card.preprocessing)[None]).detach().numpy() for i in read])


@pytest.mark.parametrize(
    ("params", "tolerance"),
    [
        (PLAIN, 1e-5),
        (SHIPPED, 1e-5),
        (replace(PLAIN, precision="bfloat16"), 0.05),
        (replace(SHIPPED, precision="bfloat16"), 0.05),
    ],
)
def test_features_are_what_the_backbone_makes_of_each_image(
    bench: Bench, params: ExtractFeaturesParams, tolerance: float
) -> None:
    table = bench.table()
    bench.extract(table, params)
    ids, rows = read_features(bench.root / "features")
    wanted = reference(bench, table)
    assert ids == sorted(table["id"])
    assert rows.shape == wanted.shape == (27, 512)
    assert np.abs(rows - wanted).max() <= tolerance * np.abs(wanted).max()


def test_an_image_is_computed_once_and_new_ones_alone(bench: Bench) -> None:
    table = bench.table()
    assert bench.extract(table[table.index % 9 != 4])[0] == 24
    computed, grown = bench.extract(table)
    assert computed == 3
    assert bench.extract(table)[0] == 0
    shutil.rmtree(bench.root / ".regraft")
    computed, afresh = bench.extract(table)
    assert computed == 27
    assert grown == afresh, "a row depends on the batch that it was computed in"


def test_features_that_are_not_finite_are_refused_and_not_written(bench: Bench) -> None:
    state = files.read_tensors(bench.root / "backbone" / models.WEIGHTS)
    spoilt = {name: tensor * 1e12 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    files.write_tensors(bench.root / "backbone" / models.WEIGHTS, spoilt)
    card = replace(
        models.read_card(bench.root / "backbone"), sha256=files.sha256_of(bench.root / "backbone" / models.WEIGHTS)
    )
    models.write_card(bench.root / "backbone", card)
    for _ in range(2):  # what the store has kept is refused, too
        with pytest.raises(RequestError, match=r"27 of 27 images are NaN, infinite .* \(0/000.png; 0/001.png"):
            bench.extract(bench.table())
    assert not (bench.root / "features").exists()


def test_another_depth_of_deep_grey_computes_all_anew_and_says_so(bench: Bench) -> None:
    spec = files.read_json(bench.root / "preprocessing.json")
    assert bench.extract(bench.table())[0] == 27
    for bits, says in (
        (12, "read as 12-bit and was read as 16-bit"),
        (14, "as 14-bit and was read as 12-bit or 16-bit"),
    ):
        files.write_json(bench.root / "preprocessing.json", {**spec, "grey_bits": bits})
        assert bench.extract(bench.table())[0] == 27
        assert says in bench.log.text
    files.write_json(bench.root / "preprocessing.json", spec)
    assert bench.extract(bench.table())[0] == 0 and "anew" not in bench.log.text


def test_a_new_name_label_split_or_order_computes_nothing_and_changes_no_byte(bench: Bench) -> None:
    table = bench.table()
    _, before = bench.extract(table)
    (bench.root / "raw/0").rename(bench.root / "raw/renamed")
    moved = bench.table().assign(label="other", split="test")[::-1]
    assert bench.extract(moved) == (0, before)


def test_one_image_under_two_names_is_computed_and_written_once(bench: Bench) -> None:
    table = bench.table()
    _, before = bench.extract(table)
    shutil.rmtree(bench.root / ".regraft")
    twice = pd.concat([table, table[:4].assign(path=table["path"][0:1].item())])
    assert bench.extract(twice) == (27, before)


def test_a_damaged_row_is_computed_again(bench: Bench) -> None:
    table = bench.table()
    _, before = bench.extract(table)
    (rows,) = bench.stores()
    damaged = bytearray(rows.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    rows.write_bytes(damaged)
    assert bench.extract(table) == (1, before)


@pytest.mark.parametrize("change", ["precision", "layout", "norms", "threads", "batch"])
def test_another_way_of_computing_uses_no_row_of_the_first_even_when_its_file_is_copied(
    bench: Bench, change: str
) -> None:
    params, compute = {
        "precision": (replace(PLAIN, precision="bfloat16"), COMPUTE),
        "layout": (replace(PLAIN, channels_last=True), COMPUTE),
        "norms": (replace(PLAIN, fold_norms=True), COMPUTE),
        "threads": (PLAIN, replace(COMPUTE, threads=2)),
        "batch": (PLAIN, replace(COMPUTE, batch_size=4)),
    }[change]
    table = bench.table()
    _, before = bench.extract(table, PLAIN)
    (first,) = bench.stores()
    computed, other = bench.extract(table, params, compute)
    (second,) = set(bench.stores()) - {first}
    assert computed == 27
    shutil.copy(first, second)
    assert bench.extract(table, params, compute) == (27, other)
    assert bench.extract(table, PLAIN) == (0, before)


def test_other_weights_use_no_row_of_the_first(bench: Bench) -> None:
    table = bench.table()
    bench.extract(table)
    card, state = origins.embedded()
    state["features.0.0.weight"] = state["features.0.0.weight"] * 1.5
    files.write_tensors(bench.root / "backbone" / models.WEIGHTS, state)
    with pytest.raises(IntegrityError, match="its card pins"):
        bench.extract(table)
    models.write_card(
        bench.root / "backbone", replace(card, sha256=files.sha256_of(bench.root / "backbone" / models.WEIGHTS))
    )
    assert bench.extract(table)[0] == 27


def test_a_decoder_that_reads_other_pixels_uses_no_row_of_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No version number says that this code, or the library under it, has changed; the fixed picture does."""
    table = bench.table()
    bench.extract(table)
    true = decoding.decode
    for module in ("steps.images.decoding.decode", "steps.backbones.fingerprint.decode"):
        monkeypatch.setattr(module, lambda data, *bits: true(data, *bits).point(lambda level: max(level - 1, 0)))
    assert bench.extract(table)[0] == 27


def test_several_cuts_come_from_one_pass_and_the_whole_is_the_same_as_alone(bench: Bench) -> None:
    table = bench.table()
    bench.extract(table)
    _, alone = read_features(bench.root / "features")
    alone = np.array(alone)
    assert bench.extract(table, replace(SHIPPED, cuts=3))[0] == 27
    assert len(bench.stores()) == 3
    _, whole = read_features(bench.root / "features")
    assert np.array_equal(alone, whole)
    for cut, width in (("features.1", 64), ("features.0", 32)):
        ids, rows = read_features(bench.root / "features", cut)
        assert (len(ids), rows.shape) == (27, (27, width))
    assert bench.extract(table, replace(SHIPPED, cuts=2))[0] == 0


def test_a_device_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(RequestError, match="device is mps; this machine has cpu"):
        bench.extract(bench.table(), replace(PLAIN, device="mps"))


def start(bench: Bench) -> subprocess.Popen[bytes]:
    """Start the stage in a process of its own, one image a batch."""
    code = (
        "from pathlib import Path; from steps.extract_features import *;"
        f"extract_features(ExtractFeaturesParams(**{vars(SHIPPED)}), ComputeParams(threads=1, batch_size=1),"
        f"*map(Path, {[str(path) for path in arguments(bench.root)]}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "DVC_ROOT": str(bench.root)})


ONE_BY_ONE = replace(COMPUTE, batch_size=1)


def test_a_killed_extraction_goes_on_where_it_was(bench: Bench) -> None:
    write_images(bench.root / "raw/more", per_class=170, classes=10)
    table = bench.table()
    files.write_table(bench.root / "accepted.parquet", table)
    process = start(bench)
    while not sum(rows.stat().st_size for rows in bench.stores()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (bench.root / "features").exists()
    computed, resumed = bench.extract(table, compute=ONE_BY_ONE)
    assert 0 < computed < table["id"].nunique()
    shutil.rmtree(bench.root / ".regraft")
    assert bench.extract(table, compute=ONE_BY_ONE) == (table["id"].nunique(), resumed)


def test_two_extractions_at_once_write_the_same_and_leave_a_sound_store(bench: Bench) -> None:
    table = bench.table()
    files.write_table(bench.root / "accepted.parquet", table)
    processes = [start(bench), start(bench)]
    assert [process.wait() for process in processes] == [0, 0]
    written = (bench.root / "features").read_bytes()
    assert bench.extract(table, compute=ONE_BY_ONE) == (0, written)
    shutil.rmtree(bench.root / ".regraft")
    assert bench.extract(table, compute=ONE_BY_ONE) == (27, written)
