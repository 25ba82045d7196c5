from itertools import islice, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from daemon.config import Config
from daemon.settings import SettingsError
from daemon.settings import load as load_settings
from learners.methods.names import PARTS, canonical, parts, replays


@given(st.sets(st.sampled_from(PARTS), min_size=1))
def test_the_order_of_the_parts_does_not_matter(chosen):
    outcomes = set()
    for order in islice(permutations(chosen), 24):
        try:
            outcomes.add(canonical("+".join(order)))
        except ValueError:
            outcomes.add("refused")
    assert len(outcomes) == 1
    (outcome,) = outcomes
    assert outcome == "refused" or (set(parts(outcome)) == chosen and canonical(outcome) == outcome)


@pytest.mark.parametrize("method", [*PARTS, "replay+ewc", "lwf+replay", "si+der", "er-ace+der+mas", "lwf+agem"])
def test_what_goes_together_is_accepted(method):
    assert set(parts(canonical(method))) == set(method.split("+"))


def test_a_method_says_whether_it_replays():
    assert [replays(canonical(method)) for method in ("ewc", "agem", "lwf+replay", "si+der", "joint")] == [
        False,
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("method", "because"),
    [
        ("replya", "'replya' is no way to learn; did you mean replay?"),
        ("er_ace", "did you mean er-ace?"),
        ("", "'' is no way to learn; there are finetune, joint, replay,"),
        ("ewc+ewc", "ewc is named twice"),
        ("finetune+ewc", "finetune stands alone"),
        ("replay+joint", "joint stands alone: it starts afresh and learns from everything"),
        ("si+ewc", "ewc and si hold the same weights for the same reason; choose one"),
        ("der+replay", "der replays already; leave out replay"),
        (
            "priors",
            "priors would never learn anything; the daemon does it by itself",
        ),
        ("replay+priors", "priors would never learn anything"),
        ("as-is", "as-is would never learn anything"),
        ("agem+replay", "agem only keeps steps from harming the replayed examples, and replay learns from them"),
    ],
)
def test_a_setting_that_is_no_method_is_refused_and_told_why(method, because):
    with pytest.raises(SettingsError) as refused:
        load_settings(None, environment={}, overrides=[f"learning.method={method}"])
    assert "learning.method: " in str(refused.value)
    assert because in str(refused.value)


def test_a_model_of_its_own_is_not_interpolated_with_the_champion():
    with pytest.raises(ValidationError, match=r"learning\.method joint does not start from it"):
        Config.model_validate({"learning": {"method": "joint", "interpolate": True}})


def test_the_config_has_the_canonical_name():
    assert Config.model_validate({"learning": {"method": "ewc+replay"}}).learning.method == "replay+ewc"
