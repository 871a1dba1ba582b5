"""Other processes and machines, by Dask."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def dask_client(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A client of the Dask scheduler at an address, or without one of ``workers`` processes on this machine.

    Raises ValueError where Dask is not installed, or where no scheduler answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'ptycho[distributed]'") from error
    with ExitStack() as stack:
        address: Any = scheduler
        if not scheduler:
            address = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0"))
        try:
            client = stack.enter_context(Client(address))
        except OSError as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        yield client
