"""Pages for those only who have their address: by the server's name, and with its token."""

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
    from tornado.web import Application

OPEN = ("/ws", "/static/")
"""Paths without a token: a socket has the signature of the page that opens it; scripts are those of the library."""


def guard(pages: "Application", names: set[str], token: str, admitted: Callable[[], bool] = lambda: True) -> None:
    """Answer requests with 403 that have no host name of the server or, but for `OPEN`, not its token.

    A page of another site can make its own name point here (DNS rebinding): then its requests have its name.

    Args:
        pages: of a server.
        names: host names of the server, IPv6 addresses in brackets; any port, as a tunnel may have another.
        token: that of the address.
        admitted: whether one more page may be opened now; if not, the answer is 503.
    """
    from tornado.web import ErrorHandler

    answer = pages.find_handler

    def find_handler(request: "HTTPServerRequest", **kwargs: Any) -> "HTTPMessageDelegate":
        host = urlsplit(f"//{request.headers.get('Host', '')}")
        name = f"[{host.hostname}]" if ":" in (host.hostname or "") else host.hostname
        given = request.arguments.get("token", [b""])[-1]
        invited = request.path.startswith(OPEN) or hmac.compare_digest(given, token.encode())
        code = None if name in names and invited else 403
        if code is None and not request.path.startswith(OPEN) and not admitted():
            code = 503
        if code is None:
            return answer(request, **kwargs)
        return pages.get_handler_delegate(request, ErrorHandler, dict(status_code=code))

    pages.find_handler = find_handler  # type: ignore[assignment, method-assign]
