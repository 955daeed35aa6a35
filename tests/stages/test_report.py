"""The report, made from a small pipeline's outputs: what it says, and what no label can make it say."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.errors import IntegrityError
from steps.pages.outcome import PARTS
from steps.report import PICTURE_BUDGET, ReportParams
from steps.runtime.params import faults_of
from tests.outputs import CLASSES, HOSTILE, PARAMS, Inputs, honest, make


class Page(HTMLParser):
    """What a browser would see: every tag with its attributes, and the text without style and comments."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.tags, self.words, self.comments = source, [], [], []  # type: ignore[var-annotated]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


def read(inputs: Inputs, params: ReportParams = PARAMS) -> Page:
    return Page(inputs.page(params).read_text(encoding="utf-8"))


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return make(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(make(tmp_path_factory.mktemp("report")))


def test_the_strategy_is_told_with_its_reasons_and_its_curve(page: Page) -> None:
    assert "Trained: the later blocks and the head (2 blocks). the data" in page.text, "and what was trained was chosen"
    assert "the data is <b>large</b>" in page.text, "a reason is text, not markup"
    assert "with all of them 85.5" in page.source
    assert '<td class="num">1.500</td><td class="num">–</td>' in page.source, "a block that keeps no statistics"
    assert '<td class="num">1.500</td><td class="num">0.034</td>' in page.source


def test_a_network_from_scratch_is_told_as_one_and_nothing_is_said_to_be_frozen(inputs: Inputs) -> None:
    inputs.change("strategy", strategy="from_scratch")
    inputs.change("fine_tune", best_epoch=0, frozen_blocks=[], frozen_parameters=0)
    found = read(inputs)
    assert "Trained: the whole network, from random weights (2 blocks)." in found.text
    said = "Transfer (of the frozen head: the chosen model started from random weights): helps"
    inputs.change("evaluation", transfer=honest(CLASSES)["transfer"])
    assert said in read(inputs).text and said in inputs.card().read_text(encoding="utf-8")
    assert "parameters were trained: no weight was frozen." in found.text
    assert "than the random weights it started from" in found.text
    card = inputs.card().read_text(encoding="utf-8")
    assert "the same architecture from random weights, with nothing of the backbone in it; 250 parameters" in card
    inputs.change("evaluation", chosen="head")
    card = inputs.card().read_text(encoding="utf-8")
    assert "a new head on the frozen backbone; the same architecture from random weights was no better." in card


@pytest.mark.parametrize(
    ("strategy", "cut", "blocks", "said", "chapter"),
    [
        (
            "later_blocks",
            "",
            2,
            "a new head on the frozen backbone; training 2 blocks of the backbone too was no",
            True,
        ),
        ("everything", "", 3, "a new head on the frozen backbone; training 3 blocks of the backbone too was no", True),
        ("early_features", "b", 1, "a new head on earlier features of the backbone; training 1 block of the", True),
        ("head_only", "", 0, "a new head on the frozen backbone; 250 parameters were trained", False),
    ],
)
def test_where_the_head_was_chosen_card_and_chapter_claim_no_other_training(
    inputs: Inputs, strategy: str, cut: str, blocks: int, said: str, chapter: bool
) -> None:
    inputs.change("strategy", strategy=strategy, cut=cut, blocks=blocks)
    inputs.change("evaluation", chosen="head")
    assert f"- Trained: {said}" in inputs.card().read_text(encoding="utf-8")
    assert (
        "Chosen: the head on the frozen backbone, because this was no better on the validation split"
        in read(inputs).text
    ) == chapter


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, page: Page) -> None:
    assert read(make(tmp_path)).source == page.source


