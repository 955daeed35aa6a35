"""The figures of a comparison that a decision went by, signed, as a tag of the version that was judged.

The ledger holds them in words. Whoever asks the same question again is answered from the ledger without another
comparison, and is still shown the one that decided.
"""

import json
from typing import TYPE_CHECKING

from steps.evaluation.results import PairedComparison
from steps.registry import signing

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG, SIGNATURE = "regraft.comparison.", "regraft.comparison_signature."  # and the digest of the question


def keep(mlflow: "MlflowClient", name: str, version: str, question: str, comparison: PairedComparison) -> None:
    """Keep the comparison that answered a question about a version."""
    text = json.dumps({"model": name, "version": version, "question": question, "comparison": vars(comparison)})
    mlflow.set_model_version_tag(name, version, TAG + question, text)
    mlflow.set_model_version_tag(name, version, SIGNATURE + question, signing.sign(text))


def recall(mlflow: "MlflowClient", name: str, version: str, question: str) -> PairedComparison | None:
    """Return the comparison recorded for this question; None if there is none, or if it is not as signed.

    One that another release recorded in another form counts as none, too.
    """
    tags = mlflow.get_model_version(name, version).tags
    text = tags.get(TAG + question, "")
    if not text or not signing.verifier()(text, tags.get(SIGNATURE + question, "")):
        return None
    kept = json.loads(text)
    if (kept["model"], kept["version"], kept["question"]) != (name, version, question):
        return None
    try:
        return PairedComparison(**kept["comparison"])
    except TypeError:
        return None
