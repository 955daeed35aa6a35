"""Prefect's temporary server beside the checks: an error in them is told at once, and leaves no server behind."""

import traceback

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.retrain import no_secrets, server_starting
from steps.errors import GraphError, ParamsError


def test_a_typo_is_told_without_waiting_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = [], []
    begin, stop = SubprocessASGIServer._run_uvicorn_command, SubprocessASGIServer.stop

    def noted(server: SubprocessASGIServer) -> object:
        begun.append(begin(server))
        return begun[-1]

    def seen(server: SubprocessASGIServer) -> None:
        ended.append(server.server_process)
        stop(server)

    monkeypatch.setattr(SubprocessASGIServer, "_run_uvicorn_command", noted)
    monkeypatch.setattr(SubprocessASGIServer, "stop", seen)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ParamsError, match="no such value"),
        server_starting(),
    ):
        raise ParamsError(["no such value"])
    assert begun and ended == begun, "the server outlived the error"
    assert begun[0].poll() is not None, "it was waited for, and never stopped"


def test_an_error_that_quotes_a_password_reaches_prefect_without_it() -> None:
    with pytest.raises(GraphError, match="RuntimeError: http://ada@host failed") as error, no_secrets():
        raise RuntimeError("http://ada:CANARY@host failed")
    assert "CANARY" not in "".join(traceback.format_exception(error.value))


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), no_secrets():
        raise ZeroDivisionError
    with no_secrets():
        pass
