"""What a live page costs: the same fit or training without a page, with one that is closed, and with one that is open.

    python benchmarks/live.py compare SCAN                  # refinement: three rounds of each; docs/results.md
    python benchmarks/live.py compare SCAN --training

The rounds alternate, so that other load on the machine affects all conditions alike. The browser is headless Chromium
on the same machine, which draws without a graphics card on the same cores: one on another machine costs less
(``client`` receives everything and draws nothing).
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import typer

from ptycho.config import RefineConfig, RunConfig, TrainingConfig
from ptycho.network.build import build_model
from ptycho.output.live import live_page
from ptycho.pipelines.open import model_config, open_scan
from ptycho.progress import with_image
from ptycho.reconstruction import reconstruct
from ptycho.refinement.refine import refine
from ptycho.training.train import train

app = typer.Typer(add_completion=False)
CONDITIONS = ("no page", "closed", "client", "chromium")


@app.command()
def compare(
    path: Path, training: Annotated[bool, typer.Option("--training")] = False, epochs: int = 90, rounds: int = 3
) -> None:
    """Seconds of each condition, and their ratio to those without a page: medians over the rounds."""
    scan = open_scan(path, lambda line: print(line, file=sys.stderr))
    if training:
        model = build_model(model_config(RunConfig(), scan), scan.probe)
        config = TrainingConfig(epochs=epochs, patience=1000)
        run = lambda progress: train(
            model, scan, config, progress=with_image(progress, partial(reconstruct, model, scan))
        )
    else:
        settings = RefineConfig(epochs=epochs, patience=1000)
        run = lambda progress: refine(scan, settings, progress=progress)
    quiet = lambda *progress: None
    run(quiet)  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    snapshots: dict[str, list[int]] = {name: [] for name in CONDITIONS}
    for _ in range(rounds):
        for name in CONDITIONS:
            if name == "no page":
                begin = time.perf_counter()
                run(quiet)
                seconds[name].append(time.perf_counter() - begin)
                continue
            messages: list[str] = []
            with live_page(scan, quiet, say=messages.append) as progress:
                with browser(messages[0].removeprefix("live: "), name):
                    begin = time.perf_counter()
                    run(progress)
                    seconds[name].append(time.perf_counter() - begin)
                snapshots[name].append(progress.count)
    base = float(np.median(seconds["no page"]))
    for name, times in seconds.items():
        loss = 100 * (float(np.median(times)) / base - 1)
        row = dict(condition=name, seconds=[round(s, 2) for s in times], loss_percent=round(loss, 1))
        print(json.dumps(row | dict(snapshots=snapshots[name])), flush=True)


@contextmanager
def browser(url: str, kind: str) -> Iterator[None]:
    """A browser with the page open, in another process."""
    if kind == "closed":
        yield
        return
    with subprocess.Popen([sys.executable, __file__, "look", url, kind], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "open"
        yield
        process.terminate()


@app.command()
def look(url: str, kind: str) -> None:
    """Keep the page open until the process is terminated."""
    if kind == "client":
        follow(url)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = chromium.new_page(viewport=dict(width=1280, height=900))
        page.goto(url)
        page.wait_for_timeout(2000)
        print("open", flush=True)
        page.wait_for_timeout(3_600_000)


def follow(url: str) -> None:
    """Open the page, take what comes until it is no longer served, and draw nothing."""
    from tornado.ioloop import IOLoop
    from tornado.websocket import websocket_connect

    with urlopen(url) as page:
        found = re.search(r'"token":"([^"]+)"', page.read().decode())
    if found is None:
        raise ValueError(f"{url} is no live page")

    async def take() -> None:
        host = urlsplit(url).netloc
        socket = await websocket_connect(f"ws://{host}/ws", subprotocols=["bokeh", found[1]])
        print("open", flush=True)
        while await socket.read_message() is not None:
            pass

    IOLoop(make_current=False).run_sync(take)


if __name__ == "__main__":
    app()
