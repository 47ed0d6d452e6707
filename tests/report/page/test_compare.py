"""The page of `compare`: which channels are beyond their tolerance, and how sure times are."""

from __future__ import annotations

import pytest

from onnxshare.comparison.results import OutputComparison
from onnxshare.report.page.compare import errors_by_channel, intervals
from onnxshare.report.plot.picture import Box, Dot, Line
from onnxshare.runtime.latency import Latency


def test_channels_beyond_their_tolerance_stand_out() -> None:
    """From a thousandth to ten times the tolerance are four decades: 0.1 is at half the height."""
    row = OutputComparison("y", channel_errors=(0.0, 0.1, 2.0, 10.0))
    bars = [shape for shape in errors_by_channel(row).shapes if isinstance(shape, Box)]
    assert [bar.role for bar in bars] == ["good", "chosen", "chosen"]  # none for no error
    assert bars[0].size[1] == pytest.approx(bars[2].size[1] / 2)
    (line,) = (s for s in errors_by_channel(row).shapes if isinstance(s, Line) and s.dashed)
    assert bars[1].at[1] < line.start[1] < bars[0].at[1]


def test_intervals_of_times() -> None:
    faster = Latency(1, 1e-3, 5e-4, 0.5, (0.4, 0.6), 100, 1, "faster")
    picture = intervals([faster, Latency(8, reason="too large")])
    assert picture is not None
    even = next(s for s in picture.shapes if isinstance(s, Line) and s.dashed).start[0]
    (bar,) = (s for s in picture.shapes if isinstance(s, Line) and not s.dashed)
    (dot,) = (s for s in picture.shapes if isinstance(s, Dot))
    assert bar.start[0] < dot.at[0] < bar.end[0] < even
    assert intervals([Latency(8, reason="too large")]) is None
