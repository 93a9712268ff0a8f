"""Structured output in the provider's own form, if all models have the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
)


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a model's ``with_structured_output``."""

    bound: Mapping[str, Any]
    """What it binds to the model ..."""
    parser: Runnable[Any, Any]
    """... and how it parses the answer."""

    def around(self, model: BaseChatModel, *, include_raw: bool) -> Runnable[Any, Any]:
        """The same form applied to *model*."""
        asked = model.bind(**self.bound)
        return RunnableParallel(raw=asked) | _both(self.parser) if include_raw else asked | self.parser


def common_form(models: Sequence[BaseChatModel], schema: Any, kwargs: dict[str, Any]) -> Form | None:
    """The native form that all of *models* share; None if they differ or are unrelated: the parser of one unrelated
    model may not be able to read another's answer."""
    if not _related(models):
        return None
    forms = [_form(model.with_structured_output(schema, **kwargs)) for model in models]
    first = forms[0]
    return first if first and all(form and form.bound == first.bound for form in forms) else None


def _related(models: Sequence[BaseChatModel]) -> bool:
    """Whether all of *models* derive from one class, as ``ChatOpenAI`` and ``AzureChatOpenAI`` do."""
    return bool(set.intersection(*(set(type(model).__mro__) for model in models)) - set(BaseChatModel.__mro__))


def _form(chain: Runnable[Any, Any]) -> Form | None:
    if not isinstance(chain, RunnableSequence) or not isinstance(chain.first, RunnableBinding):
        return None
    rest = chain.steps[1:]
    return Form(chain.first.kwargs, rest[0] if len(rest) == 1 else RunnableSequence(*rest))


def _both(parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The raw message with the result of *parser*, or with the error it raised."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=RunnableLambda(lambda _: None))
    failed = RunnablePassthrough.assign(parsed=RunnableLambda(lambda _: None))
    return parsed.with_fallbacks([failed], exception_key="parsing_error")
