"""The table in docs/validation.md is made of the cases that are tested: `python -m tests.checks.test_remedy_table`."""

import re

from steps.checks.feature_rules import ScreenSeverity, screen_rules, shift_rules, split_rules
from steps.checks.rule import Rule
from steps.checks.rules import Severity, rules
from tests.checks.test_remedies import CASES, OBSERVED
from tests.checks.test_remedies_of_the_screen import AGAINST, SCREEN
from tests.checks.world import PROJECT
from tests.made import every_key, limits

PAGE = PROJECT / "docs/validation.md"


def every_rule() -> list[Rule]:
    gate, severity = rules(limits(), every_key(Severity, "fail")), every_key(ScreenSeverity, "fail")
    return [*gate, *screen_rules(0.02, severity), *split_rules(0.7, severity), *shift_rules(0.7, severity)]


def table() -> str:
    """Return the table of docs/validation.md."""
    known = {rule.name: rule for rule in every_rule()}
    rows = [
        ("rule", "key", "a fault that breaks it", "the remedy as printed", "what the test does of it", "exit codes")
    ]
    rows += [("---",) * len(rows[0])]
    done: set[str] = set()
    tried = [(case.rule, case.fault, case.piece) for case in (*CASES, *OBSERVED, *SCREEN)]
    for name, fault, piece in [*tried, AGAINST]:
        remedy = "as above" if name in done else known[name].remedy
        rows.append((name, known[name].key, fault, remedy, piece, "3, then 0"))
        done.add(name)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_every_rule_of_the_gate_is_in_the_documented_table() -> None:
    assert {rule.name for rule in every_rule()} == {case.rule for case in (*CASES, *OBSERVED, *SCREEN)} | {AGAINST[0]}
    assert table() in PAGE.read_text(encoding="utf-8"), "python -m tests.checks.test_remedy_table writes it"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(r"\| rule \|.*?\n(?!\|)", lambda _: table(), text, count=1, flags=re.DOTALL), encoding="utf-8"
    )
