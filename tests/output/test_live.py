"""The live page's budget, and who may see it. What it shows is looked at in `test_pages`."""

import re
import socket
import time
from dataclasses import replace
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest

from ptycho.data.reconstruction import Reconstruction
from ptycho.output import live
from ptycho.output.panels import object_images
from ptycho.output.snapshots import Budget, LiveState, Snapshot, SnapshotProgress


def result_of(scan) -> Reconstruction:
    lit = np.ones(scan.object.shape, "float32")
    return Reconstruction(
        object=scan.object, probe=scan.probe, positions_px=scan.positions, coverage=lit, used=len(scan), dropped=0
    )


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_pictures_are_made_only_while_somebody_looks_and_in_their_part_of_the_time(small_scan, monkeypatch):
    clock, state, told, made = Clock(monkeypatch), LiveState(small_scan, Budget()), [], []
    snapshots = SnapshotProgress(state, lambda *said: told.append(said))

    def image() -> Reconstruction:
        made.append(clock.now)
        clock.now += 2.0
        return result_of(small_scan)

    def run(seconds: int, watched: bool) -> None:
        end = clock.now + seconds
        while clock.now < end:
            clock.now += 1.0
            state.last_viewed = clock.now if watched else state.last_viewed
            snapshots("refining", 1, 10, {}, image)

    run(100, watched=False)
    assert not made and state.snapshot is None and len(told) == 100
    run(1000, watched=True)
    # The first compiles, and is free. Of the rest as many as go into the share, less one that is not due yet.
    allowed = state.budget.time_fraction * (clock.now - 100.0) + state.budget.head_start_s
    assert allowed - 2 * 2.0 <= snapshots.spent_s <= allowed
    assert state.snapshot.object.images["amplitude"].shape == small_scan.object.shape
    count = len(made)
    run(1000, watched=False)
    assert len(made) <= count + 1  # somebody looked three seconds ago
    count, state.serving_s = len(made), state.budget.time_fraction * 10_000
    run(1000, watched=True)
    assert len(made) == count  # serving has taken it all


def test_who_looks_at_the_end_sees_the_last_image(small_scan, monkeypatch):
    clock, state, made = Clock(monkeypatch), LiveState(small_scan, Budget()), []
    snapshots = SnapshotProgress(state, lambda *said: None)

    def image() -> Reconstruction:
        made.append(clock.now)
        return result_of(small_scan)

    snapshots("refining", 1, 10, {}, image)
    snapshots.finish()
    assert not made  # nobody looks
    state.last_viewed = clock.now = clock.now + 2.0
    snapshots("refining", 2, 10, {}, image)
    snapshots("refining", 3, 10, {}, image)  # too soon after
    assert len(made) == 1
    snapshots.finish()
    snapshots.finish()
    assert len(made) == 2


def test_losses_are_those_of_whole_epochs_and_begin_again_with_a_trial(small_scan):
    state = LiveState(small_scan, Budget())
    snapshots = SnapshotProgress(state, lambda *said: None)
    for done in (1, 1.5, 2, 3):
        snapshots("training", done, 4, dict(loss=1 / done))
    assert state.losses == dict(training=dict(epoch=[1, 2, 3], loss=[1.0, 0.5, 1 / 3]))
    snapshots("training", 1, 4, dict(loss=0.9))
    assert state.losses == dict(training=dict(epoch=[1], loss=[0.9]))
    assert state.status == "training 25 %: loss 0.9"


def test_addresses():
    assert live.host_and_port("127.0.0.1") == ("127.0.0.1", 0)
    assert live.host_and_port("0.0.0.0:5006") == ("0.0.0.0", 5006)
    assert live.host_and_port("[::1]:5006") == ("::1", 5006)
    for bad in ("", ":5006", "host:port", "host/path", "user@host"):
        with pytest.raises(ValueError, match="no address to listen at"):
            live.host_and_port(bad)


def test_only_this_machine_is_served_and_an_address_in_use_is_said_to_be(small_scan):
    said = []
    with live.live_page(small_scan, lambda *told: None, say=said.append):
        url = urlsplit(said[0].removeprefix("live: "))
        port = url.port
        assert (url.scheme, url.hostname, url.path, len(said)) == ("http", "127.0.0.1", "/", 1)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
        second = live.live_page(small_scan, lambda *told: None, f"127.0.0.1:{port}", said.append)
        with pytest.raises(ValueError, match="cannot listen at"), second:
            pass
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_pages_of_other_sites_are_refused(small_scan):
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.ioloop import IOLoop
    from tornado.websocket import websocket_connect

    said = []
    with live.live_page(small_scan, lambda *told: None, say=said.append):
        host = urlsplit(said[0].removeprefix("live: ")).netloc
        request = HTTPRequest(f"ws://{host}/ws", headers=dict(Origin="http://elsewhere.example"))
        with pytest.raises(HTTPClientError, match="403"):
            IOLoop(make_current=False).run_sync(lambda: websocket_connect(request))


