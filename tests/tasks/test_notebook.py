"""Progress in a notebook: a bar unasked, elsewhere only where it is asked for."""

import sys
import types

import cellalign
from cellalign.tasks import notebook


def test_a_bar_where_there_is_a_kernel_or_it_is_asked_for(monkeypatch):
    mine = object()
    with notebook.shown(mine) as told:
        assert told is mine
    for progress, expected in ((None, False), (False, False), (True, True)):
        with notebook.shown(progress) as told:
            assert (told is not None) == expected
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    with notebook.shown(None) as told:
        assert isinstance(told, notebook.Bar)
    with notebook.shown(False) as told:
        assert told is None


def test_the_bar_counts_epochs(tiny):
    with notebook.shown(True) as told:
        cellalign.train(tiny, method="vae", epochs=2, settings={"hidden": [8]}, progress=told)
        (task,) = told.bar.tasks
        assert (task.completed, task.total) == (2, 2) and "epoch 2/2" in task.fields["said"]
