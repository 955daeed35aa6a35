"""What an export was found to be, in words."""

from typing import Any


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings of `steps.export.export` as lines of text."""
    sizes = f"{found['bytes'] / 1e6:.2f} MB; the version's weights {found['bytes_before'] / 1e6:.2f} MB"
    told = [f"{found['folder']}/{found['file']}", f"  {sizes}"]
    if "cost" in found:
        cost = found["cost"]
        told.append(
            f"  accuracy {cost['after']:.3f} instead of {cost['before']:.3f} on {found['images']} test images; "
            f"a loss of {cost['loss']:.3f} ({cost['low']:.3f} to {cost['high']:.3f}, paired)"
        )
    else:
        told.append(f"  answers as the version does: probabilities within {found['difference']:.1g} "
                    f"on {found['images']} test images")  # fmt: skip
    return told
