"""Finds methods by name: those of this folder, and those other packages offer.

A package adds a method without touching this one: an entry point in the group `cellalign.methods` whose name
is the method's and whose object is a subclass of `cellalign.methods.base.Method`. Nothing is imported until a
method is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from cellalign.errors import UsageError

if TYPE_CHECKING:
    from cellalign.methods.base import Method

GROUP = "cellalign.methods"
BUILT_IN = {
    "vae": "cellalign.methods.vae:VAE",
    "cvae": "cellalign.methods.cvae:CVAE",
    "scgen": "cellalign.methods.scgen:ScGen",
    "pca": "cellalign.methods.pca:PCA",
    "linear": "cellalign.methods.linear:Linear",
    "celligner": "cellalign.methods.celligner:Celligner",
    "vfae": "cellalign.methods.vfae:VFAE",
    "trvae": "cellalign.methods.trvae:TrVAE",
    "mmd-ae": "cellalign.methods.mmd_ae:MMDAE",
    "stgan": "cellalign.methods.stgan:STGAN",
    "comp": "cellalign.methods.comp:CoMP",
    "beta-vae": "cellalign.methods.beta_vae:BetaVAE",
    "ivae": "cellalign.methods.ivae:IVAE",
    "svae": "cellalign.methods.svae:SVAE",
    "svae+": "cellalign.methods.svae_plus:SVAEPlus",
    "scvi": "cellalign.methods.scvi:SCVI",
    "scanvi": "cellalign.methods.scanvi:SCANVI",
    "nf-ivae": "cellalign.methods.nf_ivae:NFIVAE",
    "invae": "cellalign.methods.invae:INVAE",
}


@dataclass(frozen=True)
class MethodInfo:
    """What `cellalign methods` prints of one method."""

    name: str
    summary: str
    reference: str
    needs_condition: bool
    scale: str
    package: str
    presets: list[str] = field(default_factory=list)


def names() -> list[str]:
    """All method names: built in first, then other packages' in alphabetical order."""
    return list(BUILT_IN) + sorted({e.name for e in entry_points(group=GROUP)} - BUILT_IN.keys())


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises
    ------
    UsageError
        No such method, or another package's method that cannot be loaded.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        return getattr(import_module(module), attribute)
    found = entry_points(group=GROUP, name=name)
    if not found:
        close = get_close_matches(name, names(), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"unknown method {name!r}.{hint} Methods: {', '.join(names())}")
    entry = next(iter(found))
    try:
        method = entry.load()
    except Exception as error:  # another package's code may fail in any way
        raise UsageError(f"method {name!r} of {entry.value} cannot be loaded: {error}") from error
    if getattr(method, "name", None) != name:
        raise UsageError(f"{entry.value} is registered as {name!r} but its name is {getattr(method, 'name', None)!r}")
    return method


def available() -> dict[str, MethodInfo]:
    """Every method with its summary, reference and presets. A package that fails to load is left out."""
    found = {}
    for name in names():
        try:
            method = get(name)
        except UsageError:
            if name in BUILT_IN:
                raise
            continue
        owned = sorted(p for p, content in presets().items() if content["method"] == name)
        package = method.__module__.partition(".")[0]
        found[name] = MethodInfo(
            name, method.summary, method.reference, method.needs_condition, method.scale, package, owned
        )
    return found


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The papers' hyperparameters by preset name: `method`, `source` and `settings`."""
    loaded = {}
    for file in sorted(files("cellalign.presets").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            content = yaml.safe_load(file.read_text())
            loaded[content["name"]] = content
    return loaded


def preset_settings(name: str, method: str) -> dict[str, Any]:
    """Settings of a preset.

    Raises
    ------
    UsageError
        No such preset, or one of another method.
    """
    known = presets()
    owned = sorted(p for p, content in known.items() if content["method"] == method)
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(owned) or "none"
        raise UsageError(f"unknown preset {name!r}.{hint} Presets of {method}: {listed}")
    if known[name]["method"] != method:
        raise UsageError(f"preset {name!r} belongs to method {known[name]['method']!r}, not {method!r}")
    return dict(known[name]["settings"])
