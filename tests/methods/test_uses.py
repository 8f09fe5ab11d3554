"""What a method says it uses is what changes its training, and nothing else does; train refuses or says the rest."""

import logging

import pytest
import torch
from support import layout, minibatch

import cellalign
from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.engine.fit import fit
from cellalign.engine.plan import Plan
from cellalign.errors import UsageError
from cellalign.methods.base import BATCH, CONDITION, COVARIATE, LABEL, FitsInClosedForm, Method, Trains
from cellalign.methods.capabilities import Stacks
from cellalign.methods.registry import get, names
from cellalign.tasks.roles import Roles, check_roles, roles_used

GENES, CELLS = 12, 60
ROLES = (CONDITION, BATCH, COVARIATE, LABEL)
SIZES = {CONDITION: 3, BATCH: 2, COVARIATE: 2, LABEL: 2}
NETWORK = {"hidden": (8, 4), "latent_dim": 3, "discriminator_hidden": (8,), "posterior_scale": 0.5}


def columns(seed=0, changed=None):
    """A column for each role; of one role another."""
    given = {}
    for role in ROLES:
        generator = torch.Generator().manual_seed(seed + 1 + ROLES.index(role) + 100 * (role == changed))
        given[role] = torch.randint(SIZES[role], (CELLS,), generator=generator)
    return given


def learned(cls, given):
    """The loss of the cells and its gradients, and what is fitted in closed form."""
    torch.manual_seed(0)
    known = set(cls.Hyperparameters.model_fields)
    settings = {key: value for key, value in NETWORK.items() if key in known}
    if cls.name == "mmd-ae":
        settings.pop("posterior_scale")
    made = layout(GENES, SIZES[CONDITION], [SIZES[BATCH]], [SIZES[COVARIATE]], SIZES[LABEL], control=0, cells=CELLS)
    method = cls(cls.Hyperparameters(**settings), made).train()
    x = torch.rand(CELLS, GENES, generator=torch.Generator().manual_seed(9)).mul(5)
    x = x.round() if cls.reads(method.hp) == "counts" else x
    batch = minibatch(x, made, given[CONDITION], [given[BATCH]], [given[COVARIATE]], given[LABEL])
    found = []
    if isinstance(method, Trains):
        torch.manual_seed(1)
        loss = method(batch, 1.0)
        found.append(loss.total.detach())
        (sum(loss.by_player.values()) if loss.by_player else loss.total).backward()
        found += [p.grad.clone() for p in method.parameters() if p.grad is not None]
    if isinstance(method, FitsInClosedForm):
        torch.manual_seed(1)
        with torch.no_grad():
            method.eval().fit_closed_form(lambda: iter([batch]))
        found += list(method.buffers())
    if isinstance(method, Stacks):
        cells = Cells(as_matrix(x.numpy()), made.fields, batch.columns, CELLS)
        fit(method, cells, torch.arange(CELLS), torch.arange(0), Plan(), device=torch.device("cpu"), seed=0)
        found += list(method.buffers())
    return found


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "auto" else n for n in names()])
def test_what_a_method_uses_is_what_changes_its_training(name):
    cls = get(name)
    as_it_is = learned(cls, columns())
    assert same(as_it_is, learned(cls, columns()))  # the same twice
    for role in ROLES:
        assert same(as_it_is, learned(cls, columns(changed=role))) == (role not in cls.uses()), (name, role)


def test_a_method_needs_what_it_uses():
    for name in names():
        cls = get(name)
        assert not cls.needs_condition or CONDITION in cls.uses(), name
        assert not cls.needs_label or LABEL in cls.uses(), name


def test_a_method_of_another_package_that_says_nothing_is_refused_nothing():
    assert Method.uses() == set(ROLES)


@pytest.mark.parametrize(
    ("method", "role", "able"),
    [("vae", "batch", "cvae, .*invae"), ("svae+", "batch", "scvi"), ("comp", "covariate", "nf-ivae, invae$")],
)
def test_a_column_without_use_is_refused_with_the_methods_that_have_one(method, role, able):
    with pytest.raises(UsageError, match=rf"{'svae.' if method == 'svae+' else method}' makes no use of .* {able}"):
        check_roles(get(method), Roles(**{role: ["x"]}))


@pytest.mark.parametrize(("method", "kind"), [("local", "number"), ("auto", "vector"), ("local", "multi-label")])
def test_a_column_of_a_kind_without_use_is_refused(method, kind):
    """`local` makes groups of categories alone: an age changed nothing, and nothing was said."""
    roles = Roles(condition="stim", batch=["site"], covariate=["age"], kinds={"age": kind})
    with pytest.raises(UsageError, match=f"{method}' makes no use of covariate=.*'age'.*, of the kind '{kind}'.*invae"):
        check_roles(get(method), roles)
    assert check_roles(get(method), Roles(condition="stim", batch=["site"], covariate=["donor"])) == []
    networks = get("auto").Hyperparameters(members="local,cvae")  # which is given numbers
    assert check_roles(get("auto"), Roles(condition="stim", batch=["age"], kinds={"age": kind}), networks) == []


def test_a_column_that_is_used_elsewhere_is_said():
    ((level, condition),) = check_roles(get("vae"), Roles(condition="stim"))
    assert level == logging.WARNING and "does not see the condition 'stim'" in condition
    ((level, label),) = check_roles(get("comp"), Roles(condition="stim", label="kind"))
    assert level == logging.INFO and "does not see the label 'kind'; the model keeps it for annotate" in label
    assert check_roles(get("scanvi"), Roles(condition="stim", batch=["site"], label="kind")) == []
    with pytest.raises(UsageError, match="unlabelled='x' needs label"):
        check_roles(get("comp"), Roles(condition="stim", unlabelled="x"))


def test_of_several_methods_each_is_given_what_it_uses():
    options = {"batch": ["site", "age"], "numeric": ["age"], "epochs": 1, "kinds": {"age": "number"}}
    assert roles_used("cvae", options) == options
    assert roles_used("linear", options) == {"epochs": 1, "numeric": [], "kinds": {}}
    assert roles_used("local", options) == {"batch": ["site"], "epochs": 1, "numeric": [], "kinds": {}}


def test_train_refuses_and_says_it(tiny, caplog):
    with pytest.raises(UsageError, match="'stim' is both"):
        cellalign.train(tiny, method="cvae", condition="stim", batch=["stim"])
    with pytest.raises(UsageError, match="'pca' makes no use of covariate="):
        cellalign.train(tiny, method="pca", covariate=["cell_type"])
    with caplog.at_level("INFO", logger="cellalign"):
        cellalign.train(tiny, method="pca", condition="stim", label="cell_type", settings={"latent_dim": 2})
    assert "does not see the condition" in caplog.text and "does not see the label" in caplog.text
    assert "control: control, of 'stim'" in caplog.text
