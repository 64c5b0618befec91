"""Words as numbers without a vocabulary file: each is hashed to one of many buckets."""

import re
import zlib

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 14  # of 5,000 words about a quarter share a bucket
PADDING = 0
WORDS = "words"  # in the place of a tokenizer's name: hashed words
_WORD = re.compile(r"\w+|[^\w\s]")


def word_numbers(text: str, length: int) -> NDArray[np.int32]:
    """Return the bucket, 1 to BUCKETS - 1, of each of the first ``length`` words and signs.

    Args:
        text: any text; case is ignored.
        length: of the result; a short text is padded with PADDING.

    Returns:
        [length] int32.
    """
    words = _WORD.findall(text.casefold())[:length]
    numbers = [1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in words]
    return np.array(numbers + [PADDING] * (length - len(numbers)), dtype=np.int32)
