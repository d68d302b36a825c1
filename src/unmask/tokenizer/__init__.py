"""Between text and tokens: a byte-level vocabulary, rows with holes, and what each token looks like."""

from unmask.tokenizer.reading import Reading as Reading
from unmask.tokenizer.reading import Written as Written
from unmask.tokenizer.tokenizer import Tokenizer as Tokenizer
from unmask.tokenizer.vocabulary import TokenTable as TokenTable

__all__ = ["Reading", "TokenTable", "Tokenizer", "Written"]
