"""Serves the page on this machine, without a word to any other."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from umedpt_lightning.app import go_offline
from umedpt_lightning.app.service import AppService
from umedpt_lightning.data.extras import require

if TYPE_CHECKING:  # the extra may be absent
    from fastapi import FastAPI, Request, Response

#: What browsers are told: load nothing from elsewhere, send nothing elsewhere. gradio writes scripts and styles into
#: its page, and builds functions from text.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_LARGEST_FILE = "200mb"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(service: AppService, title: str, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serves the page of a model of that name until the process is interrupted; port 0 takes a free one.

    `tell` is called with the page's address once it can be opened. Raises ImportError without gradio, and OSError where
    the address cannot be had.
    """
    go_offline()
    with _listening(host, port) as listener, TemporaryDirectory(prefix="umedpt-app-") as folder:
        # uvicorn raises the signal again that ended it: as an exception, it lets the temporary folder be removed
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        os.environ["GRADIO_TEMP_DIR"] = folder  # images of patients are not left behind in /tmp/gradio
        require("gradio", "app", "the page")  # reads that when it is imported
        app = application(service, title, host)
        name = f"[{host}]" if ":" in host else host
        tell(f"http://{name}:{listener.getsockname()[1]}/")
        uvicorn = require("uvicorn", "app", "the page")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def application(service: AppService, title: str, host: str) -> FastAPI:
    """The page as a web application, which will be served at the address `host`."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from umedpt_lightning.app.page import CSS, build, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in _LOCAL:  # no page of the web can reach this one under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    gr.mount_gradio_app(
        app, build(service, title), path="/", footer_links=[], run_history=False, show_error=False,
        max_file_size=_LARGEST_FILE, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=theme(), css_paths=CSS,
    )  # fmt: skip
    return app


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"The page cannot be served at {host}, port {port} ({error}). Give another --port, or 0 for a free one."
        ) from error
