"""The command line `regraft ...`: each command is one call; an error becomes one sentence and an exit code."""

import io
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Concatenate, Literal, NoReturn, ParamSpec, TypeVar

import typer

from flows.finish import FRESH, Report, check_params, finish
from flows.finish import status as status_of
from flows.project import check_stages, enter, running, settle
from flows.terminal import Lines, say, show
from steps.errors import RegraftError, RequestError, without_passwords

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
Labels = Literal["top", "leaf", "path"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def locked(
    command: Callable[Concatenate[Path, Arguments], Returned], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Returned:
    """Run a command on the project in the current folder while holding its lock."""
    root = enter(Path.cwd())
    with running(root):
        return command(root, *arguments, **named)


@app.callback()
def regraft() -> None:
    """Transfer learning on your images, every night, with proof. Run it in a project's folder."""


@app.command()
def use(
    images: Annotated[str, typer.Argument(help="A folder of images, an archive of one, a listing, or 'digits'.")],
    backbone: Annotated[
        str | None, typer.Option(help="torchvision's name, timm:NAME, 'glyphnet', or models:/NAME@ALIAS.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A local file, or the name of weights of torchvision's or timm's.")
    ] = None,
    accept_new_weights: Annotated[
        bool, typer.Option("--accept-new-weights", help="Accept different weights under the same name.")
    ] = False,
    weights_part: Annotated[
        str | None, typer.Option(help="The part of the file to use if several fit, e.g. model_ema.")
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(help="That of weights of torchvision's or timm's, e.g. IMAGENET1K_V2, or a .json/.yaml file."),
    ] = None,
    packed: Annotated[
        bool | None, typer.Option("--packed/--loose", help="Hold the images in shards; default: where it pays.")
    ] = None,
    labels: Annotated[
        Labels | None, typer.Option(help="Folders in folders: which of them is the class; default: the top one.")
    ] = None,
    follow_links: Annotated[
        bool | None, typer.Option("--follow-links/--stay-inside", help="Follow links that lead out of the folder, too.")
    ] = None,
) -> None:
    """Point the project at your images and at a backbone."""
    from flows.use import use as set_inputs
    from steps.commands.wishes import Wishes

    wishes = Wishes(preprocessing, weights_part)
    show(locked(set_inputs, images, backbone, weights, accept_new_weights, packed, wishes, labels, follow_links))


@app.command()
def run(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages to bring up to date; default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run stages that are fresh, too.")] = False,
    as_json: Json = False,
) -> None:
    """Bring everything up to date: run what is stale, register, promote what earned it."""
    root = enter(Path.cwd())
    check_stages(root, targets or [])  # before Prefect is imported and its server starts: 16 s for a misspelt word
    report = _nothing_to_do(root) if not (targets or force) else None
    if report is None:
        from flows.retrain import retrain_now
        from flows.stopping import ending_when_told

        with ending_when_told():
            report = retrain_now(root, targets or [], force)
    show(report, as_json)


def _nothing_to_do(root: Path) -> Report | None:
    """Return the report if every stage is fresh, without importing Prefect or torch; None if a stage is stale."""
    from flows.data_gates import written_page
    from flows.sources import refresh

    with running(root):
        graph = refresh(root)
        if not all(graph.is_fresh(name) for name in graph.stages):
            from flows import preflight
            from flows.retrain import server_starting

            with server_starting():  # meanwhile, what the stages need is imported
                check_params(graph)
                preflight.check(root)
            return None
        return finish(graph, Report(stages=dict.fromkeys(graph.stages, FRESH), checks=written_page(root)))


@app.command()
def validate(
    against: Annotated[
        Path | None, typer.Option(help="A folder of unlabelled pictures as production sees them.")
    ] = None,
    reweight: Annotated[
        bool, typer.Option("--reweight", help="With --against: write data/importance.csv, which the next run applies.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the gates alone: what is wrong with the data, where, and what to do (exit code 3 if they refuse)."""
    from flows import data_gates

    if reweight and not against:
        raise RequestError("--reweight needs --against FOLDER: weights make training look like something")
    reference = data_gates.checked(against) if against else None
    root = enter(Path.cwd())
    reports = data_gates.validate(root, reference, reweight)
    show(reports, as_json)
    if reports.refusal:
        raise reports.refusal


@app.command()
def status(as_json: Json = False) -> None:
    """Show which stages are fresh, and which version is in production."""
    show(status_of(enter(Path.cwd())), as_json)


By = Annotated[str, typer.Option("--by", help="Who decides; default: your login name.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]


@app.command()
def approve(version: str, reason: Reason, by: By = "") -> None:
    """Promote a version that the gate has proposed (promote.approval: required)."""
    from steps.promotion.release import approve as decide

    decision = locked(decide, version, by, reason)
    say(f"version {decision.version} is the new champion, approved by {decision.by}")


@app.command()
def decline(version: str, reason: Reason, by: By = "") -> None:
    """Refuse a version that the gate has proposed; the same proposal is not made again."""
    from steps.promotion.release import decline as decide

    decision = locked(decide, version, by, reason)
    say(f"version {decision.version} is declined by {decision.by}")


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="An earlier champion; default: the one before.")] = None,
    by: By = "",
) -> None:
    """Put an earlier champion back into production. It stays there until a better one comes."""
    from steps.promotion.release import rollback as decide

    decision = locked(decide, to, by, reason)
    say(f"version {decision.version} is the champion again, in place of version {decision.previous}")


@app.command()
def adopt(version: str, reason: Reason, by: By = "") -> None:
    """Make a version the champion where the ledger is empty or its champion is lost: nothing to compare it with."""
    from steps.promotion.release import adopt as decide

    decision = locked(decide, version, by, reason)
    say(f"version {decision.version} is the champion, adopted by {decision.by}; commit data/ledger.jsonl")


@app.command()
def history(
    at: Annotated[str | None, typer.Option(help="What was in production then? A date or an ISO time.")] = None,
    as_json: Json = False,
) -> None:
    """Print every decision about production, from the signed ledger; exit code 1 if it was tampered with."""
    from steps.commands.history import history as read

    ledger = read(enter(Path.cwd()), at)
    show(ledger, as_json)
    raise typer.Exit(bool(ledger.faults))


@app.command()
def audit(
    version: Annotated[str | None, typer.Argument(help="A version's number; default: the champion.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every signature, too; exit code 1 on a fault.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print where a version comes from, from the alias to the raw images, with every gap named."""
    from flows.graph import cache
    from steps.commands.audit import audit as follow

    root = enter(Path.cwd())
    links = follow(root, version, verify, cache(root))
    show(links, as_json)
    raise typer.Exit(bool(links.faults))


@app.command()
def replay(
    version: Annotated[str, typer.Argument(help="A version's number.")],
    values: Annotated[
        Path | None,
        typer.Option(
            "--params",
            exists=True,
            dir_okay=False,
            help="A params.yaml instead of the run's own: what would it change?",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Of figures and probabilities: up to here it counts as equivalent.")
    ] = 1e-4,
    as_json: Json = False,
) -> None:
    """Reproduce a version from what its run kept, and report: identical, equivalent or different."""
    from flows.replay import replay as again

    given = values.expanduser().resolve() if values else None
    show(locked(again, version, given, tolerance), as_json)


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="A version's number, or an alias: champion.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, torch or int8.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="A folder; default: data/outcome/exports.")] = None,
    as_json: Json = False,
) -> None:
    """Write a version for another runtime, once it is shown to answer alike on the test images."""
    from steps.commands.export import OUTPUT
    from steps.commands.export import export as write

    target = output.expanduser().resolve() if output else None
    root = enter(Path.cwd())
    show(write(root, version, kind, target or root / OUTPUT), as_json)


@app.command()
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Folders, pictures, patterns in quotes, listings (.csv, .parquet).")
    ],
    output: Annotated[Path | None, typer.Option(help="Where the answers go: NAME.csv or NAME.parquet.")] = None,
    version: Annotated[str | None, typer.Option(help="A registered version; default: the champion.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="A column for each class, too.")] = False,
    as_json: Json = False,
) -> None:
    """Classify many pictures: one row per picture, with version and digest. A killed run resumes where it stopped."""
    from steps.commands.predict import predict as answer

    target = output.expanduser().absolute() if output else None
    show(answer(enter(Path.cwd()), paths, target, version, probabilities, as_json), err=True)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    alias: Annotated[str, typer.Option(help="The alias to follow.")] = "champion",
    version: Annotated[str | None, typer.Option(help="Serve this version instead, and follow nothing.")] = None,
    every: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks at the ledger, or at another alias.")
    ] = 1.0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that compute; 0: one per processor.")] = 0,
    waiting: Annotated[int, typer.Option(min=1, help="Requests under way, at most; one more gets a 503.")] = 64,
    connections: Annotated[int, typer.Option(min=1, help="Open connections, at most.")] = 512,
    body: Annotated[float, typer.Option(min=0.001, help="MiB of a request, at most.")] = 20.0,
    bodies: Annotated[float, typer.Option(min=0.001, help="MiB of all requests together, at most.")] = 512.0,
    pixels: Annotated[int, typer.Option(min=1, max=100, help="Million pixels of a picture, at most.")] = 50,
    request_pixels: Annotated[int, typer.Option(min=1, help="Million pixels of a request, at most.")] = 100,
    rows: Annotated[int, typer.Option(min=1, help="Pictures in one request to /invocations, at most.")] = 64,
    patience: Annotated[
        float, typer.Option(min=0.1, help="Seconds in which headers have to arrive, and then the body.")
    ] = 30.0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds from there to the answer.")] = 30.0,
    grace: Annotated[int, typer.Option(min=0, help="Seconds for what is under way when stopped.")] = 30,
    prefix: Annotated[str, typer.Option(help="The path that a proxy puts in front of the routes, e.g. /birds.")] = "",
) -> None:
    """Serve the champion over HTTP: a picture's bytes to /predict, MLflow's protocol to /invocations. Until stopped.

    If the environment variable REGRAFT_TOKEN is set, requests must carry it: 'Authorization: Bearer TOKEN'.
    """
    from steps.commands.serve import Place
    from steps.commands.serve import serve as answer
    from steps.runtime.compute import processors
    from steps.serving.bodies import ServiceLimits

    limits = ServiceLimits(
        body=int(body * 2**20),
        bodies=int(max(body, bodies) * 2**20),
        pixels=pixels * 10**6,
        request_pixels=request_pixels * 10**6,
        rows=rows,
        connections=connections,
        waiting=waiting,
        workers=workers or processors(),
        patience=patience,
        deadline=deadline,
    )
    answer(enter(Path.cwd()), alias, version, every, Place(host, port, grace, prefix), limits, say)


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="VERSION", help="A registered version.")],
    other: Annotated[str, typer.Argument(metavar="VERSION", help="Another.")],
    as_json: Json = False,
) -> None:
    """Compare two versions on the test images of today: paired, per class, and where they differ."""
    from steps.commands.compare import compare as versions

    show(versions(enter(Path.cwd()), one, other), as_json)


@app.command()
def tune(
    compiled: Annotated[bool, typer.Option("--compiled", help="Measure the compiler too; it takes a minute.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the fastest into params.yaml.")] = False,
) -> None:
    """Measure how features are computed fastest on this machine, with your images and your backbone."""
    from flows.tune import tune as measure

    root = enter(Path.cwd())
    with running(root):
        for line in measure(root, compiled, write):
            say(line)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="REV_A", help="A git revision.")],
    new: Annotated[str, typer.Argument(metavar="REV_B", help="Another, or 'workspace'.")] = "workspace",
    as_json: Json = False,
) -> None:
    """Show which images were added, removed, relabelled or moved between two versions of the data."""
    from flows.diff import between

    show(between(enter(Path.cwd()), old, new), as_json)


