"""The lifecycle of a call, as generators without I/O: they yield steps; a driver performs them and sends the results.

If a step fails, its error is thrown in. A caller that goes away appears as a ``BaseException`` that is not an
``Exception``: cancellation, ``GeneratorExit``, Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Attempt, Call, Outcome, Response, Target
from llmkit_plugins.engine.telling import inform, settle, tell
from llmkit_plugins.errors import (
    FAILOVER_KINDS,
    ErrorKind,
    NoTarget,
    PluginFailed,
    ProviderFailure,
    Refused,
    TimedOut,
)
from llmkit_plugins.steps import Answer, Prefer, Share

if TYPE_CHECKING:
    from llmkit_plugins.backend import Backend
    from llmkit_plugins.engine.plan import Hook, Plan

Flow = Generator[Any, Any, Any]
"""Yields ``Wait`` and ``Ask`` for its hooks, an ``Attempt`` (or, if the backend delegates, the ``Call``) to be sent,
a ``Seat`` if the caller shares an upstream, and:"""


@dataclass(slots=True)
class Deliver:
    """To the driver: deliver *answer* to the caller. It sends back the call's response, a copy: the plugin may return
    the same answer again."""

    answer: Answer


@dataclass(slots=True)
class Join:
    """To the driver: get a seat at the upstream shared under this key; *flow* starts one if none is under way."""

    share: Share
    flow: Flow


@dataclass(slots=True)
class Relay:
    """To the driver: deliver *head*, then *source*, to the caller. The time the caller spends on each chunk is added to
    *attempt*."""

    head: Iterable[Any]
    source: Any
    attempt: Attempt | None = None


def request(plan: Plan, call: Call, flow: Flow) -> Flow:
    """One caller's side: the pre hooks; then an answer, a seat at a shared upstream, or its own *flow*; finally exactly
    one of ``post_response`` and ``error``."""
    settle()
    seat = None
    try:
        answer = (yield from consult(plan, plan.pre_request, call)) if plan.pre_request else None
        if answer is not None and call.answerable:
            response = yield Deliver(answer)
        else:
            if call.share is not None and call.answerable:
                try:
                    seat = yield Join(call.share, flow)
                except Exception as bug:  # its key cannot be compared or its bounds are invalid: do not share
                    if plan.bugs.report("llmkit_pre_request's Share", bug):
                        raise
            if seat is None:
                call.share = None
                raw = yield from flow
                response = Response(raw, call.attempts[-1] if call.attempts else None)
            else:
                try:
                    raw = yield seat
                finally:
                    seat.flight.leave()
                response = seat.response(raw)
    except BaseException as error:
        left_with = None if isinstance(error, Exception) else _answer_left_with(call, seat)
        if left_with is not None:
            _end_well(plan, call, left_with)
        else:
            call.outcome = outcome_of(error)
            tell(plan, plan.error, call.heard, call, error)
        raise
    _end_well(plan, call, response)
    return response


def _end_well(plan: Plan, call: Call, response: Response) -> None:
    call.outcome, call.response = "ok", response
    if plan.post_response:
        tell(plan, plan.post_response, call.heard, call, response)


def _answer_left_with(call: Call, seat: Any) -> Response | None:
    """The response, if the caller went away only after receiving the complete answer."""
    if seat is not None:
        return seat.response(None) if call.stream and seat.answered() else None
    last = call.attempts[-1] if call.attempts else None
    return Response(None, last) if call.stream and last is not None and last.outcome == "ok" else None


def upstream(plan: Plan, call: Call, targets: Sequence[Target], backend: Backend) -> Flow:
    """The provider's side, once for all callers that share it: route, attempt, fail over until a chunk is delivered."""
    dropped: dict[str, str | Refused] = {}
    failure: Exception | None = None
    try:
        left = _serving(call, targets, dropped)
        while ordered := route(plan, call, left, dropped):
            target = ordered[0]
            if call.deadline is not None and call.share is None and plan.clock() >= call.deadline:
                raise failure or TimedOut("the call's deadline has passed")
            try:
                return (yield from attempt_at(plan, call, target, backend))
            except Refused as refusal:
                if call.attempts[-1].first_chunk is not None:
                    raise
                dropped[target.name] = refusal
            except Exception as error:
                last = call.attempts[-1]
                if last.first_chunk is not None or last.kind not in FAILOVER_KINDS:
                    raise
                failure = error
            left = tuple([other for other in left if other is not target])
        raise failure or refusal_of(dropped)
    finally:
        del failure, dropped  # their tracebacks reference this frame


def delegated(call: Call) -> Flow:
    """The provider's side if the framework routes and retries: the whole call is sent to it."""
    raw = yield call
    if call.stream:
        raw = yield raw
    return raw


def attempt_at(plan: Plan, call: Call, target: Target, backend: Backend) -> Flow:
    """One try of *call* at *target*; exactly one ``post_attempt`` for each ``pre_attempt``."""
    attempt = Attempt(len(call.attempts) + 1, target)
    call.attempts.append(attempt)
    try:
        if plan.pre_attempt:
            yield from consult(plan, plan.pre_attempt, call, attempt)
        attempt.started = plan.clock()
        raw = yield attempt
        if call.stream:
            attempt.first_chunk = plan.clock()
            # 1 once the head has been delivered: only its last chunk has content, and so counts
            attempt.chunks = 1 - len(raw.head)
            if attempt.on_first_chunk is not None:
                inform(plan.bugs, attempt.on_first_chunk)
            raw = yield raw
        attempt.outcome = "ok"
    except Refused as refusal:
        attempt.outcome, attempt.error = "refused", refusal
        raise
    except Exception as error:
        attempt.outcome, attempt.error = "error", error
        if attempt.started is not None:
            attempt.kind, attempt.retry_after = _diagnose(plan, backend, error)
        raise
    except BaseException as gone:
        complete = attempt.finish_reason is not None and attempt.first_chunk is not None
        attempt.outcome, attempt.error = ("ok", None) if complete else ("cancelled", gone)
        raise
    finally:
        attempt.finished = plan.clock()
        try:
            if plan.post_attempt:
                tell(plan, plan.post_attempt, attempt.heard, call, attempt)
        except Exception:
            attempt.kind = None  # a plugin's bug: failing over to the next target would not help
            raise
        finally:
            # these may reference the attempt: avoid a cycle
            attempt.error = attempt.on_first_chunk = attempt.on_chunk = None
    return raw


