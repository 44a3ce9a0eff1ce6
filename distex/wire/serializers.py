"""Serializers: pickle, cloudpickle, dill and msgspec, each as a pair of functions.

The default for data is pickle with a helping hand: lambdas and other objects that pickle can't take
go by value with cloudpickle. What ``__main__`` defines goes by name; see definitions.py.

Large buffers, such as the data of an array, go out of band (pickle protocol 5): they are added to a
list of segments and sent from where they lie.
"""

import importlib
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from distex._core.names import note_names_in
from distex.options import PickleType
from distex.wire import definitions
from distex.wire.definitions import PROTOCOL
from distex.wire.proxies import refuse_connections

SEGMENT_MIN_BYTES = 4096  # a smaller buffer is not worth a segment of its own
SEGMENTS_MAX = 1024  # in one frame, see framing.pyx
# opcodes without effect, right behind the protocol: something in the pickle is from __main__
FROM_MAIN = b"N0"

Segments = list[Any]  # contiguous buffers


class Serializer(NamedTuple):
    """How objects become bytes.

    Attributes:
        dumps: ``dumps(obj, segments)``; large buffers are added to the segments, unless None.
        loads: ``loads(data, segments)``; those that were added, or None.
        keeps_types: whether every object arrives with the type that it had.
    """

    dumps: Callable[[Any, Segments | None], bytes]
    loads: Callable[[Any, Segments | None], Any]
    keeps_types: bool


def collector(segments: Segments | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    """A callback that has pickle leave large buffers out."""
    if segments is None:
        return None

    def collect(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SEGMENT_MIN_BYTES or len(segments) >= SEGMENTS_MAX:
            return True  # stays in the pickle
        segments.append(raw)
        return False

    return collect


def _pickle_dumps(obj: Any, segments: Segments | None = None) -> bytes:
    before = len(segments) if segments is not None else 0
    refuse_connections()
    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=collector(segments))
    except (pickle.PicklingError, AttributeError, TypeError):
        pass
    else:
        if not _names_by_value(data) and (
                b"__main__" not in data or note_names_in(data, definitions.is_known)):
            return data
    if segments is not None:
        del segments[before:]
    return _cloudpickle_dumps(obj, segments)


def _names_by_value(data: bytes) -> bool:
    """Return whether a pickle may refer to a module that goes by value."""
    registered = definitions.registered_by_value()
    return bool(registered) and any(name.encode() in data for name in registered)


def _cloudpickle_dumps(obj: Any, segments: Segments | None = None) -> bytes:
    file = io.BytesIO()
    definitions.cloud_pickler()(
        file, PROTOCOL, buffer_callback=collector(segments)).dump(obj)
    data = file.getvalue()
    return data[:2] + FROM_MAIN + data[2:] if b"__main__" in data else data


def _pickle_loads(data: Any, segments: Segments | None = None) -> Any:
    return pickle.loads(data, buffers=segments or ())


def _dill_dumps(obj: Any, segments: Segments | None = None) -> bytes:
    import dill

    # recurse: only the globals that a function uses, not all of __main__
    data: bytes = dill.dumps(obj, PROTOCOL, recurse=True)
    return data


def _dill_loads(data: Any, segments: Segments | None = None) -> Any:
    import dill

    return dill.loads(bytes(data))


def _msgspec_dumps(obj: Any, segments: Segments | None = None) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(obj)


def _msgspec_loads(data: Any, segments: Segments | None = None) -> Any:
    import msgspec

    return msgspec.msgpack.decode(data)


_SERIALIZERS = {
    PickleType.pickle: Serializer(_pickle_dumps, _pickle_loads, True),
    PickleType.cloudpickle: Serializer(_cloudpickle_dumps, _pickle_loads, True),
    PickleType.dill: Serializer(_dill_dumps, _dill_loads, True),
    PickleType.msgspec: Serializer(_msgspec_dumps, _msgspec_loads, False),
}


def is_as_able(kind: int, other: int) -> bool:
    """Whether a serializer takes all that another one takes."""
    return kind == other or {kind, other} <= {PickleType.pickle, PickleType.cloudpickle}


def for_data(kind: int) -> Serializer:
    """The serializer for arguments and results.

    Raises:
        ValueError: there is no such serializer.
        ImportError: it is an extra that is not installed.
    """
    serializer = _SERIALIZERS[PickleType(kind)]
    if kind == PickleType.dill:
        importlib.import_module("dill")
    return serializer


def for_functions(kind: int) -> Serializer:
    """The serializer for functions; raises as for_data(), and ValueError for msgspec."""
    if kind == PickleType.msgspec:
        raise ValueError("func_pickle can't be msgspec: it does not know functions")
    return for_data(kind)
