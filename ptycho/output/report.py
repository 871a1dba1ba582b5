"""A run as one page: ``report.html``, which opens from disk without a network and can be sent to a colleague.

Bokeh draws it and brings its own script along; pan, zoom, colour ranges and the frames of the scan work in the page.
"""

import html
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check, examine
from ptycho.diagnostics.statistics import describe
from ptycho.evaluation import Scores, expected_counts
from ptycho.images import binned, colours_of, contrast, levelled, parts, shown_region
from ptycho.io import replace_text

SIDE = 704
"""Pixels along the longest side of an image in the page; larger objects are binned (2 images of 2.6 MB)."""

PATTERNS_BYTES = 4_000_000
"""What patterns and their predictions may take, and a third more as text. Of scans with more, every k-th frame is
there."""

INK = "#4d4d4d"
"""Of axes and labels on a light page; on a dark one ``page.js`` makes it light."""

Lines = dict[str, tuple[Sequence[float], Sequence[float | None]]]
"""Name of a curve -> its x and y; values that are None are left out."""

WRAPPED = {"flex-wrap": "wrap"}
"""Style of a row that goes on below where the screen is narrow."""

WIDGET: list[Any] = [".bk-input { color: #1b1b1b; background: #ffffff; }"]
"""Style of input fields: Bokeh makes them white, and the page's dark scheme their text."""

SCRIPT = Path(__file__).with_name("page.js")
"""What makes Bokeh's figures accessible, and readable on a dark page."""


def save_report(
    path: str | os.PathLike,
    scan: Scan,
    result: Reconstruction | None = None,
    *,
    scores: Scores | None = None,
    findings: Sequence[str] = (),
    training: Sequence[dict[str, Any]] = (),
    fit: Sequence[dict[str, Any]] = (),
    settings: dict[str, Any] | None = None,
    checks: Sequence[Check] | None = None,
) -> Path:
    """Write a scan, and what was reconstructed from it, as one HTML file (15 MB at most).

    Args:
        path: the file to write; it appears at once and whole.
        scan: P frames; those shown beside their predictions are drawn from it.
        result: the object and probe; None shows the scan alone.
        scores: of the object against the true one, beside those of a flat object.
        findings: sentences about scan and result, each a line.
        training, fit: epochs of the network's training and of the refinement, as `train` and `refine` give them.
        settings: configuration and versions, as JSON shows them.
        checks: what `examine` found in the scan; None asks it, for the orientation of frames only without a result.
    """
    panels: dict[str, Any] = {}
    if result is not None:
        panels["Object"] = object_panels(shown(scan, result), unit_of(scan)[1])
        panels["Probe"] = probe_panels(result.probe)
    else:
        panels["Probe"] = probe_panels(scan.probe)
    panels["Frames on the scan"] = _scan_panels(scan, result)
    for title, label, history, names in (
        ("Training", "loss", training, dict(loss="training", validation_loss="validation")),
        ("Refinement", "error", fit, dict(error="fitted frames", held_out_error="held-out frames")),
    ):
        if history:
            panels[title] = curve_panel("epoch", label, epochs(history, names), logarithmic=True)
    if scores is not None:
        panels["Fourier ring correlation with the true object"] = _correlation({"correlation": scores})
    below = [listed("Findings", findings)]
    if scores is not None:
        rows = [(label, *(f"{value:.3f}" for value in values)) for label, *values in scores.rows()]
        below.append(table("Scores against the true object", ("score", "object", "flat object"), rows))
    return save_page(
        path,
        str(scan.source or Path(path).stem),
        panels,
        below_first="".join(below),
        end=_about(scan, examine(scan, orientation=result is None) if checks is None else checks),
        settings=settings,
    )


