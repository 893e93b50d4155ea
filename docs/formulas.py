"""Formulas of the documents, written as a small part of TeX, as MathML: no script, no font.

Public: mathml, replaced. Known: letters, numbers, operators, _ and ^ with {}, \\frac, \\sqrt,
\\text, \\hat, \\left( \\right), \\begin{cases} ... \\end{cases}, Greek letters, and the names in
`_SIGNS` and `_WORDS`. Anything else raises ValueError, so that no formula is shown half.
"""

from __future__ import annotations

import re
from html import escape

_SIGNS = {
    "cdot": "·", "times": "×", "le": "≤", "ge": "≥", "ne": "≠", "approx": "≈", "in": "∈", "to": "→",
    "sum": "∑", "prod": "∏", "infty": "∞", "pm": "±", "cap": "∩", "cup": "∪", "ldots": "…",
    "mid": "|",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "partial": "∂", "odot": "⊙",
    "{": "{", "}": "}", "%": "%", "|": "‖",
}  # fmt: skip
_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ", "mu": "μ", "pi": "π",
    "sigma": "σ", "phi": "φ", "tau": "τ", "epsilon": "ε", "Delta": "Δ", "Phi": "Φ",
}  # fmt: skip
_WORDS = {"log", "exp", "max", "min", "sin", "cos", "argmax", "argmin", "Pr"}
_SPACES = {"quad": "1em", "qquad": "2em", ",": "0.17em", ";": "0.28em", " ": "0.3em"}
_TOKEN = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|[A-Za-z]|\s+|.")


def mathml(tex: str, *, block: bool) -> str:
    """One formula as a MathML element. Raises ValueError for what is not known, naming it."""
    tokens = [t for t in _TOKEN.findall(tex.strip()) if not t.isspace()]
    reader = _Reader(tokens, tex)
    row = reader.row(())
    shape = ' display="block"' if block else ""
    return (
        f'<math xmlns="http://www.w3.org/1998/Math/MathML"{shape} alttext="{escape(tex.strip())}">'
        f"{row}</math>"
    )


def replaced(markdown: str) -> str:
    """A page with its $$ ... $$ and $...$ as MathML; code is left alone."""
    parts = re.split(
        r"(^```.*?^```[^\n]*$|^(?: {4}[^\n]*\n)+|`[^`\n]+`)", markdown, flags=re.S | re.M
    )
    for k in range(0, len(parts), 2):
        text = re.sub(r"\$\$(.+?)\$\$", _block, parts[k], flags=re.S)
        parts[k] = re.sub(r"\$([^$\n]+?)\$", lambda m: mathml(m[1], block=False), text)
    return "".join(parts)


def _block(found: re.Match[str]) -> str:
    """A formula on a line of its own, which scrolls where it is wider than the page."""
    return f'\n<div class="formula">{mathml(found[1], block=True)}</div>\n'


class _Reader:
    def __init__(self, tokens: list[str], whole: str) -> None:
        self.tokens, self.at, self.whole = tokens, 0, whole

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise ValueError(f"the formula ends too early: {self.whole!r}")
        self.at += 1
        return token

    def need(self, token: str) -> None:
        if self.take() != token:
            raise ValueError(f"{token!r} is missing in {self.whole!r}")

    def row(self, ends: tuple[str, ...]) -> str:
        """Everything up to one of `ends`, which is left; at the top, to the end."""
        parts = []
        while self.peek() and self.peek() not in ends:
            parts.append(self.scripted())
        if ends and not self.peek():
            raise ValueError(f"{ends[0]!r} is missing in {self.whole!r}")
        return f"<mrow>{''.join(parts)}</mrow>"

    def scripted(self) -> str:
        base = self.atom()
        below = above = ""
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                below = self.argument()
            else:
                above = self.argument()
        under = base[:-5].endswith(("∑", "∏", ">max", ">min"))
        names = ("munder", "mover", "munderover") if under else ("msub", "msup", "msubsup")
        if below and above:
            return f"<{names[2]}>{base}{below}{above}</{names[2]}>"
        if below:
            return f"<{names[0]}>{base}{below}</{names[0]}>"
        return f"<{names[1]}>{base}{above}</{names[1]}>" if above else base

    def argument(self) -> str:
        """{...} or one atom."""
        if self.peek() != "{":
            return self.atom()
        self.take()
        inner = self.row(("}",))
        self.need("}")
        return inner

    def raw(self) -> str:
        """The letters between braces."""
        self.need("{")
        words = []
        while self.peek() != "}":
            words.append(self.take())
        self.need("}")
        return "".join(words)

    def atom(self) -> str:
        token = self.take()
        if token == "{":
            self.at -= 1
            return self.argument()
        if token.startswith("\\"):
            return self.command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        fixed = ' stretchy="false"' if token in "()|[]" else ""
        return f"<mo{fixed}>{escape('−' if token == '-' else token)}</mo>"

    def command(self, name: str) -> str:
        if name in _GREEK:
            return f"<mi>{_GREEK[name]}</mi>"
        if name in _WORDS:
            return f"<mi>{name}</mi>"
        if name in _SIGNS:
            return f"<mo>{escape(_SIGNS[name])}</mo>"
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}"/>'
        if name == "frac":
            return f"<mfrac>{self.argument()}{self.argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.argument()}</msqrt>"
        if name == "hat":
            return f'<mover accent="true">{self.argument()}<mo>^</mo></mover>'
        if name.startswith("text{"):
            return f"<mtext>{escape(name[5:-1])}</mtext>"
        if name in ("left", "right"):
            return f"<mo>{escape(self.take())}</mo>"
        if name == "begin":
            return self.cases()
        raise ValueError(f"\\{name} is not known in {self.whole!r}")

    def cases(self) -> str:
        if self.raw() != "cases":
            raise ValueError(f"only cases can begin in {self.whole!r}")
        rows: list[list[str]] = [[]]
        while True:
            rows[-1].append(self.row(("&", "\\\\", "\\end")))
            token = self.take()
            if token == "\\\\":
                rows.append([])
            elif token == "\\end":
                self.raw()
                break
        table = "".join(
            "<mtr>"
            + "".join(f'<mtd style="text-align:left">{cell}</mtd>' for cell in row)
            + "</mtr>"
            for row in rows
        )
        return f"<mrow><mo>{{</mo><mtable>{table}</mtable></mrow>"
