"""Evaluation: perplexity and bits per byte, retrieval tasks made from text, and an adapter for lm-eval."""

from tandem.evaluate.estimate import Estimate
from tandem.evaluate.needle import Needle, draw_needle
from tandem.evaluate.perplexity import Reading, TextScore, measure_text
from tandem.evaluate.phone_book import Line, PhoneBook, draw_lines, draw_phone_book, write_phone_book
from tandem.evaluate.results import Results
from tandem.evaluate.retrieval import Grid, Outcome, measure_retrieval
from tandem.evaluate.run import EvaluateConfig, output_file, run_evaluation
from tandem.evaluate.sample import Sample
from tandem.evaluate.subject import Subject

__all__ = [
    "Estimate",
    "EvaluateConfig",
    "Grid",
    "Line",
    "Needle",
    "Outcome",
    "PhoneBook",
    "Reading",
    "Results",
    "Sample",
    "Subject",
    "TextScore",
    "draw_lines",
    "draw_needle",
    "draw_phone_book",
    "measure_retrieval",
    "measure_text",
    "output_file",
    "run_evaluation",
    "write_phone_book",
]