def save_comparison(
    path: str | os.PathLike,
    scan: Scan,
    results: Mapping[str, Reconstruction],
    *,
    scores: Mapping[str, Scores],
    rows: tuple[Sequence[str], Sequence[Sequence[str]]],
    histories: Mapping[str, Sequence[dict[str, Any]]],
    notes: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write what several methods made of one scan: their objects, panned and zoomed together, and curves of each.

    Args:
        path, scan, settings: see `save_report`.
        results: by the names of the methods; frames and predictions are those of the first.
        scores: of those that are compared with a true object.
        rows: titles and rows of the table of scores.
        histories: epochs of each method, with ``error`` or ``loss``.
        notes: sentences about methods that came to no end.
    """
    from bokeh.layouts import column

    names = list(results)
    side = int(SIDE / len(results) ** 0.5)  # all images together as large as those of one result
    panels: dict[str, Any] = {}
    plots: list[Any] = []
    for name, result in results.items():
        origin = (scan.positions - result.positions_px).mean(axis=0)
        panels[f"Object: {name}"] = object_panels(shown(scan, result, side, origin), unit_of(scan)[1], plots)
    panels[f"Probe: {names[0]}"] = probe_panels(results[names[0]].probe)
    panels[f"Frames on the scan: {names[0]}"] = _scan_panels(scan, results[names[0]])
    told = {"error": "fitted frames", "held_out_error": "held-out frames", "loss": "loss"}
    curves = [
        curve_panel("epoch", "error", epochs(history, told), logarithmic=True, title=name)
        for name, history in histories.items()
    ]
    panels["Epochs"] = column(*curves)
    if scores:
        panels["Fourier ring correlation with the true object"] = _correlation(scores)
    return save_page(
        path,
        f"{scan.source or Path(path).stem}: {', '.join(names)}",
        panels,
        above=table("Scores", *rows) + listed("Notes", notes),
        end=_about(scan, examine(scan, orientation=False)),
        settings=settings,
    )


def save_page(
    path: str | os.PathLike,
    title: str,
    panels: Mapping[str, Any],
    *,
    above: str = "",
    below_first: str = "",
    end: str = "",
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write one HTML file that needs no other: Bokeh's models by their headings, and sections of HTML around them.

    ``settings`` and the command line of this process come last.
    """
    head, sections = "", []
    if panels:
        from bokeh.embed import components
        from bokeh.resources import Resources

        script, pieces = components(dict(panels), wrap_script=True)
        scripts = Resources(mode="inline", components=["bokeh", "bokeh-widgets"])
        head = f"{scripts.render_js()}\n{script}\n"
        sections = [f"<section><h2>{html.escape(name)}</h2>{piece}</section>" for name, piece in pieces.items()]
    sections[:1] = [above, *sections[:1], below_first]
    title = html.escape(title)
    head = f"<title>{title} - ptycho</title>\n<style>{STYLE}</style>\n{head}<script>{SCRIPT.read_text()}</script>"
    replace_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{head}\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{''.join(sections)}\n{end}\n{_making(settings)}\n"
        "</main>\n</body>\n</html>\n",
    )
    return Path(path)


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #cccccc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --line: #444444; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; } th, td { text-align: left; font-weight: inherit; padding: .15rem 1rem .15rem 0;
vertical-align: top; border-bottom: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; } section { overflow-x: auto; } img { max-width: 100%; background: #ffffff; }
"""


def listed(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<section><h2>{html.escape(title)}</h2><ul>{items}</ul></section>" if lines else ""


def _about(scan: Scan, checks: Sequence[Check]) -> str:
    found = table("Checks of the scan", ("check", "verdict", "found", "what to do"), checks)
    return table("Scan", (), describe(scan, checked=True)) + found


def _making(settings: dict[str, Any] | None) -> str:
    """The command line of this process, and the settings."""
    if not settings:
        return ""
    text = html.escape(json.dumps(settings, indent=1, default=str))
    command = html.escape(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    return (
        f"<section><h2>How it was made</h2><p><code>{command}</code></p>"
        f"<details><summary>Settings and versions</summary><pre tabindex='0'>{text}</pre></details></section>"
    )


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr><th scope='row'>"
        + html.escape(first)
        + "</th>"
        + "".join(
            f"<td class='{'number' if cell[-1:].isdecimal() else 'text'}'>{html.escape(cell)}</td>" for cell in row
        )
        + "</tr>"
        for first, *row in rows
    )
    return f"<section><h2>{html.escape(title)}</h2><table>{f'<tr>{head}</tr>' if head else ''}{body}</table></section>"


def unit_of(scan: Scan) -> tuple[float, str]:
    """Length of an object pixel, and its unit."""
    return (scan.pixel_size_m * 1e6, "µm") if scan.pixel_size_m else (1.0, "px")


def _figure(title: str, frame: tuple[int, int], **options):
    """A figure whose frame has this width and height on the screen."""
    from bokeh.models.annotations import Title
    from bokeh.plotting import figure

    plot = figure(
        title=Title(text=title, text_color=INK),
        frame_width=frame[0],
        frame_height=frame[1],
        html_attributes={"role": "figure", "aria-label": title},
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=INK,
        toolbar_location="above",
        **options,
    )
    plot.toolbar.logo = None
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = INK
        axis.major_tick_line_color = axis.minor_tick_line_color = INK
    plot.grid.visible = False
    return plot


def _image(plot, image: np.ndarray, mapper, extent: tuple[float, float, float, float], name: str | None = None):
    """Draw (H, W) with row 0 at the top; ``extent`` is the first x, first y, width and height."""
    x, y, width, height = extent
    return plot.image(
        [np.ascontiguousarray(image)], x=x, y=y, dw=width, dh=height, color_mapper=mapper, level="image", name=name
    )


def _colour_bar(plot, mapper, title: str) -> None:
    from bokeh.models.annotations import ColorBar

    bar = ColorBar(
        color_mapper=mapper,
        title=title,
        title_text_color=INK,
        major_label_text_color=INK,
        width=10,
        background_fill_alpha=0,
        label_standoff=6,
        padding=4,
    )
    plot.add_layout(bar, "right")


def palette(name: str) -> list[str]:
    """256 colours of a matplotlib map: ``gray``, ``viridis``, or ``twilight``, which is cyclic."""
    from matplotlib import colormaps

    colours = np.rint(255 * colormaps[name](np.arange(256) / 255)[:, :3]).astype("uint8")
    return [f"#{colour.tobytes().hex()}" for colour in colours]


class Shown(NamedTuple):
    """A complex image as the page draws it."""

    parts: dict[str, np.ndarray]
    """Amplitude and phase, ``(H, W)`` float32 each."""
    extent: tuple[float, float, float, float]
    """First x, first y, width and height, in the unit of the page."""
    binned: int
    """Pixels of the object along the side of one that is drawn."""


def shown(scan: Scan, result: Reconstruction, side: int = SIDE, origin: Sequence[float] = (0, 0)) -> Shown:
    """The well-lit part of an object, at most ``side`` pixels long; ``origin`` (y, x) is its first pixel's place."""
    region = shown_region(result.coverage)
    view, k = binned(levelled(result.object[region]), side)
    size, _ = unit_of(scan)
    return Shown(
        {name.partition(" ")[0]: image.astype("float32") for name, image in parts(view).items()},
        (
            (region[1].start + origin[1]) * size,
            (region[0].start + origin[0]) * size,
            view.shape[1] * k * size,
            view.shape[0] * k * size,
        ),
        k,
    )


def object_panels(view: Shown, unit: str, plots: list[Any] | None = None):
    """Amplitude and phase side by side, each with its colour range and map; the images have their names.

    They are panned and zoomed together, and with those of ``plots``, to which they are added.
    """
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, LinearColorMapper
    from bokeh.models.annotations import ScaleBar
    from bokeh.models.annotations.dimensional import MetricLength
    from bokeh.models.widgets import RangeSlider, Select

    extent, note = view.extent, f", binned by {view.binned}" if view.binned > 1 else ""
    columns: list[Any] = []
    plots = [] if plots is None else plots
    for name, image in view.parts.items():
        names: list[Any] = ["gray", "viridis"] + (["twilight"] if name == "phase" else [])
        colours = {colour: palette(colour) for colour in names}
        first, ends, value = colour_range(name, image)
        mapper = LinearColorMapper(palette=colours[first], low=value[0], high=value[1])
        shared = (
            dict(x_range=plots[0].x_range, y_range=plots[0].y_range)
            if plots
            else dict(x_range=(extent[0], extent[0] + extent[2]), y_range=(extent[1] + extent[3], extent[1]))
        )
        plot = _figure(
            f"{name}{note}",
            (440, int(np.clip(440 * extent[3] / extent[2], 120, 700))),
            tools="pan,wheel_zoom,box_zoom,zoom_in,zoom_out,reset,save,hover",
            active_scroll="wheel_zoom",
            match_aspect=True,
            tooltips=[("x, y", "$x, $y"), (name, "@image")],
            **shared,
        )
        plot.xaxis.axis_label, plot.yaxis.axis_label = f"x ({unit})", f"y ({unit})"
        _image(plot, image, mapper, extent, name)
        _colour_bar(plot, mapper, "rad" if name == "phase" else "")
        # The script of Bokeh 3.9 does not know CustomDimensional: pixels go as metres of another name.
        kind = (
            dict(unit=unit)
            if unit != "px"
            else dict(unit="m", dimensional=MetricLength(include=["m"]), label="@{value} px")
        )
        plot.add_layout(ScaleBar(range=plot.x_range, location="bottom_right", **kind))
        slider = RangeSlider(
            start=ends[0],
            end=ends[1],
            value=value,
            step=(ends[1] - ends[0]) / 500,
            title=f"{name}: colour range",
            name=f"{name}: colour range",
            width=360,
            format="0.000",
        )
        slider.js_link("value", mapper, "low", attr_selector=0)
        slider.js_link("value", mapper, "high", attr_selector=1)
        choice = Select(title=f"{name}: colours", options=names, value=first, width=140, stylesheets=WIDGET)
        # A cyclic map over less than a cycle would give two phases one colour.
        choose = CustomJS(
            args=dict(mapper=mapper, colours=colours, slider=slider),
            code="mapper.palette = colours[this.value]\n"
            'if (this.value == "twilight") slider.value = [slider.start, slider.end]',
        )
        choice.js_on_change("value", choose)
        plots.append(plot)
        columns.append(column(plot, row(slider, choice)))
    return row(*columns, styles=WRAPPED)


def colour_range(name: str, image: np.ndarray) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """The colour map to begin with, what its range can be, and what it is: of a phase that may wrap the whole cycle."""
    value = contrast(image)
    if name != "phase":
        ends = float(image.min()), float(image.max())
        return "gray", (ends[0], max(ends[1], ends[0] + 1e-6)), value
    cycle = (-np.pi, np.pi)
    first = colours_of(name, *value)
    return first, cycle, cycle if first == "twilight" else value


def probe_images(probe: np.ndarray) -> list[tuple[str, np.ndarray, int]]:
    """Of each mode of a probe (M, N, N), eight at most: a title with its part of the power, its amplitude in
    sqrt(photons), binned, and how many pixels of the probe that is along each side."""
    power = (np.abs(probe) ** 2).sum(axis=(1, 2))
    images = []
    for m, mode in enumerate(probe[:8]):
        amplitude, k = binned(np.abs(mode).astype("float32"), 128)
        images.append((f"mode {m + 1}: {100 * power[m] / power.sum():.1f} %", amplitude, amplitude.shape[0] * k))
    return images


def probe_panels(probe: np.ndarray):
    """The modes of a probe, see `probe_images`."""
    from bokeh.layouts import row
    from bokeh.models import LinearColorMapper

    plots = []
    for m, (title, amplitude, side) in enumerate(probe_images(probe)):
        mapper = LinearColorMapper(palette=palette("viridis"), low=0, high=float(amplitude.max()) or 1.0)
        plot = _figure(title, (190, 190), x_range=(0, side), y_range=(side, 0), tools="wheel_zoom,pan,reset")
        _image(plot, amplitude, mapper, (0, 0, side, side), f"mode {m + 1}")
        plots.append(plot)
    return row(*plots, styles=WRAPPED)


def _scan_panels(scan: Scan, result: Reconstruction | None):
    """Scan positions over the light, coloured by residual; a click on one shows its pattern and the prediction."""
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS, LinearColorMapper
    from bokeh.models.widgets import Div, Spinner

    size, unit = unit_of(scan)
    positions = scan.positions if result is None else result.positions_px
    light, k = (None, 1) if result is None else binned(result.coverage, 256)
    low, high = positions.min(axis=0) - scan.N // 2, positions.max(axis=0) + scan.N // 2
    plot = _figure(
        "scan path (click on a frame)",
        (330, int(np.clip(330 * (high[0] - low[0]) / (high[1] - low[1]), 120, 600))),
        tools="tap,pan,wheel_zoom,reset",
        active_scroll="wheel_zoom",
        match_aspect=True,
        x_range=(low[1] * size, high[1] * size),
        y_range=(high[0] * size, low[0] * size),
        name="scan path",
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = f"x ({unit})", f"y ({unit})"
    if light is not None:
        extent = (0.0, 0.0, light.shape[1] * k * size, light.shape[0] * k * size)
        _image(plot, light.astype("float32"), LinearColorMapper(palette=palette("gray"), low=0), extent)
    y, x = (positions * size).astype("float32").T
    plot.line(x, y, color=INK, alpha=0.4)
    residual = None if result is None else result.frame_residual
    value = np.log10(np.maximum(scan.frame_counts if residual is None else residual, 1e-3)).astype("float32")
    label = "log10 counts" if residual is None else "log10 (squared residual / shot noise)"
    finite = value[np.isfinite(value)]
    ends = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 1.0)
    mapper = LinearColorMapper(
        palette=palette("viridis"), low=float(ends[0]), high=float(max(ends[1], ends[0] + 1e-3)), nan_color="#888888"
    )
    dots = ColumnDataSource(dict(x=x, y=y, value=value))
    plot.scatter(
        "x",
        "y",
        source=dots,
        size=7,
        name="frames",
        line_color=None,
        fill_color=dict(field="value", transform=mapper),
        nonselection_fill_alpha=0.7,
        selection_line_color="#d62728",
        selection_line_width=3,
    )
    _colour_bar(plot, mapper, label)
    frames, images = _patterns(scan, result)
    stored = ColumnDataSource({name: list(stack) for name, stack in images.items()} | dict(frame=frames))
    first = int(np.argmin(abs(frames - len(scan) // 2)))
    shown = ColumnDataSource({name: [stack[first]] for name, stack in images.items()})
    title = Div(text=f"frame {frames[first]}")
    grey = LinearColorMapper(palette=palette("viridis"), low=0, high=255)
    side = next(iter(images.values())).shape[-1]
    panels: list[Any] = []
    for name in images:
        shared = (
            dict(x_range=panels[0].x_range, y_range=panels[0].y_range)
            if panels
            else dict(x_range=(0, side), y_range=(side, 0))
        )
        panel = _figure(
            f"{name}, logarithm of counts",
            (250, 250),
            tools="pan,wheel_zoom,reset",
            active_scroll="wheel_zoom",
            **shared,
        )
        panel.image(name, x=0, y=0, dw=side, dh=side, source=shown, color_mapper=grey)
        panels.append(panel)
    # The frame that was clicked on, or the nearest one whose pattern is in the page.
    show = """
      let best = 0
      const have = stored.data.frame
      for (let k = 0; k < have.length; k++) if (Math.abs(have[k] - wanted) < Math.abs(have[best] - wanted)) best = k
      const next = {}
      for (const name of names) next[name] = [stored.data[name][best]]
      shown.data = next
      title.text = "frame " + have[best] + (have[best] == wanted ? "" : ": the nearest in this page to " + wanted)
    """
    args = dict(stored=stored, shown=shown, title=title, names=list(images))
    number = Spinner(
        title="frame", low=0, high=len(scan) - 1, step=1, value=int(frames[first]), width=120, stylesheets=WIDGET
    )
    number.js_on_change("value", CustomJS(args=args | dict(dots=dots), code=f"const wanted = this.value; {show}"))
    pick = "if (dots.selected.indices.length) { number.value = dots.selected.indices[0] }"
    dots.selected.js_on_change("indices", CustomJS(args=dict(dots=dots, number=number), code=pick))
    return row(plot, column(row(number, title), row(*panels, styles=WRAPPED)), styles=WRAPPED)


def _patterns(scan: Scan, result: Reconstruction | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames that the page holds, and their patterns as bytes, from 0 to the logarithm of the brightest pixel."""
    k = -(-scan.N // 128)
    side = (scan.N - scan.N % k) // k
    most = max(1, PATTERNS_BYTES // (side**2 * (1 if result is None else 2)))
    frames = np.unique(np.linspace(0, len(scan) - 1, min(most, len(scan))).round().astype(int))
    stacks = dict(measured=np.asarray(scan.counts[frames], "float32"))
    if result is not None:
        places = result.positions_px
        stacks["predicted"] = expected_counts(result.object, result.probe, places, frames, scan.transfer)
    top = np.log1p(max(float(stack.max()) for stack in stacks.values()))
    images = {}
    for name, stack in stacks.items():
        level = np.stack([binned(np.log1p(np.maximum(frame, 0)), 128)[0] for frame in stack])
        images[name] = np.clip(level * (255 / top), 0, 255).astype("uint8")
    return frames, images


COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")


def epochs(history: Sequence[dict[str, Any]], names: Mapping[str, str]) -> Lines:
    """Curves over the epochs of a history, of the keys that it has, under the names of these."""
    count = [entry["epoch"] for entry in history]
    return {name: (count, [entry[key] for entry in history]) for key, name in names.items() if key in history[-1]}


def curve_panel(x: str, y: str, curves: Lines, *, logarithmic: bool, title: str = ""):
    plot = curve_plot(x, y, logarithmic=logarithmic, title=title)
    known = {name: [at for at in zip(*line, strict=True) if at[1] is not None] for name, line in curves.items()}
    add_curves(plot, {name: list(zip(*points)) for name, points in known.items() if points})
    return plot


def curve_plot(x: str, y: str, *, logarithmic: bool, title: str = ""):
    """The panel of curves before there are any."""
    scale, tools = "log" if logarithmic else "linear", "pan,wheel_zoom,box_zoom,reset,hover"
    plot = _figure(title, (560, 240), y_axis_type=scale, tools=tools)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x, y
    return plot


def add_curves(plot, curves: Mapping[str, Sequence[Any]], **source: Any) -> None:
    """Draw lines by name, from their values or from the columns of a source."""
    for (name, line), colour in zip(curves.items(), COLOURS):
        plot.line(*line, legend_label=name, name=name, color=colour, line_width=2, **source)
    plot.legend.background_fill_alpha = 0
    plot.legend.label_text_color = INK


def _correlation(scores: Mapping[str, Scores]):
    """The FRC of each object with the true one, and the usual thresholds."""
    frequency, _, half_bit = next(iter(scores.values())).correlation
    lines: dict[str, Any] = {name: own.correlation[:2] for name, own in scores.items()}
    for name, level in (("0.5", 0.5), ("1/7", 1 / 7)):
        lines[name] = (frequency, np.full(len(frequency), level))
    lines["half bit"] = (frequency, half_bit)
    return curve_panel("spatial frequency (of Nyquist)", "correlation", lines, logarithmic=False)
