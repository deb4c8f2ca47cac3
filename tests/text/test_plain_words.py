"""Public text says things in the words that people search for."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Riddles and quaint words, each with what to write instead.
WORDS = {
    r"\btold\b": "reported, notified, given",
    r"\bof late\b|\blately\b": "recently, in the last 60 s",
    r"\bleast level\b": "minimum severity",
    r"\bas there are\b": "n, the capacity",
    r"\bmuted?\b": "inhibited (by a rule), silenced (by a person)",
    r"\bhit rate\b": "hit ratio",
    r"\bwhose\b": "of which, with, its",
    r"\bghosts?\b|\bregret\b|\bwanted again\b": "premature eviction",
    r"\bowners?\b": "label set",
    r"\bepisodes?\b": "incident",
    r"\btells?\b": "shows, reports, notifies",
    r"\basked again\b|\bin the same words\b": "repeated, with equal arguments",
}
# In docstrings of the package, also of what is internal: riddles that had to be read twice.
RIDDLES = (
    r"\b(told|of late|lately|so many|in the same words|a pity|ghosts?|what there is to (say|see|judge)"
    r"|nobody said|at least a level|(has|have) had (every|all|what))\b"
)


def public_texts():
    yield from (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "kvstream" / "alerts" / "builtin.toml")
    yield from (ROOT / "docs").glob("*.md")
    yield from (ROOT / "schemas").glob("*.*")
    yield from (ROOT / "kvstream" / "cli").glob("*.py")


def test_public_text_has_no_riddles():
    found = []
    for path in public_texts():
        text = path.read_text(encoding="utf-8")
        for pattern, instead in WORDS.items():
            for each in re.finditer(pattern, text, re.IGNORECASE):
                around = text[max(0, each.start() - 60) : each.end() + 60]
                found.append(f"{path.relative_to(ROOT)}: say {instead}: …{around}…")
    assert not found, "\n".join(found)


def test_docstrings_have_no_riddles():
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for path in (ROOT / "kvstream").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(RIDDLES, text, re.IGNORECASE):
            continue
        tree = ast.parse(text)
        for node in (node for node in ast.walk(tree) if isinstance(node, documented)):
            for each in re.finditer(RIDDLES, ast.get_docstring(node) or "", re.IGNORECASE):
                name = getattr(node, "name", "the module")
                found.append(f"{path.relative_to(ROOT)}: {each.group()} in the docstring of {name}")
    assert not found, "\n".join(found)
