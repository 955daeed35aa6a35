"""The digest of a state identifies names, types, shapes and bytes, whatever their order and memory layout."""

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.backbones.backbone import digest
from tests.backbones.test_backbone import real

names = st.text(alphabet="abc._", min_size=1, max_size=4)
arrays = st.lists(st.integers(-3, 3), max_size=4)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
states = st.dictionaries(names, st.tuples(arrays, st.sampled_from(DTYPES)), min_size=1, max_size=4).map(
    lambda drawn: {name: torch.tensor(values).to(dtype) for name, (values, dtype) in drawn.items()}
)


@settings(deadline=None)
@given(states, st.randoms())
def test_the_fingerprint_knows_no_order_and_no_memory_layout(state: dict[str, torch.Tensor], rng: Any) -> None:
    keys = list(state)
    rng.shuffle(keys)
    assert digest({key: state[key].clone() for key in keys}) == digest(state)
    strided = {key: torch.stack([tensor, tensor], dim=-1)[..., 0] for key, tensor in state.items()}
    assert digest(strided) == digest(state)


@settings(deadline=None)
@given(states, st.data())
def test_any_other_name_type_shape_or_value_gives_another_fingerprint(
    state: dict[str, torch.Tensor], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(state)))
    tensor = state[key]
    rest = {name: value for name, value in state.items() if name != key}
    others = [
        {**rest, f"{key}x": tensor},
        rest,
        {**rest, key: tensor.unsqueeze(0)},
        {**rest, key: tensor.to(data.draw(st.sampled_from([d for d in DTYPES if d != tensor.dtype])))},
    ]
    if len(tensor):
        place = data.draw(st.integers(0, len(tensor) - 1))
        changed = tensor.clone()
        changed[place] += 1
        others.append({**rest, key: changed})
    assert digest(state) not in [digest(other) for other in others]
    assert len({digest(other) for other in others}) == len(others)


def test_the_fingerprint_sees_single_bits() -> None:
    state = {"w": torch.zeros(3), "steps": torch.tensor(7)}
    assert digest(state) != digest({**state, "w": torch.tensor([0.0, -0.0, 0.0])})
    assert digest(state) != digest({**state, "w": torch.tensor([0.0, 1e-45, 0.0])})
    assert digest(state) != digest({**state, "steps": torch.tensor(8)})
    assert digest(state) == digest({"steps": np.int64(7) * torch.tensor(1), "w": torch.zeros(3, requires_grad=True)})


def test_the_fingerprint_of_a_network_is_that_of_its_bytes() -> None:
    network, _ = real("squeezenet1_1")
    assert digest(network.state_dict()) == digest(copy.deepcopy(network).state_dict())
    twin = copy.deepcopy(network)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0].add_(1e-6)
    assert digest(twin.state_dict()) != digest(network.state_dict())
