"""The bill of materials beside the single file: what is inside, in which version, under which licence, and whether CI pins it.

CycloneDX 1.6 as JSON (https://cyclonedx.org/docs/1.6/json/). It names no time and no machine: the same parts make the same bill.
"""

import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from proxy.build.parts import GATEWAY, Part, packed_distributions, packed_files

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
_SYSTEM_LIBRARY = re.compile(r"lib/[^/]+\.so[^/]*|llm-proxy")
"""Where `native.with_libraries` puts them; glibc's loader has the gateway's name."""


def pins_of(text: str) -> dict[str, str]:
    """Return the version that a constraints file pins for each distribution, by its normalised name."""
    return {normalised(found[1]): found[2] for line in text.splitlines() if (found := _PIN.match(line))}


def unpinned(pins: Mapping[str, str], names: Sequence[str] | None = None) -> list[str]:
    """Return a line for each packed distribution that is not installed in its pinned version.

    Args:
        names: of distributions; by default all that are packed.
    """
    lines = []
    for name in packed_distributions() if names is None else names:
        version, pin = metadata.version(name), pins.get(normalised(name))
        if name != GATEWAY and version != pin:
            lines.append(f"{name} {version} is installed, {f'{pin} is pinned' if pin else 'it has no pin'}")
    return lines


def write_bill(parts: Mapping[str, Part], path: Path) -> None:
    """Write the bill of the single file that these parts make."""
    described = [_described(name) for name in packed_distributions() if name != GATEWAY]
    libraries = [_library(name, part) for name, part in sorted(parts.items()) if _SYSTEM_LIBRARY.fullmatch(name)]
    whole = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application"} | _named(GATEWAY)},
        "components": [_interpreter(parts), *described, *libraries],
    }
    path.write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def normalised(name: str) -> str:
    """Return a distribution's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _named(name: str) -> dict[str, Any]:
    version = metadata.version(name)
    purl = f"pkg:pypi/{normalised(name)}@{version}"
    return {"bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": _licences(metadata.metadata(name))}


def _described(name: str) -> dict[str, Any]:
    """Return the component of one distribution. Its hash is that of `sha256sum`'s output over its packed files, sorted by name."""
    lines = sorted((file, hashlib.sha256(path.read_bytes()).hexdigest()) for path, file in packed_files(name))
    listing = "".join(f"{digest}  {file}\n" for file, digest in lines)
    return {"type": "library"} | _named(name) | {"hashes": [_sha256(listing.encode())]}


def _interpreter(parts: Mapping[str, Part]) -> dict[str, Any]:
    version = platform.python_version()
    return {
        "type": "application",
        "bom-ref": f"pkg:generic/python@{version}",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
        "hashes": [_sha256(parts["bin/python"].content)],
    }


def _library(name: str, part: Part) -> dict[str, Any]:
    """Return the component of a shared library of the system that the file was built on; without symbols, as it is packed."""
    return {"type": "file", "bom-ref": name, "name": name, "hashes": [_sha256(part.content)]}


def _licences(told: metadata.PackageMetadata) -> list[dict[str, Any]]:
    """Return what a distribution says of its licence: an SPDX expression, or in older ones a name or classifiers."""
    fields = told.json
    if expression := fields.get("license_expression"):
        return [{"expression": expression}]
    classifiers = [str(line).rpartition(" :: ")[2] for line in fields.get("classifier", []) if str(line).startswith("License ::")]
    named = str(fields.get("license", "")).strip()
    names = classifiers or ([named] if named and "\n" not in named else [])
    return [{"license": {"name": name}} for name in names]


def _sha256(content: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}
