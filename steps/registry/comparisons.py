"""The figures of the comparison behind a decision, as a signed tag of the version that was judged.

The ledger holds them in words. If the same question is asked again, the ledger answers it without another comparison,
and these figures are still shown.
"""

import json

from steps.evaluation.results import PairedComparison
from steps.registry import signing
from steps.registry.model_registry import Registry

TAG, SIGNATURE = "regraft.comparison.", "regraft.comparison_signature."  # followed by the digest of the question


def keep(registry: Registry, version: str, question: str, comparison: PairedComparison) -> None:
    """Keep the comparison that answered a question about a version."""
    text = json.dumps(
        {"model": registry.name, "version": version, "question": question, "comparison": vars(comparison)}
    )
    registry.client.set_model_version_tag(registry.name, version, TAG + question, text)
    registry.client.set_model_version_tag(registry.name, version, SIGNATURE + question, signing.sign(text))


def recall(registry: Registry, version: str, question: str) -> PairedComparison | None:
    """Return the comparison recorded for this question; None if there is none, or if it is not what was signed.

    A record in another release's format counts as none.
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
