"""The control."""

from vestige.attacks.none import NoAttack


def test_the_control_returns_the_very_prompts_and_no_tensors(prompts):
    asked = prompts(3)
    found = NoAttack().attack(None, asked, None)
    assert found.prompts is asked and not found.tensors
