"""Calls whose prompts begin alike go to the same target."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit_plugins import Call, Target, Usage
from llmkit_plugins.plugins.router.affinity import Affinity
from llmkit_plugins.plugins.router.track import Track

SYSTEM = "You are a very helpful assistant. " * 200


def call(system: str = SYSTEM, question: str = "And now?") -> Call:
    return Call([{"role": "system", "content": system}, {"role": "user", "content": question}], "m")


def equals(lab, **settings: Any):
    made = lab("abcdefgh", optimize_for="latency", **settings)
    made.teach(**dict.fromkeys("abcdefgh", 1.0))
    return made


@pytest.mark.parametrize("affinity", ["soft", "strict"])
def test_what_begins_alike_goes_to_one_target(lab, affinity: str) -> None:
    """A hundred questions after the same long instructions go to one of eight equal targets."""
    made = equals(lab, affinity=affinity)
    decisions = [made.router.route(call(question=str(number))) for number in range(100)]
    assert len({decision.target.name for decision in decisions}) == 1
    assert {decision.why for decision in decisions} == {"affinity"}


def test_off_they_go_anywhere(lab) -> None:
    """Without affinity they are spread."""
    made = equals(lab)
    assert len({made.router.route(call(question=str(number))).target.name for number in range(100)}) > 4


def test_beginnings_are_spread(lab) -> None:
    """Eight hundred different beginnings are shared by eight equal targets, each about a hundred."""
    made = equals(lab, affinity="soft")
    shares = Counter(made.router.route(call(f"{number} {SYSTEM}")).target.name for number in range(800))
    assert len(shares) == 8
    assert max(shares.values()) < 160


def test_many_targets_have_affinity_too(lab) -> None:
    """Where two choices would do, calls that begin alike still go to one target; short ones do not."""
    made = equals(lab, affinity="soft", power_of_two_above=2)
    whys = {made.router.route(call(question=str(number))).why for number in range(50)}
    assert whys == {"affinity"}
    assert made.router.route(call("Be short.")).why == "two_choices"


def test_short_prompts_go_anywhere(lab) -> None:
    """What is shorter than a provider would cache is not kept together."""
    made = equals(lab, affinity="strict")
    assert len({made.router.route(call("Be short.", str(number))).target.name for number in range(100)}) > 4


def test_every_process_chooses_the_same() -> None:
    """Where a beginning goes depends on it and on the names of the targets, on nothing else."""
    targets = [Target(f"t{number}", "p", "m") for number in range(10)]
    idle: Any = [SimpleNamespace(in_flight=0) for _ in targets]
    affinity = Affinity(100, 300.0)
    prefixes = [affinity.prefix(call(f"{number} {SYSTEM}")) for number in range(5)]
    assert prefixes[0] == 8221823893510390105
    places = [affinity.first(prefix, range(10), targets, idle) for prefix in prefixes]
    assert places == [Affinity(100, 9.0).first(prefix, range(10), targets, idle) for prefix in prefixes]


def test_a_target_more_moves_few() -> None:
    """When a tenth target joins nine, about a tenth of the beginnings move, all of them to it."""
    targets = [Target(f"t{number}", "p", "m") for number in range(10)]
    idle: Any = [SimpleNamespace(in_flight=0) for _ in targets]
    affinity = Affinity(100, 300.0)
    moved = Counter[int]()
    for number in range(1000):
        prefix = affinity.prefix(call(f"{number} {SYSTEM}"))
        nine, ten = (affinity.first(prefix, range(count), targets, idle) for count in (9, 10))
        moved[ten] += nine != ten
    assert set(moved - Counter()) == {9}
    assert 50 < moved[9] < 150


@pytest.mark.parametrize("affinity", ["soft", "strict"])
def test_a_busy_target_is_passed_over(lab, affinity: str) -> None:
    """A quarter more in flight than its part is too much: the next in line takes what begins alike."""
    made = equals(lab, affinity=affinity)
    counts = Counter[str]()
    for number in range(160):
        name = made.router.route(call(question=str(number))).target.name
        made.begin(name)
        counts[name] += 1
    assert max(counts.values()) <= 1.25 * 160 / 8 + 1


def test_soft_is_among_the_good_only(lab) -> None:
    """Where the preferred target is twice as slow as another, soft lets go of it and strict does not."""
    chosen = {}
    for affinity in ("soft", "strict"):
        made = equals(lab, affinity=affinity)
        preferred = made.router.route(call()).target.name
        made.answer(preferred, times=30, first=2.0, seconds=4.0)
        made.teach(times=3, **{name: 1.0 for name in "abcdefgh" if name != preferred})
        chosen[affinity] = made.router.route(call()).target.name == preferred
    assert chosen == {"soft": False, "strict": True}


def test_even_strict_does_not_insist_on_what_fails(lab) -> None:
    """A target that fails, or asked to be left alone, is passed over until it is fit again."""
    made = equals(lab, affinity="strict")
    preferred = made.router.route(call()).target.name
    made.fail(preferred, times=5)
    assert made.router.route(call()).target.name != preferred
    made = equals(lab, affinity="strict")
    made.fail(preferred, kind="rate_limit", retry_after=30.0)
    assert made.router.route(call()).target.name != preferred


def test_cached_input_is_cheaper_where_it_was_sent(lab) -> None:
    """Who was sent the beginning before is predicted to cost less, by as much as caching really saved, for a while."""
    prices = {"input_price": 10.0, "output_price": 0.0, "cached_price": 1.0}
    made = lab("ab", options={"a": prices, "b": prices}, optimize_for="cost", affinity="soft")
    fresh = made.router.route(call()).predicted_cost
    assert fresh is not None
    for number in range(40):
        made.answer("b", usage=Usage(2000, 10, cached_tokens=1800 if number else 0), call=call(question=str(number)))
    decision = made.router.route(call())
    assert decision.target.name == "b"
    assert decision.predicted_cost == pytest.approx(0.19 * fresh, rel=0.15)
    made.clock.advance(301.0)
    again = made.router.route(call()).predicted_cost
    assert again == pytest.approx(fresh, rel=0.2)


def test_what_is_remembered_is_bounded() -> None:
    """Ten thousand beginnings at most, the latest."""
    affinity = Affinity(100, 300.0)
    for number in range(10_050):
        affinity.sent(number, "a", 0.0)
    assert not affinity.cached_at(0, 1.0)
    assert affinity.cached_at(10_049, 1.0) == ["a"]
    assert len(affinity._sent) == 10_000


def test_targets_that_come_and_go_are_forgotten() -> None:
    """Where a backend makes its targets for each call, no beginning keeps all of them: only the latest."""
    affinity = Affinity(100, 300.0)
    track = Track(0.5, 0.02, 10.0, 0.0)
    for number in range(20_050):
        target = Target(f"t{number}", "p", "m")
        assert affinity.first(7, [0], [target], [track]) == 0
        affinity.sent(7, target.name, 0.0)
    affinity.sent(7, "t19950", 0.0)
    assert affinity.cached_at(7, 1.0) == [*[f"t{number}" for number in range(19_951, 20_050)], "t19950"]
    assert len(affinity._salts) <= 10_000


def test_any_form_of_prompt_begins_somehow() -> None:
    """Texts, messages with parts and objects are read alike; what has no text is too short."""
    affinity = Affinity(10, 300.0)
    forms: list[Any] = [
        "0123456789abc",
        ["0123456789abc"],
        [{"content": "0123456789xyz"}],
        [SimpleNamespace(content=[{"text": "0123456789"}])],
    ]
    assert len({affinity.prefix(Call(form)) for form in forms}) == 1
    assert affinity.prefix(Call(None)) == affinity.prefix(Call("short")) == 0
