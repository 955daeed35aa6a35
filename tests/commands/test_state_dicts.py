"""Every architecture of torchvision's reads its own published files, old and new, and those of no other one."""

import re

import pytest
import torch
from torchvision import models as tv

from steps.backbones.backbone import skeleton, without_top
from steps.commands.state_dicts import COUNTER, MisfitError, fitted, others_that_fit

# One of each family; all of them where REGRAFT_ALL_MODELS is set. Shapes are enough: no tensor has a value.
SAMPLE = {
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
}
# Names of tensors in files that torchvision published, and today's.
OLD = {
    "densenet121": (r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2"),
    "vit_b_32": (r"mlp\.(0|3)\.", lambda match: f"mlp.linear_{1 + int(match[1]) // 3}."),
}
# architecture of the file, architecture that is asked for
TAKEN_FOR = [
    ("resnet34", "resnet18"),
    ("resnet101", "resnet50"),
    ("wide_resnet50_2", "resnet50"),
    ("resnext50_32x4d", "resnet50"),
    ("vgg13", "vgg11"),
    ("vgg11_bn", "vgg11"),
    ("vgg11", "vgg11_bn"),
    ("efficientnet_b1", "efficientnet_b0"),
    ("densenet169", "densenet121"),
    ("squeezenet1_0", "squeezenet1_1"),
    ("convnext_small", "convnext_tiny"),
    ("swin_t", "swin_v2_t"),
    ("vit_b_16", "vit_b_32"),
    ("googlenet", "inception_v3"),
    ("mnasnet0_75", "mnasnet0_5"),
]


def state_of(name: str) -> dict[str, torch.Tensor]:
    return dict(skeleton(name, 1000).state_dict())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.all_models) for name in tv.list_models(module=tv)],
)
def test_its_own_files_fit(name: str) -> None:
    state, body = state_of(name), without_top(skeleton(name, 1000))[0].state_dict().keys()
    published = fitted(name, 224, state, None)
    assert published.state.keys() == state.keys()
    assert (published.cut, published.renamed, published.counters, published.ignored) == (None, 0, 0, ())

    old, new = OLD.get(name, ("", ""))
    older = {f"module.{re.sub(old, new, key) if old else key}": t for key, t in state.items() if COUNTER not in key}
    read = fitted(name, 224, older, None)
    assert read.state.keys() == state.keys() and read.part == "module"
    assert (read.renamed > 0) == (name in OLD) and read.counters == sum(COUNTER in key for key in state)

    headless = fitted(name, 224, {key: state[key] for key in body}, None)
    assert headless.state.keys() == body and headless.cut == ""


@pytest.mark.parametrize(("held", "asked"), TAKEN_FOR)
def test_the_files_of_another_architecture_do_not(held: str, asked: str) -> None:
    with pytest.raises(MisfitError, match=f"the weights do not fit {asked}: "):
        fitted(asked, 224, state_of(held), None)


@pytest.mark.parametrize("auxiliary", ["missing", "for other classes"])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_not_asked_for(name: str, auxiliary: str) -> None:
    others = skeleton(name, 7).state_dict()
    aux = {key for key in others if key.lower().startswith("aux")}
    state = {key: others[key] if key in aux else tensor for key, tensor in state_of(name).items()}
    if auxiliary == "missing":
        state = {key: tensor for key, tensor in state.items() if key not in aux}
    read = fitted(name, 224, state, None)
    assert aux and read.cut == "" and not aux & read.state.keys()
    assert all(name.lower().startswith(("aux", "fc")) for name in read.ignored)


def test_the_features_of_vgg_are_enough() -> None:
    state = {key: tensor for key, tensor in state_of("vgg11").items() if key.startswith("features.")}
    read = fitted("vgg11", 224, state, None)
    assert read.cut == "features.18" and read.state.keys() == state.keys()


def test_the_architecture_that_fits_is_named() -> None:
    with pytest.raises(MisfitError) as caught:
        fitted("resnet18", 224, {f"model.{key}": tensor for key, tensor in state_of("densenet121").items()}, None)
    assert others_that_fit(caught.value) == ["densenet121"]
