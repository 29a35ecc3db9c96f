"""The certificate authorities that the single file trusts, on systems that keep them in different places."""

import ssl
from pathlib import Path

import pytest

from proxy.build.entry import certificates


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the bundle paths of two systems. OpenSSL's own paths, in the same directory, do not exist."""
    nowhere = ssl.get_default_verify_paths()._replace(openssl_cafile=str(tmp_path / "cert.pem"), openssl_capath=str(tmp_path / "certs"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    return tmp_path / "debian.crt", tmp_path / "fedora.crt"


def test_those_inside_are_used_where_the_system_has_none(tmp_path: Path, places: tuple[Path, Path]) -> None:
    assert certificates({}, places, tmp_path / "inside.pem") == tmp_path / "inside.pem"


def test_those_of_the_system_come_before_those_inside(tmp_path: Path, places: tuple[Path, Path]) -> None:
    places[1].touch()

    assert certificates({}, places, tmp_path / "inside.pem") == places[1]


@pytest.mark.parametrize("name", ["cert.pem", "certs/1a2b3c4d.0"])
def test_what_openssl_finds_by_itself_is_left_to_it(tmp_path: Path, places: tuple[Path, Path], name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    places[0].touch()

    assert certificates({}, places, tmp_path / "inside.pem") is None


def test_an_empty_directory_of_certificates_is_none(tmp_path: Path, places: tuple[Path, Path]) -> None:
    (tmp_path / "certs").mkdir()

    assert certificates({}, places, tmp_path / "inside.pem") == tmp_path / "inside.pem"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_the_operator_names_is_left_alone(tmp_path: Path, places: tuple[Path, Path], name: str) -> None:
    assert certificates({name: "/authority"}, places, tmp_path / "inside.pem") is None
