"""sample_name: how the rows of further batches are called."""


def sample_name(objective: str, sample: int) -> str:
    """The name of the auxiliary row of an objective's loss on another batch.

    Args:
        objective: the objective's name.
        sample: which batch: 1 for the first one beside the step's own, and so on.

    Example:
        >>> from moopt import sample_name
        >>> sample_name("forget", 1)
        'forget#1'
    """
    return f"{objective}#{sample}"