def test_the_page_is_for_those_who_have_its_address(small_scan):
    """A page of another site, whose name was made to point here, does not have the name, nor the token."""

    def status(url: str, **headers: str) -> int:
        try:
            return urlopen(Request(url, headers=headers), timeout=10).status
        except HTTPError as error:
            return error.code

    said = []
    with live.live_page(small_scan, lambda *told: None, say=said.append):
        whole = said[0].removeprefix("live: ")
        port = urlsplit(whole).port
        bare = whole.partition("?")[0]
        assert status(whole) == 200
        assert status(whole, Host=f"localhost:{port}") == 200
        assert status(whole, Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}") == 403
        assert status(bare) == status(f"{bare}?token=guessed") == status(f"{bare}autoload.js") == 403
        with urlopen(whole, timeout=10) as page:
            script = re.search(r"(static/js/bokeh[^\"']+)", page.read().decode())
        assert script
        assert status(bare + script[1]) == 200


def test_visitors_have_a_budget(small_scan, monkeypatch):
    """So many pages at once, no memory and no time for more; and again when those are forgotten."""
    monkeypatch.setattr(live, "FORGET_AFTER_S", 1.0)

    def status(url: str) -> int:
        try:
            return urlopen(url, timeout=20).status
        except HTTPError as error:
            return error.code

    said, budget = [], Budget(pages=3, opening_head_start_s=60.0)
    with live.live_page(small_scan, lambda *told: None, say=said.append, budget=budget):
        url = said[0].removeprefix("live: ")
        assert status(url) == 200
        assert {status(url) for _ in range(20)} == {200, 503}
        time.sleep(3.0)
        assert status(url) == 200
    said, budget = [], Budget(opening_head_start_s=-60.0)
    with live.live_page(small_scan, lambda *told: None, say=said.append, budget=budget):
        assert status(said[0].removeprefix("live: ")) == 503


def test_a_page_is_handed_new_pictures_and_leaves_the_colour_range_to_the_browser(small_scan):
    from bokeh.document import Document

    state = LiveState(small_scan, Budget())
    page = live._Page(Document(), state)
    result = result_of(small_scan)
    for part in (1.0, 0.5):
        fainter = replace(result, object=(part * result.object).astype("complex64"))
        state.snapshot = Snapshot(
            "refining", object_images(small_scan, fainter, state.budget.side_px), part * result.probe
        )
        page.show()
        ((_, shown),) = page.modes
        assert np.array_equal(shown.data_source.data["image"][0], np.abs(part * result.probe[0]).astype("float32"))
        assert shown.glyph.color_mapper.high == shown.data_source.data["image"][0].max()
        image = state.snapshot.object.images["amplitude"]
        drawn = page.sections["object"].select_one(dict(name="amplitude")).data_source.data["image"][0]
        slider = page.sections["object"].select_one(dict(name="amplitude: colour range"))
        assert np.array_equal(drawn, image)
        assert slider.tags[:2] == [image.min(), image.max()]
    assert slider.value == pytest.approx(2 * np.array(slider.tags[2:]), rel=1e-5)  # the first; float32 images


def test_curves_get_what_is_new_and_begin_again_with_a_trial(small_scan):
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource

    state = LiveState(small_scan, Budget())
    page, snapshots = live._Page(Document(), state), SnapshotProgress(state, lambda *said: None)
    sent: list[str] = []
    page.document.on_change(lambda event: sent.append(getattr(event, "kind", "")))

    def shown() -> dict[str, list[float]]:
        (plot,) = page.sections["losses"].select(dict(type=ColumnDataSource))
        return {name: list(values) for name, values in plot.data.items()}

    snapshots("training", 1, 4, dict(loss=1.0))
    page.show()
    sent.clear()
    for done in (2, 3):
        snapshots("training", done, 4, dict(loss=1 / done))
    page.show()
    assert shown() == dict(epoch=[1, 2, 3], loss=[1.0, 0.5, 1 / 3])
    assert sent.count("ColumnsStreamed") == 1 and "ColumnDataChanged" not in sent
    snapshots("training", 1, 4, dict(loss=0.9))
    page.show()
    assert shown() == dict(epoch=[1], loss=[0.9])
    snapshots("training", 2, 4, dict(loss=0.8, held_out=0.7))
    page.show()
    late = shown()
    assert late["loss"] == [0.9, 0.8] and np.isnan(late["held_out"][0]) and late["held_out"][1] == 0.7
