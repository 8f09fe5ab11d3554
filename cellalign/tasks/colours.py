"""What cells are coloured by: an obs column, as categories or numbers, or the expression of a gene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.values import texts_of
from cellalign.errors import InputError, nearest, option

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MOST_VALUES = 60  # of a column: more colours nobody tells apart
FEW_NUMBERS = 12  # different numbers, up to which they are categories


def check_colours(adata: AnnData, names: Sequence[str]) -> None:
    """Refuse to colour by what is neither an obs column nor a gene: InputError."""
    genes = {str(name) for name in adata.var_names}
    for name in names:
        if name not in adata.obs and name not in genes:
            near = nearest(name, [*map(str, adata.obs.columns), *genes])
            raise InputError(f"{option('color', name)} is neither an obs column nor a gene.{near}")


def colour_of(adata: AnnData, name: str) -> Any:
    """The values of an obs column, Categorical [n] or numbers [n], or else the expression [n] of a gene in X.

    Raises
    ------
    InputError
        There is neither, or the column has one value per cell, or more values than colours.
    """
    check_colours(adata, [name])
    if name not in adata.obs:
        return expression(adata, name)
    values, why = of_column(adata.obs[name])
    if values is None and why != ONE:
        raise InputError(f"{option('color', name)}: {why} are more than can be told apart by colour")
    return values if values is not None else _as_text(adata.obs[name])


ONE = "one value"


def of_column(values: pd.Series) -> tuple[Any, str]:
    """A column as categories or numbers; None and the reason where it tells nothing or too much."""
    try:
        return _of_column(values)
    except (TypeError, ValueError):  # lists, dates of another calendar, ...
        return None, "values of a kind that is not drawn"


def _of_column(values: pd.Series) -> tuple[Any, str]:
    import pandas as pd

    if (
        not isinstance(values.dtype, pd.CategoricalDtype)
        and values.dtype.kind in "iuf"
        and values.nunique() > FEW_NUMBERS
    ):
        return values.to_numpy(dtype=np.float64, na_value=np.nan), ""
    found = _as_text(values)
    n = len(found.categories)
    return (None, ONE) if n < 2 else (None, f"{n} values") if n > MOST_VALUES else (found, "")


def _as_text(values: pd.Series) -> pd.Categorical:
    """Categories in use, as text; missing values stay so."""
    import pandas as pd

    if not isinstance(values.dtype, pd.CategoricalDtype):
        distinct = values.dropna().unique()
        named = dict(zip(distinct, texts_of(distinct, values.dtype), strict=True))
        return pd.Categorical(values.astype(object).map(named, na_action="ignore"))
    own = values.cat.remove_unused_categories()
    names = [str(name) for name in own.cat.categories]
    if len(set(names)) < len(names):
        return pd.Categorical(own.astype(object).map(str, na_action="ignore"))
    return pd.Categorical.from_codes(np.asarray(own.cat.codes), names)


def expression(adata: AnnData, gene: str) -> np.ndarray:
    """Expression [n] of a gene in X, float32.

    Raises
    ------
    InputError
        The cells have no X.
    """
    if adata.X is None:
        raise InputError(f"the cells have no X, and so no expression of {gene}")
    first = np.flatnonzero(np.asarray(adata.var_names).astype(str) == gene)[:1]  # of a name that is there twice
    x = adata.X[:, first]
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)[:, 0]
