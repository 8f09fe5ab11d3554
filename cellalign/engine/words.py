"""Settings under the names that scvi-tools and scanpy call them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellalign.errors import UsageError, option

# their name of a setting: ours
SETTINGS: Mapping[str, str] = {
    "n_latent": "latent_dim",
    "gene_likelihood": "likelihood",
    "dropout_rate": "dropout",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "learning_rate": "lr",
    "n_epochs_kl_warmup": "warmup_epochs",
    "validation_size": "validation",
}
VALUES: Mapping[str, Mapping[Any, Any]] = {"likelihood": {"normal": "gaussian"}}
WIDTH, LAYERS, WIDTHS = "n_hidden", "n_layers", "hidden"  # theirs are two numbers, ours a tuple


def translated(settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in our words.

    Parameters
    ----------
    settings : mapping
        As they were given.
    known : mapping of name to default
        Those of the method and the plan: a word that is one of them is left alone.

    Raises
    ------
    UsageError
        One is given in both words.
    """
    found = dict(settings)
    for theirs, ours in SETTINGS.items():
        if theirs in found and theirs not in known and ours in known:
            check_once(theirs, ours, found)
            value = found.pop(theirs)
            found[ours] = VALUES.get(ours, {}).get(value, value) if isinstance(value, str) else value
    if WIDTHS in known and not {WIDTH, LAYERS} & set(known) and {WIDTH, LAYERS} & set(found):
        for theirs in (WIDTH, LAYERS):
            if theirs in found:
                check_once(theirs, WIDTHS, found)
        usual = tuple(known[WIDTHS] or (128,))
        width, layers = found.pop(WIDTH, usual[0]), found.pop(LAYERS, len(usual))
        found[WIDTHS] = width if isinstance(width, (list, tuple)) else [width] * _number(layers)
    return found


def check_once(theirs: str, ours: str, given: Mapping[str, Any]) -> None:
    """UsageError where both words are given."""
    if ours in given:
        raise UsageError(f"{theirs} is another word for {ours}, and both are given; leave one out")


def _number(layers: Any) -> int:
    if not isinstance(layers, (int, float)) or layers != int(layers) or not 1 <= layers <= 100:
        raise UsageError(f"{option('settings', f'{LAYERS}={layers}')} is no number of layers; give 1 to 100")
    return int(layers)
