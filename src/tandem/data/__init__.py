"""From text to batches: tokenizer, corpora, token shards, packing."""

from tandem.data.baselines import compression_baselines
from tandem.data.batches import Batch
from tandem.data.chat_template import has_chat_template
from tandem.data.corpora import (
    CLASSICS_FILE,
    Corpus,
    PreparedCorpus,
    Stage,
    cache_directory,
    corpora,
    corpus,
    prepare,
    print_corpus,
    read_classics,
    read_text,
    read_text_file,
    text_corpus,
    write_classics,
)
from tandem.data.documents import Document, read_documents, write_documents
from tandem.data.json_object import read_json_object
from tandem.data.packing import Packer, Source
from tandem.data.pretrained_tokenizer import PretrainedTokenizer, SpecialTokens
from tandem.data.quality import QualityClassifier
from tandem.data.semantic import drop_semantic_duplicates
from tandem.data.shards import ShardSet, open_shards, write_shards
from tandem.data.text_tokenizer import TextDecoder, TextTokenizer, is_thinking
from tandem.data.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, StreamDecoder, Tokenizer, is_own_tokenizer
from tandem.data.tokenizing import tokenize_corpus, train_tokenizer
from tandem.data.validation import ValidationBatches, validation_batches

__all__ = [
    "CHAT_TEMPLATE",
    "CLASSICS_FILE",
    "SPECIAL_TOKENS",
    "Batch",
    "Corpus",
    "Document",
    "Packer",
    "PreparedCorpus",
    "PretrainedTokenizer",
    "QualityClassifier",
    "ShardSet",
    "Source",
    "SpecialTokens",
    "Stage",
    "StreamDecoder",
    "TextDecoder",
    "TextTokenizer",
    "Tokenizer",
    "ValidationBatches",
    "cache_directory",
    "compression_baselines",
    "corpora",
    "corpus",
    "drop_semantic_duplicates",
    "has_chat_template",
    "is_own_tokenizer",
    "is_thinking",
    "open_shards",
    "prepare",
    "print_corpus",
    "read_classics",
    "read_documents",
    "read_json_object",
    "read_text",
    "read_text_file",
    "text_corpus",
    "tokenize_corpus",
    "train_tokenizer",
    "validation_batches",
    "write_classics",
    "write_documents",
    "write_shards",
]
