"""The pages as a person uses them: in headless Chromium, by mouse and by keyboard, light and dark, with no network."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from ptycho.cli.app import app
from ptycho.config import RunConfig, SimulationConfig
from ptycho.formats import write_scan
from ptycho.output import live
from ptycho.output.snapshots import SnapshotProgress
from ptycho.pipelines.refine import refine_run
from ptycho.simulation.simulate import simulate

CHROMIUM = Path("/usr/bin/chromium")
ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"
SCHEMES = ("light", "dark")
HOME = "127.0.0.1"


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    missing = "playwright (test extra)" if sync_playwright is None else "" if CHROMIUM.exists() else str(CHROMIUM)
    if missing:
        assert not os.environ.get("CI"), f"{missing} is missing, and CI must not go without these tests"
        pytest.skip(f"{missing} is not installed")
    ARTEFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, address: str, scheme: str = "light") -> Iterator:
    """A page that must not log an error, nor ask for anything that is not on this machine."""
    context = browser.new_context(color_scheme=scheme, viewport=dict(width=1280, height=900))
    wrong: list[str] = []

    def at_home(url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in ("file", "data", "blob") or parts.hostname == HOME

    def route(request) -> None:
        if at_home(request.request.url):
            request.continue_()
        else:
            wrong.append(f"asked for {request.request.url}")
            request.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.on("websocket", lambda socket: at_home(socket.url) or wrong.append(f"connected to {socket.url}"))
    page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    yield page
    assert not wrong
    context.close()


def picture(page, label: str) -> str:
    """The pixels of a figure, by the beginning of its name."""
    canvas = page.locator(f'[role=figure][aria-label^="{label}"] canvas').first
    return canvas.evaluate("canvas => canvas.toDataURL()")


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def drawn(page, label: str) -> str:
    """The pixels of a figure once they have stopped changing."""
    figure = page.locator(f'[role=figure][aria-label^="{label}"] canvas').first
    figure.wait_for()
    before = picture(page, label)
    page.wait_for_timeout(300)
    while picture(page, label) != before:
        before = picture(page, label)
        page.wait_for_timeout(300)
    return before


def assert_accessible(page) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.get_by_role("button", name="Zoom In").first.wait_for()  # the controls have got their names
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


def keep(page, name: str) -> None:
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def report(small_scan, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    refine_run(small_scan, folder, RunConfig(refine=dict(epochs=6)))
    assert (folder / "report.html").stat().st_size < 15e6
    return (folder / "report.html").as_uri()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_is_accessible_in_light_and_dark(browser, report, scheme):
    with opened(browser, report, scheme) as page:
        drawn(page, "amplitude")
        assert_accessible(page)
        keep(page, f"report-{scheme}")
        page.set_viewport_size(dict(width=420, height=900))
        drawn(page, "amplitude")
        keep(page, f"report-narrow-{scheme}")
        assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.slow
def test_a_phone_shows_whole_figures(browser, report):
    """No section but that of long tables is wider than the screen; on a wide one figures have their size again."""
    overflow = """() => [...document.querySelectorAll("section")]
        .filter(section => section.querySelector("[data-root-id]") && section.scrollWidth > section.clientWidth + 1)
        .map(section => section.querySelector("h2").textContent)"""
    with opened(browser, report) as page:
        wide = page.locator('[role=figure][aria-label^="phase"]').first
        drawn(page, "phase")
        width = wide.bounding_box()["width"]
        page.set_viewport_size(dict(width=390, height=844))
        until(lambda: not page.evaluate(overflow))
        assert 200 < wide.bounding_box()["width"] <= 390
        page.set_viewport_size(dict(width=1280, height=900))
        until(lambda: wide.bounding_box()["width"] == width)


@pytest.mark.slow
def test_a_dark_page_has_light_ink(browser, report):
    with opened(browser, report) as page:
        light = drawn(page, "amplitude")
        page.emulate_media(color_scheme="dark")
        until(lambda: picture(page, "amplitude") != light)
        page.emulate_media(color_scheme="light")
        until(lambda: picture(page, "amplitude") == light)


@pytest.mark.slow
def test_a_report_is_zoomed_coloured_and_asked_for_frames_by_mouse(browser, report):
    with opened(browser, report) as page:
        amplitude, phase = drawn(page, "amplitude"), drawn(page, "phase")
        box = page.locator('[aria-label="amplitude"]').bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.wheel(0, -400)
        until(lambda: picture(page, "amplitude") != amplitude and picture(page, "phase") != phase)  # linked
        page.mouse.move(0, 0)

        amplitude, phase = drawn(page, "amplitude"), drawn(page, "phase")
        handle = page.get_by_role("slider", name="amplitude: colour range, lower end").bounding_box()
        page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        page.mouse.down()
        page.mouse.move(handle["x"] + 90, handle["y"] + handle["height"] / 2, steps=5)
        page.mouse.up()
        until(lambda: picture(page, "amplitude") != amplitude)
        assert picture(page, "phase") == phase
        page.get_by_label("phase: colours").select_option("twilight")
        until(lambda: picture(page, "phase") != phase)
        keep(page, "report-used")

        patterns = {name: drawn(page, name) for name in ("measured", "predicted")}
        place = page.evaluate(FRAME_ON_SCREEN, 17)
        page.mouse.click(*place)
        until(lambda: page.get_by_label("frame", exact=True).input_value() == "17")
        for name, before in patterns.items():
            until(lambda name=name, before=before: picture(page, name) != before)
        keep(page, "report-frame-17")


FRAME_ON_SCREEN = """frame => {
  const scan = Bokeh.documents[0].get_model_by_name("scan path")
  const dots = Bokeh.documents[0].get_model_by_name("frames").data_source.data
  const view = Bokeh.index.find_one(scan)
  view.el.scrollIntoView()
  const canvas = view.canvas_view.el.getBoundingClientRect()
  const {x_scale, y_scale} = view.frame
  return [canvas.x + x_scale.compute(dots.x[frame]), canvas.y + y_scale.compute(dots.y[frame])]
}"""

FOCUSED = """() => {
  let element = document.activeElement
  while (element.shadowRoot && element.shadowRoot.activeElement) element = element.shadowRoot.activeElement
  const label = element.labels && element.labels.length ? element.labels[0].textContent : ""
  return (element.getAttribute("aria-label") || label || element.textContent).trim()
}"""


@pytest.mark.slow
def test_a_report_is_used_by_keyboard_alone(browser, report):
    with opened(browser, report) as page:
        amplitude = drawn(page, "amplitude")
        page.get_by_role("button", name="Zoom In").first.wait_for()
        reached: list[str] = []

        def tab_to(name: str) -> None:
            while (page.keyboard.press("Tab"), reached.append(page.evaluate(FOCUSED))) and reached[-1] != name:
                assert len(reached) < 200, f"{name} is out of reach: {reached}"

        tab_to("Zoom In")
        page.keyboard.press("Enter")
        until(lambda: picture(page, "amplitude") != amplitude)
        amplitude = drawn(page, "amplitude")
        tab_to("amplitude: colour range, upper end")
        page.keyboard.press("PageDown")
        until(lambda: picture(page, "amplitude") != amplitude)
        phase = drawn(page, "phase")
        tab_to("phase: colours")
        page.keyboard.press("v")  # viridis
        until(lambda: picture(page, "phase") != phase)
        measured = drawn(page, "measured")
        tab_to("frame")
        page.keyboard.press("ArrowUp")
        until(lambda: picture(page, "measured") != measured)
        tab_to("Settings and versions")
        page.keyboard.press("Enter")
        page.locator("details pre").wait_for()


@pytest.mark.slow
def test_a_live_page_shows_a_fit_as_it_improves(browser, tmp_path, monkeypatch, capsys):
    """The command runs in a thread, and waits after each epoch: what the page shows depends on no machine's speed."""
    write_scan(simulate(SimulationConfig(N=32, positions=100, step_px=5.0, photons=1e5)), tmp_path / "scan.h5")
    unhurried, begun, progress = threading.Event(), threading.Event(), SnapshotProgress.__call__

    def one_epoch_then_wait(self, *told) -> None:
        progress(self, *told)
        begun.set()  # what compiles is compiled: from here on the page is answered at once
        unhurried.wait(0.5)

    monkeypatch.setattr(SnapshotProgress, "__call__", one_epoch_then_wait)
    monkeypatch.setattr(live, "Budget", partial(live.Budget, time_fraction=0.5))
    command = ["refine", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "run"), "--live", "--no-auto"]
    command += ["--epochs", "100", "--set", "refine.patience=100"]
    printed: list[str] = []

    def address() -> re.Match | None:
        printed.append(capsys.readouterr().out)
        return re.search(r"live: (\S+)", "".join(printed))

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(get_command(app).main, command, standalone_mode=False)
        until(lambda: address() or run.done(), 60)
        match = address()
        assert match is not None, run.result()
        assert urlsplit(match[1]).hostname == HOME
        assert begun.wait(120), run.result()
        try:
            with opened(browser, match[1]) as page:
                status = page.locator("[role=status] .bk-clearfix")
                page.locator('[aria-label="amplitude"] canvas').first.wait_for(timeout=40_000)
                before = {name: picture(page, name) for name in ("amplitude", "phase", "mode 1", "refining")}
                keep(page, "live-early")
                changing = ("amplitude", "phase", "refining")
                until(lambda: all(picture(page, name) != before[name] for name in changing), 40)
                handle = page.get_by_role("slider", name="phase: colour range, upper end")
                handle.focus()
                page.keyboard.press("PageDown")
                chosen = handle.get_attribute("aria-valuetext")
                assert_accessible(page)
                unhurried.set()
                until(lambda: "finished" in status.inner_text(), 60)
                assert handle.get_attribute("aria-valuetext") == chosen  # though pictures went on to come
                keep(page, "live-finished")
        finally:
            unhurried.set()
        run.result()
    assert (tmp_path / "run" / "report.html").exists()
