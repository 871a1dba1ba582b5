"""A run as a live page, served from its process: object, probe and losses as they improve.

Bokeh's server runs in a thread and serves the latest snapshot, see `ptycho.output.snapshots`.
"""

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakSet

import numpy as np

from ptycho.data.scan import Scan
from ptycho.output.guarded_pages import guard
from ptycho.output.page import style_and_script
from ptycho.output.panels import (
    add_curves,
    colour_range,
    curve_plot,
    mode_images,
    object_panels,
    pixel_unit,
    small_panels,
)
from ptycho.output.snapshots import Budget, LiveState, Snapshot, SnapshotProgress
from ptycho.progress import Progress

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource

LOCALHOST = "127.0.0.1"
"""The address that only this machine reaches."""

SAY_GOODBYE_S = 10.0
"""Seconds that a browser which no longer listens may hold up the end of a run."""

FORGET_AFTER_S = 6.0
"""Seconds after which a page is forgotten that no browser follows."""

ALL_INTERFACES = ("0.0.0.0", "::")


@contextmanager
def live_page(
    scan: Scan,
    progress: Progress,
    address: str | None = None,
    say: Callable[[str], None] = print,
    budget: Budget | None = None,
) -> Iterator[SnapshotProgress]:
    """Serve the page of a run while the context lasts; yields the progress callback for the run.

    Args:
        scan: the scan of the run.
        progress: a callback that receives everything, too.
        address: ``HOST`` or ``HOST:PORT`` to listen at; None: this machine only. Without a port any free one is used.
            Whoever has the printed address, with its token, sees the page.
        say: called with the address of the page.
        budget: the time that the page may take from the run; None: the defaults.

    Raises:
        ValueError: the address is invalid, or in use.
    """
    host, port = host_and_port(address or LOCALHOST)
    state = LiveState(scan, budget or Budget())
    server, snapshots = _Server(state, host, port, say), SnapshotProgress(state, progress)
    say(f"live: {server.url}")
    end = "stopped before its end"
    try:
        yield snapshots
        snapshots.finish()
        end = "finished"
    finally:
        state.status, state.ended = f"{end}; this page is no longer served", True
        server.stop()


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of ``HOST`` or ``HOST:PORT``; port 0, which is any free one, if there is none."""
    try:
        url = urlsplit(f"//{address}")
        host, port = url.hostname, url.port or 0
    except ValueError:
        url, host, port = None, None, 0
    if not host or url is None or url.netloc != address or "@" in address:
        raise ValueError(f"{address!r} is no address to listen at: write HOST or HOST:PORT, as {LOCALHOST}:5006")
    return host, port


class _Server:
    """Bokeh's server, in its own thread and event loop."""

    def __init__(self, state: LiveState, host: str, port: int, say: Callable[[str], None]):
        from tornado.ioloop import IOLoop

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ValueError(f"cannot listen at {in_url(host)}:{port}: {error.strerror or error}") from error
        listener.setblocking(False)
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(16)
        self.url = f"http://{in_url(socket.gethostname() if host in ALL_INTERFACES else host)}:{port}/?token={token}"
        self.state, self.say, self.loop = state, say, IOLoop(make_current=False)
        names = {in_url(name) for name in names_of(host)}
        args = (listener, names, [f"{name}:{port}" for name in names], token)
        self.thread = threading.Thread(target=self._run, args=args, name="live", daemon=True)
        self.thread.start()

    def _run(self, listener: socket.socket, names: set[str], origins: list[str], token: str) -> None:
        from bokeh import plotting  # noqa: F401  (takes a second, now while the run reads its files, not when a page opens)
        from bokeh.server.server import BaseServer
        from bokeh.server.tornado import BokehTornado
        from tornado.httpserver import HTTPServer

        ready = time.thread_time()
        opened: WeakSet[_Page] = WeakSet()

        def page(document: "Document") -> None:
            opened.add(_Page(document, self.state, ready))

        async def end() -> None:
            """Show each open page the end of the run, and return once it is sent."""
            for page in list(opened):
                if not page.closed:
                    await page.document.session_context.session.with_document_locked(page.show)

        asyncio.set_event_loop(self.loop.asyncio_loop)  # type: ignore[attr-defined]
        key = secrets.token_bytes(32)
        pages = BokehTornado(
            page,
            extra_websocket_origins=origins,
            secret_key=key,
            sign_sessions=True,
            check_unused_sessions_milliseconds=int(1000 * FORGET_AFTER_S / 2),
            unused_session_lifetime_milliseconds=int(1000 * FORGET_AFTER_S),
        )
        budget, begin = self.state.budget, time.monotonic()

        def admitted() -> bool:
            opening_s = time.thread_time() - ready - budget.opening_head_start_s
            in_time = opening_s <= budget.opening_fraction * (time.monotonic() - begin)
            return in_time and len(pages.get_sessions("/")) < budget.pages

        guard(pages, names, token, admitted)
        http = HTTPServer(pages)
        http.add_socket(listener)
        server = BaseServer(self.loop, pages, http)
        server.start()
        self.loop.start()
        try:
            self.loop.run_sync(end, timeout=SAY_GOODBYE_S)
        except TimeoutError:
            self.say(f"an open page did not take the end of the run within {SAY_GOODBYE_S:g} s")
        server.stop()
        self.loop.close(all_fds=True)

    def stop(self) -> None:
        self.loop.add_callback(self.loop.stop)
        self.thread.join()


