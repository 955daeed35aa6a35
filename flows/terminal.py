"""The one edge to the terminal: what is printed or logged cannot drive it, and holds no password."""

import json
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import typer

from steps.errors import visible, without_passwords
from steps.runtime import files


class Result(Protocol):
    """The result of a command."""

    def lines(self) -> Iterable[str]:
        """Return text for a person."""

    def plain(self) -> Any:
        """Return JSON values."""


def show(result: Result, as_json: bool = False, err: bool = False) -> None:
    """Print a command's result as text, or as JSON with non-ASCII characters escaped."""
    text = json.dumps(result.plain(), indent=2, default=files.plain) if as_json else "\n".join(result.lines())
    say(text, err=err)


def say(text: str, err: bool = False) -> None:
    """Print a text; a name in it cannot drive the terminal."""
    typer.echo(visible(text), err=err)


class Lines(logging.Formatter):
    """Log lines without control characters and passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with the traceback if there is one."""
        return visible(without_passwords(super().format(record)))
