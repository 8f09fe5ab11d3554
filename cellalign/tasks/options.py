"""Options that mean the same in every verb that has them, and how their text is read.

Those of all commands (`--quiet`, ...) are the parameters of `cli.messages.start`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError, option
from cellalign.tasks.declaration import Argument, Option
from cellalign.tasks.spoken_as import LARGEST_SEED

COMPUTING = "Computing"
TUNING = "Method and settings"
ROLES = "Columns of obs"
SCALE = "Which values"
RUNS = "Interrupted runs"
OUTPUTS = "Output"
DEFAULT_MODEL = "cellalign-model"

TableFormat = Literal["table", "json", "csv"]
MissingGenes = Literal["error", "zero"]
Precision = Literal["auto", "float32", "bfloat16"]
Expression = Literal["any"]


def words(items: Sequence[str]) -> list[str]:
    """The names in "NAME,NAME" of an option, of all of them where it is given several times."""
    return [word.strip() for item in items for word in item.split(",") if word.strip()]


def key_values(items: Sequence[str] | None, name: str = "settings") -> dict[str, Any]:
    """KEY=VALUE items of the option of a parameter, values read as YAML.

    Raises
    ------
    UsageError
        An item is something else, or two give a key different values.
    """
    found: dict[str, Any] = {}
    for item, key, value in _pairs(items, name):
        read = _number(_yaml(value, name, item))
        if key in found and found[key] != read:
            raise UsageError(f"{option(name)}: {key} is asked to be both {found[key]!r} and {read!r}; choose one")
        found[key] = read
    return found


def key_lists(items: Sequence[str], name: str = "grid") -> dict[str, list[Any]]:
    """KEY=VALUE,VALUE items, the values of a key that is given several times together; errors as `key_values`."""
    found: dict[str, list[Any]] = {}
    for item, key, value in _pairs(items, name):
        values = found.setdefault(key, [])
        values += [part for part in map(_number, _yaml(f"[{value}]", name, item)) if part not in values]
    return found


def kinds_of(items: Sequence[str]) -> Mapping[str, str]:
    """KEY=KIND items of --kind; those of --where are read later, when the columns are known."""
    from cellalign.data.columns import parse_where

    return parse_where(items, of="kinds")


def settings_file(path: str) -> dict[str, Any]:
    """The settings of a YAML file.

    Raises
    ------
    InputError
        It cannot be read.
    UsageError
        It holds anything but KEY: VALUE lines.
    """
    import yaml

    shown = option("config", path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown} is not readable as YAML") from error
    if not isinstance(content, dict):
        raise UsageError(f"{shown} must hold KEY: VALUE lines")
    return {str(key): _number(value) for key, value in content.items()}


def _pairs(items: Sequence[str] | None, name: str) -> list[tuple[str, str, str]]:
    """Each item with its key and value."""
    found = []
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{option(name, item)} is not KEY=VALUE")
        found.append((item, key.strip(), value))
    return found


def _yaml(text: str, name: str, item: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{option(name, item)}: the value is not readable as YAML") from error


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; a user means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


# obs columns
CONDITION = Option("obs column whose effect is modelled.", metavar="KEY", panel=ROLES)
CONTROL = Option("Reference value of the condition; found by itself.", metavar="VALUE", panel=ROLES)
BATCH = Option("Technical covariate (repeatable).", metavar="KEY", panel=ROLES)
COVARIATE = Option("Biological covariate (repeatable).", metavar="KEY", panel=ROLES)
NUMERIC = Option("A batch or covariate of numbers (repeatable).", metavar="KEY", panel=ROLES)
KINDS = Option(
    "Of a batch or covariate: number, vector (in obsm) or multi-label (a+b) (repeatable).",
    ("--kind",),
    metavar="KEY=KIND",
    panel=ROLES,
    text=list[str] | None,
    read=kinds_of,
)
LABEL = Option("obs column of cell types.", metavar="KEY", panel=ROLES)
UNLABELLED = Option("The label of cells that have none.", metavar="VALUE", panel=ROLES)
HOLDOUT = Option("Do not train on these cells (repeatable).", metavar="KEY=VALUE,KEY=VALUE", panel=ROLES)
HOLDOUT_OF_GENES = Option(
    "These cells choose neither genes nor total: what train will hold out (repeatable).",
    ("--holdout",),
    metavar="KEY=VALUE,KEY=VALUE",
)

# what is trained
METHOD = Option("A name of `cellalign methods`.", metavar="NAME", panel=TUNING)
EXPRESSION = Option("any takes finite values as they are: standardised, CLR, z-scores.", metavar="any", panel=SCALE)
LAYER = Option("Read this layer instead of the default.", metavar="NAME", panel=SCALE)
N_TOP_GENES = Option("Highly variable genes to keep of raw counts; 0 keeps all [2000].", low=0, panel=SCALE)
ROUND = Option("Round counts that are estimated (SoupX, RSEM, alevin).", ("--round",), panel=SCALE)
PRESET = Option("Published hyperparameters.", metavar="NAME", panel=TUNING)
SETTINGS = Option(
    "One setting (repeatable).",
    ("--set",),
    metavar="KEY=VALUE",
    panel=TUNING,
    text=list[str] | None,
    read=key_values,
)
EPOCHS = Option("Passes over the cells.", panel=TUNING)

# what is read
TRAINING_FILES = Reading(())  # no INPUT: those of the model
CELLS = Argument("Files of cells; default the training file; - is standard input.", metavar="INPUT")
CELLS_NEEDED = Argument("Files of cells; - is standard input.", metavar="INPUT")
PREPROCESSED = Argument("Files of preprocessed cells; - is standard input.", metavar="INPUT")
MODEL = Option("Model directory.", ("--model", "-m"), metavar="DIR", panel=OUTPUTS)
MISSING_GENES = Option("zero fills genes the file lacks with zeros.", panel=SCALE)
WHERE = Option(
    "Only these cells: of a column any of its values, of several columns all (repeatable).",
    metavar="KEY=VALUE,VALUE",
    text=list[str] | None,
)

# what is written
OUTPUT = Option("Output .h5ad or .zarr; - is standard output.", ("--output", "-o"), metavar="FILE", panel=OUTPUTS)
DRY_RUN = Option("Say what would be done, and how long it would take; write nothing.", panel=OUTPUTS)
REPORT = Option("Also write a page of what was found, for any browser.", metavar="FILE.html", panel=OUTPUTS)
FORCE = Option("Replace an existing output.", panel=OUTPUTS)
FORMAT = Option("For people, or for programs.", panel=OUTPUTS)

# the machine
DEVICE = Option("auto picks the GPU.", metavar="auto|cpu|cuda|mps", panel=COMPUTING)
THREADS = Option("CPU threads.", low=1, panel=COMPUTING)
PRECISION = Option("Of products in training; auto is bfloat16 where the CPU has it.", panel=COMPUTING)
DEVICES = Option(
    "Processes here, of a GPU or some CPUs each, that compute together [1].", metavar="N", low=1, panel=COMPUTING
)
NODES = Option("Machines, each with as many of them [1].", metavar="N", low=1, panel=COMPUTING)
DETERMINISTIC = Option("The same bytes whatever the number of threads, at the speed of one.", panel=COMPUTING)
SEED = Option("Seed of everything drawn.", low=0, high=LARGEST_SEED, panel=COMPUTING)
