"""Serves the page on this machine, without a word to any other."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory

from umedpt_lightning.app.desk import Desk
from umedpt_lightning.app.offline import go_offline
from umedpt_lightning.data.extras import require

#: What browsers are told: load nothing from elsewhere, send nothing elsewhere. gradio writes scripts and styles into
#: its page, and builds functions from text.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_LARGEST_FILE = "200mb"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(desk: Desk, title: str, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serves the page until the process is interrupted.

    Args:
        desk: Answers the page's questions.
        title: The model's name.
        host: The address to listen at.
        port: Its port; 0 takes a free one.
        tell: Called with the page's address once it can be opened.

    Raises:
        ImportError: gradio is missing.
        OSError: The address cannot be had.
    """
    go_offline()
    # uvicorn raises the signal again that ended it: as an exception, it lets the temporary folder be removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    require("gradio", "app", "the page")
    with _listening(host, port) as listener, TemporaryDirectory(prefix="umedpt-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # images of patients are not left behind in /tmp/gradio
        os.chmod(folder, stat.S_IRWXU)
        _run(desk, title, host, listener, tell)


def _run(desk: Desk, title: str, host: str, listener: socket.socket, tell: Callable[[str], None]) -> None:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from umedpt_lightning.app.page import CSS, build

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in _LOCAL:  # no page of the web can reach this one under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    font = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(primary_hue="blue", font=font, font_mono=["ui-monospace", "Consolas", "monospace"])
    gr.mount_gradio_app(
        app, build(desk, title), path="/", footer_links=[], run_history=False, show_error=False,
        max_file_size=_LARGEST_FILE, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        theme=theme, css_paths=CSS,
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    tell(f"http://{name}:{listener.getsockname()[1]}/")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"The page cannot be served at {host}, port {port} ({error}). Give another --port, or 0 for a free one."
        ) from error
