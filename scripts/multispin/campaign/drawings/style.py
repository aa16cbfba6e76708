"""How figures look: colours that colour-blind readers can tell apart, and ink that follows the reader's scheme.

Colours: Okabe and Ito, "Color Universal Design" (2008), without the yellow, which a white page swallows; the two ends
of the map are their blue and vermillion. Every arm also has a marker and a line style of its own.
"""

import io
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["COLOURS", "INK", "MARKERS", "STYLES", "legend", "new_figure", "render", "wrapped"]

INK: Final = "#0a0b0c"  # stands for the page's own in an SVG, and is near black in a PNG
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")  # one more than colours, so pairs do not repeat
STYLES: Final = ("-", "--", "-.", ":")
_WIDTH_IN: Final = 7.2
_SETTINGS: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "multispin",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "figure.constrained_layout.use": True,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    "legend.frameon": False,
}
_INK_BY_SCHEME: Final = (
    "<style>:root{--ink:#16181a}@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea}}"
    "text{font-family:system-ui,sans-serif}</style>"
)


def new_figure(height_in: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of the page's width and its axes, [rows][columns]."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_IN, height_in))
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.patch.set_alpha(0.0)
    for each in axes.flat:
        each.patch.set_alpha(0.0)
        each.set_axisbelow(True)
    return figure, axes


def legend(figure: Figure, axis: Any, columns: int = 4) -> None:
    """Put the names of what an axis shows above the figure."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=min(columns, len(names)),
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )


def render(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as SVG, whose ink follows light and dark, and as PNG on white."""
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    text = svg.getvalue().decode().replace(INK, "var(--ink)")
    head, mark, rest = text.partition("<defs>")
    return (head + _INK_BY_SCHEME + mark + rest).encode(), png.getvalue()


def wrapped(name: str, width: int = 18) -> str:
    """Return a name in lines that fit an axis.

    >>> wrapped("cooperation by price", 12)
    'cooperation\\nby price'
    """
    lines = [""]
    for word in name.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
