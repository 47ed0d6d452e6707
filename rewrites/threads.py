"""How many threads the linear algebra of a fit gets.

The fits of an ordinary head are thousands of products of a millisecond and less. Threads of the
BLAS that share such a product wait for each other in a loop: on two cores that had other work a
search took 6 to 15 times as long with two threads as with one, for the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Heads of at least so many weights make products that are worth more than one thread.
_LARGE = 2**22


@contextmanager
def suited_to(params: int) -> Iterator[None]:
    """Keep NumPy's BLAS to one thread for a head of so few parameters that more would be in each
    other's way; what was set before comes back at the end. It holds for the whole process."""
    if params >= _LARGE:
        yield
        return
    from threadpoolctl import threadpool_limits  # only a fit needs it

    with threadpool_limits(1, user_api="blas"):
        yield
