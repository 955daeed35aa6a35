"""`params.yaml` is read strictly, and every fault is told at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steps.backbones.inference import PRECISIONS
from steps.baselines import BaselinesParams
from steps.choose_strategy import ChooseStrategyParams
from steps.commands.export import ExportParams
from steps.describe import DescribeParams
from steps.errors import ParamsError
from steps.evaluation.protocol import EvaluateParams
from steps.extract_features import ExtractFeaturesParams
from steps.fine_tune import NONE, FineTuneParams
from steps.ingest import IngestParams
from steps.inspect import InspectParams
from steps.promotion.promote import PromoteParams
from steps.register import RegisterParams
from steps.report import ReportParams
from steps.runtime import params
from steps.runtime.binding import parts, rule
from steps.runtime.compute import ComputeParams
from steps.screen import ScreenParams
from steps.train_head import TrainHeadParams
from steps.training.fine_tuning import DECAYS, OPTIMISERS
from steps.training.head_training import FITS, LINEAR
from steps.training.presets import PRESETS
from steps.training.strategy import STRATEGIES
from steps.validate import ValidateParams

PROJECT = Path(__file__).parents[2]
CLASSES: dict[str, Any] = {
    "compute": ComputeParams,
    "ingest": IngestParams,
    "validate": ValidateParams,
    "extract_features": ExtractFeaturesParams,
    "screen": ScreenParams,
    "choose_strategy": ChooseStrategyParams,
    "train_head": TrainHeadParams,
    "fine_tune": FineTuneParams,
    "baselines": BaselinesParams,
    "evaluate": EvaluateParams,
    "describe": DescribeParams,
    "inspect": InspectParams,
    "register": RegisterParams,
    "report": ReportParams,
    "promote": PromoteParams,
    "export": ExportParams,
}


@dataclass(frozen=True, kw_only=True)
class Inner:
    side: int
    mean: tuple[float, ...]

    def faults(self) -> Iterator[str]:
        if self.side < 1:
            yield f"side is {self.side}; at least 1"


@dataclass(frozen=True, kw_only=True)
class Outer:
    epochs: int
    rate: float
    name: str
    flip: bool
    limit: int | None
    inner: Inner

    def faults(self) -> Iterator[str]:
        if self.epochs < 1:
            yield f"epochs is {self.epochs}; at least 1"


GOOD: dict[str, Any] = {
    "epochs": 3,
    "rate": 0.5,
    "name": "x",
    "flip": True,
    "limit": None,
    "inner": {"side": 2, "mean": [1, 2.5]},
}


def faults(**changes: Any) -> list[str]:
    return list(params.faults_of(Outer, {**GOOD, **changes}, "toy"))


def test_right_values_become_the_dataclass_with_lists_as_tuples_and_numbers_as_floats() -> None:
    found = params.bind(Outer, {**GOOD, "rate": 1}, "toy")
    assert found == Outer(epochs=3, rate=1.0, name="x", flip=True, limit=None, inner=Inner(side=2, mean=(1.0, 2.5)))
    assert isinstance(found.rate, float)
    assert [type(value) for value in found.inner.mean] == [float, float]
    assert params.bind(Outer, {**GOOD, "limit": 4}, "toy").limit == 4
    assert params.bind(int, 7, "seed") == 7


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": True}, "toy.epochs: True is true or false; a whole number expected"),
        ({"epochs": 3.0}, "toy.epochs: 3.0 is a number; a whole number expected"),
        ({"epochs": None}, "toy.epochs: None is null; a whole number expected"),
        ({"rate": "1e-3"}, "toy.rate: '1e-3' is text; a number expected"),
        ({"rate": False}, "toy.rate: False is true or false; a number expected"),
        ({"flip": 1}, "toy.flip: 1 is a whole number; true or false expected"),
        ({"flip": "yes"}, "toy.flip: 'yes' is text; true or false expected"),
        ({"name": 5}, "toy.name: 5 is a whole number; text expected"),
        ({"limit": "none"}, "toy.limit: 'none' is text; a whole number or null expected"),
        ({"limit": True}, "toy.limit: True is true or false; a whole number or null expected"),
        ({"inner": None}, "toy.inner: None is no mapping"),
        ({"inner": {"side": 2, "mean": 1.0}}, "toy.inner.mean: 1.0 is no list"),
        ({"inner": {"side": 2, "mean": [1, "a"]}}, "toy.inner.mean[1]: 'a' is text; a number expected"),
        ({"inner": {"side": 2}}, "toy.inner.mean: missing (a list expected)"),
        ({"inner": {"side": 0, "mean": []}}, "toy.inner.side is 0; at least 1"),
        ({"epochs": 0}, "toy.epochs is 0; at least 1"),
    ],
)
def test_each_fault_says_the_place_the_value_and_the_rule(change: dict[str, Any], sentence: str) -> None:
    assert faults(**change) == [sentence]


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_no_number_is_not_a_number(value: float) -> None:
    assert len(faults(rate=value)) == 1
    assert len(faults(inner={"side": 1, "mean": [value]})) == 1


def test_small_numbers_are_numbers_in_every_spelling_and_quoted_ones_are_text(tmp_path: Path) -> None:
    """PyYAML, of YAML 1.1, makes text of the first spelling; DVC's reader and ours do not."""
    assert yaml.safe_load("1e-3") == "1e-3"
    for text, wanted in (("1e-3", []), ("1.0e-3", []), ("'1e-3'", ["toy.rate: '1e-3' is text; a number expected"])):
        (tmp_path / "params.yaml").write_text(f"rate: {text}\n", encoding="utf-8")
        assert faults(rate=params.read(tmp_path)["rate"]) == wanted


