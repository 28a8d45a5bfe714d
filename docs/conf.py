"""How Sphinx builds the book (`make book`): warnings are errors, equations become MathML, nothing is fetched."""

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number

project = "lgdea"
copyright = "the lgdea contributors; MIT licence"
html_title = "LGDEA and ASG on chest radiographs"
html_theme = "furo"
html_math_renderer = "mathml"
extensions = ["myst_nb"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"  # chapters are the executed copies of a run
nb_ipywidgets_js = {}  # from a server otherwise
nb_merge_streams = True


MATHML = "http://www.w3.org/1998/Math/MathML"
ACCENTS = set("ˉ¯_ˆ^~˜→⃗˙")
ElementTree.register_namespace("", MATHML)


def mathml(text: str, as_block: bool = False) -> str:
    """LaTeX as MathML; what docutils does not know ends the build.

    The subscript of an accented symbol stands to its right: docutils puts it below, as that of a sum.
    """
    found = re.sub(
        r"&(?!(?:amp|lt|gt|#\w+);)\w+;", lambda entity: unescape(entity[0]), tex2mathml(text, as_block=as_block)
    )
    tree = ElementTree.fromstring(found)
    for part in list(tree.iter(f"{{{MATHML}}}munderover")):
        base, below, above = part
        if above.text in ACCENTS:
            accented = ElementTree.Element(f"{{{MATHML}}}mover", accent="true")
            accented.extend([base, above])
            part.tag = f"{{{MATHML}}}msub"
            part[:] = [accented, below]
    return ElementTree.tostring(tree, encoding="unicode")


def inline_equation(translator: Any, node: nodes.math) -> None:
    """`$x$` as MathML."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block_equation(translator: Any, node: nodes.math_block) -> None:
    """`$$x$$` as MathML, with its number where it has a label."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(mathml(node.astext(), as_block=True) + "</div>\n")
    raise nodes.SkipNode


def link_files(app: Sphinx, page: str, source: list[str]) -> None:
    """A link to a file of the repository outside docs/ becomes a download of that file; on GitHub it leads there."""
    folder = (app.srcdir / page).parent

    def link(match: re.Match[str]) -> str:
        outside = not (folder / match[2]).resolve().is_relative_to(app.srcdir.resolve())
        return f"{match[1]}(path:{match[2]})" if outside else match[0]

    source[0] = re.sub(r"((?<!!)\[[^\[\]]*\])\((\.\./[^)#]+)\)", link, source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_files)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_equation, None), block_renderers=(block_equation, None)
    )
