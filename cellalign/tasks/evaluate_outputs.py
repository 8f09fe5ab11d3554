"""What `evaluate` writes: tables, pictures, files for cell-eval2; and what of it cannot be asked for together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.errors import UsageError, counted, option
from cellalign.tasks.pictures import check_ending, save

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellalign.data.reading import Reading
    from cellalign.evaluation import Evaluation
    from cellalign.records import Provenance

log = logging.getLogger("cellalign")


@dataclass(frozen=True)
class Picture:
    """A picture of a panel's scores, and the parameter that asks for it.

    Attributes
    ----------
    panel : str
        The panel that is drawn.
    needs, what, hint : str
        The parameter without which that panel has nothing to draw, what it is, and how the help calls its value.
    draw : callable
        From the evaluation to the figure.
    """

    panel: str
    needs: str
    what: str
    hint: str
    draw: Callable[[Evaluation], Figure]


REAL = ("response", "against", "the real cells to draw the prediction with", "FILE")
TYPES = ("bio", "label", "the cell types that scores of panel bio are about", "KEY")
PICTURES = {
    "scatter": Picture(*REAL, draw=lambda result: result.scatter()),
    "violin": Picture(*REAL, draw=lambda result: result.violin()),
    "images": Picture("images", *REAL[1:], draw=lambda result: result.image_rows()),
    "scib_table": Picture(*TYPES, draw=lambda result: result.scib_table()),
}


def check_pictures(
    pictures: Mapping[str, str], *, against: bool, label: bool, panels: Sequence[str] | None = None
) -> None:
    """Refuse pictures that cannot be drawn, before any work.

    Parameters
    ----------
    pictures : mapping of a name of `PICTURES` to path
    against, label : bool
        Whether `evaluate` is given these.
    panels : sequence of str, optional
        The panels asked for.

    Raises
    ------
    UsageError
        Another ending, a panel that does not run or lacks something, or two pictures in one file.
    """
    given = {"against": against, "label": label}
    for name, path in pictures.items():
        picture = PICTURES[name]
        check_ending(name, path)
        if not given[picture.needs]:
            raise UsageError(f"{option(name)} needs {option(picture.needs, hint=picture.hint)}, {picture.what}")
        if panels is not None and picture.panel not in panels:
            left = option("panels")
            raise UsageError(f"{option(name)} draws panel {picture.panel}, which {left} leaves out; add it there")
        same = [other for other in pictures if Path(pictures[other]).absolute() == Path(path).absolute()]
        if len(same) > 1:
            raise UsageError(f"{option(same[0])} and {option(same[1])} name the same file; choose two")


def check_kind(pictures: Mapping[str, str], provenance: Provenance, source: str, against: str | None) -> None:
    """Refuse pictures of a prediction where the cells are not one, and of an embedding they do not have: UsageError."""
    predicted = provenance.counterfactual is not None
    foreign = not predicted and not provenance.embedding and against is not None
    for name in pictures:
        of_prediction = PICTURES[name].needs == "against"
        if not of_prediction and predicted and not provenance.embedding:
            raise UsageError(f"{option(name)} draws scores of an embedding; {source} is from cellalign counterfactual")
        if of_prediction and not (predicted or foreign):
            raise UsageError(f"{option(name)} draws a prediction; {source} is not from cellalign counterfactual")


@dataclass(frozen=True)
class Outputs:
    """The files that an evaluation writes, each where it is asked for.

    Attributes
    ----------
    table, de : str, optional
        Scores (.csv or .json), and every gene's test.
    pictures : mapping of a name of `PICTURES` to path
    export_vcc : str, optional
        The prediction for cell-eval2.
    report : str, optional
        A page.
    force : bool
        Whether what is there is replaced.
    """

    table: str | None
    de: str | None
    pictures: Mapping[str, str]
    export_vcc: str | None
    report: str | None
    force: bool

    @property
    def exported(self) -> list[str]:
        """The files for cell-eval2: of predicted cells, and of real ones."""
        from cellalign.evaluation.export import beside

        return [] if self.export_vcc is None else [self.export_vcc, beside(self.export_vcc)]

    def check_asked(self, asked: Mapping[str, Any], against: str | None) -> None:
        """Refuse what the other options leave nothing to write of: UsageError.

        Parameters
        ----------
        asked : mapping
            Parameters of `evaluate`.
        against : str, optional
            The real cells.
        """
        panels, de, real = asked["panels"], self.de, option("against", hint="FILE")
        check_pictures(self.pictures, against=against is not None, label=asked["label"] is not None, panels=panels)
        if asked["replicate"] is not None and de is None:
            raise UsageError(f"{option('replicate', asked['replicate'])} is of {option('de', hint='FILE')}; add it")
        if de is not None and against is None:
            raise UsageError(f"{option('de', de)} needs {real}, the real cells and their control")
        if de is not None and panels is not None and "de" not in panels:
            raise UsageError(f"{option('de', de)} is of panel de, which {option('panels')} leaves out; add it there")
        if self.export_vcc is not None and against is None:
            raise UsageError(f"{option('export_vcc')} needs {real}, the real cells")
        if any(Path(path).suffix not in (".h5ad", ".zarr") for path in self.exported):
            raise UsageError(f"{option('export_vcc', self.export_vcc)} ends in neither .h5ad nor .zarr")

    def check(self, inputs: Sequence[str | Reading]) -> None:
        """Refuse files that cannot be written, or that are an input or each other: UsageError, InputError."""
        from cellalign.data import files
        from cellalign.tasks.report_of import check_page

        for table, written in ((self.table, (".csv", ".json")), (self.de, (".csv",))):
            if table is not None:
                files.check_table(table, self.force, inputs, written=written)
        for path in self.pictures.values():
            files.check_output(path, self.force, inputs)
        for path in self.exported:
            files.check_cells_output(path, self.force, inputs)
        if self.report is not None:
            check_page(self.report, self.force, inputs)
        files.check_apart(self.table, self.de, self.report, *self.pictures.values(), *self.exported)

    def write(self, result: Evaluation) -> None:
        """The tables and pictures."""
        from cellalign.data.files import atomic_path

        if self.table is not None:
            text = result.to_json() if self.table.lower().endswith(".json") else result.to_csv()
            with atomic_path(self.table, self.force) as fresh:
                fresh.write_text(text, encoding="utf-8")
            log.info("%s: the scores", self.table)
        if self.de is not None:
            with atomic_path(self.de, self.force) as fresh:
                result.de().to_csv(fresh, index=False)
            log.info("%s: the genes that were tested", self.de)
        for name, path in self.pictures.items():
            save(PICTURES[name].draw(result), path, self.force)

    def export(self, cells: AnnData, real: AnnData, asked: Mapping[str, Any]) -> None:
        """The files for cell-eval2, if they are asked for."""
        from cellalign.data import files
        from cellalign.evaluation.export import for_cell_eval

        if not self.exported:
            return
        both = for_cell_eval(cells, real, condition=asked["condition"], control=asked["control"])
        for path, some in zip(self.exported, both, strict=True):
            files.write(some, path, force=self.force)
            log.info("%s: %s for cell-eval2", path, counted(some.n_obs, "cell"))