def test_a_key_given_twice_is_refused_rather_than_the_last_taken(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\ntoy: {rate: 1}\nseed: 2\n", encoding="utf-8")
    with pytest.raises(ParamsError, match='duplicate key "seed"'):
        params.read(tmp_path)


def test_all_faults_are_told_at_once() -> None:
    values = {"epoch": 3, "rate": "fast", "flip": 1, "limit": None, "inner": {"side": "s", "mean": [None], "crop": 3}}
    with pytest.raises(ParamsError) as caught:
        params.bind(Outer, values, "toy")
    assert list(caught.value.faults) == [
        "toy.epoch: no such parameter; did you mean 'epochs'?",
        "toy.epochs: missing (a whole number expected)",
        "toy.name: missing (text expected)",
        "toy.rate: 'fast' is text; a number expected",
        "toy.flip: 1 is a whole number; true or false expected",
        "toy.inner.crop: no such parameter (known: side, mean)",
        "toy.inner.side: 's' is text; a whole number expected",
        "toy.inner.mean[0]: None is null; a number expected",
    ]
    assert str(caught.value).splitlines()[0] == "8 faults in params.yaml:"
    assert len(str(caught.value).splitlines()) == 9
    assert caught.value.exit_code == 2


def test_a_missing_section_inside_a_section_is_told() -> None:
    values = {name: value for name, value in GOOD.items() if name != "inner"}
    assert list(params.faults_of(Outer, values, "toy")) == ["toy.inner: missing (a mapping expected)"]


def test_the_rules_of_inner_and_outer_are_both_told() -> None:
    assert faults(epochs=0, inner={"side": 0, "mean": []}) == [
        "toy.inner.side is 0; at least 1",
        "toy.epochs is 0; at least 1",
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*GOOD, "side", "mean", 3]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), anything))
def test_whatever_the_document_holds_it_is_bound_exactly_or_refused_with_reasons(changes: dict[str, Any]) -> None:
    values = {**GOOD, **changes}
    found = faults(**changes)
    if found:
        with pytest.raises(ParamsError):
            params.bind(Outer, values, "toy")
    else:
        bound = params.bind(Outer, values, "toy")
        assert (bound.epochs, bound.rate, bound.name, bound.flip, bound.limit, bound.inner.side) == (
            values["epochs"],
            values["rate"],
            values["name"],
            values["flip"],
            values["limit"],
            values["inner"]["side"],
        )
        assert type(bound.epochs) is int
        assert list(bound.inner.mean) == values["inner"]["mean"]


