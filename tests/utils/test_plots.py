"""Charts: the same bytes again, nothing of the user's matplotlib touched or followed, any text."""

from __future__ import annotations

import io
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image

from hf_finetune.utils.plots import line_chart, render, sparkline

CHART = line_chart(
    {"a<b": ([1, 10, 100], [0.0, 2.0, 1.0]), "$x$ 好": ([1, 100], [1.0, 1.0])},
    title="t&c $5 and $6",
    x_label="learning rate",
    y_label="loss (nats)",
    log_x=True,
    marks={"proposed": 10, "lowest": 50, "steepest": 10},
)


def test_both_files_can_be_read_and_hold_all_text() -> None:
    """No formula is made of dollars, and a character without a glyph is no warning, which would be an error here."""
    png, svg = render(CHART, "png", "svg")
    root = ElementTree.fromstring(svg)
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a<b", "$x$ 好", "t&c $5 and $6", "learning rate", "loss (nats)", "proposed, steepest", "lowest"} <= texts
    assert Image.open(io.BytesIO(png)).size == (1036, 489) and len(png) < 60_000


def test_the_same_bytes_again_whatever_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render(CHART, "png", "svg")
    assert b"matplotlib.org/" not in before[1] and b"<dc:date>" not in before[1], "neither version nor date"
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "mine")
    assert render(CHART, "png", "svg") == before
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]) == (30, "mine")


def test_pyplot_and_its_backend_are_left_alone() -> None:
    code = (
        "import sys; from hf_finetune.utils.plots import line_chart, render; assert 'matplotlib' not in sys.modules\n"
        "render(line_chart({'a': ([0, 1], [0.0, 0.0])}, title='', x_label='', y_label=''), 'svg', 'png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_of_bars() -> None:
    assert sparkline([0, 7]) == "▁█" and sparkline([1, 1]) == "▄▄" and len(sparkline(range(1000))) == 60
