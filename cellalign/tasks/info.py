"""info: what a file of cells or a model directory holds, in words; nothing large is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model

Facts = list[tuple[str, str]]


def info(what: str | os.PathLike[str] | Reading | AnnData | Model) -> dict[str, str]:
    """What a file of cells, cells in memory or a model holds, in words.

    Parameters
    ----------
    what : path, Reading, AnnData or Model
        A file of any format that is read, or a model directory.

    Returns
    -------
    dict of str to str
        What was looked at, and what there is.

    Raises
    ------
    InputError
        No such file, of a kind that is not read, or damaged.
    ModelError
        A model directory that is damaged or of a newer version.
    """
    return dict(_facts(what))


def _facts(what: Any) -> Facts:
    from cellalign.data.outputs import holds_model
    from cellalign.tasks.info_of_cells import of_cells, of_reading
    from cellalign.tasks.info_of_model import of_record

    if hasattr(what, "obs_names"):
        return list(of_cells(what))
    if hasattr(what, "record"):
        return list(of_record(what.record))
    reading = Reading.of(what)
    if len(reading.paths) == 1 and holds_model(reading.paths[0]):
        from cellalign.model_directory import read_record

        return list(of_record(read_record(reading.paths[0]), Path(reading.paths[0])))
    return list(of_reading(reading))


def share(directory: str | os.PathLike[str]) -> list[str]:
    """Cut what tells of a machine's folders out of a model's model.yaml, so that the directory can be given away.

    The training file's name stays, its folder does not: `embed` and others then ask for INPUT.

    Parameters
    ----------
    directory : path
        Its model.yaml is replaced.

    Returns
    -------
    list of str
        The paths that were cut.

    Raises
    ------
    ModelError
        It is no model directory, or damaged.
    InputError
        model.yaml cannot be replaced.
    """
    from cellalign.data.placing import place_file
    from cellalign.model_directory import SPEC, read_record
    from cellalign.records import checked_text
    from cellalign.tasks.info_of_model import record_without_folders

    plain, cut = record_without_folders(read_record(Path(directory)).plain())
    if cut:
        with place_file(Path(directory) / SPEC, force=True) as fresh:
            fresh.write_text(checked_text(plain), encoding="utf-8")
    return cut


@command_of(info, example="cellalign info cells.h5ad")
def command(
    call: Call,
    input: Annotated[Reading, Argument("A file of cells, of any format, or a model directory.", metavar="FILE|MODEL")],
    cut: Annotated[
        bool,
        Option("Of a model: cut absolute paths out of model.yaml, to give it away.", ("--share",), panel=o.OUTPUTS),
    ] = False,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
) -> None:
    """Say what a file of cells or a model holds: cells, genes, scales, columns, history; or how it was trained."""
    from cellalign.data.outputs import holds_model

    path = input.paths[0]
    if cut:
        if len(input.paths) != 1 or not holds_model(path):
            raise UsageError(f"{option('cut', True)} is of one model directory; {path} is none")
        gone = share(path)
        call.log.info("%s: %s", path, f"cut {', '.join(gone)}" if gone else "no absolute path in model.yaml")
    facts = _facts(input)
    if format == "json":
        call.print_rows(path, [what for what, _ in facts], [[said for _, said in facts]], format)
        return
    call.print_rows(" ".join(input.paths), ["what", "there"], facts, format, headings=["", ""], prose=True)
