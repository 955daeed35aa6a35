"""The chapters on baselines, inspection and labels say what their stages found, with words on every picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from steps.evaluation.results import CorruptedAccuracy, Robustness
from steps.pages.figures_inspect import MOST_NAMED, OTHERS, feature_map
from steps.pages.inspection import Inspection, MapFacts, Neighbour, ShownImage, ShownProposal
from steps.pages.rendering import inline_svg, picture
from steps.runtime import files
from steps.runtime.figure import Figure
from tests.outputs import HOSTILE, INSPECTED, Inputs, make
from tests.stages.test_report import Page


def found(classes: list[str]) -> Inspection:
    shown = picture(Image.new("RGB", (90, 60), "green"), 64)
    near = Neighbour("cd" * 32, "train/1.png", classes[2], likeness=0.97, picture=shown)
    wrong = ShownImage(
        "ab" * 32, "test/0.png", classes[0], classes[1], 0.9, 0.1, picture=shown, heat=shown, neighbours=(near,)
    )
    places, labels = np.random.default_rng(0).normal(size=(20, 2)), [classes[i % len(classes)] for i in range(20)]
    drawn = {
        name: inline_svg(feature_map(places, labels, [True] + 19 * [False]), name, "a map")
        for name in ("inspect-pca", "inspect-tsne", "inspect-robustness")
    }
    worse = CorruptedAccuracy("noise", "strong", agreement=0.43, accuracy=Figure(0.41, 0.32, 0.51, "Wilson"))
    usual = replace(worse, accuracy=Figure(0.97, 0.92, 0.99, "Wilson"))
    proposal = ShownProposal("ef" * 32, "unlabelled/2.png", classes[0], 0.02, stands_for=3, rank=1, picture=shown)
    return replace(
        INSPECTED,
        block="features.2",
        wrong=(wrong,),
        wrong_total=9,
        right=(replace(wrong, predicted=classes[0], of_label=None, neighbours=None),),
        svg=drawn,
        pool=1234,
        asked=50,
        map=MapFacts(images=20, of=36, clusters=3, agreement=0.7, explained=0.4),
        robustness=Robustness(100, rows=(usual, worse), worst=worse),
        label_next=(proposal,),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made = make(tmp_path_factory.mktemp("report"), HOSTILE)
    files.write_json(made.inspection, found(HOSTILE))
    return made


@pytest.fixture(scope="module")
def page(inputs: Inputs) -> Page:
    return Page(inputs.page().read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "said",
    [
        "The linear model and the network from scratch learned from 8 of the 12 training images",
        "convnet, 1,000 random weights, learning rate 0.001 of 1 tried, mean of 2 draws",
        "Orange marks the regions that support the given answer (Grad-CAM at block features.2).",
        "The 1 most confident of 9.",
        "agree with the classes at 0.700",
        "Of 100 validation images 97.0 % are classified correctly as they are; noise (strong) does the most harm",
        "and leaves 41.0 %, with 43.0 % of the answers unchanged",
        "t-SNE of 20 images of 36, training and test.",
        "the frozen head to gain 3.1 points of balanced accuracy (1.2 to 5.0): more labels help.",
        "Of the 1,234 unlabelled images, the 50 in data/reports/label_next.csv should help most",
        "how far that probability is ahead of the next label's",
        "(2.0 points ahead)",
    ],
)
def test_the_chapters_say_what_was_found(page: Page, said: str) -> None:
    assert said in page.text


def test_pictures_have_words_with_the_labels_as_text_and_ids_stay_unique(page: Page) -> None:
    words = [image["alt"] for image in page.all("img")]
    assert f"Training image of class {HOSTILE[2]}" in words
    assert words.count(f"The same image; orange marks the evidence for {HOSTILE[1]}") == 1
    assert f"Unlabelled image, perhaps {HOSTILE[0]}" in words
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {"baselines", "inspect", "labels"} <= set(ids)
    assert "script" not in {tag for tag, _ in page.tags}


def test_what_was_left_out_is_said_so(tmp_path: Path) -> None:
    made = make(tmp_path)
    made.change("baselines", scratch=None, train=12)
    text = Page(made.page().read_text(encoding="utf-8")).text
    assert "The network from scratch was skipped (baselines.scratch)." in text
    assert "random weights" not in text and "With all of them they might" not in text
    assert "There are no unlabelled images to choose from" in text
    assert "This network has no spatial feature map" in text


@pytest.mark.parametrize("classes", [2, 3, MOST_NAMED, MOST_NAMED + 3])
def test_the_map_names_the_largest_classes_and_rings_what_was_wrong(classes: int) -> None:
    labels = [f"c{i:02}" for i in range(classes) for _ in range(30 - i)]
    places = np.random.default_rng(0).normal(size=(len(labels), 2))
    figure = feature_map(places, labels, [i in (3, 5) for i in range(len(labels))])
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.findobj(Text) if text.get_text()]
    others = [OTHERS] if classes > MOST_NAMED else []
    assert named == [*others, *(f"c{i:02}" for i in range(min(classes, MOST_NAMED))), "wrong"]
    drawn = {line.get_label(): len(line.get_xdata()) for line in axes.get_lines()}
    assert drawn["wrong"] == 2 and drawn["c00"] == 30 and sum(drawn.values()) == len(labels) + 2
    figure.draw_without_rendering()
    assert legend.get_window_extent().y0 >= 0, "a name would be cut off"
