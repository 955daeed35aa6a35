"""A file is the old one or the new one, never a part; the same content is the same bytes."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.backbones.backbone import digest
from steps.runtime import files

PATHED = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_while_writing_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    files.write_json(path, {"n": 1})
    with pytest.raises(RuntimeError, match="power cut"), files.replacing(path) as temporary:
        temporary.write_text('{"n": 2', encoding="utf-8")
        assert temporary.parent == path.parent, "a rename is atomic within one file system only"
        raise RuntimeError("power cut")
    assert files.read_json(path) == {"n": 1}
    assert listing(tmp_path) == ["report.json"]


def test_a_failure_before_there_was_a_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "deep" / "er" / "x"):
        raise KeyboardInterrupt
    assert listing(tmp_path / "deep" / "er") == []


def test_what_a_kill_leaves_is_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = [".1-abcdefgh", ".hidden-file", ".regraft", "report.json"]  # process 1 is at work
    for name in kept:
        (tmp_path / name).write_text("")
    code = "import os; from steps.runtime.files import Path, replacing\n"
    code += "with replacing(Path('report.json')): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, env=PATHED)
    assert len(listing(tmp_path)) == 5
    files.sweep(tmp_path)
    assert listing(tmp_path) == kept


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_writing_never_goes_through_a_link_into_the_cache(tmp_path: Path) -> None:
    cached, output = tmp_path / "cached", tmp_path / "output"
    cached.write_bytes(b"cached")
    output.symlink_to(cached)
    files.write_text(output, "new")
    assert cached.read_bytes() == b"cached"
    assert (output.read_text(encoding="utf-8"), output.is_symlink()) == ("new", False)


def test_new_files_have_the_permissions_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "x", "x")
        assert os.umask(0o027) == 0o027, "the mask was not put back"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [1, -math.inf]}])
def test_json_without_numbers_is_refused_before_anything_is_written(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "x.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == [1]
    assert listing(tmp_path) == ["x.json"]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('aé\n"', max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(plain)
def test_json_comes_back_as_it_was_written(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value
    content = (tmp_path / "x.json").read_bytes()
    assert content.endswith(b"\n")
    assert json.loads(content) == value


def test_json_keeps_the_order_it_was_given_and_letters_as_letters(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"b": 1, "a": "Käfer\r\n"})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "b": 1,\n  "a": "Käfer\\r\\n"\n}\n'.encode()


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": ["a/1.png", "é/2.png", ""],
            "bytes": [1, 2**40, 3],
            "weight": [0.1, 1.0, 2.5],
            "probabilities": [[0.1, 0.9], [1 / 3, 2 / 3], [1.0, 0.0]],
        }
    )


def test_a_table_comes_back_and_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    files.write_table(tmp_path / "one", table())
    files.write_table(tmp_path / "two", table())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = files.read_table(tmp_path / "one")
    assert back.drop(columns="probabilities").equals(table().drop(columns="probabilities"))
    assert [list(row) for row in back["probabilities"]] == table()["probabilities"].tolist()


def test_a_tables_index_leaves_no_trace(tmp_path: Path) -> None:
    files.write_table(tmp_path / "one", table())
    files.write_table(tmp_path / "two", table().set_axis([7, 1, 4], axis=0))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tensors_come_back_and_their_order_leaves_no_trace(tmp_path: Path) -> None:
    state = {
        "b": torch.arange(6.0).reshape(2, 3).t(),
        "a": torch.tensor(3),
        "c": torch.zeros(0, 2),
        "d": torch.ones(2, dtype=torch.bfloat16),
        "e": torch.ones(3, requires_grad=True),
    }
    files.write_tensors(tmp_path / "one", state)
    files.write_tensors(tmp_path / "two", dict(reversed(state.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert digest(files.read_tensors(tmp_path / "one")) == digest(state)
