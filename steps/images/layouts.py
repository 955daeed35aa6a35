"""The layout of a folder: which class and which split each file belongs to, read from the paths alone.

`regraft use` shows this reading and `ingest` follows it, so both always agree.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from steps.errors import DataError
from steps.images.manifest import SPLITS, TEST, TRAIN, UNLABELLED, VAL, Rejected, normal
from steps.runtime import files

if TYPE_CHECKING:
    import pandas as pd

FILE = ""
CARVED = "carved"  # of the user's training images: the hash rule sets a validation part aside, never a test part
BESIDE = "beside the class folders: no label"

WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
    **dict.fromkeys(("unlabelled", "unlabeled"), UNLABELLED),
}
FILLERS = ("set", "data", "dataset", "split", "image", "images", "img", "imgs", "folder", "of")
PREDICT = ("pred", "predict", "prediction", "predictions")  # flat, beside split folders: images to predict
NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".docx")
DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}")  # a folder for a year, a month or a day is no class

Tree = dict[str, "Tree | str"]  # the contents of a folder by name: a subfolder's tree, `FILE`, or the fault
Naming = Callable[[str, str], str]  # the label of a folder from the label of the one above it and its own name
NAMING: dict[str, Naming] = {
    "top": lambda label, _: label,
    "leaf": lambda _, name: name,
    "path": lambda label, name: f"{label}/{name}",
}


class Listed(NamedTuple):
    """A file and what its folder or the listing says of it; the hash rule decides an empty split, `CARVED` in part."""

    path: str
    label: str
    split: str
    group: str = ""
    source: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Reading:
    """What a folder or a listing says: its layout in words, every file, and what a person should know about both."""

    layout: str
    files: tuple[Listed | Rejected, ...]
    notes: tuple[str, ...] = ()


def grown(paths: Iterable[str]) -> Tree:
    """Return the tree of files at these POSIX paths."""
    tree: Tree = {}
    for path in sorted(paths):
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})  # type: ignore[assignment]  # a file and a folder never share a name
        node[name] = FILE
    return tree


def split_named(name: str, affix: frozenset[str] = frozenset()) -> str:
    """Return the split that a folder's name stands for, "" if none: `Training`, `test_set`, `val2017`, `TrainImages`.

    `affix` are words that all folders beside it share, as in `seg_train`, `seg_test`. A name with any other word is a
    class, such as `train_station`.
    """
    words = _words(name)
    splits = {WORDS[word] for word in words if word in WORDS}
    other = [word for word in words if word not in WORDS and word not in FILLERS and not word.isdigit()]
    return splits.pop() if len(splits) == 1 and affix.issuperset(other) else ""


def nearest_split(name: str) -> str:
    """Return the split whose usual names are nearest to a misspelt one (`vaild`, `Trian_set`), "" if none is near."""
    word = "".join(word for word in _words(name) if word not in FILLERS)
    return next((WORDS[near] for near in difflib.get_close_matches(word, WORDS, n=1, cutoff=0.7)), "")


def names_no_class(name: str) -> bool:
    """Return True if a folder's name is a split, or says only that there are pictures in it."""
    return bool(split_named(name)) or all(word in FILLERS for word in _words(name))


