"""Pictures of a training. Drawing needs matplotlib: `pip install wdfast[plot]`."""

from __future__ import annotations

from .report import Evaluation, draw_report, write_report
from .sheet import image_sheet

__all__ = ["Evaluation", "draw_report", "image_sheet", "write_report"]
