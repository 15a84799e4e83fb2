"""Hooks on modules, told apart by who set them: ours and a plugin's count, those that a library sets for itself do not."""

from collections.abc import Callable, Iterator

from torch import nn

LIBRARIES = ("transformers.", "diffusers.", "accelerate.")  # transformers sets hooks on first use, to collect hidden states


def own_hooks(module: nn.Module) -> Iterator[Callable]:
    """The hooks on this module, not below it, that no library set for itself."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if not getattr(hook, "__module__", None) or not hook.__module__.startswith(LIBRARIES):
            yield hook


def is_plain(module: nn.Module) -> bool:
    """Nothing but weights decides what this module and those below it answer: no hook, no forward of its own."""
    return not any("forward" in vars(m) or any(own_hooks(m)) for m in module.modules())