@app.command()
def rank(
    names: Annotated[
        list[str], typer.Argument(metavar="BACKBONE...", help="Classification models of torchvision's or timm's.")
    ],
    weights: Annotated[list[str] | None, typer.Option(help="NAME=FILE: a local file for one of them.")] = None,
    preprocessing: Annotated[
        list[str] | None, typer.Option(help="NAME=ENTRY or NAME=FILE: as in `use`, for one of them.")
    ] = None,
    weights_part: Annotated[list[str] | None, typer.Option(help="NAME=PART: as in `use`, for one of them.")] = None,
    images: Annotated[int, typer.Option(min=10, help="Training images to use, at most.")] = 2000,
    as_json: Json = False,
) -> None:
    """Rank backbones on your training images by a cross-validated probe; says which cannot be told apart."""
    from steps.commands.rank import rank as rank_backbones

    stated = (preprocessing or [], weights_part or [])
    show(rank_backbones(enter(Path.cwd()), names, weights or [], images, *stated), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Report what is missing or misconfigured, and the fix; exit code 1 if something is."""
    from flows.doctor import examine

    if (Path.cwd() / "dvc.yaml").is_file():
        settle(Path.cwd())
    diagnosis = examine(Path.cwd())
    show(diagnosis, as_json)
    raise typer.Exit(diagnosis.faulty)


@app.command()
def deploy(
    cron: Annotated[str, typer.Option(help="When, as five cron fields.")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="The zone the fields are in.")] = "UTC",
) -> None:
    """Serve nightly retraining under the Prefect server of PREFECT_API_URL; runs until stopped."""
    root = enter(Path.cwd())
    from flows.deploy import serve  # Prefect reads its settings as it is imported

    serve(root, cron, timezone)


@app.command()
def ui() -> None:
    """Start a Prefect server and MLflow's pages over this project; prints their addresses, runs until stopped."""
    from flows.ui import ui as serve_pages

    serve_pages(enter(Path.cwd()))


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a stage failed, 2 wrong request or params, 3 data rejected."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal lacks become question marks
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("regraft").setLevel(logging.INFO)
    try:
        app()
    except RegraftError as error:
        say(f"regraft: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception:  # a bug; its traceback may quote an address that was passed to a library
        say(without_passwords(traceback.format_exc()), err=True)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
