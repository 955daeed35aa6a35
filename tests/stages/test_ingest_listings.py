"""What a listing says of its images, and what it may not say."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.errors import DataError
from tests.stages.test_ingest import (
    SEEDS,
    assert_moved_towards_training_at_most,
    at,
    by_hash,
    picture,
    put,
    quarantine,
    refusal,
    run,
    splits,
    splits_by_id,
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    return tmp_path / "data" / "raw"


def listing(raw: Path, table: pd.DataFrame, kind: str = "csv") -> None:
    if kind == "csv":
        table.to_csv(raw / "listing.csv", index=False)
    else:
        table.to_parquet(raw / "listing.parquet", index=False)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_listing_says_it_all(raw: Path, kind: str) -> None:
    names = [f"files/{i}.png" for i in range(4)]
    put(raw, [*names, "files/unlisted.png"])
    listing(
        raw,
        pd.DataFrame(
            {
                "path": names,
                "label": ["ant", "bee", "ant", None],
                "split": ["train", "val", "test", None],
                "group": ["g1", None, "g2", None],
                "source": ["phone", "phone", None, "web"],
                "weight": [0.5, 1, None, 2],
                "remark": ["x"] * 4,
            }
        ),
        kind,
    )
    table = run(raw)
    assert table[["path", "label", "split", "group", "source", "weight"]].to_numpy().tolist() == [
        ["files/0.png", "ant", "train", "g1", "phone", 0.5],
        ["files/1.png", "bee", "val", "", "phone", 1.0],
        ["files/2.png", "ant", "test", "g2", "", 1.0],
        ["files/3.png", "", "unlabelled", "", "web", 2.0],
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_path_and_label_are_enough(raw: Path, kind: str) -> None:
    names = [f"{i:02}.png" for i in range(40)]
    put(raw, names)
    listing(raw, pd.DataFrame({"path": names, "label": ["01", "2"] * 20}), kind)
    table = run(raw)
    assert splits(table) == by_hash(raw, names, 0.3, 0.25)
    assert set(table["label"]) == {"01", "2"}, "a label is text, whatever it looks like"
    assert set(table["weight"]) == {1.0}


def test_whole_numbers_as_labels_stay_whole_where_one_is_missing(raw: Path) -> None:
    """Written by any tool but pandas: pandas leaves itself a note of the type."""
    put(raw, ["a.png", "b.png", "c.png"])
    columns = {"path": ["a.png", "b.png", "c.png"], "label": [1, 2, None]}
    pq.write_table(pa.table(columns), raw / "listing.parquet")
    assert run(raw)["label"].tolist() == ["1", "2", ""]


def test_adding_images_to_a_listing_moves_no_other(raw: Path) -> None:
    names = [f"{i:02}.png" for i in range(40)]
    put(raw, names)
    for own in (None, ["train"] * 34 + ["test"] * 6):
        table = pd.DataFrame({"path": names, "label": ["a", "b"] * 20})
        table = table if own is None else table.assign(split=own)
        listing(raw, table.iloc[::2])
        before = splits(run(raw))
        listing(raw, table)
        assert before.items() <= splits(run(raw)).items()


def test_images_of_one_group_never_straddle_a_split(raw: Path) -> None:
    names = [f"{i:02}.png" for i in range(60)]
    put(raw, names)
    groups = [f"patient {i // 5}" if i < 50 else "" for i in range(60)]
    listing(raw, pd.DataFrame({"path": names, "label": ["a", "b"] * 30, "group": groups}))
    table = run(raw)
    grouped = table[table["group"] != ""]
    assert grouped.groupby("group")["split"].nunique().tolist() == [1] * 10
    assert splits(grouped) == {n: at(g, 0.3, 0.25) for n, g in zip(names, groups, strict=True) if g}
    assert set(grouped["split"]) == {"train", "val", "test"}
    assert splits(table[table["group"] == ""]) == by_hash(raw, names[50:], 0.3, 0.25)


def test_a_listing_with_train_and_val_alone_follows_the_habit_of_the_folders(raw: Path) -> None:
    names = [f"{i:02}.png" for i in range(40)]
    put(raw, names)
    listing(raw, pd.DataFrame({"path": names, "label": ["a", "b"] * 20, "split": ["train"] * 34 + ["val"] * 6}))
    found = splits(run(raw))
    assert {name: found[name] for name in names[34:]} == dict.fromkeys(names[34:], "test")
    assert {name: found[name] for name in names[:34]} == by_hash(raw, names[:34], 0.3, 0.0)


def test_a_listing_with_a_split_for_some_images_only_is_refused(raw: Path) -> None:
    """Else one more row would change what the rule decides for the others, and move test images into training."""
    put(raw, ["a.png", "b.png"])
    listing(raw, pd.DataFrame({"path": ["a.png", "b.png"], "label": ["x", "y"], "split": ["test", ""]}))
    with pytest.raises(DataError, match="some labelled images have a split and some have none"):
        run(raw)


def test_a_file_that_is_listed_and_not_there_is_quarantined(raw: Path) -> None:
    put(raw, ["a.png"])
    (raw / "folder.png").mkdir()
    listing(raw, pd.DataFrame({"path": ["a.png", "gone.png", "folder.png"], "label": ["x", "y", "y"]}))
    assert run(raw)["path"].tolist() == ["a.png"]
    found = [(row["path"], row["reason"], row["exception"], row["kind"]) for row in quarantine(raw)]
    assert found == [
        ("folder.png", "cannot be read", "IsADirectoryError: Is a directory", "damaged"),
        ("gone.png", "cannot be read", "FileNotFoundError: No such file or directory", "damaged"),
    ]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png"])
def test_a_listing_may_not_point_outside_its_folder(raw: Path, path: str) -> None:
    put(raw, ["a.png"])
    (raw.parent / "secret.png").write_bytes(picture(0))
    (raw / "link.png").symlink_to(raw.parent / "secret.png")
    listing(raw, pd.DataFrame({"path": ["a.png", path], "label": ["x", "y"]}))
    assert refusal(raw) == f"listing.csv: {path!r} points outside the folder of images"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,label\na.png,x\n", "listing.csv lacks the column(s) path; it has ['file', 'label']"),
        ("name\na.png\n", "listing.csv lacks the column(s) label, path; it has ['name']"),
        (
            "path,label,split\na.png,x,dev\n",
            "listing.csv: unknown split 'dev'; one of train, val, test, unlabelled or empty",
        ),
        ("path,label,weight\na.png,x,heavy\n", "listing.csv: a weight is no number"),
        ("path,label,weight\na.png,x,nan\n", "listing.csv: a weight is no number"),
        ("path,label,weight\na.png,x,inf\n", "listing.csv: the weight of a.png is inf; a number of at least 0"),
        ("path,label,weight\na.png,x,-1\n", "listing.csv: the weight of a.png is -1.0; a number of at least 0"),
        ("", "listing.csv cannot be read: it is empty; expected"),
        ('path,label\n"a.png,x\n', "listing.csv cannot be read: "),
        (b"path,label\n\xff\xfe,x\n", "listing.csv cannot be read: "),
        ("path,label\n", "the class folders (or the listing) hold no files"),
    ],
)
def test_a_listing_that_makes_no_sense_is_refused_in_words(raw: Path, content: str | bytes, sentence: str) -> None:
    put(raw, ["a.png"])
    (raw / "listing.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(raw).startswith(sentence)


def test_a_parquet_listing_that_is_none_is_refused_in_words(raw: Path) -> None:
    (raw / "listing.parquet").write_bytes(b"PAR1 no")
    assert refusal(raw).startswith("listing.parquet cannot be read: ")


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SEEDS, SEEDS, st.booleans(), st.booleans())
def test_new_rows_and_new_names_in_a_listing_move_an_old_image_only_towards_training(
    raw: Path, old: set[int], new: set[int], grouped: bool, own: bool
) -> None:
    def listed(seeds: set[int], prefix: str) -> dict[str, str]:
        shutil.rmtree(raw, ignore_errors=True)
        names = {seed: f"{prefix}{seed}.png" for seed in sorted(seeds)}
        for seed, name in names.items():
            put(raw, [name], first=seed)
        listing(
            raw,
            pd.DataFrame(
                {
                    "path": names.values(),
                    "label": ["ant" if seed % 3 else "" for seed in names],
                    "group": [f"patient {seed % 5}" if grouped else "" for seed in names],
                    "split": [("train", "val", "test")[seed % 5 % 3] if own else "" for seed in names],
                }
            ),
        )
        return splits_by_id(run(raw))

    every = {1, 2, 3, 4, 5, 7} if own else set()  # all three splits from the first day: see the next test
    assert_moved_towards_training_at_most(listed(old | every, "old"), listed(old | new | every, "new"))
