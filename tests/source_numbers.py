"""The numbers of arXiv:2311.15487, and how code cites them: equations, named results and sections."""

import re

# How many equations each section has.
EQUATIONS = {1: 32, 2: 33, 3: 11, 4: 17, 5: 18, 6: 4}
NUMBERS = {f"({section}.{number})" for section, last in EQUATIONS.items() for number in range(1, last + 1)}
RESULTS = {
    *(f"Theorem {number}" for number in ("2.1", "2.3", "4.1", "4.2", "5.1")),
    *(f"Prop. {number}" for number in ("2.2", "2.4", "3.1", "5.3")),
    "Lemma 3.2",
    *(f"Remark {number}" for number in ("5.2", "5.4")),
}
_SECTIONS = """
1 1.1 1.2 1.3 1.4 1.4.1 1.4.2 2 2.1 2.2 2.3 2.4 3 3.1 3.2 4 4.1 4.1.1 4.1.2 4.2 5 5.1 6
"""
SECTIONS = {f"Section {number}" for number in _SECTIONS.split()}
# What only gives something a name, or supposes it, and so cannot be false.
_DEFINITIONS = """
1.1 1.2 1.3 1.4 1.6 1.7 1.8 1.9 1.11 1.17 1.21 1.23 1.26 1.30 2.1 2.2 2.4 2.17 2.22 2.23 2.33 3.4 3.5 4.5 4.15 5.1 5.2
5.13 5.14
"""
DEFINITIONS = {f"({number})" for number in _DEFINITIONS.split()}
_EQUATION = re.compile(r"\((\d+)\.(\d+)\)(?:–\((\d+)\.(\d+)\))?")
_RESULT = re.compile(r"\b(Theorem|Prop\.|Propositions?|Lemma|Remark) (\d+\.\d+)(?: and (\d+\.\d+))?")
_SECTION = re.compile(r"\bSection (\d+(?:\.\d+)*)")


def cited(text: str) -> set[str]:
    """Every equation, named result and section that a text cites, ranges such as (2.17)–(2.21) number by number."""
    found = set(cited_results(text))
    for section, first, other, last in _EQUATION.findall(text):
        found |= {f"({section}.{number})" for number in range(int(first), int(last or first) + 1)}
        # A range that leaves its section is none of the source's.
        found |= {f"({section}–{other})"} if other not in ("", section) else set()
    return found | {f"Section {number}" for number in _SECTION.findall(text)}


def cited_results(text: str) -> set[str]:
    """Theorem 2.1, Prop. 2.2 and so on."""
    found = set()
    for kind, first, second in _RESULT.findall(text):
        kind = "Prop." if kind.startswith("Prop") else kind
        found |= {f"{kind} {number}" for number in (first, second) if number}
    return found


EXISTING = NUMBERS | RESULTS | SECTIONS
