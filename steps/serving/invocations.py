"""MLflow's scoring protocol for pictures: parsed JSON in, the bytes of each row's picture out.

MLflow's own parser is not used: it leaves a binary column under `inputs` undecoded, ignores characters that are not
base64, and under `instances` cuts zero bytes off the end of a picture (numpy's fixed-width strings do).
"""

import base64
import binascii
import json
import re
from typing import Any

from steps.errors import RequestError

IMAGE = "image"
SPLIT, FORMS = "dataframe_split", ("dataframe_split", "dataframe_records", "inputs", "instances")
DATA_URL = re.compile(r"data:[^,]{0,100};base64,")  # what a browser's FileReader puts in front
PARTS, PARTS_PER_ROW = 64, 8  # lists, objects and values in a request
URL_SAFE = str.maketrans("-_", "+/")


def parsed(body: bytes, rows: int) -> Any:
    """Parse the JSON of a request of at most `rows` pictures; RequestError if it is not JSON or has too many parts.

    The parts are counted first: 20 MiB of `[[],[],...]` would take seconds of the interpreter, and 40 times the memory.
    """
    parts = body.count(b"[") + body.count(b"{") + body.count(b",")
    most = PARTS + PARTS_PER_ROW * rows
    if parts > most:
        raise RequestError(
            f"JSON of {parts} lists, objects and values; {rows} rows, the most in a request, have {most}"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def pictures(document: Any) -> list[bytes]:
    """Return the pictures, in the order of the rows.

    Each is base64 text in a column `image`, a bare text under `inputs` and `instances`, or TensorFlow Serving's
    {"b64": text}. Raises RequestError, with the row (counted from 0), for anything else.
    """
    given = [form for form in FORMS if form in document] if isinstance(document, dict) else []
    if len(given) != 1:
        keys = f"has {', '.join(given)}" if given else "has none of them"
        raise RequestError(f"expected a JSON object with exactly one of {', '.join(FORMS)}; this one {keys}")
    cells = _split(document[SPLIT]) if given == [SPLIT] else _cells(document[given[0]])
    if not cells:
        raise RequestError(f"{given[0]} holds no row")
    return [_decoded(row, cell) for row, cell in enumerate(cells)]


def _split(value: Any) -> list[Any]:
    """Read pandas' orientation "split": {"columns": ["image"], "data": [[text], ...]}."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list) or "columns" not in value:
        raise RequestError(f'{SPLIT} takes {{"columns": ["{IMAGE}"], "data": [[base64 text], ...]}}')
    if value["columns"] != [IMAGE]:
        raise RequestError(f"{SPLIT} has the columns {_short(value['columns'])}; expected [{IMAGE!r}]")
    return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in value["data"]]


def _cells(value: Any) -> list[Any]:
    """Read rows ([text, ...], [{"image": text}, ...]) or columns ({"image": [text, ...]})."""
    if isinstance(value, list):
        return [_column(row) if isinstance(row, dict) and set(row) != {"b64"} else row for row in value]
    column = _column(value) if isinstance(value, dict) and set(value) != {"b64"} else value
    return column if isinstance(column, list) else [column]


def _column(columns: dict[str, Any]) -> Any:
    if set(columns) != {IMAGE}:
        raise RequestError(f"the columns are {_short(sorted(columns))}; expected [{IMAGE!r}]")
    return columns[IMAGE]


def _decoded(row: int, cell: Any) -> bytes:
    text = cell["b64"] if isinstance(cell, dict) and set(cell) == {"b64"} else cell
    if not isinstance(text, str):
        raise RequestError(f"row {row}: {_short(text)} where base64 text of an image file was expected")
    letters = "".join(DATA_URL.sub("", text, count=1).split()).translate(URL_SAFE)  # MLflow's own encoder breaks lines
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)  # URL-safe text is often unpadded
    except (binascii.Error, ValueError):
        raise RequestError(f"row {row}: {_short(text)} is no base64 text of an image file") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
