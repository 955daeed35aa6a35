"""Cached features: what is written comes back, by cut and by image; the same content is the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.errors import IntegrityError
from steps.runtime import feature_file, files
from steps.runtime.feature_file import feature_cuts, read_features, write_features


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ids_of(n: int) -> list[str]:
    return [f"{i:064x}" for i in range(n)]


def rows_of(n: int, width: int) -> Any:
    return np.random.default_rng(width).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_features_of_each_cut_come_back_with_their_ids_in_order(tmp_path: Path, n: int) -> None:
    write_features(tmp_path / "f", ids_of(n)[::-1], {"": rows_of(n, 5), "layer2": rows_of(n, 3)})
    for cut, width in (("", 5), ("layer2", 3)):
        ids, back = read_features(tmp_path / "f", cut)
        assert ids == ids_of(n)[::-1]
        assert back.dtype == np.float32
        assert back.tobytes() == rows_of(n, width).tobytes()
        assert back.shape == (n, width)


def test_features_are_mapped_not_read(tmp_path: Path) -> None:
    write_features(tmp_path / "f", ids_of(9), {"": rows_of(9, 4)})
    _, back = read_features(tmp_path / "f")
    assert isinstance(back, np.memmap)
    assert not back.flags.writeable


def test_a_file_of_features_is_a_safetensors_file(tmp_path: Path) -> None:
    write_features(tmp_path / "f", ids_of(9), {"": rows_of(9, 4), "features.3": rows_of(9, 2)})
    read = files.read_tensors(tmp_path / "f")
    assert read["ids"].numpy().tobytes() == bytes.fromhex("".join(ids_of(9)))
    assert np.array_equal(read["cut/"].numpy(), rows_of(9, 4))
    assert np.array_equal(read["cut/features.3"].numpy(), rows_of(9, 2))


def test_a_cut_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_features(tmp_path / "f", ids_of(2), {"": rows_of(2, 4), "layer2": rows_of(2, 3)})
    with pytest.raises(IntegrityError, match="'layer3'; it has '', 'layer2'"):
        read_features(tmp_path / "f", "layer3")


def test_features_written_as_doubles_are_kept_as_floats_and_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    doubles = np.random.default_rng(0).normal(size=(3, 4))
    write_features(tmp_path / "one", ids_of(3), {"b": doubles, "a": doubles[:, :2]})
    write_features(tmp_path / "two", ids_of(3), {"a": rows_like(doubles[:, :2]), "b": rows_like(doubles)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def rows_like(values: Any) -> Any:
    return np.asfortranarray(values.astype(np.float32))


def test_more_rows_than_one_stretch_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_features(tmp_path / "one", ids_of(11), {"": rows_of(11, 3)})
    monkeypatch.setattr(feature_file, "STRETCH", 4)
    write_features(tmp_path / "two", ids_of(11), {"": rows_of(11, 3)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_cuts_of_a_file_can_be_listed_without_reading_a_row(tmp_path: Path) -> None:
    write_features(tmp_path / "f", ids_of(2), {"layer2": rows_of(2, 3), "": rows_of(2, 4)})
    assert feature_cuts(tmp_path / "f") == ["", "layer2"]


def test_rows_are_found_by_image_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    rows = rows_of(5, 3)
    write_features(tmp_path / "f", ids_of(5), {"": rows})
    known = read_features(tmp_path / "f")
    wanted = [ids_of(5)[i] for i in (3, 0, 3)]
    assert np.array_equal(known.of(wanted), rows[[3, 0, 3]])
    with pytest.raises(KeyError):
        known.of(["no image"])
