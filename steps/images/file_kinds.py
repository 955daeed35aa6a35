"""What a file is that cannot be decoded: a damaged picture, a picture in a format that is not read, or another file.

The first bytes decide. The name decides only whether bytes that say nothing were meant to be a picture.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final, Literal, NamedTuple

Kind = Literal["damaged", "other format", "other file", "second form"]
DAMAGED: Final = "damaged"
OTHER_FORMAT: Final = "other format"
OTHER_FILE: Final = "other file"
SECOND_FORM: Final = "second form"
LOST: tuple[Kind, ...] = (DAMAGED, OTHER_FORMAT)  # pictures that the user misses: they count against the limit
HEAD = 1024  # bytes that are looked at
AS_PNG = "`magick FILE FILE.png` converts it"
DEVELOP = "develop it, e.g. with darktable-cli, or use the camera's JPEG"
PICTURES = (
    ".apng .avif .bmp .dib .gif .ico .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pcx .pgm .png .pnm .ppm .tga "
    ".tif .tiff .webp"
)
RAW_CAMERA = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf "
    ".srw .x3f"
)
HEIC_IS_READ = find_spec("pillow_heif") is not None  # the optional extra `heif`
STILLS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Format(NamedTuple):
    """A file format that is not read; `convert` says how a picture in it becomes readable, empty: it is no picture."""

    name: str
    convert: str = ""


RAW = Format("raw camera file", DEVELOP)
HEIC = Format(
    "HEIC", "`heif-convert FILE FILE.jpg` converts it, or `pip install --editable '.[heif]'` lets regraft read it"
)
DICOM = Format("DICOM", "`dcm2img FILE FILE.png` converts it")
BY_NAME = dict.fromkeys(RAW_CAMERA.split(), RAW) | {
    ".dcm": DICOM,
    ".heic": HEIC,
    ".heif": HEIC,
}  # where bytes say nothing
STARTS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\x0a", Format("JPEG XL", "`djxl FILE FILE.png` converts it")),
    (b"\0\0\0\x0cJXL ", Format("JPEG XL", "`djxl FILE FILE.png` converts it")),
    (b"8BPS", Format("Photoshop (PSD)", AS_PNG)),
    (b"gimp xcf", Format("GIMP (XCF)", AS_PNG)),
    (b"\x76\x2f\x31\x01", Format("OpenEXR", AS_PNG)),
    (b"#?RADIANCE", Format("Radiance HDR", AS_PNG)),
    (b"#?RGBE", Format("Radiance HDR", AS_PNG)),
    (b"SIMPLE  =", Format("FITS", "convert it to PNG with 16 bits")),
    (b"NRRD0", Format("NRRD", "convert its slices to PNG with 16 bits")),
    (b"DDS ", Format("DDS", AS_PNG)),
    (b"qoif", Format("QOI", AS_PNG)),
    (b"BPG\xfb", Format("BPG", "`bpgdec -o FILE.png FILE` converts it")),
    (b"FLIF", Format("FLIF", AS_PNG)),
    (b"II\xbc", Format("JPEG XR", "`JxrDecApp -i FILE -o FILE.png` converts it")),
    (b"icns", Format("ICNS", AS_PNG)),
    (b"%!PS", Format("PostScript", AS_PNG)),
    (b"\xc5\xd0\xd3\xc6", Format("PostScript", AS_PNG)),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"FOVb", RAW),
    (b"\0MRM", RAW),
    (b"II\x1a\0\0\0HEAPCCDR", RAW),
    (b"version https://git-lfs", Format("Git LFS pointer", "`git lfs pull` fetches the file")),
    (b"%PDF", Format("PDF")),
    (b"\x1a\x45\xdf\xa3", Format("video")),
    (b"\x30\x26\xb2\x75", Format("video")),
    (b"\0\0\x01\xba", Format("video")),
    (b"\0\0\x01\xb3", Format("video")),
    (b"FLV\x01", Format("video")),
    (b"ID3", Format("audio")),
    (b"OggS", Format("audio")),
    (b"fLaC", Format("audio")),
    (b"PK\x03\x04", Format("ZIP archive")),
    (b"PK\x05\x06", Format("ZIP archive")),
    (b"\x1f\x8b", Format("gzip archive")),
    (b"BZh", Format("bzip2 archive")),
    (b"\xfd7zXZ\0", Format("xz archive")),
    (b"(\xb5/\xfd", Format("Zstandard archive")),
    (b"7z\xbc\xaf", Format("7z archive")),
    (b"Rar!", Format("RAR archive")),
    (b"\x93NUMPY", Format("NumPy array")),
    (b"\x89HDF", Format("HDF5")),
    (b"MATLAB", Format("MATLAB data")),
    (b"PAR1", Format("Parquet")),
    (b"SQLite format 3", Format("SQLite database")),
    (b"\x7fELF", Format("program")),
)
WITHIN: tuple[tuple[Callable[[bytes], bool], Format], ...] = (
    (lambda head: head[128:132] == b"DICM", DICOM),
    (lambda head: head[344:347] in (b"n+1", b"ni1"), Format("NIfTI", "convert its slices to PNG with 16 bits")),
    (lambda head: head[:4] == b"II*\0" and head[8:10] == b"CR", RAW),
    (lambda head: head[257:262] == b"ustar", Format("tar archive")),
    (lambda head: head[4:8] == b"ftyp" and head[8:12] in STILLS, HEIC),
    (lambda head: head[4:8] == b"ftyp" and head[8:11] == b"crx", RAW),
    (lambda head: head[4:8] == b"ftyp" and head[8:11] == b"M4A", Format("audio")),
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[8:12] != b"avif", Format("video")),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", Format("video")),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WAVE", Format("audio")),
)
TEXTS = (
    (re.compile(r"<svg\b", re.IGNORECASE), Format("SVG", "`rsvg-convert FILE -o FILE.png` converts it")),
    (re.compile(r"<html\b|<!doctype html", re.IGNORECASE), Format("HTML")),
    (re.compile(r"^(?:ï»¿)?\s*<"), Format("XML")),  # the mark of UTF-8, read as Latin-1
    (re.compile(r"^(?:ï»¿)?\s*[\[{]"), Format("JSON")),
    (re.compile(r"\S"), Format("text")),
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def format_of(data: bytes) -> Format | None:
    """Return the format of a file that is no picture or one that is not read; None if its bytes do not tell."""
    head = data[:HEAD]
    known = [kind for start, kind in STARTS if head.startswith(start)] + [kind for fits, kind in WITHIN if fits(head)]
    return known[0] if known else _of_text(head)


def _of_text(head: bytes) -> Format | None:
    """Return the format of a text in any encoding; none holds control characters."""
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", errors="replace")
    if CONTROL.search(text):
        return None
    return next((kind for pattern, kind in TEXTS if pattern.search(text)), None)


def is_read(known: Format | None) -> bool:
    """Return whether pictures of this format are read all the same, since its optional extra is installed."""
    return known is HEIC and HEIC_IS_READ


def reason_of(known: Format | None) -> str:
    """Return why a file of this format is not used, and what to do."""
    if known is None or known.name == "text":
        return "not an image format"
    if known.name == "HTML":
        return "an HTML page, not an image"
    if known.convert:
        return f"not an image format that regraft reads: {known.name}; {known.convert}"
    return f"not an image format: {known.name}"


def kind_of(name: str, data: bytes) -> tuple[Kind, Format | None]:
    """Return what a file that cannot be decoded is, and its format if bytes or name tell.

    Anything that is called a picture, or called nothing at all, counts as a damaged one: a failed download is HTML.
    """
    suffix = suffix_of(name)
    known = format_of(data) or BY_NAME.get(suffix)
    if known is not None and known.convert and not is_read(known):
        return OTHER_FORMAT, known
    meant = suffix in PICTURES.split() or is_read(known) or (not suffix and (known is None or known.name == "HTML"))
    return (DAMAGED if meant else OTHER_FILE), known


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case, without what a download appends: `a.JPG?size=large` has `.jpg`."""
    match = re.search(r"[^/](\.[a-z0-9]{1,10})(?:\?[^/]*)?$", name.lower())
    return match[1] if match else ""
