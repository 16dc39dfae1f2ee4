"""The report: what was measured, beside the paper, as a page, as Markdown and as numbers."""

from pipeline.report.study_page import write_study
from pipeline.report.write import write_report

__all__ = ["write_report", "write_study"]
