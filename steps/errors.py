"""The errors that a user can fix, and the exit code of each."""

import re

# In an address: the text between the user's name and the host. Digits up to a slash are a port, not a secret.
SECRET = re.compile(r"(://[^\s:/@]*):(?!\d{1,5}/)[^\s@]+(?:@[^\s/@]*)*@")


def without_passwords(text: str) -> str:
    """Return a text in which no address holds a password: `http://ada:secret@host` becomes `http://ada@host`."""
    return SECRET.sub(r"\1@", text)


class RegraftError(Exception):
    """Base of the expected faults: shown as a sentence, never as a traceback, and never with a password in it."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_passwords(arg) if isinstance(arg, str) else arg for arg in args))


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
