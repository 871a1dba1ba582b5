"""Panels by Bokeh for the report and the live page: object, probe, frames of the scan, and curves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptycho.arrays import Array, Complex, Float, Int, Num
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation.through_focus import ThroughFocus
from ptycho.images import (
    amplitude_and_phase,
    binned,
    colour_map,
    contrast_limits,
    displayed_slices,
    illuminated_region,
    length_unit,
    ramp_removed,
)
from ptycho.training.schedule import Epoch

if TYPE_CHECKING:
    from bokeh.models import Column, ColumnDataSource, LinearColorMapper, Range1d, Row
    from bokeh.plotting import figure as Figure

INK = "#4d4d4d"
"""Colour of axes and labels; ``page.js`` replaces it on a dark page."""

WRAPPED = {"flex-wrap": "wrap"}
"""Style of a row that continues below on a narrow screen."""

FIELD_STYLE: list[Any] = [".bk-input { color: #1b1b1b; background: #ffffff; }"]
"""Style of input fields: Bokeh makes them white, and the dark scheme of the page their text too."""

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")

Extent = tuple[float, float, float, float]
"""First x, first y, width and height."""

Curves = Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float | None] | np.ndarray]]
"""x and y by the name of the curve; points with y = None are left out."""

History = Sequence[Epoch | Mapping[str, Any]]
"""Epochs with their losses or errors, as `train` and `refine` return them."""


class PixelUnit(NamedTuple):
    """The length of an object pixel in the unit of the axes."""

    length: float
    name: str


def pixel_unit(scan: Scan) -> PixelUnit:
    """µm where the pixel size is known, nm where it is below one; else pixels."""
    if not scan.pixel_size_m:
        return PixelUnit(1.0, "px")
    per_metre, name = (1e9, "nm") if scan.pixel_size_m < 1e-9 else (1e6, "µm")
    return PixelUnit(scan.pixel_size_m * per_metre, name)


class ObjectImages(NamedTuple):
    """An object as a page draws it."""

    images: dict[str, np.ndarray]
    """``phase`` and ``amplitude``, (H, W) float32."""
    extent: Extent
    """In the unit of the page."""
    binning: int
    """Object pixels along the side of one that is drawn."""


def object_images(
    scan: Scan, result: Reconstruction, side_px: int, origin_px: Sequence[float] | np.ndarray = (0.0, 0.0)
) -> ObjectImages:
    """The illuminated region of an object, binned to at most ``side_px`` pixels along the longest side.

    ``origin_px`` (y, x) is the position of its first pixel.
    """
    rows, columns = illuminated_region(result.coverage)
    small = lambda layer: binned(ramp_removed(layer[rows, columns]), side_px)
    image, k = small(result.object)
    slices = None if result.slices is None else np.stack([small(layer)[0] for layer in result.slices])
    length, _ = pixel_unit(scan)
    return ObjectImages(
        # The phase first: of most samples it says more.
        {
            name.partition(" ")[0]: values.astype("float32")
            for name, values in reversed(amplitude_and_phase(image, slices).items())
        },
        (
            (columns.start + origin_px[1]) * length,
            (rows.start + origin_px[0]) * length,
            image.shape[1] * k * length,
            image.shape[0] * k * length,
        ),
        k,
    )


class Ranges(NamedTuple):
    """The axes of plots that are panned and zoomed together."""

    x: "Range1d"
    y: "Range1d"

    @classmethod
    def of(cls, extent: Extent) -> "Ranges":
        from bokeh.models import Range1d

        x, y, width, height = extent
        return cls(Range1d(start=x, end=x + width), Range1d(start=y + height, end=y))


def object_panels(images: ObjectImages, unit: PixelUnit, ranges: Ranges | None = None) -> "Row":
    """Phase and amplitude side by side, on common axes: those given, or new ones."""
    from bokeh.layouts import row

    ranges = ranges or Ranges.of(images.extent)
    columns = [_object_panel(name, images, unit, ranges) for name in images.images]
    return row(*columns, styles=WRAPPED)


def _object_panel(name: str, images: ObjectImages, unit: PixelUnit, ranges: Ranges) -> "Column":
    """One image with its colour bar and scale bar, above the controls of its colours."""
    from bokeh.layouts import column, row
    from bokeh.models import LinearColorMapper

    image, extent = images.images[name], images.extent
    colours, limits, value = colour_range(name, image)
    mapper = LinearColorMapper(palette=palette(colours), low=value[0], high=value[1])
    plot = _figure(
        name + (f", binned by {images.binning}" if images.binning > 1 else ""),
        (400, int(np.clip(400 * extent[3] / extent[2], 120, 640))),
        tools="pan,wheel_zoom,box_zoom,zoom_in,zoom_out,reset,save,hover",
        active_scroll="wheel_zoom",
        match_aspect=True,
        tooltips=[("x, y", "$x, $y"), (name, "@image")],
        x_range=ranges.x,
        y_range=ranges.y,
    )
    _label_axes(plot, unit)
    _draw(plot, image, mapper, extent, name)
    _add_colour_bar(plot, mapper, "rad" if name == "phase" else "")
    _add_scale_bar(plot, unit)
    return column(plot, row(*_colour_controls(name, mapper, colours, limits, value), styles=WRAPPED))


def _add_scale_bar(plot: "Figure", unit: PixelUnit) -> None:
    from bokeh.models.annotations import ScaleBar
    from bokeh.models.annotations.dimensional import MetricLength

    # The script of Bokeh 3.9 has no CustomDimensional, so pixels are drawn as metres with another label.
    options: dict[str, Any] = dict(unit=unit.name)
    if unit.name == "px":
        options = dict(unit="m", dimensional=MetricLength(include=["m"]), label="@{value} px")
    plot.add_layout(ScaleBar(range=plot.x_range, location="bottom_right", **options))


def _colour_controls(
    name: str, mapper: "LinearColorMapper", colours: str, limits: tuple[float, float], value: tuple[float, float]
) -> tuple[Any, Any]:
    """A slider for the range of a colour map, and a choice of the map."""
    from bokeh.models import CustomJS
    from bokeh.models.widgets import RangeSlider, Select

    slider = RangeSlider(
        start=limits[0],
        end=limits[1],
        value=value,
        step=(limits[1] - limits[0]) / 500,
        title=f"{name}: colour range",
        name=f"{name}: colour range",
        width=330,
        format="0.000",
    )
    slider.js_link("value", mapper, "low", attr_selector=0)
    slider.js_link("value", mapper, "high", attr_selector=1)
    options: list[Any] = ["gray", "viridis"] + (["twilight"] if name == "phase" else [])
    choice = Select(title=f"{name}: colours", options=options, value=colours, width=140, stylesheets=FIELD_STYLE)
    # A cyclic map over less than a cycle would give two phases one colour.
    choose = CustomJS(
        args=dict(mapper=mapper, palettes={option: palette(option) for option in options}, slider=slider),
        code="mapper.palette = palettes[this.value]\n"
        'if (this.value == "twilight") slider.value = [slider.start, slider.end]',
    )
    choice.js_on_change("value", choose)
    return slider, choice


def colour_range(name: str, image: Float[Array, "H W"]) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """The initial colour map, the limits of its range, and its initial range: the full cycle for a phase that wraps."""
    value = contrast_limits(image)
    if name != "phase":
        low = float(image.min())
        return "gray", (low, max(float(image.max()), low + 1e-6)), value
    cycle = (-np.pi, np.pi)
    colours = colour_map(name, *value)
    return colours, cycle, cycle if colours == "twilight" else value


def palette(name: str) -> list[str]:
    """256 colours of a matplotlib map: ``gray``, ``viridis``, or ``twilight``, which is cyclic."""
    from matplotlib import colormaps

    colours = np.rint(255 * colormaps[name](np.arange(256) / 255)[:, :3]).astype("uint8")
    return [f"#{colour.tobytes().hex()}" for colour in colours]


class SmallImage(NamedTuple):
    """One of several small images side by side."""

    title: str
    image: np.ndarray
    """Binned to 128 pixels: float32, or colours as uint32."""
    extent: Extent
    """In pixels of the image before."""
    limits: tuple[float, float]
    """The values of the first and the last colour."""


def small_image(title: str, image: Float[Array, "H W"], limits: tuple[float, float] | None = None) -> SmallImage:
    """A small image, by default from 0 to its largest value."""
    image, k = binned(image.astype("float32"), 128)
    height, width = image.shape
    return SmallImage(title, image, (0, 0, width * k, height * k), limits or (0.0, float(image.max()) or 1.0))


def mode_images(probe: Complex[Array, "M n n"], most: int = 8) -> list[SmallImage]:
    """The amplitudes of the first modes of a probe, in sqrt(photons), with their fractions of the power."""
    power = (np.abs(probe) ** 2).sum(axis=(1, 2))
    percent = 100 * power / power.sum()
    return [small_image(f"mode {m + 1}: {percent[m]:.1f} %", np.abs(mode)) for m, mode in enumerate(probe[:most])]


def complex_mode_images(probe: Complex[Array, "M n n"], most: int = 8) -> list[SmallImage]:
    """`mode_images` with the phase as colour: red 0, going through green and blue, and the amplitude as brightness."""
    images = mode_images(probe, most)
    coloured = []
    for mode, (title, amplitude, extent, limits) in zip(probe, images):
        # The bins of a phase that turns within them show its mean direction.
        phase = np.angle(binned(mode, 128)[0])
        coloured.append(SmallImage(title, _coloured(phase, amplitude / limits[1]), extent, limits))
    return coloured


def _coloured(phase: Float[Array, "h w"], brightness: Float[Array, "h w"]) -> Num[Array, "h w"]:
    """Colours as Bokeh takes them: bytes of red, green, blue and opacity in one uint32."""
    from matplotlib.colors import hsv_to_rgb

    hsv = np.stack([(phase / (2 * np.pi)) % 1, np.full(phase.shape, 0.85), np.clip(brightness, 0, 1)], axis=-1)
    rgba = np.concatenate([hsv_to_rgb(hsv), np.ones((*phase.shape, 1))], axis=-1)
    return np.rint(255 * rgba).astype("uint8").view("uint32")[..., 0]


def opr_images(result: Reconstruction, most: int = 8) -> list[SmallImage]:
    """The amplitudes of the first OPR modes, with the power that they add to the first probe mode on average."""
    if result.opr_modes is None or result.opr_weights is None:
        return []
    power = (np.abs(result.opr_modes) ** 2).sum(axis=(1, 2)) * (result.opr_weights**2).mean(axis=0)
    percent = 100 * power / (np.abs(result.probe[0]) ** 2).sum()
    modes = enumerate(result.opr_modes[:most])
    return [small_image(f"OPR mode {k + 1}: {percent[k]:.2f} %", np.abs(mode)) for k, mode in modes]


def slice_images(result: Reconstruction, most: int = 16) -> list[SmallImage]:
    """The phases (rad) of the first slices of a thick sample, in the order in which the wave meets them."""
    slices = displayed_slices(result.slices, result.coverage)
    if slices is None:
        return []
    phases = np.angle(slices[:most])
    return [small_image(f"slice {k + 1}: phase", phase, contrast_limits(phase)) for k, phase in enumerate(phases)]


def small_panels(images: Sequence[SmallImage]) -> "Row":
    """Small images side by side, which share one scale of length but not their colours."""
    from bokeh.layouts import row
    from bokeh.models import LinearColorMapper

    plots = []
    for title, image, extent, limits in images:
        mapper = LinearColorMapper(palette=palette("viridis"), low=limits[0], high=limits[1])
        ranges = Ranges.of(extent)
        height = int(np.clip(160 * extent[3] / extent[2], 60, 400))
        plot = _figure(title, (160, height), x_range=ranges.x, y_range=ranges.y, tools="wheel_zoom,pan,reset")
        _draw(plot, image, mapper, extent, title.partition(":")[0])
        plots.append(plot)
    return row(*plots, styles=WRAPPED)


def focus_panels(focus: ThroughFocus) -> "Row":
    """The beam as it looks from the side, along the way that the light takes, and the first modes in focus."""
    from bokeh.layouts import row
    from bokeh.models import LinearColorMapper
    from bokeh.models.annotations import Span

    height_m = focus.side_x.shape[0] * focus.pixel_size_m
    (across, across_name), (along, along_name) = length_unit(height_m), length_unit(float(np.ptp(focus.distances_m)))
    height, (first, last) = height_m * across, focus.distances_m[[0, -1]] * along
    plots = []
    # Amplitudes: the intensity in focus is a hundred times that at the sample and more.
    for name, amplitude in (("y", np.sqrt(focus.side_y)), ("x", np.sqrt(focus.side_x))):
        extent = (first, -height / 2, last - first, height)
        ranges = Ranges.of(extent)
        plot = _figure(f"from the side: {name}", (225, 150), x_range=ranges.x, y_range=ranges.y, tools="pan,reset")
        mapper = LinearColorMapper(palette=palette("viridis"), low=0.0, high=float(amplitude.max()))
        _draw(plot, amplitude.astype("float32"), mapper, extent, name)
        plot.xaxis.axis_label, plot.yaxis.axis_label = f"along the beam ({along_name})", f"{name} ({across_name})"
        plot.add_layout(Span(location=0, dimension="height", line_color="white", line_dash="dashed"))
        plots.append(plot)
    return row(*plots, small_panels(complex_mode_images(focus.middle, 2)), styles=WRAPPED)


def frame_panels(scan: Scan, result: Reconstruction | None, patterns_bytes: int = 4_000_000) -> "Row":
    """Scan positions on the coverage, coloured by residual; a click on one shows its pattern and the prediction.

    Patterns and predictions take ``patterns_bytes`` at most, and a third more as text; of scans with more, every k-th
    frame is included.
    """
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS, LinearColorMapper
    from bokeh.models.widgets import Div, Spinner

    plot, dots = _scan_path(scan, result)
    frames, images = pattern_images(scan, result, patterns_bytes)
    first = int(np.argmin(abs(frames - len(scan) // 2)))
    stored = ColumnDataSource({name: list(stack) for name, stack in images.items()} | dict(frame=frames))
    selected = ColumnDataSource({name: [stack[first]] for name, stack in images.items()})
    title = Div(text=f"frame {frames[first]}")
    mapper = LinearColorMapper(palette=palette("viridis"), low=0, high=255)
    side = next(iter(images.values())).shape[-1]
    ranges = Ranges.of((0, 0, side, side))
    panels = []
    for name in images:
        panel = _figure(
            f"{name}, logarithm of counts",
            (250, 250),
            tools="pan,wheel_zoom,reset",
            active_scroll="wheel_zoom",
            x_range=ranges.x,
            y_range=ranges.y,
        )
        panel.image(name, x=0, y=0, dw=side, dh=side, source=selected, color_mapper=mapper)  # type: ignore[call-arg]
        panels.append(panel)
    number = Spinner(
        title="frame", low=0, high=len(scan) - 1, step=1, value=int(frames[first]), width=120, stylesheets=FIELD_STYLE
    )
    args = dict(stored=stored, selected=selected, title=title, names=list(images))
    number.js_on_change("value", CustomJS(args=args, code=SELECT_FRAME))
    pick = "if (dots.selected.indices.length) { number.value = dots.selected.indices[0] }"
    dots.selected.js_on_change("indices", CustomJS(args=dict(dots=dots, number=number), code=pick))
    return row(plot, column(row(number, title), row(*panels, styles=WRAPPED)), styles=WRAPPED)


SELECT_FRAME = """
  const frame = this.value
  let nearest = 0
  const frames = stored.data.frame
  for (let k = 0; k < frames.length; k++)
    if (Math.abs(frames[k] - frame) < Math.abs(frames[nearest] - frame)) nearest = k
  const patterns = {}
  for (const name of names) patterns[name] = [stored.data[name][nearest]]
  selected.data = patterns
  title.text = "frame " + frames[nearest] + (frames[nearest] == frame ? "" : ": the nearest in this page to " + frame)
