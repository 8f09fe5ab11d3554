"""From a page to HTML: one file, which asks no network for anything and runs nothing but its own scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from cellalign.errors import UsageError, spoken
from cellalign.plots.palette import PALETTE
from cellalign.reporting.blocks import Absent, CellMap, Chart, Finding, Section
from cellalign.reporting.packed import as_json, in_steps, indices

MISSING = "no value"


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes
    ----------
    title : str
        What was run, in a line.
    done : sequence of str
        The same in sentences.
    findings : sequence of Finding
    cautions : sequence of str
        What a careful colleague would say.
    sections : sequence of Section
    absent : sequence of Absent
    made : str
        When, and by which version.
    """

    title: str
    done: Sequence[str]
    findings: Sequence[Finding]
    cautions: Sequence[str]
    sections: Sequence[Section]
    absent: Sequence[Absent]
    made: str

    def html(self) -> str:
        """The page, which needs nothing but itself."""
        return render(self)

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.html())}" style="width:100%;height:85vh;border:1px solid #ddd"></iframe>'


def render(page: Page) -> str:
    """The page as HTML.

    Raises
    ------
    UsageError
        jinja2 is not installed.
    """
    drawn: dict[str, Any] = {}
    names: dict[int, str] = {}
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, (Chart, CellMap)):
                names[id(block)] = name = f"picture-{len(drawn) + 1}"
                drawn[name] = _chart(block) if isinstance(block, Chart) else _cells(block)
    scripts = [_own("vendor/plotly-cartesian.min.js"), _own("page/page.js")]
    return _template().render(
        page=page,
        names=lambda block: names[id(block)],
        style=_own("page/page.css"),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        data=as_json({"pictures": drawn, "palette": PALETTE, "scale": _scale()}),
    )


def check_installed() -> None:
    """Refuse to begin where a page could not be made: UsageError."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        how = spoken(python="pip install 'cellalign[report]'", command="pip install 'cellalign[report]'")
        raise UsageError(f"a report needs jinja2, which is not installed; {how}") from error


def _template() -> Any:
    check_installed()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # the only text that is not escaped: files of this package, and JSON without < and >
    environment.filters["own"] = Markup
    return environment.from_string(_own("page/page.html.jinja"))


@cache
def _own(name: str) -> str:
    """A file of this package."""
    text = (files("cellalign.reporting") / name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script") if name.endswith(".js") else text


def _hash(script: str) -> str:
    """What the page's policy knows a script by: no other is run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _chart(block: Chart) -> dict[str, Any]:
    return {"kind": "chart", "choose": block.choose, "figures": block.figures, "shared": block.shared}


def _cells(block: CellMap) -> dict[str, Any]:
    maps = [{"title": title, "x": in_steps(xy[:, 0]), "y": in_steps(xy[:, 1])} for title, xy in block.maps.items()]
    columns = [{"name": name, **_column(values)} for name, values in block.columns.items()]
    n = len(next(iter(block.maps.values())))
    return {"kind": "cells", "n": n, "maps": maps, "columns": columns}


def _column(values: Any) -> dict[str, Any]:
    """A column of cells: codes of categories, or steps of numbers."""
    if not hasattr(values, "categories"):
        return {"values": in_steps(values)}
    codes, names = np.asarray(values.codes), [str(name) for name in values.categories]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        return {"categories": [*names, MISSING], "missing": len(names), "codes": indices(codes)}
    return {"categories": names, "codes": indices(codes)}


@cache
def _scale() -> list[str]:
    """Colours of numbers, from low to high: viridis, which is read without seeing red or green."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](step)) for step in np.linspace(0, 1, 64)]
