"""What a refusal prints as its remedy is done as printed, and the next run passes. No remedy leads back to itself."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from steps.checks.witnesses import LEAST
from steps.images.preprocessing import Preprocessing, preprocess
from tests.checks.world import CARD, SIZES, Broken, World, printed

Act = Callable[[World, Broken], None]


class Case(NamedTuple):
    """A fault, and the piece of its printed remedy that is carried out."""

    rule: str
    fault: str
    plant: Callable[[World], None]
    piece: str
    act: Act


def setting(case_piece: str) -> Act:
    """Do what `section.name: value` says."""
    name, value = case_piece.strip("`").split(": ")

    def act(world: World, _: Broken) -> None:
        world.set(name, {"true": True, "false": False, "{}": {}}.get(value, value))

    return act


def number_found(world: World, broken: Broken) -> None:
    """Set the parameter that is named to the number that was found."""
    (name,) = re.findall(r"`(validate\.\w+)`", broken.remedy)
    world.set(name, int(re.findall(r"has (\d+) image", broken.found)[0]))


def lines(form: str, *choose: str, label: str = "") -> Act:
    """Write a line of this form about each image of `where` that a person would choose, or about all of them."""

    def act(world: World, broken: Broken) -> None:
        assert not set(choose) - set(broken.where)
        assert form in broken.remedy and "into data/decisions.csv" in broken.remedy
        world.decide(
            *(form.strip("`").replace("PATH", path).replace("LABEL", label) for path in choose or broken.where)
        )

    return act


def do(what: Callable[[World], object]) -> Act:
    return lambda world, _: what(world) and None


def copied(world: World, origin: str, copy: str, near: bool = False) -> None:
    """Put a copy of an image elsewhere: its bytes, or the picture in another size and format."""
    if near:
        Image.open(world.raw / origin).resize((64, 64), Image.Resampling.BICUBIC).save(world.raw / copy, quality=90)
    else:
        shutil.copy(world.raw / origin, world.raw / copy)


def look_alike(world: World) -> None:
    """Two different pictures that differ in a corner alone: hash and thumbnail take them for one."""
    picture = Image.open(world.raw / "test/ant/0.png").resize((512, 512))
    picture.paste(255, (0, 0, 24, 24))
    picture.save(world.raw / "train/ant/alike.png")


def failed_downloads(world: World) -> None:
    for split in SIZES:
        (world.raw / split / "ant" / "page.jpg").write_text("<html>404</html>")
        (world.raw / split / "bee" / "IMG_1.psd").write_bytes(b"8BPS\0\1")


def spoilt(world: World) -> None:
    """Spoil the first row of the manifest behind ingest's back."""
    world.before_the_gate = lambda table: table.assign(
        **{name: [value, *table[name][1:]] for name, value in {"id": "ABC", "split": "dev", "width": 0}.items()}
    )


def read_again(world: World) -> None:
    world.before_the_gate = None


def fewer(world: World) -> None:
    for split, left in {"train": 4, "val": 1, "test": 4}.items():
        for path in sorted((world.raw / split / "ant").iterdir())[left:]:
            path.unlink()


def chain(world: World) -> None:
    """One picture in all splits: alike from link to link, and a second one in validation and training alone."""
    copied(world, "test/ant/0.png", "val/ant/copy.jpg", near=True)
    Image.open(world.raw / "val/ant/copy.jpg").resize((48, 48)).save(world.raw / "train/bee/copy.jpg", quality=80)
    copied(world, "val/bee/0.png", "train/bee/other.jpg", near=True)


def unlike(world: World) -> None:
    world.set("validate.preprocessing.interpolation", "bicubic")
    world.set("validate.preprocessing.crop", 14)


def as_the_backbone_wants(world: World, broken: Broken) -> None:
    for name, wanted in re.findall(r"(\w+) is [^,;]+, the backbone wants ([^;]+)", broken.found):
        world.set(f"validate.preprocessing.{name}", int(wanted) if wanted.isdigit() else wanted)


