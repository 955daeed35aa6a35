"""Keys: who only verifies holds none that signs, none is made where one is missing, and old ones stay believed."""

import os
from pathlib import Path

import pytest

from steps.errors import IntegrityError
from steps.registry import signing
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(signing.ENVIRONMENT, raising=False)
    monkeypatch.delenv(signing.PUBLIC, raising=False)
    return enter(tmp_path / "project", monkeypatch)


def enter(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(root))
    return root


def held(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".regraft").glob("*"))


def test_the_first_signature_makes_both_keys_and_only_the_owner_reads_the_private_one(project: Path) -> None:
    signature = signing.sign("text")
    assert held(project) == ["key.pem", "key.pub"]
    assert (project / ".regraft/key.pem").stat().st_mode & 0o777 == 0o600
    assert signing.verifier()("text", signature) and not signing.verifier()("texts", signature)


def test_no_image_of_a_container_takes_the_private_key_along(project: Path) -> None:
    signing.sign("text")
    kept_out = (REPOSITORY / ".dockerignore").read_text().split()
    assert signing.key_path().relative_to(project).parts[0] in kept_out and ".dvc/config.local" in kept_out


def test_verifying_takes_the_public_key_alone_and_makes_none(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = signing.sign("text")
    other = enter(tmp_path / "other", monkeypatch)
    with pytest.raises(
        IntegrityError, match=r"there is no key to verify with: .*Copy key\.pub from where it was signed"
    ):
        signing.verifier()("text", signature)
    assert not other.exists(), "verifying made a key"
    monkeypatch.setenv(signing.PUBLIC, str(project / ".regraft/key.pub"))
    assert signing.verifier()("text", signature)
    with pytest.raises(IntegrityError, match="signing takes the private key, which is not at"):
        signing.sign("text")
    assert not other.exists(), "a machine that verifies made a key to sign with"


def test_an_empty_ledger_needs_no_key(project: Path) -> None:
    signing.verifier()
    assert not project.exists()


def test_what_an_older_key_signed_stays_believed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = signing.sign("old")
    folder = project / "folder"
    folder.mkdir()
    (folder / "file").write_text("content")
    signing.sign_folder(folder)
    (project / ".regraft/key.pem").rename(project / "old.pem")
    signing._make(project / "new.pem")
    monkeypatch.setenv(signing.ENVIRONMENT, str(project / "new.pem"))
    new = signing.sign("new")
    assert len(signing.trusted()) == 2, "key.pub keeps every key that has signed here"
    assert signing.verifier()("old", old) and signing.verifier()("new", new)
    assert signing.fault(folder) is None
    (folder / "file").write_text("contents")
    assert signing.fault(folder) == "Hash mismatch for 'file'"
    (project / "only-new.pub").write_bytes(signing.trusted()[1])
    monkeypatch.setenv(signing.PUBLIC, str(project / "only-new.pub"))
    assert not signing.verifier()("old", old) and signing.verifier()("new", new), "exactly those that are named"


def test_a_variable_that_is_set_and_empty_counts_as_unset(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (signing.ENVIRONMENT, signing.PUBLIC):
        monkeypatch.setenv(name, "")
    with pytest.raises(IntegrityError, match="there is no key to verify with"):
        signing.trusted()
    signature = signing.sign("text")
    assert held(project) == ["key.pem", "key.pub"] and signing.verifier()("text", signature)
    (project / ".regraft/key.pub").unlink()
    assert signing.verifier()("text", signature), "the private key's own half counts"
    signing.sign("again")
    (project / ".regraft/key.pem").unlink()
    with pytest.raises(IntegrityError, match="signing takes the private key, which is not at"):
        signing.sign("text")


def test_a_signature_that_nobody_here_would_believe_is_not_made(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing.sign("text")
    monkeypatch.setenv(signing.PUBLIC, str(project / ".regraft/key.pub"))
    enter(tmp_path / "other", monkeypatch)
    signing._make(tmp_path / "other.pem")
    monkeypatch.setenv(signing.ENVIRONMENT, str(tmp_path / "other.pem"))
    with pytest.raises(IntegrityError, match="is not among those of REGRAFT_PUBLIC_KEY"):
        signing.sign("text")


def test_a_private_key_that_may_not_be_read_does_not_hinder_verifying(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = signing.sign("text")
    monkeypatch.setenv(signing.ENVIRONMENT, str(project / "not here.pem"))
    assert signing.verifier()("text", signature)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_public_key_is_a_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    project.mkdir()
    (project / "keys").write_bytes(content)
    monkeypatch.setenv(signing.PUBLIC, str(project / "keys"))
    with pytest.raises(IntegrityError, match=os.fspath(project / "keys")):
        signing.trusted()