"""
"""Shows the patterns of a frame, or of the nearest one that the page holds."""


def _scan_path(scan: Scan, result: Reconstruction | None) -> tuple["Figure", "ColumnDataSource"]:
    """The plot of the scan positions, and its dots: one for each frame."""
    from bokeh.models import ColumnDataSource, LinearColorMapper

    unit = pixel_unit(scan)
    positions = scan.positions if result is None else result.positions_px
    low, high = positions.min(axis=0) - scan.N // 2, positions.max(axis=0) + scan.N // 2
    plot = _figure(
        "scan path (click on a frame)",
        (330, int(np.clip(330 * (high[0] - low[0]) / (high[1] - low[1]), 120, 600))),
        tools="tap,pan,wheel_zoom,reset",
        active_scroll="wheel_zoom",
        match_aspect=True,
        x_range=(low[1] * unit.length, high[1] * unit.length),
        y_range=(high[0] * unit.length, low[0] * unit.length),
        name="scan path",
    )
    _label_axes(plot, unit)
    if result is not None:
        coverage, k = binned(result.coverage, 256)
        extent = (0.0, 0.0, coverage.shape[1] * k * unit.length, coverage.shape[0] * k * unit.length)
        _draw(plot, coverage.astype("float32"), LinearColorMapper(palette=palette("gray"), low=0), extent)
    y, x = (positions * unit.length).astype("float32").T
    plot.line(x, y, color=INK, alpha=0.4)
    residual = None if result is None else result.frame_residual
    value = np.log10(np.maximum(scan.frame_counts if residual is None else residual, 1e-3)).astype("float32")
    finite = value[np.isfinite(value)]
    limits = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 1.0)
    mapper = LinearColorMapper(
        palette=palette("viridis"),
        low=float(limits[0]),
        high=float(max(limits[1], limits[0] + 1e-3)),
        nan_color="#888888",
    )
    dots = ColumnDataSource(dict(x=x, y=y, value=value))
    plot.scatter(  # type: ignore[call-arg]
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
    _add_colour_bar(plot, mapper, "log10 counts" if residual is None else "log10 (squared residual / shot noise)")
    return plot, dots


def pattern_images(
    scan: Scan, result: Reconstruction | None, most_bytes: int, side_px: int = 128
) -> tuple[Int[Array, " k"], dict[str, np.ndarray]]:
    """Frames to show, and their measured and predicted patterns as bytes: 255 log(1 + counts) / log(1 + largest)."""
    size = binned(np.empty((scan.N, scan.N)), side_px)[0].size * (1 if result is None else 2)
    most = max(1, most_bytes // size)
    frames = np.unique(np.linspace(0, len(scan) - 1, min(most, len(scan))).round().astype(int))
    stacks = dict(measured=np.asarray(scan.counts[frames], "float32"))
    if result is not None:
        stacks["predicted"] = result.expected_counts(frames)
    largest = np.log1p(max(float(stack.max()) for stack in stacks.values()))
    images = {}
    for name, stack in stacks.items():
        level = np.stack([binned(np.log1p(np.maximum(frame, 0)), side_px)[0] for frame in stack])
        images[name] = np.clip(level * (255 / largest), 0, 255).astype("uint8")
    return frames, images


def epoch_curves(history: History, titles: Mapping[str, str]) -> Curves:
    """Curves over the epochs of a history, for those numbers of ``titles`` that it has."""
    records = [entry if isinstance(entry, Mapping) else entry.to_dict() for entry in history]
    epochs = [record["epoch"] for record in records]
    return {title: (epochs, [record[key] for record in records]) for key, title in titles.items() if key in records[-1]}


def curve_panel(x: str, y: str, curves: Curves, *, logarithmic: bool, title: str = "") -> "Figure":
    """Curves with a legend; ``x`` and ``y`` are the labels of the axes."""
    plot = curve_plot(x, y, logarithmic=logarithmic, title=title)
    points = {name: [p for p in zip(*xy, strict=True) if p[1] is not None] for name, xy in curves.items()}
    add_curves(plot, {name: list(zip(*pairs)) for name, pairs in points.items() if pairs})
    return plot


def curve_plot(x: str, y: str, *, logarithmic: bool, title: str = "") -> "Figure":
    """The panel of curves, still empty."""
    scale, tools = "log" if logarithmic else "linear", "pan,wheel_zoom,box_zoom,reset,hover"
    plot = _figure(title, (560, 240), y_axis_type=scale, tools=tools)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x, y
    return plot


def add_curves(plot: "Figure", curves: Mapping[str, Sequence[Any]], **source: Any) -> None:
    """Draw curves by name, from their values or from the columns of a source."""
    for (name, xy), colour in zip(curves.items(), COLOURS):
        plot.line(*xy, legend_label=name, name=name, color=colour, line_width=2, **source)
    plot.legend.background_fill_alpha = 0
    plot.legend.label_text_color = INK


def _figure(title: str, frame: tuple[int, int], **options: Any) -> "Figure":
    """A figure whose frame has this width and height on the screen."""
    from bokeh.models.annotations import Title
    from bokeh.plotting import figure

    plot = figure(
        title=Title(text=title, text_color=INK),
        frame_width=frame[0],
        frame_height=frame[1],
        width_policy="min",  # in a row that wraps a figure would be drawn for a wider frame than it has
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


def _label_axes(plot: "Figure", unit: PixelUnit) -> None:
    plot.xaxis.axis_label, plot.yaxis.axis_label = f"x ({unit.name})", f"y ({unit.name})"


def _draw(
    plot: "Figure", image: np.ndarray, mapper: "LinearColorMapper", extent: Extent, name: str | None = None
) -> None:
    """Draw (H, W) with row 0 at the top."""
    x, y, width, height = extent
    if image.dtype == np.uint32:
        plot.image_rgba([image], x=x, y=y, dw=width, dh=height, level="image", name=name)  # type: ignore[call-arg]
        return
    plot.image(  # type: ignore[call-arg]
        [np.ascontiguousarray(image)], x=x, y=y, dw=width, dh=height, color_mapper=mapper, level="image", name=name
    )


def _add_colour_bar(plot: "Figure", mapper: "LinearColorMapper", title: str) -> None:
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