def test_unknown_and_missing_sections_are_told_with_the_nearest_name() -> None:
    known = {"seed", "ingest", "fine_tune"}
    assert list(params.unknown_sections({"seed": 0, "ingets": {}, "zzz": 1}, known)) == [
        "ingets: no such section; did you mean 'ingest'?",
        "zzz: no such section (known: fine_tune, ingest, seed)",
        "fine_tune: the section is missing",
        "ingest: the section is missing",
    ]
    assert list(params.unknown_sections(dict.fromkeys(known), known)) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "params.yaml does not exist in"),
        (b"", "the file holds NoneType, not a mapping of sections"),
        (b"- 1\n- 2\n", "the file holds list, not a mapping of sections"),
        (b"seed: [1\n", "not readable as YAML"),
        (b"seed: \xff\xfe\n", "not readable as YAML"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match=sentence):
        params.read(tmp_path)


def test_the_file_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\ningest:\n  validation_share: 0.25  # ümlaut\n", encoding="utf-8")
    assert params.read(tmp_path) == {"seed": 0, "ingest": {"validation_share": 0.25}}


@pytest.mark.parametrize("section", sorted(CLASSES))
def test_the_shipped_values_fit_their_classes(section: str) -> None:
    kind = CLASSES[section]
    values = params.read(PROJECT)[section]
    assert list(params.faults_of(kind, values, section)) == []
    assert set(values) == {*kind.__dataclass_fields__}


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("compute", {"threads": 0}, "compute.threads is 0; 1 to 256"),
    ("compute", {"batch_size": 5000}, "compute.batch_size is 5000; 1 to 4096"),
    ("ingest", {"validation_share": 0.9}, "ingest.validation_share is 0.9; 0.01 to 0.8"),
    ("ingest", {"test_share": 0.0}, "ingest.test_share is 0.0; 0.01 to 0.8"),
    ("validate", {"min_val_per_class": 0}, "validate.min_val_per_class is 0; at least 1"),
    ("validate", {"max_imbalance": 0.5}, "validate.max_imbalance is 0.5; at least 1 (largest over smallest class)"),
    ("validate", {"quarantine_limit": 1.0}, "validate.quarantine_limit is 1.0; from 0 to below 1"),
    ("extract_features", {"precision": "fp8"}, "extract_features.precision is 'fp8'; one of float32, bfloat16"),
    (
        "train_head",
        {"inverse_regularisation": []},
        "train_head.inverse_regularisation is []; numbers above 0, at least one",
    ),
    (
        "train_head",
        {"inverse_regularisation": [1.0, 0.0]},
        "train_head.inverse_regularisation is [1.0, 0.0]; numbers above 0, at least one",
    ),
    ("fine_tune", {"patience": 0}, "fine_tune.patience is 0; at least 1"),
    (
        "fine_tune",
        {"head_rate": 0.001, "backbone_rate": 0.5},
        "fine_tune.backbone_rate is 0.5 and head_rate 0.001; above 0, and the backbone's at most the head's",
    ),
    ("fine_tune", {"warmup_epochs": 12}, "fine_tune.warmup_epochs is 12; from 0 to below epochs, 12"),
    ("fine_tune", {"balance": "classes"}, "fine_tune.balance is 'classes'; one of weights, sampling, none"),
    ("fine_tune", {"bn_policy": "eval"}, "fine_tune.bn_policy is 'eval'; one of frozen, adapt, train"),
    ("fine_tune", {"block_decay": 0.0}, "fine_tune.block_decay is 0.0; above 0, at most 1"),
    ("fine_tune", {"ema": 1.0}, "fine_tune.ema is 1.0; from 0 to below 1"),
    (
        "fine_tune",
        {"mix": "mixup", "views": 2},
        "fine_tune.mix is 'mixup'; mixed pictures are new in every epoch: views has to be 0 and augmentation on",
    ),
    ("fine_tune", {"weight_decay": -1.0}, "fine_tune.weight_decay is -1.0; at least 0"),
    ("fine_tune", {"least_area": 0.0}, "fine_tune.least_area is 0.0; 0.05 to 1"),
    ("evaluate", {"confidence": 1.0}, "evaluate.confidence is 1.0; 0.5 to 0.999"),
    (
        "evaluate",
        {"slice_limits": {"source": "high"}},
        "evaluate.slice_limits.source: 'high' is text; a number expected",
    ),
    ("evaluate", {"slice_limits": {2024: 2.0}}, "evaluate.slice_limits.2024 is 2.0; 0 to 1"),
    ("validate", {"population_prior": {0: 1.0, 1: 0}}, "validate.population_prior.1 is 0; above 0"),
    ("validate", {"copy_bits": 9}, "validate.copy_bits is 9; 0 to 8 (of 64; beyond, other pictures are met by chance)"),
    ("baselines", {"rates": [0.1, 1.0]}, "baselines.rates is [0.1, 1.0]; numbers above 0 and below 1, at least one"),
    ("choose_strategy", {"budget_flops": 0.0}, "choose_strategy.budget_flops is 0.0; above 0, or null"),
    ("export", {"max_loss": 0}, "export.max_loss is 0; above 0 and below 1"),
    ("promote", {"comparison": "equal"}, "promote.comparison is 'equal'; one of superior, non_inferior, or null"),
    ("promote", {"look_limit": 10}, "promote.look_budget is 20 and look_limit 10; at least 1, and not above it"),
    (
        "promote",
        {"comparison": "non_inferior", "margin": 0.0},
        "promote.margin is 0; non_inferior needs to know how much worse is still as good",
    ),
    (
        "register",
        {"model_name": "a model"},
        "register.model_name is 'a model'; letters, digits, '_', '.' and '-', at most 100",
    ),
    ("evaluate", {"bootstrap_draws": 10}, "evaluate.bootstrap_draws is 10; 100 to 1000000"),
]


