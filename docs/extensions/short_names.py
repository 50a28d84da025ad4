"""Links names of the API from wherever they are said to live to where they are documented.

Docstrings and annotations name ``Result``, or the module that defines it; the page documents
``mmedge.stream.Result``. A name is linked where one documented object alone has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

#: Role of a reference -> kinds of objects that it may mean.
KINDS = {
    "class": {"class", "exception"},
    "exc": {"class", "exception"},
    "func": {"function"},
    "meth": {"method", "classmethod", "staticmethod"},
    "obj": {"class", "function"},
}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """A link to the one object of the API that has this name at its end; None without one."""
    if node.get("refdomain") != "py":
        return None
    parts = node["reftarget"].split(".")
    # A method is told by its class, too.
    wanted = ".".join(parts[-2:] if node.get("reftype") == "meth" else parts[-1:])
    found = {
        (place.docname, place.node_id)
        for name, place in env.domains.python_domain.objects.items()
        if f".{name}".endswith(f".{wanted}") and place.objtype in KINDS.get(node["reftype"], ())
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, node["reftarget"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Resolve what Sphinx itself does not."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
