"""What production sees is compared with what training has; a shift is shown with pictures, and nothing is tracked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter

from steps.backbones import models
from steps.backbones.forward import Forward, Mode
from steps.checks.reports import Shift
from steps.commands import origins
from steps.commands.against import PAGE, Trained, _read, against
from steps.embedded import digits
from steps.errors import RequestError
from steps.images import decoding
from steps.images.manifest import Row
from steps.images.preprocessing import preprocess
from steps.runtime import files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import write_features
from tests.stages.test_screen import PARAMS

MODE = Mode(precision="float32", channels_last=True, fold_norms=True, compiled=False, device="cpu")
COMPUTE = ComputeParams(threads=1, batch_size=32)
TRAINING, REFERENCE = 150, 100
ORDER = np.random.default_rng(0).permutation(1797)  # the data set is sorted by writers
Change = Callable[[Image.Image], Image.Image]
SAME: Change = lambda picture: picture  # noqa: E731
BRIGHTER: Change = lambda picture: picture.point(lambda level: 80 + level * 0.7)  # noqa: E731
EDGES: Change = lambda picture: picture.resize((32, 32)).filter(ImageFilter.FIND_EDGES)  # noqa: E731


class Bench:
    """A project whose training images are digits, and folders of other digits to hold against them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trained = Trained(*(root / name for name in ("raw", "screened", "features", "preprocessing", "backbone")))
        card, state = origins.embedded()
        files.write_tensors(self.trained.backbone / models.WEIGHTS, state)
        models.write_card(self.trained.backbone, card)
        files.write_json(self.trained.preprocessing, card.preprocessing.to_dict())
        self.lay("raw", ORDER[:TRAINING], SAME)
        rows = [self.row(path) for path in sorted(self.trained.raw.rglob("*.png"))]
        files.write_table(self.trained.screened, pd.DataFrame(rows, columns=Row._fields))
        forward = Forward(models.load_backbone(self.trained.backbone)[1], [""], MODE, len(rows))
        read = [decoding.read_image(self.trained.raw, row.path, row.id, None) for row in rows]
        features = forward(torch.stack([preprocess(picture, card.preprocessing) for picture in read]))
        write_features(self.trained.features, [row.id for row in rows], features)

    def lay(self, name: str, numbers: Any, change: Change) -> Path:
        (self.root / name / "deep").mkdir(parents=True, exist_ok=True)
        pixels = digits.pixels()[0]
        for number in numbers:
            place = "deep/" if number % 2 else ""
            change(Image.fromarray(pixels[number])).save(self.root / name / f"{place}{number:04}.png")
        return self.root / name

    def row(self, path: Path) -> Row:
        facts = decoding.inspect(path.read_bytes())._asdict()
        plain = {"label": "0", "split": "train", "bytes": 1, "group": "", "source": "", "weight": 1.0}
        return Row(id=files.sha256_of(path), path=path.relative_to(self.trained.raw).as_posix(), **plain, **facts)

    def compare(self, reference: Path, reweight: bool = False, **changes: Any) -> Shift:
        names = [path.relative_to(reference).as_posix() for path in reference.rglob("*") if path.is_file()]
        return against(
            self.root, reference, names, self.trained, replace(PARAMS, **changes), MODE, 0, COMPUTE, reweight
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("project")
    made = Bench(root)
    made.lay("same", ORDER[300 : 300 + REFERENCE], SAME)
    made.lay("brighter", ORDER[300 : 300 + REFERENCE], BRIGHTER)
    made.lay("edges", ORDER[300 : 300 + REFERENCE], EDGES)
    return made


def test_other_images_of_one_world_are_not_accused(bench: Bench) -> None:
    found = bench.compare(bench.root / "same")
    assert (found.training, found.reference, found.left_out, found.unreadable) == (150, 100, 0, ())
    assert found.p > 0.05 and found.rules[0].passed
    assert not [row for row in found.measures if row.significant]


@pytest.mark.parametrize(("folder", "measure"), [("brighter", "brightness"), ("edges", "width")])
def test_a_shift_is_found_named_and_shown(bench: Bench, folder: str, measure: str) -> None:
    found = bench.compare(bench.root / folder)
    (rule,) = found.rules
    assert found.auc.known > 0.95 and found.p < 1e-6 and not rule.passed
    assert all((rule.observed, rule.limit, rule.remedy, rule.what, rule.severity))
    assert measure in {row.measure for row in found.measures if row.significant}
    page = (bench.root / PAGE).read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * PARAMS.most_shown, "the strangest of either side"
    assert found.strange[0].path in page and found.unseen[0].path in page and rule.remedy in page
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_weights_are_written_on_request_and_refused_where_training_lacks_the_kind(bench: Bench) -> None:
    path = bench.root / "data" / "importance.csv"
    with pytest.raises(RequestError, match="Label images of that kind instead"):
        bench.compare(bench.root / "edges", reweight=True)
    assert not path.exists()
    found = bench.compare(bench.root / "same", reweight=True)
    table = pd.read_csv(path)
    assert set(table["image"]) == set(pd.read_parquet(bench.trained.screened)["id"])
    assert table["weight"].mean() == pytest.approx(1, abs=1e-3)
    assert (table["weight"].sum() ** 2 / (table["weight"] ** 2).sum()) == pytest.approx(found.effective, rel=0.01)
    path.unlink()


def test_the_severity_is_the_params(bench: Bench) -> None:
    fail = replace(PARAMS.severity, domain_shift="fail")
    assert bench.compare(bench.root / "edges", severity=fail).rules[0].severity == "fail"
    assert bench.compare(bench.root / "edges", severity=replace(fail, domain_shift="off")).rules == ()


def test_the_same_folder_gives_the_same_report_and_touches_nothing_tracked(bench: Bench) -> None:
    def tracked() -> dict[str, bytes]:
        every = [path for path in bench.root.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in every if "outcome" not in path.parts}

    before = tracked()
    reports = [
        (json.dumps(bench.compare(bench.root / "same"), default=files.plain), (bench.root / PAGE).read_bytes())
        for _ in range(2)
    ]
    assert reports[0] == reports[1] and tracked() == before


def test_what_is_no_image_is_told_and_passed_over(bench: Bench) -> None:
    folder = bench.lay("messy", ORDER[400:420], SAME)
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    found = bench.compare(folder)
    assert found.reference == 20
    assert [(row.path, row.reason) for row in found.unreadable] == [("page.jpg", "an HTML page, not an image")]


def test_too_few_images_are_refused_in_words(bench: Bench) -> None:
    (bench.root / "empty").mkdir()
    with pytest.raises(RequestError, match="holds 0 images; at least 10 are needed"):
        bench.compare(bench.root / "empty")


def test_a_picture_of_the_reference_is_decoded_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = decoding._decode

    def counted(data: bytes, grey_bits: int | None) -> decoding.Decoded:
        decoded.append(len(data))
        return decode(data, grey_bits)

    monkeypatch.setattr(decoding, "_decode", counted)
    folder = bench.root / "same"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))[:9]
    spec = models.read_preprocessing(bench.trained.preprocessing)
    for name in names:
        row, tensor = _read(folder, name, spec)  # type: ignore[misc]
        assert row["path"] == name and tensor.dtype == torch.uint8
    assert len(decoded) == len(names)
