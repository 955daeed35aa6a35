"""The errors that a user can fix, and the exit code of each."""

import re

LEAST_TOKEN = 20  # characters; a longer user's name in an address is taken for a token
# In an address: the text between the user's name and the host. Digits up to a slash are a port, not a secret.
# Bounded, so that the time is linear in the text, also in one that is all "://:".
PASSWORD = re.compile(r"(://[^\s:/@]{0,200}):(?!\d{1,5}/)[^\s@]{1,500}(?:@[^\s/@]{0,200}){0,3}@")
TOKEN = re.compile(rf"://[^\s:/@]{{{LEAST_TOKEN},500}}@")
# Parts of an address's query that are secrets by their names, presigned addresses of S3, Azure and Google included
QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]{0,40}(?:token|password|passwd|secret|signature|credential|apikey|api_key|access_key)|sig|key|pwd)=)"
    r"[^\s&;#'\"<>]+"
)
# Control characters other than tab and new line, and those that reorder text: they drive a terminal, or deceive readers
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def without_passwords(text: str) -> str:
    """Return a text in which no address holds a password or another secret.

    `http://ada:secret@host/x?token=abc` becomes `http://ada@host/x?token=...`, `http://token@host` stays a user's name
    unless it is as long as a token (20 characters). Takes time linear in the text.
    """
    for secret, shown in ((PASSWORD, r"\1@"), (TOKEN, "://...@"), (QUERY, r"\1...")):
        text = secret.sub(shown, text)
    return text


def visible(text: str) -> str:
    """Return a text whose control characters are spelt out (`\\x1b`), so that a file's name cannot drive a terminal."""
    return CONTROLS.sub(lambda control: repr(control[0])[1:-1], text)


class RegraftError(Exception):
    """Base of the expected faults: shown as a sentence, never as a traceback.

    Its text holds no password and no control character, wherever it is printed, logged or stored.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(visible(without_passwords(arg)) if isinstance(arg, str) else arg for arg in args))


class RequestError(RegraftError):
    """The command asks for something that does not exist or does not fit."""

    exit_code = 2


class ParamsError(RegraftError):
    """`params.yaml` is wrong; carries all the faults at once."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''} in params.yaml"
        super().__init__("\n  ".join([f"{count}:", *faults]))


class DataError(RegraftError):
    """The images or the listing are faulty, or a gate refuses them."""

    exit_code = 3


class RejectedError(DataError):
    """The rules of a gate reject the data; the gate's report holds them with what they observed."""


class UndecodableError(DataError):
    """The bytes are not an image that can be decoded within the limits."""

    def __init__(self, reason: str, exception: str) -> None:
        super().__init__(reason)
        self.reason, self.exception = reason, exception


class IntegrityError(RegraftError):
    """Something that must not change has changed: frozen weights, a digest, code under a running stage."""


class GraphError(RegraftError):
    """`dvc.yaml` and the code disagree, or a stage cannot be run as declared."""


class RegistryError(RegraftError):
    """The model registry lacks the versions of the receipt, or cannot be reached.

    `code` is MLflow's error code, "" if there is none: only RESOURCE_DOES_NOT_EXIST means that something is not there;
    an outage or a wrong password says nothing about that.
    """

    def __init__(self, *args: object, code: str = "") -> None:
        super().__init__(*args)
        self.code = code
