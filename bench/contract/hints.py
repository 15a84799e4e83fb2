"""What to type instead of a name that does not exist."""

import difflib
from collections.abc import Iterable


def near(name: str, names: Iterable[str]) -> str:
    """ " Did you mean x or y?", or nothing."""
    found = difflib.get_close_matches(name, list(names), 3)
    return f" Did you mean {' or '.join(found)}?" if found else ""
