"""A program that walks through HDF5 files as a reader would, within limits: a damaged one ends it, and not its reader.

`ptycho.hdf5_guard` starts it, with the path of this file, and writes a line of JSON for each file: ``path``,
``seconds``, ``bytes``. It answers true if it came to the end, false where memory was lacking. No answer: HDF5 crashed,
mostly for lack of memory, or took more seconds of computing. It imports nothing of the package, so that it starts at
once.
"""

import json
import os
import sys
from contextlib import suppress
from typing import Any


def main() -> None:
    # Both take as long as all else here, and are in memory before its limit counts.
    import h5py
    import hdf5plugin  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit(request["seconds"], request["bytes"])
        print(json.dumps(_walked(h5py, request["path"])), flush=True)


def _limit(seconds: int, more_bytes: int) -> None:
    """From now on at most so many seconds of computing, and so many bytes more; on Windows there are no such limits."""
    with suppress(ImportError):
        import resource

        _limit_by(resource, seconds, more_bytes)


def _limit_by(resource: Any, seconds: int, more_bytes: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with suppress(FileNotFoundError), open("/proc/self/statm") as file:  # Linux: elsewhere the size is not told
        most = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _walked(h5py: Any, path: str) -> bool:
    """Look at every object, its attributes and its texts once: whether there was memory enough."""
    try:
        with h5py.File(path, "r") as file:
            return _through(h5py, file)
    except Exception as error:  # HDF5 on damaged bytes raises whatever it meets: its reader will meet it, and say so
        return not _lacks_memory(error)


def _through(h5py: Any, file: Any) -> bool:
    seen: set[int] = set()
    todo = [file]
    while todo:
        item = todo.pop()
        try:
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            _look(h5py, item)
            if isinstance(item, h5py.Group):
                # A link may lead to other files, which are walked through when they are opened.
                hard = [name for name in item if isinstance(item.get(name, getlink=True), h5py.HardLink)]
                todo.extend(item[name] for name in hard)
        except Exception as error:  # as above
            if _lacks_memory(error):
                return False
    return True


def _look(h5py: Any, item: Any) -> None:
    for name in item.attrs:
        item.attrs[name]
    if isinstance(item, h5py.Dataset) and item.shape is not None:
        item.id.get_create_plist()
        if item.dtype.hasobject and item.size <= 1000:
            item[()]  # a text


def _lacks_memory(error: Exception) -> bool:
    """HDF5 says what it could not allocate; a pointer "past end of allocation" is just damaged."""
    return isinstance(error, MemoryError) or "allocat" in str(error).replace("end of allocation", "")


if __name__ == "__main__":
    main()