def _words(name: str) -> list[str]:
    words = [word.casefold() for word in re.findall(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+|\d+", name)]
    parts = ((word, next((s for s in FILLERS if word.endswith(s) and word[: -len(s)] in WORDS), "")) for word in words)
    return [word.removesuffix(filler) for word, filler in parts]


def read(tree: Tree, labels: str | None) -> Reading:
    """Return the reading of a folder.

    `labels`: the folder that names the class where folders lie in folders: `top`, `leaf` (the innermost) or `path`
    (all of them); None: `top`, unless the top folders rather look like splits. Raises DataError where no honest
    reading exists.
    """
    outer, above, inner = _unwrapped(tree)
    folders = _folders(inner)
    if not folders:
        expected = "expected one folder of images per class (README: 'Your images')"
        raise DataError(f"{_what_lies_in(tree)}; {expected}{_table_beside(inner)}")
    splits = splits_named(folders)
    naming = NAMING[labels or "top"]
    if any(split == TRAIN and _folders(folders[name]) for name, split in splits.items()):
        reading = _split_folders(inner, above, splits, naming)
    elif len(splits) == len(folders) and (len(splits) > 1 or TRAIN in splits.values()):
        raise DataError(_no_training(inner, splits))
    elif labels is None and (inside := _splits_inside(folders)):
        reading = _class_then_split(inner, above, inside)
    else:
        if labels is None:
            _refuse_same_classes(folders)
        reading = _class_folders(inner, above, naming, noted=labels is None)
    wrapped = f" below {above}" if above else ""
    return Reading(reading.layout + wrapped, (*outer, *reading.files), (*reading.notes, *_merged(_named(reading))))


def _named(reading: Reading) -> Iterator[str]:
    """Yield the names of the folders from which labels come."""
    for item in reading.files:
        if isinstance(item, Listed) and item.label:
            parts = {*item.label.split("/")}
            yield from (name for name in item.path.split("/")[:-1] if normal(name) in parts)


def _merged(names: Iterable[str]) -> Iterator[str]:
    """Yield a note on each label that is written in several Unicode forms."""
    forms: dict[str, set[str]] = {}
    for name in names:
        forms.setdefault(normal(name), set()).add(name)
    for label in sorted(label for label, written in forms.items() if len(written) > 1):
        yield f"{label!r} is written in {len(forms[label])} Unicode forms, which are read as one class"


def of_listing(table: "pd.DataFrame", name: str) -> Reading:
    """Return the reading of a listing (the columns of `listing.read`). DataError if only some rows have a split."""
    own = set(table["split"][table["label"] != ""])
    if "" in own and len(own) > 1:
        # If the hash rule filled in the missing splits, one more row could move images from test to training.
        raise DataError(f"{name}: some labelled images have a split and some have none; give all of them or none")
    rows = table.itertuples(index=False)
    listed = (
        Listed(
            row.path,
            normal(row.label),
            _own_split(row.split, own) if row.split else "",
            row.group,
            row.source,
            row.weight,
        )
        for row in rows
    )
    return Reading(f"a listing, {name}", tuple(listed), tuple(_merged(table["label"].unique())))


def _folders(tree: Tree) -> dict[str, Tree]:
    return {name: node for name, node in tree.items() if isinstance(node, dict)}


def _pictures(tree: Tree) -> bool:
    """Return True if files that may be pictures lie directly in a folder."""
    return any(not isinstance(node, dict) and not is_note(name) for name, node in tree.items())


def _shows(tree: Tree) -> bool:
    """Return True if files that may be pictures lie in a folder or below it."""
    return _pictures(tree) or any(map(_shows, _folders(tree).values()))


def is_note(name: str) -> bool:
    """Return True if a file is by its name a text or a table, and no picture."""
    return name.lower().endswith(NOTES)


def _unwrapped(tree: Tree) -> tuple[list[Listed | Rejected], str, Tree]:
    """Enter a folder of folders beside which no other holds pictures, as in archives; return also what lies beside."""
    outer: list[Listed | Rejected] = []
    above, inner = "", tree
    while True:
        folders = {
            name: node for name, node in _folders(inner).items() if split_named(name) != UNLABELLED and _shows(node)
        }
        name, below = next(iter(folders.items()), ("", {}))
        if len(folders) != 1 or split_named(name) == TRAIN or _pictures(below) or not _folders(below):
            return outer, above, inner
        for other, node in _folders(inner).items():
            if other != name:
                outer += _files(node, f"{above}{other}/", "", UNLABELLED, NAMING["top"])
        outer += _loose(inner, above)
        above, inner = f"{above}{name}/", below


def splits_named(names: Collection[str]) -> dict[str, str]:
    """Return those of some names that stand for splits, name -> split; words that all of them share do not count."""
    words = [frozenset(_words(name)) for name in names if split_named(name) != UNLABELLED]
    affix = frozenset.intersection(*words) if words else frozenset()
    known = {name: split_named(name, affix) for name in names}
    return {name: split for name, split in known.items() if split}


def _split_folders(tree: Tree, above: str, splits: Mapping[str, str], naming: Naming) -> Reading:
    """Read split folders that hold class folders; one without class folders holds images to predict."""
    folders = {name: _entered(name, node) for name, node in _folders(tree).items()}
    splits = {**splits, **{name: UNLABELLED for name in folders.keys() - splits.keys() if _to_predict(name, folders)}}
    _refuse_unknown(folders, splits)
    flat = [name for name, (_, below) in folders.items() if splits[name] != UNLABELLED and not _folders(below)]
    present = {split for name, split in splits.items() if name not in flat}
    listed: list[Listed | Rejected] = [*_loose(tree, above)]
    notes = [f"{above}{name}/ holds no class folders: its images are unlabelled" for name in flat]
    for name, (inside, below) in sorted(folders.items()):
        if name in flat or splits[name] == UNLABELLED:
            listed += _files(below, f"{above}{name}/{inside}", "", UNLABELLED, naming)
        else:
            items, said = _classes(below, f"{above}{name}/{inside}", _own_split(splits[name], present), naming)
            listed += [*_loose(below, f"{above}{name}/{inside}", waiting=True), *items]
            notes += said
    words = ", ".join(f"{name}/ is {UNLABELLED if name in flat else splits[name]}" for name in sorted(splits))
    return Reading(f"split folders ({words})", tuple(listed), tuple(notes))


def _entered(name: str, tree: Tree) -> tuple[str, Tree]:
    """Enter a folder of the same name or split within a split folder, as in `seg_train/seg_train/CLASS`."""
    inner = _folders(tree)
    if len(inner) == 1 and not _pictures(tree):
        same, below = next(iter(inner.items()))
        if same == name or (split_named(same) and split_named(same) == split_named(name)):
            return f"{same}/", below
    return "", tree


def _to_predict(name: str, folders: Mapping[str, tuple[str, Tree]]) -> bool:
    return not _folders(folders[name][1]) and not set(PREDICT).isdisjoint(_words(name))


def _refuse_unknown(folders: Iterable[str], splits: Mapping[str, str]) -> None:
    """Refuse folders beside a training split that are no split, or the same split twice."""
    train = next(name for name, split in splits.items() if split == TRAIN)
    extra = sorted(set(folders) - set(splits))
    if extra:  # otherwise both would silently become classes
        names = ", ".join(f"{name}/" for name in extra[:3])
        be, them = ("is not a split", "it") if len(extra) == 1 else ("are no splits", "them")
        raise DataError(
            f"{train}/ holds class folders, but {names} beside it {be}{_did_you_mean(extra)}; "
            f"rename {them} to one of {', '.join(SPLITS)}, or move {them} out of the folder of images"
        )
    for split in (TRAIN, VAL, TEST):
        same = sorted(name for name in splits if splits[name] == split)
        if len(same) > 1:
            raise DataError(
                f"{same[0]}/ and {same[1]}/ both stand for the split {split}; put their class folders into one folder, "
                f"or rename one of them ({', '.join(SPLITS)})"
            )


def _did_you_mean(names: Iterable[str]) -> str:
    """Return a question about names that may be misspelt splits, as a part of a sentence; "" if none may be."""
    near = [f"{split}/ for {name}/" for name in sorted(names) if (split := nearest_split(name)) and split != name]
    return f" (did you mean {', '.join(near)}?)" if near else ""


def _no_training(tree: Tree, splits: Mapping[str, str]) -> str:
    """Return the refusal of split folders of which none holds training classes."""
    train = next((name for name, split in splits.items() if split == TRAIN), "")
    if not train:
        names = ", ".join(f"{name}/" for name in sorted(splits))
        return f"{names} are splits by their names, and none is train/; rename the one with the training images"
    beside = f" (beside it: {', '.join(f'{name}/' for name in sorted(splits) if name != train)})"
    return (
        f"{train}/ holds no class folders{beside if len(splits) > 1 else ''}; expected {train}/CLASS/*.jpg, or a "
        f"listing of path,label{_table_beside(tree)}"
    )


def _table_beside(tree: Tree) -> str:
    tables = [name for name in tree if name.lower().endswith((".csv", ".tsv", ".parquet"))]
    tables.sort(key=lambda name: "submission" in name.lower())  # Kaggle's example of answers names the test images
    return f"; if {tables[0]} says the labels: `regraft use` that file" if tables else ""


def _own_split(split: str, present: set[str]) -> str:
    """Name the split of a folder: train/ + val/ alone means that val is the test set (the field's habit)."""
    if split == VAL and TEST not in present:
        return TEST
    if split == TRAIN and not {VAL, TEST} <= present:
        return CARVED if {VAL, TEST} & present else ""
    return split


def _splits_inside(folders: Mapping[str, Tree]) -> dict[str, str]:
    """Return the split folders that every class folder holds, name -> split: `cats/train`, `cats/test`."""
    classes = [node for name, node in folders.items() if split_named(name) != UNLABELLED]
    splits = {name: split_named(name) for node in classes for name in _folders(node)}
    every = all(TRAIN in {splits[name] for name in _folders(node)} and not _pictures(node) for node in classes)
    known = "" not in splits.values() and len(set(splits.values())) == len(splits) > 1
    return splits if every and known else {}


def _class_then_split(tree: Tree, above: str, splits: Mapping[str, str]) -> Reading:
    listed: list[Listed | Rejected] = [*_loose(tree, above)]
    present, top = set(splits.values()), NAMING["top"]
    for label, node in _folders(tree).items():
        if split_named(label) == UNLABELLED:
            listed += _files(node, f"{above}{label}/", "", UNLABELLED, top)
            continue
        listed += _loose(node, f"{above}{label}/")
        for name, below in _folders(node).items():
            unlabelled = splits[name] == UNLABELLED
            own = UNLABELLED if unlabelled else _own_split(splits[name], present)
            listed += _files(below, f"{above}{label}/{name}/", "" if unlabelled else label, own, top)
    words = ", ".join(f"{name}/ is {split}" for name, split in sorted(splits.items()))
    return Reading(f"class folders that hold split folders ({words})", tuple(listed))


def _refuse_same_classes(folders: Mapping[str, Tree]) -> None:
    """Refuse top folders that hold the same folders: they are rather splits (or sites) of the same classes."""
    tops = {name: {*_folders(node)} for name, node in folders.items() if _folders(node) or _pictures(node)}
    tops = {name: held for name, held in tops.items() if split_named(name) != UNLABELLED}
    common, every = set.intersection(*tops.values()) if tops else set(), set().union(*tops.values())
    classes = {name for name in common if not DATE.fullmatch(name)}
    if len(tops) < 2 or len(classes) < 2 or 2 * len(common) < len(every):
        return
    names, shared = " and ".join(f"{name}/" for name in sorted(tops)[:2]), ", ".join(sorted(classes)[:3])
    raise DataError(
        f"{names} hold the same folders ({shared}): if they are splits, rename them to {', '.join(SPLITS[:3])}"
        f"{_did_you_mean(name for name in tops if not split_named(name))}; "
        f"otherwise `regraft use` the folder with --labels leaf (the classes are {shared}), --labels top (the classes "
        f"are {', '.join(sorted(tops)[:2])}) or --labels path (both)"
    )


def _class_folders(tree: Tree, above: str, naming: Naming, noted: bool) -> Reading:
    listed, notes = _classes(tree, above, "", naming)
    listed += _loose(tree, above)
    nested = {name: {*_folders(node)} for name, node in _folders(tree).items() if not _pictures(node)}
    below = sorted(name for names in nested.values() if len(names) > 1 for name in names if not DATE.fullmatch(name))
    if noted and below:
        notes.append(
            f"{', '.join(f'{above}{name}/' for name in [*nested][:3])} hold folders ({', '.join(below[:3])} ...): each "
            "top folder is read as one class; --labels leaf or path takes the folders below as classes"
        )
    if len(_folders(tree)) == 1 and (table := _table_beside(tree)):
        notes.append(f"there is a single class folder{table}")
    return Reading("class folders", tuple(listed), tuple(notes))


def _classes(tree: Tree, above: str, split: str, naming: Naming) -> tuple[list[Listed | Rejected], list[str]]:
    """Return the files of class folders, and a note on each empty one."""
    listed: list[Listed | Rejected] = []
    notes: list[str] = []
    for name, below in _folders(tree).items():
        unlabelled = split_named(name) == UNLABELLED
        label, own = ("", UNLABELLED) if unlabelled else (name, split)
        items = [*_files(below, f"{above}{name}/", label, own, naming)]
        if not items:  # noted and not recorded: neither git nor DVC keeps an empty folder
            notes.append(f"passed over: the class folder {above}{name} holds no files")
        listed += items
    return listed, notes


def _files(tree: Tree, above: str, label: str, split: str, naming: Naming) -> Iterator[Listed | Rejected]:
    for name, below in tree.items():
        if isinstance(below, dict):
            yield from _files(below, f"{above}{name}/", label and naming(label, name), split, naming)
        else:
            yield _listed(above + name, below, label, split)


def _listed(path: str, fault: str, label: str, split: str) -> Listed | Rejected:
    if not files.speakable(path):
        return Rejected(path.encode(errors="backslashreplace").decode(), "the name is not UTF-8; rename it", "")
    return Rejected(path, fault, "") if fault else Listed(path, normal(label), split)


def _loose(tree: Tree, above: str, waiting: bool = False) -> Iterator[Listed | Rejected]:
    """Yield the files beside class folders as rejected or, if `waiting`, pictures as unlabelled.

    In a split folder they wait for a label; at the top nothing says what they are.
    """
    for name, below in tree.items():
        if not isinstance(below, dict):
            item = _listed(above + name, below, "", UNLABELLED)
            kept = isinstance(item, Rejected) or (waiting and not is_note(name))
            yield item if kept else Rejected(item.path, BESIDE, "")


def _what_lies_in(tree: Tree) -> str:
    return "the folder of images is empty" if not tree else f"no class folders, {len(tree)} loose files"
