"""From a text to numbers: hashed words, or the word pieces of a tokenizer on this machine."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.words import PADDING, WORDS, word_numbers
from mmbench.errors import UserError
from mmbench.native.source import Source


def tokens(source: Source, *, tokenizer: str, length: int) -> NDArray[np.generic]:
    """Return the numbers of a text's first words or word pieces, [length] int32, zero-padded.

    Args:
        source: the text.
        tokenizer: ``words``, or the name of a tokenizer, BERT's or CLIP's: special tokens are
            added.
        length: of the result.

    Raises:
        UserError: if the tokenizer is not on this machine, or neither BERT's nor CLIP's.
    """
    if tokenizer == WORDS:
        return word_numbers(source.text, length)
    pieces = _tokenizer(tokenizer)(source.text, truncation=True, max_length=length)["input_ids"]
    return np.array(pieces + [PADDING] * (length - len(pieces)), dtype=np.int32)


@cache
def _tokenizer(name: str) -> Any:  # Any: transformers is an extra
    from mmbench.nets.weights import from_pretrained  # slow to import, and most texts need none

    tokenizer = from_pretrained("AutoTokenizer", name)
    # CLIP reads a text's vector at its end mark and nothing behind it, so that any number will do.
    if tokenizer.pad_token_id != PADDING and "clip" not in type(tokenizer).__name__.lower():
        raise UserError(
            f"the tokenizer {name!r} pads with {tokenizer.pad_token_id}; only those that pad with "
            "0, such as BERT's, and CLIP's can be used"
        )
    return tokenizer
