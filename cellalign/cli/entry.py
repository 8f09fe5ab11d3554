"""The command's first lines: signals are taken before anything is imported that takes time."""

from __future__ import annotations

from cellalign.cli import signals


def main() -> None:
    """Run the command line and exit with the status the specification gives."""
    import os

    if os.environ.get("_CELLALIGN_COMPLETE") in ("bash", "zsh", "fish"):  # a shell asks what may follow
        from cellalign.cli.complete import main as complete

        raise SystemExit(complete())
    signals.install()
    import atexit

    atexit.register(_leave, os.getpid())  # registered first: what others register is called before it

    from cellalign.threads import watch_neighbours

    watch_neighbours()
    from cellalign.cli.app import main as run

    run()


def _leave(process: int) -> None:
    """End here, after all that has to be put away: the teardown of libraries takes long, and may crash.

    HDF5 does where a disk was full; and of a signal that comes while modules are taken down nobody is the master.
    """
    import os
    import sys

    status = signals.status()
    if status is None or os.getpid() != process:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)