def test_the_page_asks_for_nothing_from_outside_and_runs_nothing(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert addresses and {str(address).partition(":")[0][:1] for address in addresses} == {"#", "d"}
    assert "url(" not in page.source.replace("url(#", "") and "@import" not in page.source and "http" not in page.text
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_picture_has_words_and_a_size_and_can_be_decoded(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 2 * len(CLASSES) + 2 + 2, (
        "samples, mistakes, and the mistakes once more on the first screen"
    )
    for attributes in pictures:
        assert attributes["alt"]
        data = base64.b64decode(str(attributes["src"]).partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == (int(attributes["width"] or 0), int(attributes["height"] or 0))


def test_ids_are_unique_and_every_reference_meets_one(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {str(a["href"])[1:] for _, a in page.tags if "href" in a} | {
        str(a["aria-labelledby"]) for _, a in page.tags if "aria-labelledby" in a
    }
    assert wanted and wanted <= set(ids)


def test_the_numbers_are_those_of_the_json(page: Page) -> None:
    for said in (
        "92.8 % (87.6 to 95.9, Wilson 95 %)",
        "86.1 % (80.9 to 89.2, Wilson 95 %)",
        "91.8 % (86.8 to 94.8, bootstrap 95 %)",
        "expect about 93 to be classified correctly",
        "reached a balanced accuracy of 89.1 % on 6 validation images, after learning from 12",
        "Epoch 1 of 1 had the lowest log loss, with a balanced accuracy of 91.3 %",
        "25.0 % of the parameters were trained",
        "always answering “ants”, the most frequent class in training, would get 33.3 %",
        "Why fine-tuned: it was better on validation.",
        "30 images passed the checks; 1 file could not be read",
        "1 of 2 rules about the data hold",
        "corrected 1 of the head's wrong answers and got 0 of its right answers wrong",
    ):
        assert said in page.text, said


def test_figures_that_are_unknown_are_dashes_without_an_interval(page: Page) -> None:
    assert "0.214" in page.text and "0.214 (" not in page.text
    assert "None" not in page.text and "nan" not in page.text


def test_the_verdicts_marker_is_the_first_thing_in_main(page: Page) -> None:
    assert [page.source.count(marker) for marker in PARTS] == [1, 1]
    assert re.search(rf"<main [^>]*>\s*{next(iter(PARTS))}", page.source)


def test_wrong_answers_come_most_confident_first_with_path_and_both_probabilities(page: Page) -> None:
    text = page.text.partition("were misclassified")[2]
    first, second = text.index("test/class 0/<b>1.png"), text.index("test/class 0/<b>0.png")
    assert first < second
    assert "predicted bees (93.3 %) truth ants (3.3 %) test/class 0/<b>1.png" in text


def test_a_warning_gives_its_remedy_and_stands_before_the_rules_that_hold(page: Page) -> None:
    warned, held = page.text.index("Collect more of the rare class."), page.text.index("enough to learn from")
    assert warned < held and "! warn" in page.text and "Add images." not in page.text


def test_labels_in_any_script_reach_the_page_as_they_are(page: Page) -> None:
    assert page.source.count("蜜蜂 Größe") > 5


def test_untrusted_labels_and_paths_stay_text(tmp_path: Path, page: Page) -> None:
    hostile = read(make(tmp_path, HOSTILE))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in page.tags}
    assert hostile.comments == [" outcome ", " reasons "]
    assert all(label in hostile.text for label in HOSTILE)
    assert len(hostile.all("img")) == 2 * len(HOSTILE) + 2 + 2


def test_no_wrong_answers_are_a_sentence_and_not_an_empty_list(tmp_path: Path) -> None:
    found = read(make(tmp_path, wrong=0))
    assert "There are no wrong answers to show: all 12 test images were classified correctly." in found.text
    assert not found.all("ol") and "Confusions" not in found.text


def test_a_frozen_part_that_moved_is_called_changed(inputs: Inputs) -> None:
    inputs.change("fine_tune", frozen_digest_after="ef" * 32)
    assert "the frozen ones changed" in read(inputs).text


def test_fine_tuning_that_helped_nothing_is_told_so(inputs: Inputs) -> None:
    inputs.change("fine_tune", best_epoch=0)
    inputs.change("evaluation", chosen="head")
    found = read(inputs)
    assert "No epoch had a lower log loss on the validation split than the head it started from" in found.text
    assert "Head alone: test accuracy 86.1 %" in found.text
    assert "No epoch of fine-tuning was better than the start: the fine-tuned model is the head" in found.text


def test_where_nothing_was_fine_tuned_no_chapter_says_that_something_was(inputs: Inputs) -> None:
    (start, *_) = json.loads(inputs.fine_tune.read_text())["epochs"]
    inputs.change("fine_tune", best_epoch=0, epochs=[start])
    inputs.change("evaluation", chosen="head")
    found = read(inputs)
    assert "Nothing was fine-tuned: the strategy trains the head alone, 25.0 % of the parameters" in found.text
    assert "fine-tuning corrected" not in found.text and "No epoch" not in found.text
    assert 'aria-labelledby="curve-title"' not in found.source, "a curve of one point"
    assert (
        "Fine-tuned" not in found.text and "fine-tuned 9" not in found.source and 'id="comparisons"' not in found.source
    )
    card = inputs.card().read_text(encoding="utf-8")
    assert "| figure | head alone | |" in card and "Fine-tuned against" not in card and "Why this model" in card


def test_the_first_screen_shows_the_head_that_learned_from_the_labels_of_the_baselines(inputs: Inputs) -> None:
    served = json.loads(inputs.evaluation.read_text())["test"]["head"]["accuracy"]["value"]
    transfer = replace(honest(CLASSES)["transfer"], model="head", accuracy=served - 0.1)
    inputs.change("evaluation", transfer=transfer)
    said = f"head, same labels {100 * (served - 0.1):.1f} %; head alone {100 * served:.1f} %"
    assert said in read(inputs).source.replace("\N{NO-BREAK SPACE}", " ")


def test_numbers_of_the_checks_are_written_for_a_reader(inputs: Inputs) -> None:
    seen = json.loads(inputs.validation.read_text())["observed"]
    row = {"account": "scaled twice", "on_grid": 0.31, "inputs": 76041.87}
    inputs.change("validation", observed={**seen, "accounts": [row]})
    text = read(inputs).text
    assert "76,042" in text and "e+0" not in text


def test_where_colours_are_swapped_each_picture_stands_beside_its_exchange(inputs: Inputs) -> None:
    assert "red and blue exchanged" not in read(inputs).text
    seen = json.loads(inputs.validation.read_text())["observed"]
    seen["wanted"][0] |= {"account": "colour order swapped", "why": "the top recognises the pictures better so (t 9.1)"}
    inputs.change("validation", observed=seen)
    found = read(inputs)
    assert "the top recognises the pictures better so (t 9.1)" in found.text
    words = ("as in the file", "red and blue exchanged")
    pairs = [image for image in found.all("img") if str(image["alt"]).endswith(words)]
    assert [str(image["alt"]).partition(", ")[2] for image in pairs] == [*words] * 2
    for shown, swapped in zip(pairs[::2], pairs[1::2], strict=True):
        assert np.array_equal(decoded(shown)[..., ::-1], decoded(swapped)), "the same picture, channels in turn"


def decoded(image: Any) -> np.ndarray[Any, Any]:
    data = base64.b64decode(str(image["src"]).partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_parameters_bound_what_is_shown(tmp_path: Path) -> None:
    found = read(make(tmp_path, wrong=3), ReportParams(sample_images=1, wrong_answers=2, thumbnail=32))
    assert len(found.all("img")) == len(CLASSES) + 2 + 2
    assert {max(int(image["width"] or 0), int(image["height"] or 0)) for image in found.all("img")} == {32}
    assert "3 of 12 test images were misclassified; here are the 2 most confident mistakes" in found.text


def test_hundreds_of_classes_make_a_page_of_less_than_five_megabytes(tmp_path: Path) -> None:
    found = read(
        make(tmp_path, [f"species {i:03d}" for i in range(200)]),
        ReportParams(sample_images=50, wrong_answers=500, thumbnail=512),
    )
    pictures = sum(len(str(image["src"])) for image in found.all("img"))
    assert len(found.source.encode()) - pictures + PICTURE_BUDGET < 5_000_000
    assert all(found.text.count(f"species {i:03d}") for i in range(200))
    assert "The other 180 classes" in found.text


def test_pictures_stop_at_their_budget_and_mistakes_are_served_first(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [len(str(image["src"])) for image in read(inputs).all("img")]
    monkeypatch.setattr("steps.report.PICTURE_BUDGET", sum(whole) // 2)
    found = read(inputs)
    pictures = found.all("img")
    assert 2 < len(pictures) < len(whole)
    assert sum(len(str(image["src"])) for image in pictures) <= sum(whole) // 2
    assert sum("named bees" in str(image["alt"]) for image in pictures) == 4, "each twice"
    assert "no image shown" in found.text


def test_an_image_that_changed_since_ingest_stops_the_report(inputs: Inputs) -> None:
    for path in inputs.raw.rglob("*.png"):
        Image.new("RGB", (90, 90)).save(path)
    with pytest.raises(IntegrityError, match="changed since ingest"):
        read(inputs)


def test_params_report_all_their_faults_at_once() -> None:
    assert list(faults_of(ReportParams, vars(PARAMS), "report")) == []
    wrong = replace(PARAMS, sample_images=0, wrong_answers=-1, thumbnail=5)
    assert list(faults_of(ReportParams, vars(wrong), "report")) == [
        "report.sample_images is 0; at least 1",
        "report.wrong_answers is -1; at least 1",
        "report.thumbnail is 5; 32 to 512",
    ]
