"""A route: its path, its typed query and its typed answer, declared once, with the view that serves it.

The query is read, checked and refused by its type; OpenAPI is made of the same types. A view returns a
value to be written as JSON, a `Page`, or what another worker said; what it raises as `Problem` is an
answer too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache, wraps
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, ValidationError

from candlewick.app import app
from candlewick.web.peers import Answer
from candlewick.web.problems import Problem, answer_of, bad_parameter
from models.times import parse_time

JSON = "application/json"
COMPRESSED_FROM = 1024
"""Bytes above which an answer is compressed for those who take it so."""
COMPRESSED_APART = 1 << 16
"""Bytes above which that is done in a thread: 5,000 candles take 30 ms, and trades should not wait for it."""

View = Callable[..., Awaitable[Any]]
Query = TypeVar("Query", bound=Struct)
ExchangeName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,32}$", examples=["coinbase"])]


class Moment(int):
    """A time in a query, in microseconds since 1970; written as `models.times.parse_time` reads it."""


class NoQuery(Struct, frozen=True):
    """No parameters."""


class Page(NamedTuple):
    """An answer that is more than a value."""

    body: bytes
    content_type: str = JSON
    etag: str = ""
    cache_control: str = "no-cache"
    next: str = ""
    """The address of the page that follows."""
    headers: Mapping[str, str] = {}
    """Others that go with it; `peers.PASSED_ON` names those that another worker's answer keeps."""


class Route(NamedTuple):
    """One route, as the documents describe it."""

    path: str
    query: type[Struct]
    answers: Mapping[str, Any]
    """By content type, the type of a good answer; ``str`` where it is text."""
    view: View
    also: Collection[int]
    """Statuses it may answer beside 200 and those that any request may be answered."""


ROUTES: list[Route] = []
"""In the order of their declaration."""


def page(
    path: str, answers: Mapping[str, Any], query: type[Struct] = NoQuery, also: Collection[int] = ()
) -> Callable[[View], View]:
    """Serve ``view(request, query, **parts of the path)`` at a path; the rest as in `Route`."""

    def register(view: View) -> View:
        ROUTES.append(Route(path, query, answers, view, also))

        @app.page(path, name=f"{view.__module__}.{view.__name__}")
        @wraps(view)
        async def handle(faust_view: Any, request: web.Request, **parts: str) -> web.StreamResponse:
            try:
                told = await view(request, read_query(request.query, query), **parts)
            except Problem as problem:
                return answer_of(problem, request)
            return respond(request, told)

        registered: View = handle
        return registered

    return register


def respond(request: web.Request, told: Any) -> web.StreamResponse:
    """Return the response: 304 where the client has it already, gzip where the client takes it."""
    if isinstance(told, web.StreamResponse):
        return told  # a response of its own, or one that is sent already
    if isinstance(told, Answer):
        status, headers, body, content_type = told.status, told.headers, told.body, told.content_type
    else:
        if not isinstance(told, Page):
            told = Page(msgspec.json.encode(told))
        status, body, content_type = 200, told.body, told.content_type
        headers = {"Cache-Control": told.cache_control, **told.headers}
        if told.etag:
            headers["ETag"] = told.etag
        if told.next:
            headers["Link"] = f'<{told.next}>; rel="next"'
    if status == 200 and "ETag" in headers and _has(request, headers["ETag"]):
        status, body = 304, b""
    response = web.Response(
        body=body,
        content_type=content_type,
        status=status,
        headers={**headers, "Vary": "Accept-Encoding"},
        zlib_executor_size=COMPRESSED_APART,
    )
    if len(body) > COMPRESSED_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def _has(request: web.Request, etag: str) -> bool:
    """Say whether the client has what the tag stands for."""
    value = etag.removeprefix("W/").strip('"')
    return any(each.value in ("*", value) for each in request.if_none_match or ())


def read_query(given: Any, shape: type[Query]) -> Query:
    """Read the parameters of a request, a multi-dict of text.

    Raises:
        Problem: one is unknown, missing, given twice, or not what it must be.
    """
    known = _fields(shape)
    for name, value in given.items():
        if name not in known:
            raise bad_parameter(name[:50], f"is not one of {', '.join(sorted(known)) or 'none'}")
        if len(given.getall(name)) > 1:
            raise bad_parameter(name, "is given more than once")
        kind = known[name].type
        if kind is bool and value not in ("true", "false"):  # msgspec takes 1 and True as well
            raise bad_parameter(name, "must be true or false")
        if value.lower() == "null" and type(None) in get_args(kind):  # for msgspec it is not given
            raise bad_parameter(name, "must not be null: leave it out")
    for name, field in known.items():
        if field.required and name not in given:
            raise bad_parameter(name, "is missing")
    try:
        return msgspec.convert(dict(given), shape, strict=False, dec_hook=_read_moment)
    except ValidationError as error:
        what, _, where = str(error).rpartition(" - at `$.")
        raise bad_parameter(where.rstrip("`"), what[:200]) from None


@cache
def _fields(shape: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return each parameter by its name; msgspec reads the annotations anew each time that it is asked."""
    return {field.encode_name: field for field in msgspec.structs.fields(shape)}


def _read_moment(kind: type, value: Any) -> Any:
    assert kind is Moment
    return Moment(parse_time(value))