def formats(world: World) -> None:
    for path in world.raw.rglob("bee/*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()


def one_format(world: World) -> None:
    for path in world.raw.rglob("bee/*.bmp"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()


def scarce(world: World) -> None:
    for number in range(10 * SIZES["train"]):
        world.draw(f"train/ant/more{number}.png")


def more_of_the_rare(world: World) -> None:
    for number in range(SIZES["train"]):
        world.draw(f"train/bee/more{number}.png")


def clinic(world: World) -> None:
    world.list_images(source=lambda split, label, _: "clinic" if (split, label) == ("train", "ant") else "")


def clinic_sees_bees(world: World) -> None:
    for number in range(3):
        world.draw(f"train/bee/clinic{number}.png")
    world.list_images(
        source=lambda split, label, name: (
            "clinic" if (split, label) == ("train", "ant") or name.startswith("clinic") else ""
        )
    )


def uncovered(world: World) -> None:
    world.list_images(
        source=lambda split, _, name: (
            "clinic" if name.startswith("clinic") or (split != "train" and int(name[0]) % 2) else "field"
        )
    )


def covered(world: World) -> None:
    for label in ("ant", "bee"):
        for number in range(9):
            world.draw(f"train/{label}/clinic{number}.png")
    uncovered(world)


def twice_listed(world: World) -> None:
    world.list_images()
    text = (world.raw / "listing.csv").read_text()
    (world.raw / "listing.csv").write_text(text + text.splitlines()[1] + "\n")


def patient(world: World) -> None:
    world.list_images(group=lambda _, __, name: "patient 7" if name == "0.png" else "")


def one_split_each(world: World) -> None:
    table = pd.read_csv(world.raw / "listing.csv", keep_default_na=False)
    table.loc[table["group"] == "patient 7", "split"] = "train"
    table.to_csv(world.raw / "listing.csv", index=False)


def one_class(world: World) -> None:
    for split in SIZES:
        (world.raw / split / "bee").rename(world.root / f"{split}-bee")


def second_class(world: World) -> None:
    for split in SIZES:
        (world.root / f"{split}-bee").rename(world.raw / split / "bee")


def capitals(world: World) -> None:
    for split, count in SIZES.items():
        for number in range(count):
            world.draw(f"{split}/Ant/capital{number}.png")


def one_spelling(world: World) -> None:
    for picture in sorted(world.raw.rglob("Ant/*.png")):
        picture.rename(picture.parents[1] / "ant" / picture.name)


def swapped(pixels: Any, spec: Preprocessing) -> Any:
    return preprocess(pixels, spec) * 255


def honest_loader(world: World) -> None:
    world.spoil_loader = None


def wrong_everywhere(world: World) -> None:
    declare(world, replace(CARD.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    for label in ("ant", "bee"):
        for number in range(LEAST // 2):  # of fewer pictures nothing is said
            world.draw(f"train/{label}/more{number}.png")


def right_everywhere(world: World, broken: Broken) -> None:
    """Set the mean and std that were found."""
    found = {
        name: tuple(map(float, values.split(", ")))
        for name, values in re.findall(r"(mean|std) \[(.*?)\]", broken.found)
    }
    declare(world, replace(CARD.preprocessing, mean=found["mean"], std=found["std"]))


def declare(world: World, spec: Preprocessing) -> None:
    """Let card and params.yaml agree on a preprocessing."""
    world.write_card(replace(CARD, preprocessing=spec))
    world.document["validate"]["preprocessing"] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in spec.to_dict().items()
    }


def far(world: World) -> None:
    world.write_card(replace(CARD, input_statistics={"mean": [0.99] * 3, "std": [0.01] * 3}))


AGAIN = "Run `regraft validate`"
DROP_LEAKING = "`validate.drop_leaking: true`"
CASES = (
    Case(
        "the manifest is whole",
        "a column of data/manifest.parquet is missing",
        lambda world: setattr(world, "before_the_gate", lambda table: table.drop(columns="width")),
        AGAIN,
        do(read_again),
    ),
    Case("ids are digests", "an id in data/manifest.parquet is overwritten", spoilt, AGAIN, do(read_again)),
    Case("splits are known", "a split is overwritten", spoilt, AGAIN, do(read_again)),
    Case("images have area", "a width is overwritten", spoilt, AGAIN, do(read_again)),
    Case(
        "paths are unique",
        "a line stands twice in the listing",
        twice_listed,
        "Remove the repeated line",
        do(lambda world: world.list_images()),
    ),
    Case("two classes or more", "one class folder", one_class, "two such folders or more", do(second_class)),
    Case(
        "every class can be learnt",
        "a class that only the test split has",
        lambda world: [world.draw(f"test/wasp/{number}.png") for number in range(8)] and None,
        "remove the class from the folder of images",
        do(lambda world: shutil.rmtree(world.raw / "test/wasp")),
    ),
    Case(
        "enough to learn from",
        "4 training images of a class",
        fewer,
        "set `validate.min_train_per_class` in params.yaml to the number found",
        number_found,
    ),
    Case(
        "enough to choose by",
        "1 validation image of a class",
        fewer,
        "set `validate.min_val_per_class` in params.yaml to the number found",
        number_found,
    ),
    Case(
        "enough to judge by",
        "4 test images of a class",
        fewer,
        "set `validate.min_test_per_class` in params.yaml to the number found",
        number_found,
    ),
    Case(
        "no class is lost",
        "a class of the last accepted images is gone",
        lambda world: world.lose("wasp"),
        "`regraft use FOLDER`",
        do(lambda world: world.lose()),  # tests/flows/test_lost_classes.py gives the command
    ),
    Case(
        "labels do not look alike",
        "a second folder of the class, in capitals",
        capitals,
        "`validate.severity.alike_labels: off`",
        setting("`validate.severity.alike_labels: off`"),
    ),
    Case(
        "labels do not look alike",
        "the same, renamed",
        partial(capitals),
        "rename the folders of one",
        do(one_spelling),
    ),
    Case(
        "classes are balanced",
        "eleven times as many ants",
        scarce,
        "Add training images of the smallest class",
        do(more_of_the_rare),
    ),
    Case(
        "files can be decoded",
        "a failed download or a Photoshop file in each class folder",
        failed_downloads,
        "`PATH,drop,,`",
        lines("`PATH,drop,,`"),
    ),
    Case(
        "no image in two splits",
        "a test image in validation",
        lambda world: copied(world, "test/ant/0.png", "val/ant/copy.png"),
        DROP_LEAKING,
        setting(DROP_LEAKING),
    ),
    Case(
        "no copy in two splits",
        "a chain of copies through test, validation and training",
        chain,
        DROP_LEAKING,
        setting(DROP_LEAKING),
    ),
    Case(
        "no copy in two splits",
        "two different pictures that look alike",
        look_alike,
        "`PATH,keep,,`",
        lines("`PATH,keep,,`", "train/ant/alike.png"),
    ),
    Case(
        "no group in two splits",
        "a patient in three splits",
        patient,
        "Give all lines of a group the same split in the listing",
        do(one_split_each),
    ),
    Case(
        "one image, one label",
        "a file in the folders of two classes",
        lambda world: copied(world, "train/ant/0.png", "train/bee/copy.png"),
        "`PATH,relabel,LABEL,`",
        lines("`PATH,relabel,LABEL,`", "train/bee/copy.png", label="ant"),
    ),
    Case(
        "one image, one label",
        "the same",
        lambda world: copied(world, "train/ant/0.png", "train/bee/copy.png"),
        "`PATH,drop,,`",
        lines("`PATH,drop,,`", "train/bee/copy.png"),
    ),
    Case(
        "one picture, one label",
        "a resized copy in another class's folder",
        lambda world: copied(world, "train/ant/0.png", "train/bee/copy.jpg", near=True),
        "`PATH,drop,,`",
        lines("`PATH,drop,,`", "train/bee/copy.jpg"),
    ),
    Case(
        "one picture, one label",
        "the same",
        lambda world: copied(world, "val/ant/0.png", "val/bee/copy.jpg", True),
        "`PATH,keep,,`",
        lines("`PATH,keep,,`", "val/ant/0.png"),
    ),
    Case(
        "classes are as in the population",
        "a prior of 9 to 1 for even classes",
        lambda world: world.set("validate.population_prior", {"ant": 0.9, "bee": 0.1}),
        "`validate.population_prior` in params.yaml to the shares that the world has, or to {}",
        setting("validate.population_prior: {}"),
    ),
    Case(
        "no source of one class alone",
        "a clinic that sees ants alone",
        clinic,
        "Add images of the other classes from that source",
        do(clinic_sees_bees),
    ),
    Case(
        "training covers what is tested",
        "a clinic that training lacks",
        uncovered,
        "Add training images of the sources and months named",
        do(covered),
    ),
    Case("no shortcut to the label", "one class in BMP, one in PNG", formats, "store all files alike", do(one_format)),
    Case(
        "same preprocessing as the backbone",
        "another filter and crop in params.yaml",
        unlike,
        "Set each field named, under validate.preprocessing in params.yaml",
        as_the_backbone_wants,
    ),
)
OBSERVED = (
    Case(
        "tensors are what is declared",
        "a loader that scales once more",
        lambda world: setattr(world, "spoil_loader", swapped),
        "Fix the loader",
        do(honest_loader),
    ),
    Case(
        "the weights know such inputs",
        "card and params.yaml agree on a wrong mean and std",
        wrong_everywhere,
        "`validate.severity.wanted: off`",
        setting("`validate.severity.wanted: off`"),
    ),
    Case(
        "the weights know such inputs",
        "the same",
        partial(wrong_everywhere),
        "under validate.preprocessing in params.yaml and in data/backbone/card.json",
        right_everywhere,
    ),
    Case(
        "inputs lie where the backbone's did",
        "a card with other input statistics",
        far,
        "`validate.severity.wanted: off`",
        setting("`validate.severity.wanted: off`"),
    ),
)


def test_a_sound_folder_passes_though_every_rule_may_refuse_and_blank_pages_are_no_copies(tmp_path: Path) -> None:
    world, page = World(tmp_path), np.tile(250 + np.arange(48) // 16, (48, 1)).astype(np.uint8)
    for number, path in enumerate(("test/ant/blank.png", "train/bee/blank.png", "val/bee/blank.png")):
        page[0, 0] = 249 - number  # another page of the same paper
        Image.fromarray(page).save(world.raw / path)
    assert world.run() == (0, "")


def test_sidecars_litter_and_archives_beside_the_pictures_break_no_rule(tmp_path: Path) -> None:
    world = World(tmp_path)
    for picture in sorted(world.raw.rglob("*.png")):
        picture.with_suffix(".json").write_text('{"who": "x"}')
        picture.with_suffix(".txt").write_text("")
        thumbnail = picture.parent / "@eaDir" / picture.name / "SYNOPHOTO_THUMB_M.jpg"
        thumbnail.parent.mkdir(parents=True)
        Image.open(picture).save(thumbnail)
        picture.with_suffix(".CR2").write_bytes(b"II*\0\x10\0\0\0CR\2\0")
    (world.raw / "train/ant/all.zip").write_bytes(b"PK\x03\x04")
    assert world.run() == (0, "")


def test_a_class_of_which_no_picture_can_be_read_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(2):
        (world.raw / "train/wasp").mkdir(exist_ok=True)
        (world.raw / f"train/wasp/{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    code, refusal = world.run()
    assert code == 3 and "'wasp' has 0 images" in printed(refusal)["enough to learn from"].found


def test_a_class_without_training_images_is_refused_whatever_the_severity(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.draw("test/wasp/0.png")
    world.set("validate.severity.minimum", "off")
    code, refusal = world.run()
    assert code == 3 and printed(refusal)["every class can be learnt"].found == "'wasp' has 0 images (needs 1 more)"


def test_a_small_class_in_splits_of_regrafts_needs_as_many_more_as_every_rule_says(tmp_path: Path) -> None:
    world = World(tmp_path)
    for split in SIZES:
        shutil.rmtree(world.raw / split)
    for label, count in {"ant": 40, "bee": 4}.items():
        for number in range(count):
            world.draw(f"{label}/{number}.png")
    code, said = world.run()
    found = [broken.found for name, broken in printed(said).items() if name.startswith("enough")]
    figures = {more for sentence in found for more in re.findall(r"\(needs (\d+) more\)", sentence)}
    assert code == 3 and len(found) == 3 and len(figures) == 1
    for number in range(int(figures.pop())):
        world.draw(f"bee/more{number}.png")
    assert world.run() == (0, "")


def together() -> dict[str, list[Case]]:
    """Return the cases by name; those of one fault come together, for it breaks several rules."""
    found: dict[int, list[Case]] = {}
    for case in (*CASES, *OBSERVED):
        found.setdefault(id(case.plant), []).append(case)
    return {f"{cases[0].rule}: {cases[0].fault}, {cases[0].piece[:20]}": cases for cases in found.values()}


@pytest.mark.parametrize("name", together())
def test_the_printed_remedy_is_carried_out_and_the_next_run_passes(name: str, tmp_path: Path) -> None:
    world, cases = World(tmp_path), together()[name]
    cases[0].plant(world)
    code, told = world.run()
    assert code == 3 and {case.rule for case in cases} <= set(printed(told)), told
    for case in cases:
        broken = printed(told)[case.rule]
        assert case.piece in broken.remedy
        case.act(world, broken)
    assert world.run() == (0, "")