def names_of(host: str) -> set[str]:
    """Host names from which a browser may connect; pages of other sites cannot read this one."""
    names = {LOCALHOST, "localhost", host}
    if host in ALL_INTERFACES:
        machine = socket.gethostname()
        names |= {machine, socket.getfqdn(), *socket.gethostbyname_ex(machine)[2]}
    return names


def in_url(host: str) -> str:
    """A host as a URL has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


TEMPLATE = """
{%% from macros import embed %%}
{%% block preamble %%}
<meta name="viewport" content="width=device-width, initial-scale=1">
%s
{%% endblock %%}
{%% block contents %%}
<main>
<h1>{{ title | e }}</h1>
<div role="status">{{ embed(roots.status) }}</div>
<section><h2>Object</h2>{{ embed(roots.object) }}</section>
<section><h2>Probe</h2>{{ embed(roots.probe) }}</section>
<section><h2>Losses</h2>{{ embed(roots.losses) }}</section>
</main>
{%% endblock %%}
"""


UPDATE_RANGE = """
  const [start, end, low, high] = this.tags
  const given = this.given ?? first
  const chosen = this.value[0] != given[0] || this.value[1] != given[1]
  const value = chosen ? this.value : [low, high]
  this.given = [low, high]
  this.setv({start: Math.min(start, value[0]), end: Math.max(end, value[1]), step: (end - start) / 500, value})
