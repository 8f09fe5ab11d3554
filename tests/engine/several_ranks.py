"""A rank of a test, which leaves its outcome: `python several_ranks.py FOLDER RANK WORLD PRECISION METHODS BACKEND`.

Trains the methods named, of which "cvae?" is CVAE with conditions missing, for 50 steps on the same cells: on the CPU
(gloo), or each rank on a GPU of its own (nccl).
"""

import sys
from pathlib import Path

import torch
from support import layout
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.engine import ranks
from cellalign.engine.fit import fit
from cellalign.engine.plan import Plan
from cellalign.engine.predict import embeddings, own_predictions, predictions
from cellalign.methods.base import CONDITION, LABEL
from cellalign.methods.registry import get
from cellalign.nn.minibatch import Minibatch

CELLS, TRAINED, GENES = 152, 131, 20
SMALL = {"hidden": (16, 8), "latent_dim": 4}
SETTINGS = {
    "comp": {"dropout": 0.1},
    "scvi": {"dropout": 0.2},
    "invae": {"latent_dim": 3, "spurious_dim": 2},
    "vfae": {"penalty_on": "encoder"},
    "svae": {"sparsity_from": 0.0},
    "mmd-ae": {"likelihood": "gaussian"},
    "invae-weighted": {"latent_dim": 3, "spurious_dim": 2, "correlation_estimate": "within-domain"},
    "trvae-images": {"image_channels": 4, "likelihood": "mse"},
}


class Exact:
    """Rows in the precision of the run, which those of real matrices are not."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.n_columns = values.shape[1]

    def rows(self, rows: Tensor) -> Tensor:
        return self.values[rows.to(self.values.device)]

    def to(self, device: torch.device) -> "Exact":
        return Exact(self.values.to(device))


def cells(sizes, reads: str, missing: bool) -> Cells:
    noise = torch.Generator().manual_seed(0)
    columns = []
    for field in sizes.fields:
        column = torch.randint(0, len(field.categories), (CELLS,), generator=noise)
        if field.role == LABEL or (missing and field.role == CONDITION):
            column[torch.rand(CELLS, generator=noise) < 0.4] = -1
        columns.append(column)
    means = torch.randn(CELLS, 3, generator=noise, dtype=torch.float64)
    means = means @ torch.randn(3, GENES, generator=noise, dtype=torch.float64) + columns[0][:, None]
    x = torch.poisson(means.clamp(-2, 2).exp(), generator=noise) if reads == "counts" else means
    return Cells(Exact(x.to(torch.get_default_dtype())), sizes.fields, tuple(columns), CELLS)


def trained(name: str, precision: str, device: torch.device) -> dict:
    base, missing = name.rstrip("?").partition("-weighted")[0].partition("-images")[0], name.endswith("?")
    cls = get(base)
    # fewer shifts than latents would leave open to which axes they are turned, and rounding would choose
    conditions = 7 if base in ("ivae", "svae", "svae+") else 3
    sizes = layout(GENES, conditions, (2,), (2,), labels=3, control=0, cells=TRAINED, may_be_missing=missing)
    if name.endswith("images"):
        sizes = type(sizes)(GENES, sizes.fields, TRAINED, image=(5, 4, 1))
    hp = cls.Hyperparameters(**(SMALL | SETTINGS.get(name, {})))
    torch.manual_seed(3)
    method = cls(hp, sizes)
    rows = torch.randperm(CELLS, generator=torch.Generator().manual_seed(1))
    plan = Plan(epochs=10, batch_size=32, balanced=base == "trvae", warmup_epochs=2, precision="float32")
    data = cells(sizes, cls.reads(hp), missing)
    state = fit(method, data, rows[:TRAINED], rows[TRAINED:], plan, device=device, seed=3)
    with torch.no_grad():
        latents = method.to("cpu").embedding(data.batch(torch.arange(CELLS)))
    found = {}
    if base == "comp":
        how = {"device": device, "batch_size": 16}
        found |= embeddings(method, data, draw_seed=5, **how)
        asked = method, data, {"stim": "c1"}
        parts = predictions(*asked, draws=2, seed=4, **how)
        found |= {f"predicted {i}": part["X"] for i, part in enumerate(parts)}
        own = own_predictions(*asked, draws=2, seed=4, turn=1, **how)
        found |= {f"own {first}": part["X"] for first, part in own}
    return found | {
        "weights": method.to("cpu").state_dict(),
        "history": state.history,
        "latents": latents,
        "steps": state.step,
    }


def main() -> None:
    folder, rank, world, precision, names = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]
    backend = sys.argv[6]
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    torch.set_num_threads(1)
    if precision == "float64":
        torch.set_default_dtype(torch.float64)
        context = Minibatch.context
        Minibatch.context = lambda self, roles: context(self, roles).double()
        get("scgen").fit_closed_form = lambda self, batches: None  # its sums of latents are of float32
    if world > 1:
        if backend == "nccl":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=world)
        ranks._current = ranks.Ranks(rank, world, device)
    found = {}
    for name in names.split(","):
        found[name] = trained(name, precision, device)
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()  # left open, gloo may abort as the process ends


if __name__ == "__main__":
    main()
