"""Where text comes from: packages of public registries and a user's own files, cleaned and split."""

from tandem.data.corpora.catalog import corpora, corpus
from tandem.data.corpora.classics import CLASSICS_FILE, read_classics, write_classics
from tandem.data.corpora.corpus import Corpus, PreparedCorpus, Stage, cache_directory, prepare
from tandem.data.corpora.tables import print_corpus
from tandem.data.corpora.text import read_text, read_text_file, text_corpus

__all__ = [
    "CLASSICS_FILE",
    "Corpus",
    "PreparedCorpus",
    "Stage",
    "cache_directory",
    "corpora",
    "corpus",
    "prepare",
    "print_corpus",
    "read_classics",
    "read_text",
    "read_text_file",
    "text_corpus",
    "write_classics",
]
