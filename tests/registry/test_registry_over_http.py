"""What an MLflow server with passwords refuses: only "there is no such thing" means that something is not there."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from steps.errors import RegistryError, RequestError
from steps.registry import ledger, look_ledger, package_loading, tracking
from steps.registry.model_registry import CHAMPION, Registry
from steps.registry.production import Production, chosen
from steps.registry.tracking import ABSENT, DENIED, UNKNOWN
from steps.runtime.stage import Lineage
from tests import packaged
from tests.servers import guarded_mlflow_server

MODEL = "regraft"
IMAGES = [f"{i:02x}" * 32 for i in range(153)]


@dataclass(frozen=True)
class Guarded:
    """A server with passwords, with a model in it that has a version, an alias and a ledger."""

    address: str
    folder: Path
    stop: Callable[[], None]

    def administrate(self, path: str, **body: str) -> None:
        """Let the administrator ask for something."""
        who = ("root", "password-of-root")
        httpx.post(f"{self.address}/api/{path}", json=body, auth=who, timeout=60).raise_for_status()

    def grant(self, username: str, model: str, permission: str) -> None:
        self.administrate(
            "3.0/mlflow/users/permissions/grant",
            username=username,
            resource_type="registered_model",
            resource_id=model,
            permission=permission,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:
        patched.setenv("DVC_ROOT", str(folder))
        patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.MonkeyPatch.context() as old:  # what a release wrote into its own SQLite file, served later
            old.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'server.db'}")
            old.setattr(look_ledger, "SOURCE", "regraft://looks")
            look_ledger.record(["an old model"], IMAGES)
        address, who = stack.enter_context(guarded_mlflow_server(folder))
        for name, value in {"MLFLOW_TRACKING_URI": address, **who}.items():
            patched.setenv(name, value)
        found = Guarded(address, folder, stack.close)
        found.grant("ada", look_ledger.NAME, "EDIT")  # it belongs to nobody
        yield found


@pytest.fixture(scope="module")
def made(server: Guarded) -> Guarded:
    (server.folder / "saved/artifacts/model").mkdir(parents=True)
    (server.folder / "saved/MLmodel").write_text("flavors: {}")
    (server.folder / "saved/artifacts/model/model.json").write_text("{}")
    packaged.promote(registry(), packaged.register(registry(), "d" * 64, server.folder / "saved"))
    return server


def registry(name: str = MODEL) -> Registry:
    return Registry(Path(os.environ["DVC_ROOT"]), name)


def lineage(letter: str, **params: object) -> Lineage:
    return Lineage("train_head", letter * 64, "c" * 64, params, {})


def test_looks_of_a_database_that_is_served_later_go_on_to_count(server: Guarded) -> None:
    assert look_ledger.count(IMAGES) == 1
    look_ledger.record(["an old model", "a new one"], IMAGES)
    assert look_ledger.count(IMAGES) == 2


def test_what_is_not_there_is_not_there_with_passwords_too(server: Guarded) -> None:
    nobody = registry("nobody")
    assert nobody.alias(CHAMPION) is None
    assert nobody.version("1") is None
    assert ledger.read(nobody).entries == ()
    with pytest.raises(RequestError, match=r"the registry has no model 'nobody'; it has: regraft\.looks"):
        nobody.resolve("models:/nobody/1")


def test_of_a_model_that_is_there_what_it_lacks_is_absent(made: Guarded) -> None:
    model = registry()
    assert model.alias(CHAMPION) == "1"
    assert model.alias("nightly") is None
    assert model.version("9") is None and model.listing("9") == []
    assert model.fetch("1", "artifacts/model", made.folder / "there").is_dir()
    for path in ("artifacts/other", "nothing/there"):
        with pytest.raises(RequestError, match=f"version 1 of regraft has no {path}: regraft did not register it"):
            model.fetch("1", path, made.folder / "nowhere")


def test_everything_that_a_run_logs_is_within_what_a_server_takes(made: Guarded) -> None:
    model, epochs = registry(), [{"epoch": i, "loss": 1 / (i + 1), "gap": float("nan")} for i in range(700)]
    long = lineage("e", seed=0, one={f"name_{i}": "x" * 500 for i in range(120)})
    run = model.log_run(model.experiment("regraft"), long, epochs)
    assert len(model.client.get_run(run).data.params) == 121
    assert len(model.client.get_metric_history(run, "loss")) == 700
    fetched = model.fetch_run(run, made.folder / "fetched")
    assert json.loads(fetched["lineage.json"].read_text())["digest"] == long.digest and "evaluation.json" not in fetched
    images = [sha256(f"{i}".encode()).hexdigest() for i in range(5000)]
    look_ledger.record(["a model of many images"], images)
    assert look_ledger.count(images) == 1


QUESTIONS: dict[str, Callable[[], object]] = {
    "client": tracking.client,
    "alias": lambda: asked().alias(CHAMPION),
    "alias that is not there": lambda: asked("nobody").alias(CHAMPION),
    "version": lambda: asked().has("1"),
    "files": lambda: asked().listing("1"),
    "address": lambda: asked().resolve(f"models:/{MODEL}@champion"),
    "folder": lambda: asked().fetch("1", "artifacts/model", Path(os.environ["DVC_ROOT"]) / "got"),
    "digest": lambda: asked().find("d" * 64),
    "package": lambda: package_loading.verify(asked(), "1"),
    "model": lambda: asked("another").ensure(),
    "ledger": lambda: ledger.read(asked()),
    "production": lambda: Production(asked()).named(),
    "chosen": lambda: chosen(asked(), "1"),
    "decision": lambda: next(ledger.attempts(asked())),
    "looks": lambda: look_ledger.read(asked(look_ledger.NAME)),
    "run": lambda: asked().run("0" * 32),
    "experiment": lambda: asked().experiment("another"),
    "logging": lambda: asked().log_run("1", lineage("f")),
}


def asked(name: str = MODEL) -> Registry:
    """Return a registry whose client was there before: what `client` itself asks is not asked again."""
    from mlflow import MlflowClient

    model = registry(name)
    model.client = tracking.Client(MlflowClient(tracking.tracking_uri()))  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_wrong_password_is_no_answer(made: Guarded, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-secret")
    with pytest.raises(
        RegistryError, match="user name or password was rejected: set MLFLOW_TRACKING_USERNAME"
    ) as caught:
        QUESTIONS[question]()
    assert "wrong-secret" not in str(caught.value)
    assert caught.value.code == UNKNOWN or question == "package"


def test_a_ledger_that_this_user_may_not_read_is_not_empty(made: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    made.administrate("2.0/mlflow/users/create", username="bob", password="password-of-bob")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-bob")
    assert Production(registry()).named().number == "1", "everybody may read, unless told otherwise"
    made.grant("bob", ledger.of(registry()).name, "DENY")
    exported = made.folder / ledger.EXPORT
    exported.parent.mkdir(exist_ok=True)
    exported.write_text("what stands there\n")
    for ask in (
        lambda: Production(registry()).named(),
        lambda: ledger.reconcile(registry()),
        lambda: next(ledger.attempts(registry())),
    ):
        with pytest.raises(RegistryError, match="this user may not do that") as caught:
            ask()
        assert caught.value.code == DENIED
    assert exported.read_text() == "what stands there\n"


def test_files_that_a_server_keeps_on_its_own_disk_are_a_sentence(made: Guarded) -> None:
    elsewhere = registry().client.create_experiment("elsewhere", artifact_location="/proc/only")
    with pytest.raises(RegistryError, match=r"keeps its files where this machine cannot use them: .*--serve-artifacts"):
        registry().log_run(elsewhere, lineage("9"))


def test_a_server_that_is_gone_is_no_registry_without_a_champion(made: Guarded) -> None:
    made.stop()
    for question, ask in QUESTIONS.items():
        with pytest.raises(RegistryError, match="does not answer") as caught:
            ask()
        assert caught.value.code != ABSENT, question
