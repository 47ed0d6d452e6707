"""How many threads the linear algebra of a fit gets.

The fits of an ordinary head are thousands of products of a millisecond and less. Threads of the
BLAS that share such a product wait for each other in a loop: on two cores that had other work a
search took 6 to 15 times as long with two threads as with one. The products of a large head could
be shared, but in which order they are added up depends on the number of threads, and with it the
last digits: with one, a machine of any number of cores finds the same head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def one() -> AbstractContextManager[Any]:
    """Within it, NumPy's BLAS has one thread, in the whole process."""
    from threadpoolctl import threadpool_limits  # only a fit needs it

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