@pytest.mark.parametrize(("section", "change", "sentence"), BROKEN)
def test_a_value_out_of_its_range_is_refused(section: str, change: dict[str, Any], sentence: str) -> None:
    values = {**params.read(PROJECT)[section], **change}
    assert list(params.faults_of(CLASSES[section], values, section)) == [sentence]


def places(kind: Any, values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield the path, the annotation and the annotation that a sentence quotes, for every value that a class holds."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        base, _, _ = parts(hint)
        if is_dataclass(base):
            yield from places(base, values[name], (*at, name))
        elif get_origin(base) is tuple:
            yield (*at, name, 0), get_args(base)[0], hint
        elif get_origin(base) is dict:
            yield (*at, name, "some"), get_args(base)[1], get_args(base)[1]
        else:
            yield (*at, name), hint, hint


def with_value(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    if isinstance(path[0], int):
        return [with_value(None, path[1:], value), *values[1:]]
    return {**values, path[0]: with_value(values.get(path[0]), path[1:], value)}


def bounds() -> Iterator[tuple[str, tuple[Any, ...], Any, Any, Any]]:
    """Yield section, path, the last value that fits, the first that does not, and the annotation quoted."""
    for section, kind in CLASSES.items():
        for path, hint, quoted in places(kind, params.read(PROJECT)[section]):
            base, marks, _ = parts(hint)
            for mark in marks:
                for name, outwards in (("ge", -1), ("gt", -1), ("le", 1), ("lt", 1)):
                    if hasattr(mark, name):
                        bound = base(getattr(mark, name))
                        beyond = bound + outwards if base is int else math.nextafter(bound, outwards * math.inf)
                        within = bound - outwards if base is int else math.nextafter(bound, -outwards * math.inf)
                        yield section, path, *((bound, beyond) if name in ("ge", "le") else (within, bound)), quoted


BOUNDS = list(bounds())


def test_the_bounds_of_every_section_are_put_to_the_test() -> None:
    bounded = {section for section, *_ in BOUNDS}
    assert set(CLASSES) - bounded == {"describe", "register"}  # they hold text alone
    assert len(BOUNDS) > 150


@pytest.mark.parametrize(
    ("section", "path", "fits", "beyond", "quoted"),
    BOUNDS,
    ids=[f"{section}.{'.'.join(map(str, path))}-{beyond}" for section, path, _, beyond, _ in BOUNDS],
)
def test_a_bound_takes_the_value_on_it_and_refuses_the_one_just_outside(
    section: str, path: tuple[Any, ...], fits: Any, beyond: Any, quoted: Any
) -> None:
    shipped, kind = params.read(PROJECT)[section], CLASSES[section]
    whole = [part for part in path if not isinstance(part, int)]  # the rule of a list names the whole list
    named = ".".join([section, *whole])

    def sentences(value: Any) -> tuple[str, list[str]]:
        document = with_value(shipped, path, value)
        shown = reduce(lambda inside, part: inside[part], whole, document)
        return f"{named} is {shown!r}; {rule(quoted)}", list(params.faults_of(kind, document, section))

    sentence, found = sentences(beyond)
    assert found == [sentence]
    sentence, found = sentences(fits)
    assert sentence not in found
    assert all("expected" not in fault for fault in found)


CHOSEN = [
    (section, path, hint)
    for section, kind in CLASSES.items()
    for path, hint, _ in places(kind, params.read(PROJECT)[section])
    if get_origin(parts(hint)[0]) is Literal
]


@pytest.mark.parametrize(
    ("section", "path", "hint"), CHOSEN, ids=[f"{section}.{'.'.join(path)}" for section, path, _ in CHOSEN]
)
def test_a_choice_takes_each_of_its_words_and_no_other(section: str, path: tuple[str, ...], hint: Any) -> None:
    shipped, kind, named = params.read(PROJECT)[section], CLASSES[section], ".".join([section, *path])
    words = get_args(parts(hint)[0])
    for word in words:
        faults = list(params.faults_of(kind, with_value(shipped, path, word), section))
        assert not [fault for fault in faults if "one of" in fault]
    other = list(params.faults_of(kind, with_value(shipped, path, "none of these"), section))
    assert other == [f"{named} is 'none of these'; one of {', '.join(words)}{', or null' * parts(hint)[2]}"]


def test_each_choice_has_what_it_chooses_from() -> None:
    made = {
        ("choose_strategy", "strategy"): ("auto", *STRATEGIES),
        ("train_head", "kind"): (LINEAR, *FITS),
        ("fine_tune", "preset"): (NONE, *PRESETS),
        ("fine_tune", "optimiser"): tuple(OPTIMISERS),
        ("fine_tune", "decay"): tuple(DECAYS),
        ("fine_tune", "precision"): tuple(PRECISIONS),
        ("extract_features", "precision"): tuple(PRECISIONS),
    }
    offered = {(section, path[-1]): get_args(parts(hint)[0]) for section, path, hint in CHOSEN}
    assert {key: offered[key] for key in made} == made


def test_whole_numbers_as_keys_are_names() -> None:
    values = {**params.read(PROJECT)["validate"], "population_prior": {0: 1, 1: 3}}
    assert params.bind(ValidateParams, values, "validate").population_prior == {"0": 1.0, "1": 3.0}


def test_what_json_cannot_hold_is_refused_as_it_was_written() -> None:
    assert faults(name=date(2024, 1, 1)) == ["toy.name: datetime.date(2024, 1, 1) is date; text expected"]
    assert faults(rate=math.inf) == ["toy.rate: inf is not finite; a number expected"]


def test_the_preprocessing_inside_validate_is_held_to_its_own_rules() -> None:
    values = params.read(PROJECT)["validate"]
    values = {**values, "preprocessing": {**values["preprocessing"], "resize": 32, "crop": 64}}
    assert list(params.faults_of(ValidateParams, values, "validate")) == [
        "validate.preprocessing.crop is 64 and resize is 32; crop at most resize"
    ]
