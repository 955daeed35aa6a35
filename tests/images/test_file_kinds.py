"""What lies beside pictures: damaged pictures count, pictures in other formats are named, other files do not count."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from steps.errors import UndecodableError
from steps.images.decoding import decode
from steps.images.file_kinds import DAMAGED, OTHER_FILE, OTHER_FORMAT, kind_of, suffix_of

ISO = b"\0\0\0\x18ftyp"
PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>"
CASES = (  # name, first bytes, kind, format
    # Pictures that regraft does not read
    ("a.heic", ISO + b"heic" + bytes(64), DAMAGED, "HEIC"),  # pillow-heif is installed: such a file would be read
    ("a.HEIF", ISO + b"mif1" + bytes(64), DAMAGED, "HEIC"),
    ("renamed.jpg", ISO + b"heix" + bytes(64), DAMAGED, "HEIC"),
    ("scan.dcm", bytes(128) + b"DICM" + bytes(64), OTHER_FORMAT, "DICOM"),
    ("IM0001", bytes(128) + b"DICM" + bytes(64), OTHER_FORMAT, "DICOM"),
    ("old.dcm", b"\x08\0\x05\0" + bytes(64), OTHER_FORMAT, "DICOM"),
    ("layers.psd", b"8BPS\0\1" + bytes(64), OTHER_FORMAT, "Photoshop (PSD)"),
    ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), OTHER_FORMAT, "JPEG XL"),
    ("b.jxl", b"\xff\x0a" + bytes(64), OTHER_FORMAT, "JPEG XL"),
    ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", OTHER_FORMAT, "SVG"),
    ("b.svg", b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", OTHER_FORMAT, "SVG"),
    ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", OTHER_FORMAT, "PostScript"),
    ("a.exr", b"\x76\x2f\x31\x01" + bytes(64), OTHER_FORMAT, "OpenEXR"),
    ("a.nii", bytes(344) + b"n+1\0" + bytes(64), OTHER_FORMAT, "NIfTI"),
    ("sky.fits", b"SIMPLE  =                    T", OTHER_FORMAT, "FITS"),
    ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.cr3", ISO + b"crx " + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.NEF", b"MM\0*" + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.arw", b"II*\0" + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.dng", b"II*\0" + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.raf", b"FUJIFILMCCD-RAW " + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.orf", b"IIRO" + bytes(64), OTHER_FORMAT, "raw camera file"),
    ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", OTHER_FORMAT, "Git LFS pointer"),
    # Files that never were pictures
    ("a.json", b'{"who": "x"}', OTHER_FILE, "JSON"),
    ("a.txt", b"0 0.5 0.5 0.1 0.1\n", OTHER_FILE, "text"),
    ("empty.txt", b"", OTHER_FILE, ""),
    ("a.xml", b"<?xml version='1.0'?><annotation/>", OTHER_FILE, "XML"),
    ("a.xmp", b"\xef\xbb\xbf<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", OTHER_FILE, "XML"),
    ("a.csv", "pfad,käfer\n".encode("cp1252"), OTHER_FILE, "text"),
    ("b.csv", "path,label\n".encode("utf-16"), OTHER_FILE, "text"),
    ("a.yaml", b"names: [cat, dog]\n", OTHER_FILE, "text"),
    ("README.md", b"# Pictures\n", OTHER_FILE, "text"),
    ("LICENSE", b"MIT\n", OTHER_FILE, "text"),
    ("index.html", PAGE, OTHER_FILE, "HTML"),
    ("a.npy", b"\x93NUMPY\1\0" + bytes(64), OTHER_FILE, "NumPy array"),
    ("a.mat", b"MATLAB 5.0 MAT-file", OTHER_FILE, "MATLAB data"),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), OTHER_FILE, "HDF5"),
    ("features.bin", bytes(range(64)), OTHER_FILE, ""),
    ("a.pdf", b"%PDF-1.4\n", OTHER_FILE, "PDF"),
    ("a.mp4", ISO + b"isom" + bytes(64), OTHER_FILE, "video"),
    ("live.MOV", ISO + b"qt  " + bytes(64), OTHER_FILE, "video"),
    ("a.avi", b"RIFF\0\0\0\0AVI " + bytes(64), OTHER_FILE, "video"),
    ("a.wav", b"RIFF\0\0\0\0WAVE" + bytes(64), OTHER_FILE, "audio"),
    ("a.zip", b"PK\x03\x04" + bytes(64), OTHER_FILE, "ZIP archive"),
    ("a.tar", bytes(257) + b"ustar" + bytes(64), OTHER_FILE, "tar archive"),
    ("a.db", b"SQLite format 3\0", OTHER_FILE, "SQLite database"),
    # Damaged pictures
    ("page.jpg", PAGE, DAMAGED, "HTML"),
    ("photo", PAGE, DAMAGED, "HTML"),
    ("photo.jpg?size=large", PAGE, DAMAGED, "HTML"),
    ("refused.png", b'{"error": "forbidden"}', DAMAGED, "JSON"),
    ("empty.jpg", b"", DAMAGED, ""),
    ("zeros.PNG", bytes(5000), DAMAGED, ""),
    ("0a1b2c", bytes(5000), DAMAGED, ""),
    ("paper.jpg", b"%PDF-1.4\n", DAMAGED, "PDF"),
    ("film.jpg", ISO + b"isom" + bytes(64), DAMAGED, "video"),
)


@pytest.mark.parametrize(("name", "data", "kind", "named"), CASES, ids=[f"{case[0]}-{case[3]}" for case in CASES])
def test_bytes_say_what_a_file_is_and_the_name_what_it_was_meant_to_be(
    name: str, data: bytes, kind: str, named: str
) -> None:
    found, known = kind_of(name, data)
    assert (found, known.name if known else "") == (kind, named)


def test_a_suffix_is_read_in_any_case_and_without_what_a_download_appends() -> None:
    assert [suffix_of(name) for name in ("a.JPG", "a/b.c/d", "a.png?x=1", ".hidden", "a.tar.gz")] == [
        ".jpg",
        "",
        ".png",
        "",
        ".gz",
    ]


@pytest.mark.parametrize(
    "data",
    [case[1] for case in CASES if case[2] == OTHER_FORMAT and case[1][:4] not in (b"II*\0", b"MM\0*", b"\x08\0\x05\0")],
)
def test_a_format_that_is_not_read_is_refused_with_the_way_out(data: bytes) -> None:
    with pytest.raises(UndecodableError, match=r"not an image format that regraft reads: .+; .+"):
        decode(data)


def test_a_raw_camera_file_is_not_taken_for_the_thumbnail_on_its_first_page() -> None:
    stream, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    tags[254], tags[330] = 1, 8  # a reduced-resolution image; the full one lies elsewhere
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(stream, "TIFF", tiffinfo=tags)
    with pytest.raises(UndecodableError, match="raw camera file; develop it"):
        decode(stream.getvalue())
