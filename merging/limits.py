"""How many files a process may have open, which a merge of many shards can reach."""

from __future__ import annotations

from merging.plan import Plan

OTHERS = 100  # what a process has open beside the files of a merge


def crowded(work: Plan, shards: int) -> str:
    """What is wrong with the number of files that a merge has open, in two sentences; empty where it may have them.

    These are the models' and those of the result, `shards`. The process's limit is raised to what the system allows
    it, where that is needed.
    """
    try:
        import resource
    except ImportError:  # on Windows nothing limits it
        return ""
    count = _files(work) + shards + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or count <= soft:
        return ""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (ValueError, OSError):
        words = f"The merge has {count - OTHERS:,} files open, and this process may have only {hard:,}"
        return f"{words}. Allow it {count:,} (`ulimit -Hn {count}`), or use fewer and larger shards."
    return ""


def _files(work: Plan) -> int:
    """The files that stay open while they are read: those whose numbers can be taken as they are."""
    models = (work.base, *work.experts)
    return len(
        {
            model.entries[name].file
            for model in models
            for name in work.merged
            if name in model.entries and name not in model.made and model.entries[name].dtype in ("BF16", "F32")
        }
    )
