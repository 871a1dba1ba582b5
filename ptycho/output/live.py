"""A computation as a page that changes with it, served from this process: object, probe and losses as they improve.

Bokeh's server runs in a thread and hands out the latest picture. Pictures are made between two epochs, by the thread
that computes, and only while somebody looks and the time that they take stays a small part of the whole (`SHARE`).
"""

import asyncio
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from ptycho.data.scan import Scan
from ptycho.output.progress_bars import told
from ptycho.output.report import (
    SCRIPT,
    STYLE,
    Shown,
    add_curves,
    colour_range,
    curve_plot,
    object_panels,
    probe_images,
    probe_panels,
    shown,
    unit_of,
)
from ptycho.progress import Progress

HOME = "127.0.0.1"
"""The address that only this machine reaches."""

SHARE = 0.02
"""Part of the time that may go into opening pages, making pictures and serving them."""

HEAD_START_S = 0.5
"""Seconds on top of it, which the opening of a page takes: a short run has more to show than its first picture."""

PERIOD_S = 1.0
"""Seconds between two looks at what there is to show."""

SIDE = 384
"""Pixels along the longest side of the object in the page: 1.2 MB for each picture."""


class Picture(NamedTuple):
    """An image of the sample on its way, as the page draws it."""

    stage: str
    object: Shown
    probe: np.ndarray


class Board:
    """What there is to show, written by the thread that computes and read by the one that serves.

    Each attribute is replaced as a whole.
    """

    def __init__(self, scan: Scan):
        self.scan = scan
        self.status, self.ended = "starting", False
        self.losses: dict[str, dict[str, list[float]]] = {}
        """Of each stage: its epochs, and its numbers by name."""
        self.picture: Picture | None = None
        self.looked_at = -np.inf
        """When somebody last had the page open, by `time.monotonic`."""
        self.served = -np.inf
        """When a page was last brought up to date."""
        self.serving = 0.0
        """Seconds of the processor that the serving thread has taken since it could serve."""

    @property
    def watched(self) -> bool:
        return time.monotonic() - self.looked_at < 3 * PERIOD_S


class Painter:
    """Passes reports on, and puts on a board what they bring, as far as the time allows."""

    def __init__(self, board: Board, progress: Progress):
        self.board, self.passed_on = board, progress
        self.begin = self.last = time.monotonic()
        self.spent = 0.0
        """Seconds that pictures have taken."""
        self.cost: dict[str, float] = {}
        """The same of the last one of each stage."""
        self.count = 0
        """Pictures made."""
        self.unseen: tuple[str, Callable[[], Any]] | None = None
        """The stage and the image of the last report, while the board has no picture of it."""

    def __call__(
        self,
        what: str,
        done: float,
        total: float,
        numbers: Mapping[str, float],
        image: Callable[[], Any] | None = None,
        /,
    ) -> None:
        self.passed_on(what, done, total, numbers, image)
        self.board.status = ": ".join([f"{what} {100 * done / max(total, 1e-9):.0f} %", *filter(None, [told(numbers)])])
        if done == int(done) and numbers:
            before = self.board.losses.get(what, dict(epoch=[]))
            count = bisect_left(before["epoch"], done)  # a trial begins again
            after = {
                name: [*before.get(name, [np.nan] * count)[:count], value]
                for name, value in dict(epoch=int(done), **numbers).items()
            }
            self.board.losses = self.board.losses | {what: after}
        if image is not None:
            self.unseen = what, image
            if self.due(what):
                self.paint(what, image)

    def due(self, what: str) -> bool:
        """Whether somebody looks, and the next picture is within what pictures may take."""
        now = time.monotonic()
        if not self.board.watched or now - self.last < PERIOD_S:
            return False
        return self.spent + self.cost.get(what, 0.0) + self.board.serving <= SHARE * (now - self.begin) + HEAD_START_S

    def finish(self) -> None:
        """Leave the last image to who looks: what the run is at its end, unless it takes long to make."""
        if self.unseen is not None and self.board.watched and self.cost.get(self.unseen[0], 0.0) < PERIOD_S:
            self.paint(*self.unseen)

    def paint(self, what: str, image: Callable[[], Any]) -> None:
        begin = time.monotonic()
        result = image()
        self.board.picture = Picture(what, shown(self.board.scan, result, SIDE), result.probe)
        self.last = time.monotonic()
        # The first of a stage compiles what the run needs at its end anyway.
        self.spent += self.last - begin if what in self.cost else 0.0
        self.cost[what] = self.last - begin
        self.count += 1
        self.unseen = None


