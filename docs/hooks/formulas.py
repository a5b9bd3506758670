"""Typesets the formulas of a page as MathML, which browsers show without a script or a request to elsewhere.

It also decides where a narrow screen breaks names in tables, and never within a number such as 148 481.
"""

import re
import unicodedata
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# What `pymdownx.arithmatex` makes of $…$ and of $$…$$.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAYED = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


# Browsers know no script letters by their style, only as characters of their own.
SCRIPT = re.compile(r"\\mathcal\s*\{?([A-Z])\}?")


def mathml(formula: str, display: str) -> str:
    """A formula in TeX, as it stands in HTML, as MathML."""
    formula = SCRIPT.sub(lambda found: unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {found[1]}"), unescape(formula))
    return convert(formula, display=display)


def typeset(page: str) -> str:
    """The HTML of a page with its formulas as MathML."""
    page = INLINE.sub(lambda found: mathml(found[1], "inline"), page)
    return DISPLAYED.sub(lambda found: mathml(found[1], "block"), page)


CELL = re.compile(r"<td[ >].*?</td>", re.DOTALL)
CODE = re.compile(r"<code>([^<]*)</code>")
# After a separator within a name or a call, but not after the first sign of an option or before another separator.
BREAK = re.compile(r"(?<=\w[._(=/])(?=\w)|(?<=\w,)(?=\w)")
# An option of the command line within a line of code; a browser would break it after its dashes.
OPTION = re.compile(r"(?<=[ >])--[a-z]+(?=[^<>]*</code>)")
# A space between groups of three digits.
THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
# A power of ten, which a browser would break at its sign.
POWER = re.compile(r"\d[\d.]*e-\d+")
TEXT = re.compile(r"(<(pre|code|math)\b.*?</\2>|<[^>]*>)", re.DOTALL)


def breakable(page: str) -> str:
    """The HTML of a page whose names in tables may be broken between their parts, but no dashes from their option."""

    def in_cell(cell: re.Match[str]) -> str:
        return CODE.sub(lambda code: f"<code>{BREAK.sub('<wbr>', code[1])}</code>", cell[0])

    return OPTION.sub(r'<span class="word">\g<0></span>', CELL.sub(in_cell, page))


def unbroken(page: str) -> str:
    """The HTML of a page whose numbers stay on one line; code, formulas and tags stay as they are."""
    parts, end = [], 0
    for apart in [*TEXT.finditer(page), None]:
        text = THOUSANDS.sub("\N{NO-BREAK SPACE}", page[end : None if apart is None else apart.start()])
        parts.append(POWER.sub(r'<span class="word">\g<0></span>', text))
        if apart is not None:
            parts.append(apart[0])
            end = apart.end()
    return "".join(parts)


def on_page_content(html: str, **_: Any) -> str:
    return breakable(unbroken(typeset(html)))
