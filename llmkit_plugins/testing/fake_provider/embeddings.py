"""``/v1/embeddings``: a vector for each text, the same for the same text."""

from __future__ import annotations

import base64
import json
import math
from array import array
from functools import lru_cache
from random import Random
from typing import Any

from llmkit_plugins.call import Usage
from llmkit_plugins.testing.fake_provider.answer import Answer, Json, Say
from llmkit_plugins.testing.fake_provider.api_error import ApiError
from llmkit_plugins.testing.fake_provider.order import Order, count_tokens

DIMENSIONS = 64
"""The length of a vector if the request does not specify it."""


class EmbeddingsAnswer(Answer):
    """The vectors of *texts*."""

    def __init__(self, order: Order, texts: list[Any], dimensions: int) -> None:
        super().__init__(order, Usage(count_tokens(texts)))
        self._texts, self._dimensions = texts, dimensions

    def whole(self) -> Json:
        """All of them in one object."""
        encode = _base64 if self.order.body.get("encoding_format") == "base64" else list
        texts = (text if isinstance(text, str) else json.dumps(text) for text in self._texts)
        vectors = [vector_of(text, self._dimensions) for text in texts]
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": encode(v)} for i, v in enumerate(vectors)],
            "model": self.order.model,
            "usage": {"prompt_tokens": self.usage.input_tokens, "total_tokens": self.usage.input_tokens},
        }


def answer_embeddings(order: Order, _say: Say) -> EmbeddingsAnswer:
    """Embed one text or several, or their token ids. Raises ``ApiError`` if the request is not valid."""
    given = order.body.get("input")
    if not isinstance(given, str | list) or not given:
        raise ApiError(400, "'input' must be a text or a list that is not empty.", param="input")
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    return EmbeddingsAnswer(order, texts, order.number("dimensions") or DIMENSIONS)


@lru_cache(maxsize=256)
def vector_of(text: str, dimensions: int) -> tuple[float, ...]:
    """A vector of length 1 that depends on *text* alone."""
    random = Random(text)
    vector = [random.gauss() for _ in range(dimensions)]
    length = math.hypot(*vector)
    return tuple(value / length for value in vector)


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
