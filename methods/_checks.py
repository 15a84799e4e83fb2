"""What editors of text states cannot do, found before they compute: from the concept file alone, or with the tokenizer."""

from collections.abc import Callable

from vestige.bench.contract.types import Concept
from vestige.bench.models.pipe import Pipe


def unsupported_reason(concepts: list[Concept], texts: dict[str, str], sources: list[str], become: Callable[[Concept], str]) -> str | None:
    """Why these concepts cannot be edited, or None. No model is needed.

    texts: setting -> its value, which may hold {sibling} or {other}; sources: entries of the concept file that are preserved;
    become: the text that replaces a concept.
    """
    needed = {"{other}": "others", "{sibling}": "siblings"}
    for concept in concepts:
        for setting, value in texts.items():
            for placeholder, entry in needed.items():
                if placeholder in value and not getattr(concept, entry):
                    return f"its settings use {placeholder} (method.{setting}): the concept file needs entries under `{entry}`."
        if become(concept).strip().lower() == concept.name.lower():
            return f"concept {concept.slug!r} should become {become(concept)!r}, itself: nothing would be erased. Choose another anchor."
        for source in sources:
            own = {concept.name.lower(), *map(str.lower, concept.aliases)} & set(map(str.lower, getattr(concept, source)))
            if own:
                return f"concept {concept.slug!r} lists its own name {min(own)!r} under `{source}`, to be preserved: take it off the list."
    return None


def check_pairs(pipe: Pipe, pairs: list[tuple[str, str]]) -> None:
    """Raise before anything is computed when an edited text has no tokens, or means to this model what it should become."""
    for text, goal in pairs:
        tokens = pipe.text.token_ids(text)
        if not tokens:
            raise ValueError(f"the edited text {text!r} has no token in model {pipe.spec.name!r}: give the concept another name.")
        if tokens == pipe.text.token_ids(goal):
            raise ValueError(f"{text!r} should become {goal!r}, which are the same tokens: nothing would be erased. Choose another anchor.")
