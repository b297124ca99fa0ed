"""What a run leaves behind: files written whole, a metrics file, a progress bar and one self-contained report."""

from tandem.report.figures import budget_figure, comparison_figure, lengths_figure, png, retrieval_figure
from tandem.report.files import atomic_directory, atomic_path
from tandem.report.formats import formats_figure
from tandem.report.metrics import MetricsWriter, read_metrics
from tandem.report.page import write_report
from tandem.report.progress import progress
from tandem.report.search import search_figure
from tandem.report.study import study_figure

__all__ = [
    "MetricsWriter",
    "atomic_directory",
    "atomic_path",
    "budget_figure",
    "comparison_figure",
    "formats_figure",
    "lengths_figure",
    "png",
    "progress",
    "read_metrics",
    "retrieval_figure",
    "search_figure",
    "study_figure",
    "write_report",
]
