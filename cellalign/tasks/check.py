"""check: whether a file and a design are fit to train on, what will mislead, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError, option
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Call, Option, command_of
from cellalign.tasks.spoken_as import in_their_words

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from cellalign.data.counts import Place
    from cellalign.nn.minibatch import Fields
    from cellalign.tasks.findings import Finding
    from cellalign.tasks.prepare import Prepared
    from cellalign.tasks.roles import Roles

LEVELS = ("error", "warning", "note", "ok")
COLUMNS = ("level", "what", "found", "advice")


@dataclass(frozen=True)
class Checked:
    """All that was found, the worst first."""

    findings: tuple[Finding, ...]

    def of(self, *levels: str) -> list[Finding]:
        """Those of some levels: "error", "warning", "note", "ok"."""
        return [each for each in self.findings if each.level in levels]

    @property
    def fit(self) -> bool:
        """Whether nothing keeps a method from being trained."""
        return not self.of("error")

    def frame(self) -> pd.DataFrame:
        """A row for each finding: level, what, found, advice."""
        import pandas as pd

        return pd.DataFrame([asdict(each) for each in self.findings], columns=list(COLUMNS))


@in_their_words
def check(
    adata: AnnData,
    *,
    condition: Annotated[str | None, o.CONDITION] = None,
    control: Annotated[str | None, o.CONTROL] = None,
    batch: Annotated[Sequence[str], o.BATCH] = (),
    covariate: Annotated[Sequence[str], o.COVARIATE] = (),
    label: Annotated[str | None, o.LABEL] = None,
    numeric: Annotated[Sequence[str], o.NUMERIC] = (),
    unlabelled: Annotated[str | None, o.UNLABELLED] = None,
    kinds: Annotated[Mapping[str, str] | None, o.KINDS] = None,
    continuous: Annotated[bool, Option("The condition is a number: a dose, a time.", panel=o.ROLES)] = False,
    holdout: Annotated[Sequence[str], o.HOLDOUT] = (),
    expression: Annotated[o.Expression | None, o.EXPRESSION] = None,
    layer: Annotated[str | None, o.LAYER] = None,
    rounded: Annotated[bool, o.ROUND] = False,
    threads: Annotated[int | None, o.THREADS] = None,
    seed: Annotated[int, o.SEED] = 0,
) -> Checked:
    """Look at cells before anything is trained on them.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        As it is, raw counts best; a view, or opened with `backed`.
    condition, control, batch, covariate, label, numeric, unlabelled, kinds, continuous, holdout
        As of `train`. Without a condition only the cells themselves are looked at.
    expression, layer, rounded
        Whether any finite values are taken; where counts are; whether estimated ones are rounded. As of `train`.
    threads : int, optional
        CPU threads.
    seed : int
        Of the cells that are drawn to look at.

    Returns
    -------
    Checked
        Nothing is raised of what `train` would refuse: it is a finding of level "error".
    """
    asked = dict(locals())  # by which roles are read
    from cellalign.data.given import given_cells
    from cellalign.tasks import findings as look
    from cellalign.tasks.roles import Roles
    from cellalign.threads import limited

    roles = Roles.of(asked)
    with limited(threads):
        found = list(look.of_names(adata))
        adata = given_cells(adata)
        matrix = look.of_matrix(adata, layer, rounded) if expression is None else look.of_values(adata, layer)
        place, counts, said = matrix
        found += said
        try:
            rows, fields, said = _columns(adata, roles, holdout)
        except (InputError, UsageError) as error:
            found.append(look.of_error("columns", error))
        else:
            found += said
            if place is not None:
                found += _of_cells(adata[rows], _part(place, rows), counts, fields, seed)
        if condition is None:
            found += look.of_missing_condition(adata.obs)
    return Checked(tuple(sorted(found, key=lambda each: LEVELS.index(each.level))))


def _columns(adata: AnnData, roles: Roles, holdout: Sequence[str]) -> tuple[np.ndarray, Fields, list[Finding]]:
    """The cells that are not held out, the columns of these, and what `train` would say of them; errors as `train`."""
    import numpy as np

    from cellalign.data.design import check_apart, check_design
    from cellalign.tasks import findings as look
    from cellalign.tasks.prepare import training_rows

    check_apart({role: keys for role, keys in roles.named.items() if keys})
    trained_on = training_rows(adata, holdout, roles.control)
    fields = roles.fields(adata, trained_on, holdout)
    said = list(look.of_notes(check_design(adata[trained_on], fields)))
    if not any(each.level == "warning" for each in said) and list(fields):
        said.append(look.Finding("ok", "columns", "no column is confounded with another, none has a value per cell"))
    return np.flatnonzero(trained_on), fields, said


def _part(place: Place, rows: np.ndarray) -> Place:
    from dataclasses import replace

    if len(rows) == place.matrix.shape[0]:
        return place
    return replace(place, matrix=place.matrix[rows], cells=place.cells[rows])


def _of_cells(cells: AnnData, place: Place, counts: bool, fields: Fields, seed: int) -> list[Finding]:
    """What numbers say of the cells."""
    from cellalign.data import quality
    from cellalign.tasks import findings as look

    every: tuple[Any, ...] = tuple(fields)
    codes = {field: field.encode(cells) for field in every if field.kind == "categorical"}
    found = [*look.of_groups(fields, codes), *look.of_effect(place.matrix, counts, fields, codes, seed)]
    if counts:
        sizes = quality.sizes(place.matrix)
        found += look.of_depth(sizes, fields, codes, place.matrix.shape[1])
        found += look.of_mitochondria(place, sizes)
        found += look.of_doublets(place, cells.obs, seed)
    return found


def warnings_of(adata: AnnData, prepared: Prepared, seed: int) -> list[str]:
    """The short check before a training: what its own checks do not see, of the cells that are trained on.

    The matrix is the one that preparing found: it is not looked for and judged once more.
    """
    import numpy as np

    from cellalign.data import quality
    from cellalign.tasks import findings as look

    place = prepared.counts or _counts_beside(adata, prepared)
    x = prepared.x if place is None else place.matrix
    if x is None:
        return []
    fields, used = prepared.cells.fields, np.zeros(prepared.cells.n, dtype=bool)
    used[np.concatenate(prepared.rows)] = True
    columns = zip(fields, prepared.cells.columns, strict=True)
    # cells that are held out are of no group: a part of the matrix would be a copy of it
    codes: dict[Any, Any] = {
        field: np.where(used, column.numpy(), -1) for field, column in columns if field.kind == "categorical"
    }
    found = list(look.of_effect(x, place is not None, fields, codes, seed))
    if place is not None:
        found += look.of_depth(quality.sizes(x), fields, codes, 0)
    return [f"{each.found}: {each.advice}" for each in found if each.level == "warning"]


def _counts_beside(adata: AnnData, prepared: Prepared) -> Place | None:
    """Raw counts in another matrix than the one that is trained on, where that is of log expression; None of others."""
    from cellalign.data.counts import find_counts, places
    from cellalign.data.said import untold

    record = prepared.record
    if record.recipe.expression == "any" or record.image_shape is not None:
        return None
    others = (place for place in places(adata) if place.matrix is not prepared.x)
    if not any(place.scale.kind in ("counts", "nearly counts") for place in others):
        return None
    try:
        with untold():
            return find_counts(adata, rounded=record.recipe.rounded)
    except InputError:
        return None


@command_of(check, example="cellalign check cells.h5ad --condition stim --label cell_type")
def command(
    call: Call,
    input: Annotated[Reading, o.CELLS_NEEDED],
    strict: Annotated[
        bool, Option("A warning is an error too (exit status 3): for pipelines.", panel=o.OUTPUTS)
    ] = False,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
) -> None:
    """Say whether cells and their columns are fit to train on, and what to do about what is not.

    Errors keep a method from being trained and end with status 3; warnings will mislead, and do so with --strict.
    """
    from cellalign.data import files

    found = check(files.read(files.spool(input), streaming=True), **call.options)
    errors, warnings = found.of("error"), found.of("warning")
    n = [(len(errors), "error"), (len(warnings), "warning")]
    counted = " and ".join(f"{k} {name}{'s' if k != 1 else ''}" for k, name in n if k)
    rows = [[getattr(each, name) for name in COLUMNS] for each in found.findings]
    title = f"{' '.join(input.paths)}: {counted or 'nothing that keeps from training or misleads'}"
    call.print_rows(title, COLUMNS, rows, format, headings=["", "of", "found", "what to do"], prose=True)
    if errors or (strict and warnings):
        asked = f" ({option('strict', True)})" if not errors else ""
        raise InputError(f"{counted}{asked}; each with what to do above")
