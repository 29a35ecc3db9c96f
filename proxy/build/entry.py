"""Where the single file's Python begins: certificates found, then the command line."""

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEM_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL, Amazon
    Path("/etc/ssl/ca-bundle.pem"),  # openSUSE
    Path("/etc/ssl/cert.pem"),  # Alpine without ca-certificates
)


def main() -> None:
    """Run the command line of the single file."""
    bundle = certificates(os.environ, SYSTEM_BUNDLES, _own_bundle())
    if bundle is not None:
        os.environ["SSL_CERT_FILE"] = str(bundle)
    from proxy.cli import main as run  # noqa: PLC0415  nothing may open TLS before

    run()


def certificates(env: Mapping[str, str], places: Sequence[Path], own: Path) -> Path | None:
    """Return the file of authorities that TLS upstream is to trust; None where OpenSSL finds them itself.

    The library inside looks where the system that it was built on keeps them. On another one those of that system come first, for an
    operator may have added some; those of Mozilla, packed in, only where there are none.
    """
    if env.get("SSL_CERT_FILE") or env.get("SSL_CERT_DIR") or _openssl_finds_them():
        return None
    return next((place for place in places if place.is_file()), own)


def _openssl_finds_them() -> bool:
    paths = ssl.get_default_verify_paths()
    directory = Path(paths.openssl_capath)
    return Path(paths.openssl_cafile).is_file() or (directory.is_dir() and any(directory.glob("*.0")))


def _own_bundle() -> Path:
    import certifi  # noqa: PLC0415  packed in; an installation from wheels has no need of it

    return Path(certifi.where())


if __name__ == "__main__":
    main()
