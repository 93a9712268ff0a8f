"""What is learned of how many tokens calls take."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, Usage
from llmkit_plugins.plugins.router import habits
from llmkit_plugins.plugins.router.habits import Habits


def learn(known: Habits, call: Call, output: int, times: int = 200, input_tokens: int = 100) -> None:
    for _ in range(times):
        known.of(call).learn(call, Usage(input_tokens, output))


def test_users_and_models_have_habits_of_their_own() -> None:
    """Who gets long answers is expected to get long ones, whoever else asks for the same model."""
    known = Habits(200.0)
    short, long, other = Call("hi", "m", user="ann"), Call("hi", "m", user="bob"), Call("hi", "n", user="ann")
    learn(known, short, 10)
    learn(known, long, 1000)
    assert known.of(short).output_tokens == pytest.approx(10, rel=0.2)
    assert known.of(long).output_tokens == pytest.approx(1000, rel=0.2)
    assert 50 < known.of(other).output_tokens < 1000


def test_a_new_user_is_expected_to_be_like_the_others() -> None:
    """Somebody not seen before is expected to get what others get from that model."""
    known = Habits(200.0)
    for user in ("ann", "bob", "eve"):
        learn(known, Call("hi", "m", user=user), 1000)
    assert known.of(Call("hi", "m", user="new")).output_tokens == pytest.approx(1000, rel=0.2)


def test_without_answers_the_settings_count() -> None:
    """Before the first answer, answers are as long as the settings say."""
    assert Habits(321.0).of(Call("hi", "m", user="ann")).output_tokens == 321.0


def test_one_very_long_answer_does_not_spoil_it() -> None:
    """An answer a thousand times as long as usual counts as six times as long."""
    known, call = Habits(200.0), Call("hi", "m")
    learn(known, call, 100, times=200)
    learn(known, call, 100_000, times=1)
    assert known.of(call).output_tokens < 130


def test_tokens_per_character_are_learned_where_prompts_are_measured() -> None:
    """A prompt whose characters were counted teaches how many tokens a character is."""
    known = Habits(200.0)
    call = Call("x" * 1000, "m", state={"prompt_chars": 1000})
    learn(known, call, 10, times=400, input_tokens=500)
    assert known.of(call).tokens_per_char == pytest.approx(0.5, rel=0.1)
    learn(known, call, 10, times=20_000, input_tokens=250)
    assert known.of(call).tokens_per_char == pytest.approx(0.25, rel=0.2)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users there are, only so many are remembered, and the latest are."""
    monkeypatch.setattr(habits, "_MOST_KEYS", 10)
    known = Habits(200.0)
    for number in range(100):
        learn(known, Call("hi", "m", user=str(number)), 10, times=1)
    assert len(known.known) == 10
    assert ("m", "99") in known.known


@pytest.mark.parametrize(("tokens", "longer"), [(50, -0.5), (100, 0.0), (200, 1.0), (10_000, 8.0)])
def test_how_much_longer_a_prompt_is(tokens: int, longer: float) -> None:
    """Relative to the usual: half as long, as long, twice as long; beyond nine times it does not matter."""
    known = Habits(200.0)
    known.prompted(100)
    assert known.longer(tokens) == pytest.approx(longer)


def test_where_no_prompt_was_counted_none_is_longer() -> None:
    """Without anything to compare with, a prompt is as long as usual."""
    assert Habits(200.0).longer(5000) == 0.0
    assert Habits(200.0).prompted(0) == 0.0
