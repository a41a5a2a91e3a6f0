"""Text that may come from a stranger's file, on its way to a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Show control characters, escape sequences and lone surrogates as codes; line ends and tabs stay.

    A name or a label could otherwise clear the screen, change the title of the window, or fake a line of ours.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
