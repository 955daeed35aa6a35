"""A package's bill of materials: CycloneDX 1.6, without time or serial number: same materials, same bytes."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from steps.backbones.models import ModelFacts

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

FILE = "bill.cdx.json"
# A line of requirements.lock: name, version, and the marker of packages that only some machines install.
PINNED = re.compile(r"^([a-zA-Z0-9._-]+)==([^\s;]+)(?: ; (.*?))? \\$", re.MULTILINE)


def bill_of_materials(facts: ModelFacts, weights: str, code: str, lock: str, familiarity: str | None = None) -> str:
    """Return a model's components as CycloneDX JSON: backbone, data, code and libraries.

    Materials that `facts` does not name are left out. `weights` and `code` are the SHA-256 of the model's tensors and
    of its serving code, `lock` is the text of requirements.lock; `familiarity` is the SHA-256 of the features of
    training images that a version keeps, None if it keeps none. The training code is identified by its digest, not by
    a commit: many commits may hold the same code.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    model = _component("model", facts.kind, weights, {"regraft:lineage": facts.lineage})
    materials = [
        _component("code", "regraft", code, {"regraft:training-code": facts.code}),
        _backbone(facts),
        *([_component("data", "accepted images", facts.data_sha256, {})] if facts.data_sha256 else []),
        *([_component("features", "features of training images", familiarity, {})] if familiarity else []),
    ]
    bom = Bom(metadata=BomMetaData(component=model), components=[*materials, *_libraries(lock, facts)])
    bom.register_dependency(model, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    document["metadata"]["component"]["modelCard"] = _card(facts)  # the library does not support model cards
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _card(facts: ModelFacts) -> dict[str, Any]:
    datasets = {"datasets": [{"ref": "data"}]} if facts.data_sha256 else {}
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "modelArchitecture": facts.architecture,
            **datasets,
            "inputs": [{"format": "image"}],
            "outputs": [{"format": f"one of {len(facts.classes)} classes"}],
        }
    }


def _component(
    kind: str, name: str, digest: str, properties: Mapping[str, str | None], licence: str | None = None
) -> "Component":
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense

    types = {"code": ComponentType.APPLICATION, "data": ComponentType.DATA, "features": ComponentType.DATA}
    return Component(
        type=types.get(kind, ComponentType.MACHINE_LEARNING_MODEL),
        name=name,
        bom_ref=kind,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        licenses=[DisjunctiveLicense(name=licence)] if licence else [],
        properties=[Property(name=key, value=value) for key, value in properties.items() if value],
    )


def _backbone(facts: ModelFacts) -> "Component":
    properties = {"regraft:architecture": facts.architecture, "regraft:cut": facts.cut}
    return _component("backbone", facts.backbone, facts.backbone_sha256, properties, facts.backbone_licence)


def _libraries(lock: str, facts: ModelFacts) -> "list[Component]":
    extras = [(name, version(name), "") for name in facts.extras or ()]  # not in the lock: only some models need them
    return [_library(*pinned) for pinned in [*PINNED.findall(lock), *extras]]


def _library(name: str, release: str, marker: str) -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=release,
        bom_ref=f"pkg:pypi/{name}@{release}",
        purl=PackageURL("pypi", None, name, release),
        properties=[Property(name="regraft:where", value=marker)] if marker else [],
    )
