"""multipart/form-data, as a browser's plain HTML form sends a picture; parsed by python-multipart."""

import re

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from steps.errors import RequestError

MAX_PARTS = 16  # fields of one form
FILE = re.compile(rb";\s*filename\*?\s*=", re.IGNORECASE)  # in the header of a field that is a file


def picture(boundary: bytes, body: bytes) -> bytes:
    """Return the bytes of the one file in a form; other fields are ignored, and files left empty beside it.

    Raises RequestError if the body is not a form, or holds no file, several, or more than `MAX_PARTS` fields.
    """
    parts = _parts(boundary, body)
    files = [data for head, data in parts if FILE.search(head)]
    files = [data for data in files if data] or files[:1] or [data for _, data in parts]
    if len(files) != 1:
        raise RequestError(f"a form with {len(files)} files; send one picture at a time: curl -F file=@photo.jpg")
    return files[0]


def _parts(boundary: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers' values and the data of each field."""
    heads, fields = list[bytearray](), list[bytearray]()

    def begin() -> None:
        if len(heads) == MAX_PARTS:
            raise RequestError(f"a form with more than {MAX_PARTS} fields")
        heads.append(bytearray())
        fields.append(bytearray())

    def head(data: bytes, start: int, end: int) -> None:
        heads[-1] += data[start:end]

    def field(data: bytes, start: int, end: int) -> None:
        fields[-1] += data[start:end]

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_header_value": head, "on_part_data": field})
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(f"the body is not a form: {error}") from None
    return [(bytes(head), bytes(data)) for head, data in zip(heads, fields, strict=True)]
