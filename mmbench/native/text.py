"""From a text to numbers: hashed words, or the word pieces of a tokenizer on this machine."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.words import word_numbers
from mmbench.errors import UserError
from mmbench.native.source import Source
from mmbench.nets.weights import from_pretrained

WORDS = "words"


def tokens(source: Source, *, tokenizer: str, length: int) -> NDArray[np.generic]:
    """Return the numbers of a text's first words or word pieces, [length] int32, zero-padded.

    Args:
        source: the text.
        tokenizer: ``words``, or the name of a tokenizer: special tokens are added, and its padding
            must be number 0, as BERT's is.
        length: of the result.

    Raises:
        UserError: if the tokenizer is not on this machine, or pads with another number.
    """
    if tokenizer == WORDS:
        return word_numbers(source.text, length)
    pieces = _tokenizer(tokenizer)(
        source.text, truncation=True, max_length=length, padding="max_length"
    )
    return np.array(pieces["input_ids"], dtype=np.int32)


@cache
def _tokenizer(name: str) -> Any:  # Any: transformers is an extra
    tokenizer = from_pretrained("AutoTokenizer", name)
    if tokenizer.pad_token_id != 0:
        raise UserError(
            f"the tokenizer {name!r} pads with {tokenizer.pad_token_id}; only those that pad with "
            "0, such as BERT's, can be used"
        )
    return tokenizer