@contextmanager
def live_page(
    scan: Scan, progress: Progress, address: str | None = None, say: Callable[[str], None] = print
) -> Iterator[Progress]:
    """Serve the page of a run while the context lasts; yields the report to give to the run.

    Args:
        scan: what is reconstructed.
        report: told all the same.
        address: ``HOST`` or ``HOST:PORT`` to listen at; None: `HOME`. A free port where none is named. There is no
            password: whoever reaches the address sees the page.
        say: told where the page is.

    Raises:
        ValueError: the address is none, or cannot be listened at.
    """
    host, port = host_and_port(address or HOME)
    board = Board(scan)
    server, painter = _Server(board, host, port), Painter(board, progress)
    say(f"live: {server.url}")
    end = "stopped before its end"
    try:
        yield painter
        painter.finish()
        end = "finished"
    finally:
        board.status, board.ended = f"{end}; this page is no longer served", True
        ended = time.monotonic()
        while board.watched and board.served <= ended and time.monotonic() - ended < 3 * PERIOD_S:
            time.sleep(PERIOD_S / 10)
        server.stop()


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of ``HOST`` or ``HOST:PORT``; port 0, which is any free one, where none is named."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port or 0
    except ValueError:
        host, port = None, 0
    if not host or parts.netloc != address or "@" in address:
        raise ValueError(f"{address!r} is no address to listen at: write HOST or HOST:PORT, as {HOME}:5006")
    return host, port


class _Server:
    """Bokeh's server, with a thread and an event loop of its own."""

    def __init__(self, board: Board, host: str, port: int):
        from tornado.ioloop import IOLoop

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ValueError(f"cannot listen at {in_url(host)}:{port}: {error.strerror or error}") from error
        listener.setblocking(False)
        port = listener.getsockname()[1]
        self.url = f"http://{in_url(socket.gethostname() if host in EVERYWHERE else host)}:{port}/"
        self.board, self.loop = board, IOLoop(make_current=False)
        origins = [f"{in_url(name)}:{port}" for name in names_of(host)]
        self.thread = threading.Thread(target=self._run, args=(listener, origins), name="live", daemon=True)
        self.thread.start()

    def _run(self, listener: socket.socket, origins: list[str]) -> None:
        from bokeh import plotting  # noqa: F401  (a second, while the run reads its files; a page needs it at once)
        from bokeh.server.server import BaseServer
        from bokeh.server.tornado import BokehTornado
        from tornado.httpserver import HTTPServer

        ready = time.thread_time()

        def page(document) -> None:
            _Page(document, self.board, ready)

        asyncio.set_event_loop(self.loop.asyncio_loop)  # type: ignore[attr-defined]
        pages = BokehTornado(page, extra_websocket_origins=origins)
        http = HTTPServer(pages)
        http.add_socket(listener)
        server = BaseServer(self.loop, pages, http)
        server.start()
        self.loop.start()
        server.stop()
        self.loop.close(all_fds=True)

    def stop(self) -> None:
        self.loop.add_callback(self.loop.stop)
        self.thread.join()


EVERYWHERE = ("0.0.0.0", "::")


def names_of(host: str) -> set[str]:
    """Under which names a browser may ask for what the page shows: the pages of other sites cannot."""
    names = {HOME, "localhost", host}
    if host in EVERYWHERE:
        own = socket.gethostname()
        names |= {own, socket.getfqdn(), *socket.gethostbyname_ex(own)[2]}
    return names


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


CONTENTS = """
{%% from macros import embed %%}
{%% block preamble %%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>%s</style>
<script>%s</script>
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


FOLLOW = """
  const [start, end, low, high] = this.tags
  const given = this.given ?? first
  const chosen = this.value[0] != given[0] || this.value[1] != given[1]
  const value = chosen ? this.value : [low, high]
  this.given = [low, high]
  this.setv({start: Math.min(start, value[0]), end: Math.max(end, value[1]), step: (end - start) / 500, value})
