"""The Prefect server that runs report to: read from Prefect's own settings, asked with Prefect's own client.

Prefect's settings are the environment, `.env`, prefect.toml and the user's profile. Imports Prefect (1 s).
"""

import os
import ssl

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from steps.errors import RequestError, without_passwords

PATIENCE = 10.0  # seconds
SERVER_SECRET = "a user and password: set PREFECT_API_AUTH_STRING=USER:PASSWORD"  # noqa: S105 - how to give one
CLOUD_SECRET = "another API key: set PREFECT_API_KEY"  # noqa: S105
STATUS = {
    401: "it wants {secret}",
    403: "it wants {secret} with more rights",
    404: "no Prefect API is there: the address of one ends in /api",
    405: "no Prefect API is there: the address of one ends in /api",
}


def address() -> str:
    """Return the address of the server in Prefect's settings, without a password; "" if there is none."""
    return without_passwords(str(PREFECT_API_URL.value() or ""))


def origin() -> str:
    """Return what to change to use another server, or none."""
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "change PREFECT_API_URL in Prefect's settings (`prefect config view` shows where it is set)"


def trouble() -> str:
    """Return why the server cannot be used, and the setting that helps; "" if it can be used or none is set."""
    if not PREFECT_API_URL.value():
        return ""
    try:
        once = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})  # else two minutes for one that never answers
        with once, get_client(httpx_settings={"timeout": PATIENCE}, sync_client=True) as client:
            return _refusal(client)
    except ImportError as error:  # httpx has no SOCKS of its own
        return f"{error}"
    except httpx.InvalidURL:  # its text may quote half a password
        return "it is no address"
    except httpx.HTTPError as error:
        return _unreachable(error)
    except ValueError:
        return f"what answers is not Prefect; {STATUS[404]}"


def refuse() -> None:
    """Raise RequestError if a server is set that cannot be used."""
    if reason := trouble():
        raise RequestError(f"no Prefect server answers at {address()} ({reason}); `make ui` starts one, or {origin()}")


def _refusal(client: SyncPrefectClient) -> str:
    """Ask for something that every Prefect API has and guards."""
    try:
        client.read_flows(limit=1)
    except httpx.HTTPStatusError as error:
        answer = error.response
        secret = CLOUD_SECRET if client.server_type == ServerType.CLOUD else SERVER_SECRET
        advice = STATUS.get(answer.status_code, "see its log").format(secret=secret)
        return f"HTTP {answer.status_code} {answer.reason_phrase}: {advice}"
    return ""


def _unreachable(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {PATIENCE:.0f} s"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = "set PREFECT_API_SSL_CERT_FILE to the file of its authority"
            return f"its certificate is not trusted here ({cause.verify_message}): {remedy}"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
