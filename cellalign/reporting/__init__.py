"""One page that says what was found and how far to believe it: plain data in, a file of HTML out.

`parts` is what a report is of; `build` decides which sections there are; `response`, `embedding` and `others` make
these; `cautions` warns; `figures` draws for the browser; `render` writes HTML. Nothing here reads files: that does
`tasks.report`.
"""

from cellalign.reporting.build import build
from cellalign.reporting.parts import Parts
from cellalign.reporting.render import Page, check_installed

__all__ = ["Page", "Parts", "build", "check_installed"]
