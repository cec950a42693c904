"""Plots as SVG, drawn by hand: bars side by side, and curves on logarithmic axes."""

import math
from html import escape

WIDTH, HEIGHT = 880, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 70
COLOURS = ("#2f6fb0", "#d9822b", "#5b9a4a", "#8e5ea2", "#999999")
LINE = "#b02a37"


def text(x, y, content, anchor="middle", size=12, turn=None):
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{turned}>{escape(content)}</text>'


def line(x1, y1, x2, y2, colour="#ccc", width=1, dash=""):
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def page(title, unit, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    titles = [text(LEFT, 20, title, "start", 15), text(LEFT, TOP - 8, unit, "start", 11)]
    return "\n".join([head, background, *titles, *parts, "</svg>"]) + "\n"


class Axis:
    """From a value to a place. A logarithmic one begins at a power of ten, a linear one at 0."""

    def __init__(self, low, high, begin, end, logarithmic):
        self.begin, self.end, self.logarithmic = begin, end, logarithmic
        if logarithmic:
            self.low = math.floor(math.log10(max(low, 1e-6)) + 1e-9)
            self.high = max(math.ceil(math.log10(max(high, 1e-6)) - 1e-9), self.low + 1)
        else:
            unit = 10 ** math.floor(math.log10(max(high, 1e-6)))
            self.low, self.step = 0, unit / 2 if high / unit < 3 else unit
            self.high = math.ceil(high / self.step + 1e-9) * self.step

    def at(self, value):
        position = math.log10(max(value, 10**self.low)) if self.logarithmic else value
        return self.begin + (self.end - self.begin) * (position - self.low) / (self.high - self.low)

    def ticks(self):
        if self.logarithmic:
            return [10**power for power in range(self.low, self.high + 1)]
        return [number * self.step for number in range(round(self.high / self.step) + 1)]


def short(value):
    """12, 1.5k, 20M"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def legend(names, colours):
    parts, x = [], LEFT
    for name, colour in zip(names, colours):
        parts.append(f'<rect x="{x}" y="29" width="11" height="11" fill="{colour}"/>')
        parts.append(text(x + 16, 39, name, "start"))
        x += 34 + 7 * len(name)
    return parts


def grid(axis):
    parts = []
    for tick in axis.ticks():
        y = axis.at(tick)
        parts += [line(LEFT, y, WIDTH - RIGHT, y, "#e4e4e4"), text(LEFT - 6, y + 4, short(tick), "end", 11)]
    return parts


def bars(title, unit, series, groups, logarithmic=False, limits=None):
    """`groups`: (name, one value for each of `series`; None where there is none). `limits`: lines over groups."""
    limits = limits or {}
    every = [value for _, values in groups for value in values if value is not None] + list(limits.values())
    if not every:
        return None
    # A bar of 1 must be seen on a logarithmic axis.
    axis = Axis(0.5 if logarithmic else 0, max(every), HEIGHT - BOTTOM, TOP, logarithmic)
    parts = grid(axis)
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    width = room * 0.8 / len(series)
    for number, (name, values) in enumerate(groups):
        x = LEFT + number * room
        for place, value in enumerate(values):
            left = x + room * 0.1 + place * width
            if value is None:
                parts.append(text(left + width / 2, axis.begin - 4, "-", size=11))
                continue
            top = axis.at(value)
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{width * 0.92:.1f}" height="{max(axis.begin - top, 1):.1f}" '
                f'fill="{COLOURS[place]}"/>'
            )
            parts.append(text(left + width / 2, top - 4, short(value), size=10))
        if name in limits:
            y = axis.at(limits[name])
            parts += [line(x + room * 0.04, y, x + room * 0.96, y, LINE, 2, "6 3")]
            parts.append(text(x + room * 0.96, y - 5, f"raw {short(limits[name])}", "end", 11))
        for row, word in enumerate(name.split("\n")):
            parts.append(text(x + room / 2, axis.begin + 16 + 13 * row, word, size=11))
    return page(title, unit, parts + legend(series, COLOURS))


def curves(title, unit, across, series):
    """`series`: (name, [(x, y), ...]); both axes are logarithmic."""
    points = [point for _, line_points in series for point in line_points if point[1] is not None]
    if not points:
        return None
    xs = [x for x, _ in points]
    # Zeros lie at the bottom, with their label.
    ys = [y for _, y in points if y > 0] or [1]
    vertical = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, True)
    horizontal = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT - 60, True)
    parts = grid(vertical)
    for tick in horizontal.ticks():
        x = horizontal.at(tick)
        parts += [line(x, vertical.begin, x, vertical.end, "#e4e4e4"), text(x, vertical.begin + 16, short(tick), size=11)]
    parts.append(text((LEFT + WIDTH) / 2, vertical.begin + 36, across))
    for (name, line_points), colour in zip(series, COLOURS):
        places = [(horizontal.at(x), vertical.at(y), y) for x, y in line_points if y is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, value in places:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>', text(x + 6, y - 6, short(value), "start", 10)]
    return page(title, unit, parts + legend([name for name, _ in series], COLOURS))
