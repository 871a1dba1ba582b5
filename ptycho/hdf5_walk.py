"""A program that walks through HDF5 files as a reader would, within limits: a damaged one ends it, and not its reader.

`ptycho.hdf5_guard` starts it, with the path of this file, and writes a line of JSON for each file: ``path``,
``seconds``, ``bytes``. It answers true if it came to the end, false where names cannot be listed or memory was lacking.
No answer: HDF5 crashed, mostly for lack of memory, or took more seconds of computing. It imports nothing of the
package, so that it starts at once.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
    """Look at every object, its attributes and its texts once: whether all could be listed, with the memory there is,
    and may be read.

    What could not be listed would be found by its name all the same, and was not looked at.
    """
    seen: set[int] = set()
    try:
        with h5py.File(path, "r") as file:
            todo = [file]
            while todo:
                todo.extend(_look(h5py, todo.pop(), seen))
    except _Unlisted:
        return False
    except Exception as error:  # HDF5 on damaged bytes raises whatever it meets: its reader will meet it, and say so
        return not _lacks_memory(error)
    return True


class _Unlisted(Exception):
    """Names that cannot be listed, values that HDF5 crashes on, or what takes more memory than there is."""


def _look(h5py: Any, item: Any, seen: set[int]) -> list[Any]:
    """What a group holds, each object once."""
    address = _tried(partial(_address, h5py, item))
    if address in seen:
        return []
    if address is not None:
        seen.add(address)
    for name in _listed(item.attrs):
        _tried(partial(item.attrs.__getitem__, name))
    if isinstance(item, h5py.Dataset):
        _tried(item.id.get_create_plist)
        if _overlaps(_tried(partial(getattr, item, "dtype"))):
            raise _Unlisted
        if _tried(partial(_is_text, item)):
            _tried(partial(item.__getitem__, ()))
    if not isinstance(item, h5py.Group):
        return []
    # A link may lead to other files, which are walked through when they are opened.
    links = {name: _tried(partial(item.get, name, getlink=True)) for name in _listed(item)}
    inside = (
        _tried(partial(item.__getitem__, name)) for name, link in links.items() if isinstance(link, h5py.HardLink)
    )
    return [entry for entry in inside if entry is not None]


def _address(h5py: Any, item: Any) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _overlaps(dtype: Any) -> bool:
    """Whether two parts of a compound share bytes, as no writer makes them: HDF5 crashes on such values."""
    end = 0
    for member, offset in sorted(
        (field[:2] for field in (getattr(dtype, "fields", None) or {}).values()), key=lambda f: f[1]
    ):
        if offset < end or _overlaps(member):
            return True
        end = offset + member.itemsize
    return end > getattr(dtype, "itemsize", 0)


def _is_text(dataset: Any) -> bool:
    return bool(dataset.dtype.hasobject and dataset.size <= 1000)


def _listed(names: Any) -> list[str]:
    try:
        return list(names)
    except Exception as error:
        raise _Unlisted from error


def _tried(look: Callable[[], Any]) -> Any:
    """What it gives, or None: what is only damaged its reader will meet, and name."""
    try:
        return look()
    except Exception as error:
        if _lacks_memory(error):
            raise _Unlisted from error
        return None


def _lacks_memory(error: Exception) -> bool:
    """HDF5 says what it could not allocate; a pointer "past end of allocation" is just damaged."""
    return isinstance(error, MemoryError) or "allocat" in str(error).replace("end of allocation", "")


if __name__ == "__main__":
    main()
