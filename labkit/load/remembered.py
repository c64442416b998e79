"""What a method gave is kept, and its object is not kept with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

P = ParamSpec("P")
T = TypeVar("T")


def remembered(method: Callable[P, T], most: int) -> Callable[P, T]:
    """``lru_cache`` of a bound method, for an attribute of the method's object.

    A cache that holds the bound method holds the object, which holds the cache: such a cycle waits for the garbage collector,
    and in a load shard that comes by less than once an hour.

    Args:
        method: of the object that the result becomes an attribute of; its arguments can be hashed.
        most: results that are kept.
    """
    weak = WeakMethod(method)

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        found = weak()
        if found is None:
            raise ReferenceError("the object whose method this is has gone")
        return found(*args, **kwargs)

    return lru_cache(maxsize=most)(called)  # type: ignore[return-value]