"""
"""Gives a colour range its new limits and, unless the user chose another, its new values. This runs in the browser:
the choice of the user and the values from the server would cross on the way."""


KEEP_PAGE = "this.document.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})"
"""Leaves the page unchanged when the server stops."""


class _Page:
    """One page in one browser, updated from the state every period."""

    def __init__(self, document: "Document", state: LiveState, ready: float = 0.0):
        from bokeh.layouts import column
        from bokeh.models import CustomJS
        from bokeh.models.widgets import Div

        self.document: Any = document  # Bokeh's annotations lack its session
        self.state, self.ready = state, ready
        self.status = Div(name="status", text=state.status)
        self.status.js_on_change("tags", CustomJS(code=KEEP_PAGE))
        self.sections = {name: column(Div(text="none yet"), name=name) for name in ("object", "probe", "losses")}
        self.snapshot: Snapshot | None = None
        self.curves: dict[str, Any] = {}
        self.sources: dict[str, ColumnDataSource] = {}
        """Of each stage, the data of its curves."""
        self.losses: dict[str, dict[str, list[float]]] = {}
        """`LiveState.losses` as the sources hold them."""
        self.drawn: dict[str, tuple[Any, Any]] = {}
        """Of amplitude and phase, the image and the slider of its colour range."""
        self.modes: list[tuple[Any, Any]] = []
        """Of each mode of the probe, its plot and its image."""
        self.document.title = f"{state.scan.source or 'scan'}: live"
        self.document.template = TEMPLATE % style_and_script()  # type: ignore[assignment]
        for root in (self.status, *self.sections.values()):
            document.add_root(root)
        self.show()
        document.add_periodic_callback(self.update, int(1000 * state.budget.period_s))

    @property
    def closed(self) -> bool:
        """Whether no browser has the page open: Bokeh's session lives some seconds longer."""
        context = self.document.session_context
        return context is None or not context.session.connection_count

    def update(self) -> None:
        """Called every period."""
        if not self.closed:
            self.state.last_viewed = time.monotonic()
            self.show()
        self.state.serving_s = time.thread_time() - self.ready

    def show(self) -> None:
        """Bring the page up to date."""
        state = self.state
        if state.ended:
            self.status.tags = ["ended"]
        if self.status.text != state.status:
            self.status.text = state.status
        for stage, losses in state.losses.items():
            self.draw_losses(stage, losses)
        if state.snapshot is not None and state.snapshot is not self.snapshot:
            self.draw_snapshot(state.snapshot)

    def draw_losses(self, stage: str, losses: Mapping[str, list[float]]) -> None:
        """Draw the curves of a stage, or send what is new of them."""
        from bokeh.models import ColumnDataSource

        before = self.losses.get(stage, {})
        count, names = len(before.get("epoch", [])), [name for name in losses if name != "epoch"]
        columns = {name: list(values) for name, values in losses.items()}
        if before.keys() != losses.keys():
            # One source for all curves, so that an epoch is one message.
            source = self.sources[stage] = ColumnDataSource(columns)
            plot = self.curves[stage] = curve_plot("epoch", "", logarithmic=True, title=stage)
            add_curves(plot, {name: ("epoch", name) for name in names}, source=source)
            self.sections["losses"].children = list(self.curves.values())
        elif losses["epoch"][:count] != before["epoch"] or losses[names[0]][:count] != before[names[0]]:
            self.sources[stage].data = columns
        elif len(losses["epoch"]) > count:
            self.sources[stage].stream({name: values[count:] for name, values in losses.items()})
        self.losses[stage] = dict(losses)

    def draw_snapshot(self, snapshot: Snapshot) -> None:
        """Draw a snapshot: into the panels of the last one if its object has the same size."""
        before, self.snapshot = self.snapshot, snapshot
        same_size = before is not None and before.object[1:] == snapshot.object[1:]
        if not same_size:
            with self.document.models.freeze():  # Bokeh goes through all models once, not for each change
                self.make_object_panels(snapshot)
        for name, image in snapshot.object.images.items():
            renderer, slider = self.drawn[name]
            if same_size:
                renderer.data_source.data = dict(image=[image])
            _, limits, value = colour_range(name, image)
            slider.tags = [*limits, *value]
        self.draw_probe(snapshot.probe)

    def make_object_panels(self, snapshot: Snapshot) -> None:
        """Replace the panels of the object."""
        from bokeh.models import CustomJS

        panels: Any = object_panels(snapshot.object, pixel_unit(self.state.scan))
        for name, panel in zip(snapshot.object.images, panels.children, strict=True):
            plot, (slider, _) = panel.children[0], panel.children[1].children
            slider.js_on_change("tags", CustomJS(args=dict(first=slider.value), code=UPDATE_RANGE))
            self.drawn[name] = plot.renderers[0], slider
        self.sections["object"].children = [panels]

    def draw_probe(self, probe: np.ndarray) -> None:
        """Draw the modes of a probe: into the panels of the last one if it has as many."""
        images = mode_images(probe)
        if len(self.modes) != len(images):
            panels: Any = small_panels(images)
            self.sections["probe"].children = [panels]
            self.modes = [(plot, plot.renderers[0]) for plot in panels.children]
            return
        for (plot, renderer), (title, image, _, limits) in zip(self.modes, images, strict=True):
            renderer.glyph.color_mapper.high = limits[1]
            renderer.data_source.data = dict(image=[image])
            plot.title.text = title
