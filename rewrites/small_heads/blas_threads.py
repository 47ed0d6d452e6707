"""How many threads the linear algebra of a fit gets.

The fits of an ordinary head are thousands of products of a millisecond and less. Threads of the
BLAS that share such a product wait for each other in a loop: on two cores that had other work a
search took 6 to 15 times as long with two threads as with one, for the same result. The products
of a large head are worth sharing, but for the refinement of classes, whose dot products are not.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

#: Heads of at least so many weights make products that are worth more than one thread.
_LARGE = 2**22


def suited_to(params: int) -> AbstractContextManager[Any]:
    """Within it, NumPy's BLAS has one thread for a head of so few parameters that more would be in
    each other's way."""
    return nullcontext() if params >= _LARGE else one()


def one() -> AbstractContextManager[Any]:
    """Within it, NumPy's BLAS has one thread, in the whole process."""
    from threadpoolctl import threadpool_limits  # only a fit needs it

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
