"""Where LiteLLM sends to, as targets."""

from __future__ import annotations

import litellm
import pytest
from llmkit_litellm.targets import Book, sdk_target

from llmkit_plugins import Target

DEPLOYMENT = {
    "model_name": "group",
    "litellm_params": {
        "model": "openai/gpt-4o-mini",
        "api_key": "s3cret",
        "api_base": "http://h",
        "rpm": 10,
        "weight": 2,
    },
    "model_info": {"id": "a", "region": "eu"},
}


def with_params(**params):
    return {**DEPLOYMENT, "litellm_params": {**DEPLOYMENT["litellm_params"], **params}}


def test_a_deployment():
    """A deployment is a target by its id, with its provider, model, prices, weight, limits and no secret."""
    target = Book().target(DEPLOYMENT)
    assert (target.name, target.provider, target.model, target.weight) == ("a", "openai", "gpt-4o-mini", 2.0)
    assert (target.input_price, target.output_price, target.cached_price) == pytest.approx((0.15, 0.60, 0.075))
    assert target.metadata == {"model_group": "group", "tags": (), "api_base": "http://h", "rpm": 10, "region": "eu"}
    assert "s3cret" not in repr(target)


def test_prices_of_its_own():
    """The prices of the deployment win over LiteLLM's map."""
    target = Book().target(with_params(input_cost_per_token=1e-6, output_cost_per_token=0.0))
    assert (target.input_price, target.output_price) == pytest.approx((1.0, 0.0))


def test_a_base_model():
    """A deployment with a name of its own has the prices of the model it names as its base."""
    deployment = with_params(model="azure/mine")
    assert Book().target(deployment).input_price is None
    deployment["model_info"] = {"id": "b", "base_model": "azure/gpt-4.1-mini"}
    assert Book().target(deployment).input_price == pytest.approx(0.40)


def test_unknown_models_have_no_price():
    """Unknown is not free."""
    assert Book().target(with_params(model="openai/nobody-knows")).input_price is None


def test_numbers_that_mean_nothing():
    """LiteLLM takes them and sends, so no call fails for them: a price of -1 is unknown, such a weight none."""
    target = Book().target(with_params(input_cost_per_token=-1, output_cost_per_token="0.000002", weight=-1))
    assert (target.input_price, target.output_price, target.weight) == (None, 2.0, 0.0)


def test_a_router_makes_no_model_free():
    """It enters each of its models into LiteLLM's map; one that was not there still has no price."""
    deployment = with_params(model="hosted_vllm/nobody-knows")
    litellm.Router(model_list=[deployment])
    target = Book().target(deployment)
    assert (target.input_price, target.output_price) == (None, None)
    deployment = with_params(model="openai/text-embedding-3-small")
    litellm.Router(model_list=[deployment])
    assert Book().target(deployment).output_price == 0.0


def test_it_is_the_same_target_as_long_as_the_deployment_is():
    """A copy of a deployment is the same target; one with other parameters is another."""
    book = Book()
    target = book.target(DEPLOYMENT)
    assert book.target(with_params()) is target
    assert book.target(with_params(weight=3)) is not target


def test_a_deployment_that_is_sent_without_being_selected():
    """The arguments that a Router sends with make the same target."""
    book = Book()
    kwargs = {
        **DEPLOYMENT["litellm_params"],
        "messages": [],
        "model_info": DEPLOYMENT["model_info"],
        "metadata": {"deployment_model_name": "group"},
    }
    assert book.sent(kwargs) is book.target(DEPLOYMENT)


def test_what_the_sdk_names():
    """An SDK call's target is named by provider, model and base URL."""
    target = sdk_target("gpt-4o-mini")
    assert (target.name, target.provider) == ("openai/gpt-4o-mini", "openai")
    assert target.input_price == pytest.approx(0.15)
    assert sdk_target("gpt-4o-mini") is target
    assert sdk_target("m", "openai", "http://me:s3cret@h:8/v1/?key=s3cret").name == "openai/m@http://h:8/v1"


def test_a_model_that_litellm_cannot_place():
    """LiteLLM complains when it is asked to send; until then there is a target."""
    assert sdk_target("nobody-knows").provider == "unknown"
    with pytest.raises(litellm.BadRequestError):
        litellm.completion("nobody-knows", [{"role": "user", "content": "hi"}])


def test_an_address_that_is_none():
    """LiteLLM complains about that too when it is asked to send."""
    assert sdk_target("m", "openai", "http://[s3cret").name == "openai/m@nowhere"
    assert Book().target(with_params(api_base="http://[s3cret")).metadata["api_base"] == "nowhere"


def test_a_target_of_the_kit_stands_for_the_deployment_of_its_name() -> None:
    """What the platform team wrote about it (prices, region) counts, rather than what LiteLLM knows."""
    own = Target(str(DEPLOYMENT["model_info"]["id"]), "ours", "model", input_price=1.0)
    assert Book([own]).target(DEPLOYMENT) is own
