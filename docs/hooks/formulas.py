"""Typesets the formulas of a page as MathML, which browsers show without a script or a request to elsewhere."""

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


def on_page_content(html: str, **_: Any) -> str:
    return typeset(html)
