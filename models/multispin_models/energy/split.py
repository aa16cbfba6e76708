"""Joules of a shared batch, given to its requests by their rows, to the last bit."""

import math
from collections.abc import Mapping

__all__ = ["split_energy"]


def split_energy(joules: float, rows_by_request: Mapping[int, int]) -> dict[int, float]:
    """Return each request's share, in proportion to its rows; the shares sum exactly to the batch.

    The batch is split in units of its last bit, and what is left over (fewer units than requests) goes to the request
    with the most rows, the first of equals. As all shares are whole units, any order of adding gives the batch.

    Args:
        joules: of the batch, 0 or more.
        rows_by_request: rows of the forward pass by request, at least one row in all.

    Raises:
        ValueError: energy or rows are negative or not finite, or there is no row.

    >>> split_energy(9.0, {7: 1, 8: 2})
    {7: 3.0, 8: 6.0}
    """
    if not (math.isfinite(joules) and joules >= 0.0):
        raise ValueError(f"batch of {joules} J, allowed is 0 or more")
    total_rows = sum(rows_by_request.values())
    if total_rows <= 0 or min(rows_by_request.values()) < 0:
        raise ValueError(f"rows {dict(rows_by_request)}, allowed are 0 or more each and 1 or more in all")
    unit = math.ulp(joules)
    units = int(joules / unit)  # exact: below 2**53
    shares = {request: units * rows // total_rows for request, rows in rows_by_request.items()}
    largest = max(rows_by_request, key=lambda request: rows_by_request[request])
    shares[largest] += units - sum(shares.values())
    return {request: share * unit for request, share in shares.items()}
