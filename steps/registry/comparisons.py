"""The figures of a comparison that a decision went by, signed, as a tag of the version that was judged.

The ledger holds them in words. Whoever asks the same question again is answered from the ledger without another
comparison, and is still shown the one that decided.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steps.registry import signing

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG, SIGNATURE = "regraft.comparison.", "regraft.comparison_signature."  # and the digest of the question


def keep(mlflow: "MlflowClient", name: str, version: str, question: str, comparison: Mapping[str, Any]) -> None:
    """Keep the comparison that answered a question about a version."""
    text = json.dumps({"model": name, "version": version, "question": question, "comparison": comparison})
    mlflow.set_model_version_tag(name, version, TAG + question, text)
    mlflow.set_model_version_tag(name, version, SIGNATURE + question, signing.sign(text))


def recall(mlflow: "MlflowClient", name: str, version: str, question: str) -> Mapping[str, Any] | None:
    """Return the comparison recorded for this question; None if there is none, or if it is not as signed."""
    tags = mlflow.get_model_version(name, version).tags
    text = tags.get(TAG + question, "")
    if not text or not signing.verifier()(text, tags.get(SIGNATURE + question, "")):
        return None
    kept: dict[str, Any] = json.loads(text)
    asked = (kept["model"], kept["version"], kept["question"]) == (name, version, question)
    found: Mapping[str, Any] | None = kept["comparison"] if asked else None
    return found
