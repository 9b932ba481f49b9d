"""The accuracy report: one HTML file that needs no network, and the same plots as PNG."""

from .page import write_report
from .pictures import Case, KeptTokens
from .plots import write_plots

__all__ = ["Case", "KeptTokens", "write_plots", "write_report"]
