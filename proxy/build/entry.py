"""The single file's Python entry point: find certificates, then run the command line."""

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
    from proxy.cli import main as run  # noqa: PLC0415  nothing may open TLS before SSL_CERT_FILE is set

    run()


def certificates(env: Mapping[str, str], places: Sequence[Path], own: Path) -> Path | None:
    """Return the file of certificate authorities for TLS to the upstream; None if OpenSSL finds them itself.

    The packed OpenSSL looks where the build system keeps them. On another system, that system's file comes first, since an operator may
    have added authorities. The packed file of Mozilla's is used only if there is none.
    """
    if env.get("SSL_CERT_FILE") or env.get("SSL_CERT_DIR") or _openssl_finds_them():
        return None
    return next((place for place in places if place.is_file()), own)


def _openssl_finds_them() -> bool:
    paths = ssl.get_default_verify_paths()
    directory = Path(paths.openssl_capath)
    return Path(paths.openssl_cafile).is_file() or (directory.is_dir() and any(directory.glob("*.0")))


def _own_bundle() -> Path:
    import certifi  # noqa: PLC0415  packed in; an installation from wheels does not need it

    return Path(certifi.where())


if __name__ == "__main__":
    main()
