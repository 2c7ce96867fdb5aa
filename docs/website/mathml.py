"""Formulas as MathML, which browsers draw themselves: no script, no font and no server of others is needed."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx

# Else docutils puts the index of a d with a hat below the d,
_ACCENT = re.compile(r"\\(?:hat|bar|tilde|vec|dot)\b\s*(?:\{[^{}]*\}|[A-Za-z]|\\[A-Za-z]+)")
# and browsers write sin x cos y without spaces.
_THIN_SPACE = '<mspace width="0.1667em"></mspace>'
_AFTER_FUNCTION = re.compile(r'<mo>&ApplyFunction;</mo>(?!\s*(?:<mo stretchy="false">\(|<mfrac>|<mrow>))')
_BEFORE_FUNCTION = re.compile(
    r"(</(?:mi|mn|msub|msup|mfrac)>)(\s*<mi>[a-z]+</mi>\s*<mo>&ApplyFunction;</mo>)"
)


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def to_mathml(tex: str, *, as_block: bool) -> str:
    """MathML of a formula; lines that end in ``\\\\`` stand below each other.

    Raises
    ------
    ValueError : docutils cannot convert it.
    """
    try:
        mathml = latex2mathml.tex2mathml(_ACCENT.sub(r"{{}\g<0>}", tex), as_block=as_block)
    except MathError as error:
        raise ValueError(f"a formula must be simple LaTeX, got {tex!r}: {error}") from error
    return _BEFORE_FUNCTION.sub(rf"\1{_THIN_SPACE}\2", _AFTER_FUNCTION.sub(rf"\g<0>{_THIN_SPACE}", mathml))


def visit_inline(translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_display(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{to_mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode
