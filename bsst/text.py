"""Text that may come from a stranger's file, on its way to a terminal."""

from __future__ import annotations

__all__ = ["printable", "shortened"]

LONGEST = 200
"""Characters that an error quotes of one value."""


def printable(text: str) -> str:
    """Show control characters, escape sequences and lone surrogates as codes; line ends and tabs stay.

    A name or a label could otherwise clear the screen, change the title of the window, or fake a line of ours.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def shortened(value: object) -> str:
    """The value as text, of which a long one keeps its beginning; an error is one line, whatever a file holds."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"
