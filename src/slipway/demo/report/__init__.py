"""The demo's report: `report.json` (documented schema), `report.md`, an offline `report.html`."""

from slipway.demo.report.content import build_report
from slipway.demo.report.write import write_report

__all__ = ["build_report", "write_report"]