def consult(plan: Plan, hooks: tuple[Hook, ...], call: Call, attempt: Attempt | None = None) -> Flow:
    """Call each pre hook. ``heard`` counts those that were called: only these are told how it ended."""
    subject = call if attempt is None else attempt
    for need, hook, who, critical in hooks:
        subject.heard = need
        try:
            said = hook(call) if attempt is None else hook(call, attempt)
            if said is None:
                continue
            if type(said) is GeneratorType:
                said = yield from said
            if type(said) is Answer and attempt is None:
                _check_answer(said, call)
                return said
            if type(said) is Share and attempt is None:
                hash(said.key)  # an unhashable key is this hook's bug
                call.share = said
            elif said is not None:
                raise TypeError(f"a hook may not return {_kind(said)}")
        except Refused:
            raise
        except Exception as bug:
            _contain(plan, who, bug, critical)
    return None


def _check_answer(answer: Answer, call: Call) -> None:
    """Raise ``TypeError`` if *answer* is not valid for *call*."""
    if not isinstance(answer.response, Response):
        raise TypeError(f"the response of an Answer may not be {_kind(answer.response)}")
    if call.stream and call.answerable:
        iter(answer.chunks)
        if not answer.chunks:
            raise TypeError("an Answer to a streamed call needs chunks")


def _kind(value: Any) -> str:
    """The type of *value*, not its content: this is logged, and the content may be a prompt or an answer."""
    return "None" if value is None else f"an instance of {type(value).__name__}"


def route(plan: Plan, call: Call, targets: Sequence[Target], dropped: dict[str, str | Refused]) -> Sequence[Target]:
    """*targets* after all route hooks; *dropped* gets an entry for each target that a hook left out."""
    return _routed(plan, plan.route, call, targets, dropped)


def _routed(
    plan: Plan, hooks: Sequence[Hook], call: Call, targets: Sequence[Target], dropped: dict[str, str | Refused]
) -> Sequence[Target]:
    given: set[Target] | None = None
    ahead = iter(hooks)
    for _, hook, who, critical in ahead:
        if not targets:
            break
        try:
            said = hook(call, targets)
            if said is None or said is targets:
                continue
            preferred = tuple(said.targets) if type(said) is Prefer else ()
            kept = (*preferred, *said.others) if type(said) is Prefer else tuple(said)
            left = set(kept)
            given = given or set(targets)
            if not left <= given:
                raise ValueError(f"{who} returned targets it was not given")
        except Refused:
            raise
        except Exception as bug:
            _contain(plan, who, bug, critical)
        else:
            if len(left) < len(given):
                dropped.update((target.name, f"dropped by {who}") for target in targets if target not in left)
            if preferred:
                after = tuple(ahead)
                return _best_of(plan, after, call, preferred, dropped) or _routed(plan, after, call, kept, dropped)
            targets, given = kept, left
    return targets


def _best_of(
    plan: Plan, hooks: Sequence[Hook], call: Call, preferred: Sequence[Target], dropped: dict[str, str | Refused]
) -> Sequence[Target]:
    """*preferred* after *hooks*; empty if a hook refuses, since it may accept the full list."""
    try:
        return _routed(plan, hooks, call, preferred, dropped)
    except Refused:
        return ()


def _serving(call: Call, targets: Sequence[Target], dropped: dict[str, str | Refused]) -> Sequence[Target]:
    """The targets that serve the requested model, as a tuple so that no hook can modify it in place."""
    model = call.model
    if model is not None:
        for target in targets:
            if target.serves is not None and model not in target.serves:
                dropped[target.name] = f"does not serve {model!r}"
    return tuple([t for t in targets if t.serves is None or model in t.serves]) if dropped else tuple(targets)


def _contain(plan: Plan, who: str, bug: Exception, critical: bool) -> None:  # noqa: FBT001
    """Report a plugin's bug; raise only if the plugin is critical or the kit is configured to raise."""
    raises = plan.bugs.report(who, bug)
    if critical:
        raise PluginFailed(who) from bug
    if raises:
        raise bug


def _diagnose(plan: Plan, backend: Backend, error: Exception) -> tuple[ErrorKind | None, float | None]:
    if isinstance(error, ProviderFailure):
        return error.kind, None
    try:
        return backend.kind(error), backend.retry_after(error)
    except Exception as bug:
        plan.bugs.report(f"{type(backend).__name__}.kind", bug)
        return None, None


def refusal_of(dropped: Mapping[str, str | Refused]) -> Refused:
    """What to raise if no target could be tried: a sole refusal itself, or ``NoTarget`` with all the reasons."""
    one = next(iter(dropped.values()), None)
    return one if len(dropped) == 1 and isinstance(one, Refused) else NoTarget(dropped)


def outcome_of(error: BaseException) -> Outcome:
    """The outcome that *error* means; what is not an ``Exception`` is a cancellation, not a failure."""
    return "refused" if isinstance(error, Refused) else "error" if isinstance(error, Exception) else "cancelled"
