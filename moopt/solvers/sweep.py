"""sweep: the symmetric sweep in place, by which the active-set methods pivot."""

from moopt.records.result import Array


def sweep(table: Array, p: int, sign: float) -> None:
    """Sweep row and column p in (sign 1) or out (sign -1); the table stays symmetric.

    Sweeping in all rows of a matrix turns it into minus its inverse; sweeping in some, into the
    tableau of the equations on those rows. Sweeping out undoes it.
    """
    row = table[p].copy()
    scaled = row / row[p]
    table -= row[:, None] * scaled
    if sign < 0.0:
        scaled = -scaled
    table[p] = scaled
    table[:, p] = scaled
    table[p, p] = -1.0 / row[p]
