"""The figures of a comparison that a decision went by, signed, as a tag of the version that was judged.

The ledger holds them in words. Whoever asks the same question again is answered from the ledger without another
comparison, and is still shown the one that decided.
"""

import json

from steps.evaluation.results import PairedComparison
from steps.registry import signing
from steps.registry.model_registry import Registry

TAG, SIGNATURE = "regraft.comparison.", "regraft.comparison_signature."  # and the digest of the question


def keep(registry: Registry, version: str, question: str, comparison: PairedComparison) -> None:
    """Keep the comparison that answered a question about a version."""
    text = json.dumps(
        {"model": registry.name, "version": version, "question": question, "comparison": vars(comparison)}
    )
    registry.client.set_model_version_tag(registry.name, version, TAG + question, text)
    registry.client.set_model_version_tag(registry.name, version, SIGNATURE + question, signing.sign(text))


def recall(registry: Registry, version: str, question: str) -> PairedComparison | None:
    """Return the comparison recorded for this question; None if there is none, or if it is not as signed.

    One that another release recorded in another form counts as none, too.
    """
    tags = registry.client.get_model_version(registry.name, version).tags
    text = tags.get(TAG + question, "")
    if not text or not signing.verifier()(text, tags.get(SIGNATURE + question, "")):
        return None
    kept = json.loads(text)
    if (kept["model"], kept["version"], kept["question"]) != (registry.name, version, question):
        return None
    try:
        return PairedComparison(**kept["comparison"])
    except TypeError:
        return None
