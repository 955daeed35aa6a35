from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from steps.embedded.digits import write_digits

SPLITS = ("train", "test", "unlabelled")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    write_digits(root, seed=0)
    return root


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_split(written: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "again", seed=0)
    write_digits(tmp_path / "other", seed=1)
    assert contents(tmp_path / "again") == contents(written)
    assert contents(tmp_path / "other").keys() != contents(written).keys()


def test_20_training_and_60_test_images_a_class_and_all_the_rest_unlabelled(written: Path) -> None:
    for split, each in (("train", 20), ("test", 60)):
        counts = Counter(path.parent.name for path in (written / split).rglob("*.png"))
        assert counts == {str(digit): each for digit in range(10)}
    assert len(list((written / "unlabelled").glob("*.png"))) == 1797 - 200 - 600


def test_no_picture_is_in_two_splits(written: Path) -> None:
    ids = {name: {sha256(p.read_bytes()).hexdigest() for p in (written / name).rglob("*.png")} for name in SPLITS}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 1797


def test_a_file_holds_the_intensities_of_its_row_and_lies_under_its_digit(written: Path) -> None:
    source = load_digits()
    for path in written.rglob("*.png"):
        row = int(path.stem)
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            assert np.array_equal(np.asarray(image), np.rint(source.images[row] * 255 / 16))
        assert path.parent.name in {str(source.target[row]), "unlabelled"}
