"""A process of its own that decides again and again: `python -m tests.adapters.promoter MODEL VERSION ATTEMPTS`."""

import json
import sys

from steps.adapters import ledger, tracking
from steps.core.ledger import PROMOTE, Chain


def main() -> None:
    model, version, attempts = sys.argv[1], sys.argv[2], int(sys.argv[3])
    mlflow = tracking.client()
    for attempt in range(attempts):
        seen: list[str] = []

        def turn(chain: Chain, question: str = f"{version}-{attempt}", seen: list[str] = seen) -> bool:
            seen.append(chain.head)
            reasons = [f"turn {len(seen)}"]
            return ledger.append(mlflow, model, chain, PROMOTE, version, version, reasons, question=question)

        ledger.decide(mlflow, model, turn)
        sys.stdout.write(json.dumps({"question": f"{version}-{attempt}", "seen": seen}) + "\n")


if __name__ == "__main__":
    main()
