"""check_solver_settings, check_seed: settings that many methods share."""

from __future__ import annotations

from moopt.check_number import check_number


def check_solver_settings(owner: str, tol: float, max_iter: int | None, default: float) -> None:
    """Raise unless the settings suit a solver.

    Args:
        owner: the method, for the message.
        tol: relative tolerance, in (0, 1).
        max_iter: limit on the iterations, an int >= 1, or None.
        default: the method's own `tol`, for the message.

    Raises:
        ValueError: a setting is out of range.
        TypeError: `max_iter` is not an int.

    Example:
        >>> from moopt.weightings.common_settings import check_solver_settings
        >>> check_solver_settings("Mine", 1e-10, None, 1e-10)
    """
    check_number(owner, "tol", tol, "in (0, 1)", use=f"{default:g}")
    if max_iter is not None and not isinstance(max_iter, int):
        raise TypeError(
            f"`max_iter` of `{owner}` must be an int or None; got {max_iter!r}. Use None for the"
            " solver's own limit."
        )
    if max_iter is not None and max_iter < 1:
        raise ValueError(
            f"`max_iter` of `{owner}` must be at least 1; got {max_iter}. Use None for the"
            " solver's own limit."
        )


def check_seed(owner: str, seed: int) -> None:
    """Raise TypeError unless the seed is an int.

    Example:
        >>> from moopt.weightings.common_settings import check_seed
        >>> check_seed("Mine", 0)
    """
    if not isinstance(seed, int):
        raise TypeError(f"`seed` of `{owner}` must be an int; got {seed!r}. Use 0.")
