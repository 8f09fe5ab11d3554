"""What takes long is told of, what does not is not."""

import logging
import time

import pytest

from cellalign.evaluation import progress


def test_only_what_takes_long_is_told_of(caplog, monkeypatch):
    monkeypatch.setattr(progress.log, "propagate", True)
    with caplog.at_level(logging.INFO, logger="cellalign"):
        with progress.told("panel quick"):
            pass
        assert not caplog.messages
        monkeypatch.setattr(progress, "EVERY", 0.01)
        with progress.told("panel slow"):
            while not caplog.messages:
                time.sleep(0.01)
    assert caplog.messages[0] == "panel slow: 0 s"


def test_an_error_ends_it():
    with pytest.raises(ZeroDivisionError), progress.told("panel"):
        raise ZeroDivisionError
