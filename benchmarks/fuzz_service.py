"""What the service answers to uploads and requests that are broken in every way, and its memory.

python benchmarks/fuzz_service.py --model catdog.onnx [--n 10000] [--seed 1]

Images of every format, whole and mutated, as they are and in forms that are mutated too; odd
methods, paths and headers. No answer may be a 5xx, and memory must not grow.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import common_serving as serving
import httpx
import numpy as np
from PIL import Image

_POINTS = 10
_NAMES = ("a.png", "", "../../x", "\u202e.jpg", 'a"b', "a\r\nb", "x" * 5000, "\x00", "ü.jpg")
_KINDS = (
    "image/jpeg",
    "application/octet-stream",
    "text/plain",
    "application/json",
    "",
    "\xff",
    "/",
)
_METHODS = ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW")
_PATHS = ("/", "/predict", "/explain", "/health", "/ready", "/model", "/metrics", "/openapi.json")
_WRONG_PATHS = ("/%00", "/..%2f", "//", "/predict/", "/%ff%fe", "/" + "a" * 5000, "/predict?a=%ff")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        kind: What is wrong with it.
        method: Method of HTTP.
        path: Path, percent-encoded.
        body: Its body.
        headers: Its headers.
    """

    kind: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, bytes] = field(default_factory=dict)


def images() -> list[bytes]:
    """A picture in every format, mode and depth that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    picture = Image.fromarray(noise).resize((160, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    saved: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (picture, "JPEG", {"exif": exif}),
        (picture, "JPEG", {"progressive": True}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "JPEG", {}),
        (picture, "PNG", {}),
        (picture.convert("P"), "PNG", {"transparency": 3}),
        (picture.convert("RGBA"), "PNG", {}),
        (picture.convert("I;16"), "PNG", {}),
        (picture, "PNG", {"save_all": True, "append_images": [picture.rotate(90)]}),
        (picture.convert("P"), "GIF", {"save_all": True, "append_images": [picture]}),
        (picture, "BMP", {}),
        (picture, "WEBP", {}),
        (picture, "WEBP", {"lossless": True}),
        (picture, "TIFF", {}),
        (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture.convert("1"), "TIFF", {"compression": "group4"}),
        (picture, "PPM", {}),
        (picture, "AVIF", {}),
        (picture, "JPEG2000", {}),
    ]
    return [_bytes(*each) for each in saved]


def _bytes(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def mutated(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """A file broken in one way or a few."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        content = _mutated_once(rng, content, other)
    return content


def _mutated_once(rng: random.Random, content: bytes, other: bytes) -> bytes:
    n = len(content)
    # Headers are where a little does much.
    at = rng.randrange(min(n, 200) if rng.random() < 0.6 else n) if n else 0
    match rng.randrange(8):
        case 0:
            return content[:at]
        case 1:
            return content[at:]
        case 2:
            return content[:at] + other[rng.randrange(len(other)) :]
        case 3:
            return content[:at] + rng.randbytes(rng.choice((1, 4, 100))) + content[at:]
        case 4:
            return content[:at] + content[at : at + 500] * rng.choice((2, 50)) + content[at:]
    extreme = rng.choice((b"\0", b"\xff", b"\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80"))
    if rng.random() < 0.5:
        extreme = rng.randbytes(rng.choice((1, 2, 4)))
    return content[:at] + extreme + content[at + len(extreme) :]


def requests(seed: int) -> Iterator[Asked]:
    """Without an end, and the same for the same seed."""
    rng = random.Random(seed)
    whole = images()
    while True:
        content, other = rng.choice(whole), rng.choice(whole)
        broken = mutated(rng, content, other)
        place = "/explain" if rng.random() < 0.05 else "/predict"
        match rng.randrange(10):
            case 0:
                yield Asked("whole", "POST", place, content)
            case 1 | 2 | 3 | 4:
                yield Asked("mutated image", "POST", place, broken, _typed(rng.choice(_KINDS)))
            case 5 | 6:
                yield _form(rng, place, [content, broken])
            case 7:
                asked = _form(rng, place, [content] * rng.choice((0, 1, 3, 200)))
                body = mutated(rng, asked.body, other)
                yield Asked("mutated form", "POST", place, body, asked.headers)
            case 8:
                kind = b"multipart/form-data; boundary=x" + rng.randbytes(3).hex().encode()
                body = rng.randbytes(rng.choice((0, 10, 1000, 100_000)))
                yield Asked("noise", "POST", place, body, _typed(rng.choice((*_KINDS, kind))))
            case _:
                path = rng.choice((*_PATHS, *_WRONG_PATHS))
                yield Asked("odd request", rng.choice(_METHODS), path, rng.randbytes(9))


def _typed(kind: str | bytes) -> dict[str, bytes]:
    return {"content-type": kind if isinstance(kind, bytes) else kind.encode("latin-1")}


def _form(rng: random.Random, path: str, contents: list[bytes]) -> Asked:
    boundary = b"bound"
    parts = []
    for content in contents:
        name = rng.choice(_NAMES).encode()
        head = b'Content-Disposition: form-data; name="f"; filename="' + name + b'"\r\n'
        if rng.random() < 0.1:
            head += (
                b"Content-Transfer-Encoding: " + rng.choice((b"base64", b"8bit", b"x")) + b"\r\n"
            )
        parts.append(b"--" + boundary + b"\r\n" + head + b"\r\n" + content + b"\r\n")
    body = b"".join(parts) + b"--" + boundary + b"--\r\n"
    return Asked("form", "POST", path, body, _typed(b"multipart/form-data; boundary=" + boundary))


def main() -> None:
    """Ask, count and print."""
    parser = common.parser(__doc__, n=10_000)
    parser.add_argument("--model", type=Path, required=True, help="file of `model export`")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found: dict[str, Counter[int]] = {}
    failed: list[dict[str, Any]] = []
    memory: list[float] = []
    with serving.service(asked.model) as service, httpx.Client(timeout=60) as client:
        service.wait("/ready", 60)
        for number, each in zip(range(asked.n), requests(asked.seed), strict=False):
            got = client.request(
                each.method, service.url + each.path, content=each.body, headers=each.headers
            )
            found.setdefault(each.kind, Counter())[got.status_code] += 1
            if got.status_code >= 500:
                failed.append({"number": number, "status": got.status_code, "said": got.text[:200]})
            if number % max(asked.n // _POINTS, 1) == 0:
                memory.append(round(service.memory_mb(), 1))
        memory.append(round(service.memory_mb(), 1))
    rows = [
        {"kind": kind, "requests": counts.total(), "statuses": dict(sorted(counts.items()))}
        for kind, counts in sorted(found.items())
    ]
    common.report(
        asked,
        ("fastapi", "uvicorn", "onnxruntime", "pillow"),
        rows,
        memory_mb=memory,
        failed=failed,
    )


if __name__ == "__main__":
    main()
