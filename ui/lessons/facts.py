"""What lessons say in numbers about the embedded family; tests measure each of them anew.

Losses are those of the family's README, in nats per token on its held-out texts.
"""

from __future__ import annotations

import re
from inspect import cleandoc

FACTS = {
    # The task vectors over the whole model.
    "entries": "2.8",  # million
    "moved": "99%",  # of Shakespeare's
    "norm_shakespeare": "26.6",
    "norm_bible": "27.3",
    "norm_python": "27.7",
    "norm_shakespeare_lora": "17.4",
    "relative_shakespeare": "16%",
    "cosine_random": "0.0006",  # one over the root of the number of entries
    # Their average and their sum; lengths are in those of a single one, the mean of the three.
    "average_along_least": "46%",  # of the way along an expert's task vector
    "average_along_most": "50%",
    "average_length": "0.69",
    "sum_length": "2.1",
    # Entries in which one expert pulls up and another down; before trimming, and at density 0.2.
    "conflict_all": "63%",
    "conflict_pair_least": "40%",
    "conflict_pair_most": "43%",
    "conflict_20": "3%",
    "quarrel_20": "25%",  # of the entries that two or three keep
    "energy_20": "68%",
    "nobody_20": "53%",
    "alone_20": "35%",
    "ties_length": "1.25",
    "nobody_pcb": "79%",  # at ratio 0.1
    # Losses.
    "base_shakespeare": "3.87",
    "base_bible": "3.36",
    "base_python": "3.58",
    "base_mean": "3.60",
    "expert_shakespeare": "3.62",
    "expert_bible": "2.77",
    "expert_python": "3.05",
    "bible_on_python": "3.70",
    "half_shakespeare": "3.66",  # of Shakespeare's task vector times 0.5, and times 1.5
    "past_shakespeare": "3.76",
    "mix_8": "3.90",  # of FroM on shakespeare-lora, bible and python, by its exponent, on Shakespeare
    "mix_0": "3.82",
    "mix_minus2": "3.80",
    "gain_shakespeare": "0.24",
    "gain_bible": "0.59",
    "gain_python": "0.52",
    "gain_shakespeare_lora": "0.10",
    "gain_bible_lora": "0.19",
    "gain_python_lora": "0.18",
    "average_mean": "3.42",
    "ta04_mean": "3.40",
    "ta05_mean": "3.40",
    "ta07_mean": "3.46",
    "ta10_mean": "3.78",
    "average_kept_shakespeare": "58%",
    "average_kept_bible": "38%",
    "average_kept_python": "37%",
    "pair_kept_bible": "55%",  # by the average of two, bible and python
    "pair_kept_python": "58%",
    "ties_kept_shakespeare": "21%",
    "ties_kept_bible": "31%",
    "ties_kept_python": "33%",
    "pcb_kept_shakespeare": "30%",
    "pcb_kept_bible": "30%",
    "pcb_kept_python": "28%",
}


def filled(text: str) -> str:
    """The text without its indentation, and with its [[names]] of facts replaced by them."""
    return re.sub(r"\[\[(\w+)\]\]", lambda name: FACTS[name[1]], cleandoc(text))
