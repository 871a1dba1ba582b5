"""Other processes and machines, by Dask."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def dask_client(scheduler: str | None, workers: int, *, timeout_s: float = 20.0) -> Iterator[Any]:
    """A client of the Dask scheduler at an address, or without one of ``workers`` processes on this machine.

    Raises ValueError where Dask is not installed, or where no scheduler answers within ``timeout_s``.
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
            if scheduler:
                asyncio.run(_answer(scheduler, timeout_s))
            client = stack.enter_context(Client(address))
        except TimeoutError as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler} within {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        yield client


async def _answer(scheduler: str, timeout_s: float) -> None:
    """Ask a scheduler who it is; TimeoutError without an answer. `Client` waits forever for one that stays silent."""
    from distributed.core import rpc

    connection = rpc(scheduler, timeout=timeout_s)
    try:
        await asyncio.wait_for(connection.identity(), timeout_s)
    finally:
        await connection.close_rpc()
