"""roles: the objectives that a method treats differently, from names to positions."""

from collections.abc import Mapping, Sequence


def role_names(value: str | Sequence[str], method: str, keyword: str) -> tuple[str, ...]:
    """Return one name or several as a tuple of distinct names.

    Raises:
        TypeError: if an entry is not a string.
        ValueError: if there is no name, or one occurs twice.
    """
    names = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"`{keyword}` of `{method}` must be an objective's name or a sequence of names; got"
            f" {value!r}. Pass the keys of the losses."
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`{keyword}` of `{method}` must hold at least one name, each once; got {value!r}."
            " Pass the keys of the losses."
        )
    return names


def refuse_overlap(roles: Mapping[str, tuple[str, ...]], method: str) -> None:
    """Raise ValueError if an objective has two roles."""
    taken: set[str] = set()
    for keyword, names in roles.items():
        twice = taken.intersection(names)
        if twice:
            raise ValueError(
                f"`{keyword}` of `{method}` must not repeat the names of another role; got"
                f" {sorted(twice)} again. Give every objective one role."
            )
        taken.update(names)


def refuse_without_role(
    names: Sequence[str] | None, roles: Mapping[str, tuple[str, ...]], method: str
) -> None:
    """Raise ValueError if an objective of a step has no role."""
    without = [name for name in names or () if not any(name in role for role in roles.values())]
    if without:
        raise ValueError(
            f"`{method}` must know the role of every objective; {without} have none in"
            f" {dict(roles)}. Name each in one of {', '.join(f'`{key}`' for key in roles)}."
        )


def positions_of(
    names: tuple[str, ...] | None, roles: Mapping[str, tuple[str, ...]], method: str
) -> tuple[list[int], ...]:
    """Return, for each role, the positions of its objectives; absent ones are left out.

    Raises:
        ValueError: if the step has no names, or an objective without a role.
    """
    if names is None:
        raise ValueError(
            f"`{method}` needs the objectives' names; got none. Pass the losses as a mapping."
        )
    refuse_without_role(names, roles, method)
    places = {name: i for i, name in enumerate(names)}
    return tuple([places[n] for n in role if n in places] for role in roles.values())