"""
"""Gives a colour range its new ends and, unless another was chosen, its new values: in the browser, as what is chosen
there and what comes from here would cross on the way."""


LAST = "this.document.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})"
"""Leaves what is shown alone when the server goes."""


class _Page:
    """One page in one browser, brought up to date from the board every `PERIOD_S`."""

    def __init__(self, document, board: Board, ready: float = 0.0):
        from bokeh.layouts import column
        from bokeh.models import CustomJS
        from bokeh.models.widgets import Div

        self.document, self.board, self.ready = document, board, ready
        self.status = Div(name="status", text=board.status)
        self.status.js_on_change("tags", CustomJS(code=LAST))
        self.parts = {name: column(Div(text="none yet"), name=name) for name in ("object", "probe", "losses")}
        self.picture: Picture | None = None
        self.curves: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        """Of each stage, what its curves are drawn from."""
        self.losses: dict[str, dict[str, list[float]]] = {}
        """As `Board.losses`, what these hold."""
        self.drawn: dict[str, list[Any]] = {}
        """Of each part of the object, its image and its colour range."""
        self.modes: list[tuple[Any, Any]] = []
        """Of each mode of the probe, its plot and its image."""
        document.title = f"{board.scan.source or 'scan'}: live"
        document.template = CONTENTS % (STYLE, SCRIPT.read_text())
        for part in (self.status, *self.parts.values()):
            document.add_root(part)
        self.show()
        document.add_periodic_callback(self.look, int(1000 * PERIOD_S))

    def look(self) -> None:
        """Called while the session lives, which is some seconds longer than the page is open."""
        if self.document.session_context.session.connection_count:
            self.board.looked_at = time.monotonic()
            self.show()
            self.board.served = time.monotonic()
        self.board.serving = time.thread_time() - self.ready

    def show(self) -> None:
        board = self.board
        if board.ended:
            self.status.tags = ["ended"]
        if self.status.text != board.status:
            self.status.text = board.status
        for what, losses in board.losses.items():
            self.draw_losses(what, losses)
        if board.picture is not None and board.picture is not self.picture:
            self.draw(board.picture)

    def draw_losses(self, what: str, losses: dict[str, list[float]]) -> None:
        from bokeh.models import ColumnDataSource

        before = self.losses.get(what, {})
        had, names = len(before.get("epoch", [])), [name for name in losses if name != "epoch"]
        if before.keys() != losses.keys():
            # One for all curves: what is new takes one message.
            source = self.sources[what] = ColumnDataSource({name: list(values) for name, values in losses.items()})
            plot = self.curves[what] = curve_plot("epoch", "", logarithmic=True, title=what)
            add_curves(plot, {name: ("epoch", name) for name in names}, source=source)
            self.parts["losses"].children = list(self.curves.values())
        elif losses["epoch"][:had] != before["epoch"] or losses[names[0]][:had] != before[names[0]]:
            self.sources[what].data = {name: list(values) for name, values in losses.items()}
        elif len(losses["epoch"]) > had:
            self.sources[what].stream({name: values[had:] for name, values in losses.items()})
        self.losses[what] = losses

    def open(self, picture: Picture) -> None:
        """Make the figures of an object of another size than before."""
        from bokeh.models import CustomJS

        panels = object_panels(picture.object, unit_of(self.board.scan)[1])
        for name, panel in zip(picture.object.parts, panels.children, strict=True):
            plot, (slider, _) = panel.children[0], panel.children[1].children
            slider.js_on_change("tags", CustomJS(args=dict(first=slider.value), code=FOLLOW))
            self.drawn[name] = [plot.renderers[0], slider]
        self.parts["object"].children = [panels]

    def draw(self, picture: Picture) -> None:
        before, self.picture = self.picture, picture
        alike = before is not None and (before.object.extent, before.object.binned) == picture.object[1:]
        if not alike:
            with self.document.models.freeze():  # Bokeh goes through all models once, not for each change
                self.open(picture)
        for name, image in picture.object.parts.items():
            drawn, slider = self.drawn[name]
            if alike:
                drawn.data_source.data = dict(image=[image])
            _, ends, value = colour_range(name, image)
            slider.tags = [*ends, *value]
        self.draw_probe(picture.probe)

    def draw_probe(self, probe: np.ndarray) -> None:
        images = probe_images(probe)
        if len(self.modes) != len(images):
            panels = probe_panels(probe)
            self.parts["probe"].children = [panels]
            self.modes = [(plot, plot.renderers[0]) for plot in panels.children]
            return
        for (plot, drawn), (title, amplitude, _) in zip(self.modes, images, strict=True):
            drawn.glyph.color_mapper.high = float(amplitude.max()) or 1.0
            drawn.data_source.data = dict(image=[amplitude])
            plot.title.text = title
