"""How many files a process may have open, which a merge of many shards can reach."""

from __future__ import annotations

from merging.plan import Plan

OTHERS = 100  # what a process has open beside the files of a merge, and those that it writes


def crowded(work: Plan) -> str:
    """What is wrong with the number of files of the models, in two sentences; empty where all can be open at once.

    The process's limit is raised to what the system allows it, where that is needed.
    """
    try:
        import resource
    except ImportError:  # on Windows nothing limits it
        return ""
    count = len({entry.file for model in (work.base, *work.experts) for entry in model.entries.values()}) + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count <= soft or soft == resource.RLIM_INFINITY:
        return ""
    if hard != resource.RLIM_INFINITY and count > hard:
        words = f"The models are in {count - OTHERS:,} files, and this process may have only {hard:,} open at once"
        return f"{words}. Allow it {count:,} (`ulimit -Hn {count}`), or save the models in fewer shards."
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return ""
