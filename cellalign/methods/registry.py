"""Finds methods by name: those of this folder, and those other packages offer.

A package adds a method without touching this one: an entry point in the group `cellalign.methods` whose name
is the method's and whose object is a subclass of `cellalign.methods.base.Method`. Nothing is imported until a
method is asked for; what the methods of this folder are is read from their sources. A class is checked when it is
loaded: what it declares it must also implement.
"""

from __future__ import annotations

import ast
import inspect
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cellalign.errors import UsageError

if TYPE_CHECKING:
    from cellalign.methods.base import Method
    from cellalign.methods.capabilities import Capability

log = logging.getLogger("cellalign")

GROUP = "cellalign.methods"
BUILT_IN = {
    "vae": "cellalign.methods.vae:VAE",
    "cvae": "cellalign.methods.cvae:CVAE",
    "scgen": "cellalign.methods.scgen:ScGen",
    "pca": "cellalign.methods.pca:PCA",
    "linear": "cellalign.methods.linear:Linear",
    "local": "cellalign.methods.local:Local",
    "lemur": "cellalign.methods.lemur:Lemur",
    "auto": "cellalign.methods.auto:Auto",
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
        No such method, or another package's method that cannot be loaded or does not keep the contract.
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
    faults = list(faults_of(method, name))
    if faults:
        raise UsageError(f"method {name!r} of {entry.value} does not keep the contract: {'; '.join(faults)}")
    return method


def faults_of(cls: Any, name: str) -> Iterable[str]:
    """What keeps a class from being a method of that name: empty where nothing does."""
    from pydantic import BaseModel

    from cellalign.methods.base import Method
    from cellalign.methods.capabilities import Capability, FitsInClosedForm, Stacks, Trains

    if not (isinstance(cls, type) and issubclass(cls, Method)):
        yield "it is not a subclass of cellalign.methods.base.Method"
        return
    if getattr(cls, "name", None) != name:
        yield f"its name is {getattr(cls, 'name', None)!r}"
    if not isinstance(getattr(cls, "summary", None), str) or not cls.summary:
        yield "it has no summary"
    if not (isinstance(cls.Hyperparameters, type) and issubclass(cls.Hyperparameters, BaseModel)):
        yield "its Hyperparameters are not a pydantic model"
    if not issubclass(cls, (Trains, FitsInClosedForm, Stacks)):
        yield "it inherits neither Trains nor FitsInClosedForm, so it cannot be fitted"
    for base in cls.__mro__:
        if base is Method or (issubclass(base, Capability) and base is not cls):
            for missing in _unimplemented(cls, base):
                yield f"it lacks {missing}, which {base.__name__} asks for"


def _unimplemented(cls: type, base: type) -> Iterable[str]:
    """Abstract methods of a base that the class leaves as they are, or hides behind torch's own."""
    from torch import nn

    for name, value in vars(base).items():
        if getattr(value, "__isabstractmethod__", False):
            owner = next(c for c in cls.__mro__ if name in vars(c))
            if owner is nn.Module or getattr(inspect.getattr_static(cls, name), "__isabstractmethod__", False):
                yield name


def able(capability: type[Capability]) -> list[str]:
    """Names of the methods of a capability; packages whose methods cannot be loaded are left out."""
    return [name for name, cls in loadable() if issubclass(cls, capability)]


def lacks(name: str, capability: type[Capability]) -> str:
    """A sentence for a method without a capability, with the names of those that have it."""
    return f"method {name!r} does not {capability.does}; methods that do: {', '.join(able(capability))}"


def loadable(among: Iterable[str] | None = None) -> list[tuple[str, type[Method]]]:
    """Every method that can be loaded, or those among some; one warning for each that cannot."""
    found = []
    for name in names() if among is None else among:
        try:
            found.append((name, get(name)))
        except UsageError as error:
            if name in BUILT_IN:
                raise
            _warn_once(str(error))
    return found


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def available() -> dict[str, MethodInfo]:
    """Every method with its summary, reference and presets; one warning for each that cannot be loaded."""
    stated = {name: (*_read(place), "cellalign") for name, place in BUILT_IN.items()}
    for name, method in loadable(name for name in names() if name not in BUILT_IN):
        stated[name] = method.summary, method.reference, method.__module__.partition(".")[0]
    found = {}
    for name, (summary, reference, package) in stated.items():
        owned = sorted(p for p, content in presets().items() if content["method"] == name)
        found[name] = MethodInfo(name, summary, reference, package, owned)
    return found


def _read(place: str) -> tuple[str, str]:
    """Summary and reference of a class of this folder, out of its source: importing it would import torch."""
    module, attribute = place.split(":")
    path = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py")
    try:
        classes = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef)]
        (cls,) = (node for node in classes if node.name == attribute)
        said = {ast.unparse(line.targets[0]): line.value for line in cls.body if isinstance(line, ast.Assign)}
        return ast.literal_eval(said["summary"]), ast.literal_eval(said["reference"])
    except (OSError, KeyError, ValueError):  # installed without sources, or stated in another way
        method = getattr(import_module(module), attribute)
        return method.summary, method.reference


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The papers' hyperparameters by preset name: `method`, `source`, `settings`, and a `grid` that was searched."""
    loaded = {}
    for file in sorted(files("cellalign.methods.presets").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            loaded[content["name"]] = content
    return loaded


def preset_settings(name: str, method: str) -> dict[str, Any]:
    """Settings of a preset.

    Raises
    ------
    UsageError
        No such preset, or one of another method.
    """
    return dict(_preset(name, method)["settings"])


def preset_grid(name: str, method: str) -> dict[str, list[Any]]:
    """Values of settings that a paper searched; empty where it names none. Raises as `preset_settings`."""
    return dict(_preset(name, method).get("grid", {}))


def _preset(name: str, method: str) -> dict[str, Any]:
    known = presets()
    owned = sorted(p for p, content in known.items() if content["method"] == method)
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(owned) or "none"
        raise UsageError(f"unknown preset {name!r}.{hint} Presets of {method}: {listed}")
    if known[name]["method"] != method:
        raise UsageError(f"preset {name!r} belongs to method {known[name]['method']!r}, not {method!r}")
    return known[name]
