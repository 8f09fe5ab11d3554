"""Whatever ends a training of the installed command, it goes on to the same weights, bit for bit (`kill.py`)."""

import signal

import pytest

from tests.end_to_end import kill

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of Unix")]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return kill.make_cells(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def many_cells(tmp_path_factory):
    return kill.make_cells(tmp_path_factory.mktemp("many"), kill.STREAMED)


@pytest.mark.parametrize("method", ["comp", "scvi", "trvae"])
def test_kills_amid_an_epoch_of_a_file_on_disk(tmp_path, many_cells, method):
    """Shuffled in blocks, balanced, of counts: the rows of an epoch that is taken up are those that were left."""
    training = kill.Training(tmp_path, many_cells, method, "streamed")
    assert any(kill.killed_amid_an_epoch(training, 1))


@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("method", kill.METHODS)
def test_ten_kills_at_random_moments(tmp_path, cells, method, length):
    assert kill.killed(kill.Training(tmp_path, cells, method, length), 10)


@pytest.mark.parametrize("length", ["short", "long"])
def test_signals_of_queues_and_people(tmp_path, cells, length):
    kill.ended_by_signals(kill.Training(tmp_path, cells, "comp", length), list(kill.STATUS))


def test_a_signal_that_asks_for_a_checkpoint(tmp_path, cells):
    kill.kept_by_a_signal(kill.Training(tmp_path, cells, "cvae", "long"))


def test_a_full_disk(tmp_path, cells):
    kill.starved(kill.Training(tmp_path, cells, "cvae", "long"))


def test_two_jobs_of_one_model(tmp_path, cells):
    kill.two_jobs(kill.Training(tmp_path, cells, "trvae", "long"))
