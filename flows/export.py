"""What an export was found to be, in words."""

from typing import Any


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings of `steps.commands.export.export` as lines of text."""
    sizes = f"{found['bytes'] / 1e6:.2f} MB; the version's weights {found['bytes_before'] / 1e6:.2f} MB"
    told = [f"{found['folder']}/{found['file']}", f"  {sizes}"]
    if "verdict" in found:
        told.append(f"  {found['verdict']}")
    else:
        told.append(f"  answers as the version does: probabilities within {found['difference']:.1g} "
                    f"on {found['images']} test images")  # fmt: skip
    return told
