"""What a run leaves behind: files written whole, a metrics file, a progress bar and one self-contained report."""

from tandem.report.figures import budget_figure, comparison_figure, lengths_figure, png, retrieval_figure
from tandem.report.files import atomic_directory, atomic_path
from tandem.report.formats import formats_figure
from tandem.report.metrics import MetricsWriter, read_metrics
from tandem.report.page import write_report
from tandem.report.progress import progress
from tandem.report.questions import faces_figure, questions_figure, screening_figure, spread_figure
from tandem.report.search import search_figure
from tandem.report.study import study_figure

__all__ = [
    "MetricsWriter",
    "atomic_directory",
    "atomic_path",
    "budget_figure",
    "comparison_figure",
    "faces_figure",
    "formats_figure",
    "lengths_figure",
    "png",
    "progress",
    "questions_figure",
    "read_metrics",
    "retrieval_figure",
    "screening_figure",
    "search_figure",
    "spread_figure",
    "study_figure",
    "write_report",
]
