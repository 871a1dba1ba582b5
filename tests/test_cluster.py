"""A scheduler that does not answer is said to be silent, in time."""

import socket
import threading
import time

import pytest

from ptycho.cluster import dask_client


@pytest.mark.filterwarnings("ignore:::distributed")
def test_a_scheduler_that_stays_silent_does_not_hang_the_command():
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                try:
                    kept.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        begin = time.monotonic()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        silent = pytest.raises(ValueError, match=f"no Dask scheduler answers at {address} within 1 s")
        with silent, dask_client(address, 0, timeout_s=1.0):
            pass
        assert time.monotonic() - begin < 20
        ended.set()
        thread.join()
    for connection, _ in kept:
        connection.close()


def test_an_address_that_is_none_is_said():
    with pytest.raises(ValueError, match="no Dask scheduler answers at nonsense: "), dask_client("nonsense", 0):
        pass
