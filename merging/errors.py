"""The errors whose words go to the screen unchanged."""


class MergeError(Exception):
    """Something the user can act on: what is wrong, with the names and values, and then what to do."""


class MergeStopped(Exception):  # noqa: N818 - it is an event, asked for by the user, and no error
    """The merge was stopped on request; nothing was written."""
