"""The dashboard at ``/`` and the API's documentation at ``/docs``: static files of ours, and nothing else.

They are read once, when the worker starts; a name that is not among them does not exist, so no path can
lead out of the folder. Every browser asks again each time whether they have changed, but for the vendored
ones, whose names hold their version.
"""

from __future__ import annotations

import gzip
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}
"""What is served of the folder; licences and notes are not."""
PAGES = {"/": "index.html", "/docs": "docs.html"}

CHART_STYLE = "sha256-3pRED1tOXas1FXFoPb9TGCjmYe9XQsmO9OV23khV2nY="
"""Of the one style element that lightweight-charts makes, for its logo."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' '{CHART_STYLE}'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy under which both pages work: no inline script, no other host."""


class File(NamedTuple):
    """A file, ready to be sent."""

    body: bytes
    packed: bytes
    """The same with gzip."""
    content_type: str
    etag: str
    cache_control: str


def _read(path: Path) -> File:
    body = path.read_bytes()
    lasts = path.parent.name == "vendor"
    return File(
        body,
        gzip.compress(body, 6, mtime=0),
        TYPES[path.suffix],
        f'"{blake2b(body, digest_size=12).hexdigest()}"',
        "public, max-age=31536000, immutable" if lasts else "no-cache",
    )


FILES = {
    path.relative_to(FOLDER).as_posix(): _read(path)
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in TYPES
}


def add(router: web.UrlDispatcher) -> None:
    """Serve the pages and their files."""
    for path in PAGES:
        router.add_get(path, _page)
    router.add_get("/static/{name:.+}", _file)


async def _page(request: web.Request) -> web.Response:
    response = _answer(request, FILES[PAGES[request.path]])
    response.headers["Content-Security-Policy"] = POLICY
    return response


async def _file(request: web.Request) -> web.Response:
    found = FILES.get(request.match_info["name"])
    if found is None or found.content_type == "text/html":  # a page has its own address, with its policy
        raise web.HTTPNotFound
    return _answer(request, found)


def _answer(request: web.Request, file: File) -> web.Response:
    """Return the file: 304 where the browser has it, packed where it takes that."""
    headers = {"Cache-Control": file.cache_control, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if any(each.value in ("*", file.etag.strip('"')) for each in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = file.packed
    return web.Response(body=body, content_type=file.content_type, charset="utf-8", headers=headers)
