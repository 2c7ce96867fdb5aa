"""Formulas as MathML, which browsers draw themselves: no script, no font and no server of others is needed."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx


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
        return latex2mathml.tex2mathml(tex, as_block=as_block)
    except MathError as error:
        raise ValueError(f"a formula must be simple LaTeX, got {tex!r}: {error}") from error


def visit_inline(translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_display(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{to_mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode
