"""Links out of the site, listed in external-links.txt beside it: a machine without a network cannot try them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def listed(app: Sphinx, error: Exception | None) -> None:
    """Write every address with the pages that lead to it."""
    if error is not None or app.builder.format != "html":
        return
    found: dict[str, set[str]] = {}
    for name in app.env.found_docs:
        for node in app.env.get_doctree(name).findall(nodes.reference):
            target = node.get("refuri", "")
            if target.startswith(("http:", "https:")):
                found.setdefault(target, set()).add(name)
    lines = [f"{target}  {' '.join(sorted(pages))}\n" for target, pages in sorted(found.items())]
    (Path(app.outdir) / "external-links.txt").write_text("".join(lines), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("build-finished", listed)
    return {"parallel_read_safe": True}
