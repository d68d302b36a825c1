"""Typographic quotes, dashes and spaces, and how a typewriter has them."""

STRAIGHT: dict[str, str] = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013", "-"),
    **dict.fromkeys("\u2014\u2015\u2e3a", "--"),
    "\u2e3b": "---",
    "\u2026": "...",
    "\u00a0": " ",
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
}
