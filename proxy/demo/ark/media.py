"""Links to generated pictures and videos, and for the demo the files that local links lead to."""

import struct
import zlib
from collections.abc import Sequence

from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import ArkError
from proxy.demo.ark.reply import reply_bytes
from proxy.demo.ark.script import Send, Step

_SIDE_MAX = 8192
_PLACEHOLDER_MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00\x00\x00\x08mdat"


def link(origin: str | None, bucket: str, name: str, size: tuple[int, int]) -> str:
    """Return a link: to this stand-in if `origin` is given, else one like Ark's presigned ones, which expire after 24 h."""
    width, height = size
    if origin is not None:
        return f"{origin}/files/{width}x{height}/{name}"
    signature = f"{zlib.crc32(name.encode()):08x}" * 8
    return (
        f"https://{bucket}.tos-cn-beijing.volces.com/{name}?X-Tos-Algorithm=TOS4-HMAC-SHA256"
        f"&X-Tos-Credential=AKLTstandin%2F20251217%2Fcn-beijing%2Ftos%2Frequest&X-Tos-Expires=86400&X-Tos-Signature={signature}"
        "&X-Tos-SignedHeaders=host"
    )


def serve_file(call: Call) -> Sequence[Step]:
    """Return the file of a local link: an empty MP4 for names that end in ``.mp4``, else a grey PNG of the right size.

    Raises:
        ArkError: 403 for any method but GET, like a presigned link; 404 for a path that no link has.
    """
    if call.method != "GET":
        raise ArkError(403, "AccessDenied", "The link is presigned for GET.")
    _, _, size, *names = call.path.split("/")
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= _SIDE_MAX and 0 < int(height) <= _SIDE_MAX):
        raise ArkError(404, "ResourceNotFound", "The specified resource is not found.")
    if names and names[-1].endswith(".mp4"):
        return [Send(reply_bytes(call, _PLACEHOLDER_MP4, content_type="video/mp4"))]
    return [Send(reply_bytes(call, png(int(width), int(height)), content_type="image/png"))]


def png(width: int, height: int) -> bytes:
    """Return a grey picture with one bit per pixel (PNG specification, third edition, §5)."""
    row = b"\x00" + b"\xaa" * ((width + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(row * height, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join([_png_part(kind, content) for kind, content in parts])


def _png_part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
