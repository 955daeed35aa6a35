"""Figures say the numbers they were given, whatever the labels; read back from matplotlib's own objects."""

import math

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from steps.pages import figures
from steps.training.histories import Epoch, Trial
from steps.training.strategy import CurvePoint

PATH = [
    Trial(
        c=10.0**power,
        val_accuracy=0.9,
        val_balanced_accuracy=0.9 - 0.01 * power**2,
        val_log_loss=0.3,
        train_accuracy=1.0,
        train_balanced_accuracy=1.0,
        train_log_loss=0.1,
    )
    for power in (1, -2, 0, -1)
]
EPOCHS = [Epoch(0, None, 0.80, 0.80, 0.5), Epoch(1, 0.6, 0.85, 0.85, 0.4), Epoch(2, 0.2, math.nan, math.nan, 0.3)]
ROWS = [
    figures.Dot("head alone", chosen=False, value=0.90, low=0.85, high=0.94),
    figures.Dot("fine-tuned", chosen=True, value=0.928, low=0.876, high=0.959),
]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn(figure: Figure) -> list[tuple[list[float], list[float]]]:
    """Every line of more than one point as (x, y)."""
    lines = [line.get_data() for axes in figure.axes for line in axes.get_lines()]
    return [(list(x), list(y)) for x, y in lines if len(x) > 1]


def test_class_balance_has_a_bar_for_each_class_in_each_split_and_writes_its_count() -> None:
    figure = figures.class_balance({"train": {"ant": 1200, "bee": 7}, "test": {"ant": 3}}, ["ant", "bee"])
    widths = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert widths == [[1200, 7], [3, 0]]
    assert {"1,200", "7", "3", "0", "ant", "bee", "train", "test"} <= set(words(figure))


def test_head_path_is_drawn_in_order_of_c_and_names_the_chosen_one() -> None:
    figure = figures.head_path(PATH, chosen=0.1)
    assert drawn(figure)[0] == ([0.01, 0.1, 1.0, 10.0], pytest.approx([0.86, 0.89, 0.9, 0.89]))
    assert "C = 0.1: 89.0 %" in words(figure)


def test_the_learning_curve_shows_each_share_of_the_labels_and_names_what_all_of_them_reach() -> None:
    points = [CurvePoint(n, a, a, 0.5, 12) for n, a in ((5, 0.7), (10, 0.8), (20, 0.85))]
    figure = figures.learning_curve(points)
    assert drawn(figure)[0] == ([5, 10, 20], pytest.approx([0.7, 0.8, 0.85]))
    assert "all labels: 85.0 %" in words(figure)


def test_fine_tuning_curve_leaves_out_what_was_not_measured() -> None:
    figure = figures.fine_tuning_curve(EPOCHS, best=1)
    assert drawn(figure) == [([0, 1], [0.8, 0.85]), ([0, 1, 2], [0.5, 0.4, 0.3]), ([1, 2], [0.6, 0.2])]
    assert "epoch 1: 85.0 %" in words(figure)


def test_a_curve_of_the_probe_alone_can_be_drawn() -> None:
    assert "epoch 0: 80.0 %" in words(figures.fine_tuning_curve(EPOCHS[:1], best=0))


@pytest.mark.parametrize("n", [2, 7, 30])
def test_confusion_matrix_writes_every_count_that_is_not_zero(n: int) -> None:
    counts = [[100 * row + column + 1 if (row + column) % 3 else 0 for column in range(n)] for row in range(n)]
    shown = [int(word) for word in words(figures.confusion_matrix(counts, ["c"] * n)) if word.isdigit()]
    assert sorted(shown) == sorted(count for row in counts for count in row if count)


def test_confusion_matrix_tells_right_from_wrong_by_colour() -> None:
    axes = figures.confusion_matrix([[9, 1], [0, 10]], ["ant", "bee"]).axes[0]
    names = {hexa: name for name, hexa in figures.COLOURS.items()}
    assert [names[to_hex(tile.get_facecolor())] for tile in axes.patches] == ["accent", "bad", "line", "accent"]


def test_intervals_reach_from_low_to_high() -> None:
    figure = figures.accuracy_intervals(ROWS, 0.1, "always “ant”")
    assert ([0.85, 0.94], [0, 0]) in drawn(figure)
    assert ([0.876, 0.959], [1, 1]) in drawn(figure)
    assert {"90.0 %", "92.8 %"} <= set(words(figure))


@pytest.mark.parametrize(("baseline", "shown"), [(0.1, False), (0.8, True), (0.97, True)])
def test_a_baseline_is_drawn_where_it_is_near_the_models(baseline: float, shown: bool) -> None:
    figure = figures.accuracy_intervals(ROWS, baseline, "always “ant”")
    assert ("always “ant”" in words(figure)) is shown
    low, high = figure.axes[0].get_xlim()
    assert bool(low < baseline < high) is shown


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("bees", "bees"),
        ("Species number 014", "Species…ber 014"),
        ("蜜蜂と蟻と蝶と蛾と蝉", "蜜蜂と蟻…蛾と蝉"),
        ("a\nb\x00", "a\ufffdb\ufffd"),
        ("\u202eevil", "\ufffdevil"),
    ],
)
def test_labels_are_shortened_by_their_width_and_lose_control_characters(label: str, shown: str) -> None:
    assert figures.shorten(label) == shown
    assert figures.cells(shown) <= 16


def test_a_label_that_looks_like_mathematics_is_left_as_it_is() -> None:
    figure = figures.class_balance({"train": {"$x_{$": 1}}, ["$x_{$"])
    figure.canvas.draw()  # here matplotlib would parse it, and fail
    assert "$x_{$" in words(figure)


def test_a_users_matplotlib_settings_change_nothing_and_are_not_changed() -> None:
    def looks() -> list[float]:
        axes = figures.head_path(PATH, 0.1).axes[0]
        return [axes.get_lines()[0].get_linewidth(), axes.spines["bottom"].get_linewidth()]

    plain = looks()
    with mpl.rc_context({"lines.linewidth": 9, "axes.linewidth": 9}):
        assert looks() == plain
        assert mpl.rcParams["lines.linewidth"] == mpl.rcParams["axes.linewidth"] == 9
