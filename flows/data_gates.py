"""`regraft validate`: the gates alone. Their reports are returned even if they refuse."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from flows.graph import Graph
from flows.sources import files_below
from steps.checks.reports import Report, Screening, Shift, Unsound, Validation
from steps.checks.rule import refusal, some
from steps.errors import DataError, RequestError
from steps.runtime import artefacts, files, params, stage

GATES = {"validate": "data/reports/validation.json", "screen": "data/reports/screen.json"}
SHEET, PAGE, LINES = "data/reports/screen.html", "data/outcome/checks.html", "data/outcome/checks.csv"


@dataclass(frozen=True)
class GateReports:
    """The report of each gate that ran; the comparison with production, if requested; the refusal, if any.

    `page` shows the broken rules if they only warn; a refusal names it itself.
    """

    gates: dict[str, Report]
    against: Shift | None
    refusal: DataError | None
    page: str | None

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        refusal = str(self.refusal) if self.refusal else None
        against = {"against": self.against} if self.against else {}
        return {"accepted": self.refusal is None, "refusal": refusal, **self.gates, **against}

    def lines(self) -> list[str]:
        """Return one line per rule: its outcome, its name, the value observed, and the limit if it is a figure.

        A warning has its files and its remedy beside it, as a refusal has; the last lines name the pages.
        """
        from steps.checks.expectations import AS_IT_SHOULD_BE

        reports = [*self.gates.values(), *([self.against] if self.against else [])]
        lines = []
        for rule in (rule for report in reports for rule in report.rules):
            outcome = "pass" if rule.passed else rule.severity
            limit = "" if rule.observed == AS_IT_SHOULD_BE else f" (limit: {rule.limit})"
            lines.append(f"  {outcome:<4}  {rule.name}: {rule.observed}{limit}")
            if not (rule.passed or rule.refuses):
                lines += [f"        where   {some(rule.where)}"] if rule.where else []
                lines += [f"        remedy  {rule.remedy}"]
        return [*lines, *(_differences(self.against) if self.against else []), *self._pages()]

    def _pages(self) -> list[str]:
        suspects = [f"  images to review: {SHEET}"] if "screen" in self.gates else []
        return [*suspects, *([f"  warnings in pictures: {self.page}"] if self.page else [])]


def validate(root: Path, reference: Path | None, reweight: bool) -> GateReports:
    """Bring the gates up to date; if they accept, compare the training images with those of `reference`."""
    gates, page, refusal = _gates(root)
    shift = None
    if reference and refusal is None:
        shift, refusal = _against(root, reference, reweight)
    return GateReports(gates, shift, refusal, page)


def _gates(root: Path) -> tuple[dict[str, Report], str | None, DataError | None]:
    """Bring the gates up to date; return gate -> its report, the page of warnings, and the refusal, if there are any.

    A gate that was not reached has no report here: one that an earlier run left on disk would be about other data.
    """
    from flows.retrain import retrain_now

    try:
        report = retrain_now(root, [*GATES], force=False)
    except DataError as error:
        graph = Graph(root)
        return {name: _read(root, name) for name in GATES if _spoke(graph, name)}, None, error
    return {name: _read(root, name) for name in GATES}, report.checks, None


def write_page(root: Path, names: Collection[str]) -> str | None:
    """Show what breaks the rules of the gates `names` on a page; return its path, None if no rule is broken."""
    if "validate" not in names:
        return None
    from steps.pages import gate_page  # pandas and PIL

    screened = artefacts.read(Screening, root / GATES["screen"]) if "screen" in names else None
    inputs = artefacts.paths(root, "validate")
    gate_page.write_page(root / PAGE, root / LINES, inputs, _checks(root), screened)
    return written_page(root)


def written_page(root: Path) -> str | None:
    """Return the path of the page of broken rules that the last run wrote, if it wrote one."""
    return PAGE if (root / PAGE).is_file() else None


def _checks(root: Path) -> Unsound:
    path = root / GATES["validate"]
    sound = "decisions" in files.read_json(path)
    return artefacts.read(Validation if sound else Unsound, path)


def _read(root: Path, name: str) -> Report:
    return artefacts.read(Screening, root / GATES[name]) if name == "screen" else _checks(root)


def checked(reference: Path) -> Path:
    """Return the folder to compare with, before anything runs; RequestError if it is not a folder or is empty."""
    folder = reference.expanduser().resolve()
    if not folder.is_dir():
        raise RequestError(f"--against {reference}: no such folder; it takes a folder of pictures")
    files_below(folder, follow_links=True)
    return folder


def _against(root: Path, reference: Path, reweight: bool) -> tuple[Shift, DataError | None]:
    """Compare the training images with a folder of production images; return the report, and the refusal if any.

    The gates have to be up to date. `reweight` writes data/importance.csv. Raises RequestError if the folder does not
    exist or holds too few images, or if no weights could make the training images represent it.
    """
    from steps.commands.against import Trained
    from steps.commands.against import against as compare

    graph, document = Graph(root), params.read(root)
    (extract, paths), (screen, screened) = (
        stage.parse(graph.stages[name].cmd) for name in ("extract_features", "screen")
    )
    graph.close()
    inputs = {field.name: root / {**paths, **screened}[field.name] for field in fields(Trained)}
    mode = stage.values(extract, document)["params"]
    report = compare(
        root,
        reference,
        [*files_below(reference, follow_links=True)],
        Trained(**inputs),
        mode=mode,
        reweight=reweight,
        **stage.values(screen, document),
    )
    return report, refusal(report.rules)


def _differences(report: Shift) -> list[str]:
    """Describe the comparison: how separable the two sets are, by which measures, and where to look."""
    auc = report.auc
    sure = "" if auc.low is None else f" ({auc.low:.3f} to {auc.high:.3f})"
    moved = [row for row in report.measures if row.significant]
    return [
        f"  {report.training} training images against {report.reference} of the reference"
        + (f"; {len(report.unreadable)} files are no images" if report.unreadable else ""),
        f"  told apart with an AUC of {auc.known:.3f}{sure}, p {report.p:.2g}",
        *(f"  {row.measure} differs: {row.first} against {row.second} (effect {row.effect:.2f})" for row in moved),
        f"  training holds about {report.covered:.0%} of what the reference shows; reweighted (--reweight) "
        f"its images would be worth {report.effective:.0f}; validation, test and the gate would not be reweighted",
        f"  page: {report.page}",
    ]


def _spoke(graph: Graph, name: str) -> bool:
    """Return whether the gate's report is about the present data: from a fresh stage, or from the one that refused."""
    upstream = [up for up in graph.stages[name].upstream if up in graph.stages]
    report = graph.root / GATES[name]
    return report.is_file() and all(graph.is_fresh(up) for up in upstream)
