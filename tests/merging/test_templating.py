"""Chat templates that would never end, or take all memory: each in a sentence, and soon."""

import pytest

from merging import templating
from merging.errors import MergeError
from merging.templating import rendered

ROUND = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(x='aaaa') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


def test_the_prompt_is_written_as_the_template_has_it() -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %} >{% endif %}"

    assert rendered(template, "Wie geht's?\n<é>", (("bos_token", "<s>"),)) == "<s>[user] Wie geht's?\n<é> >"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ROUND, "it takes more than 1 seconds, or more memory than there is for it"),
        (DOUBLED, "it takes more memory than there is for it"),
        ("{{ 'a' * 2000000 }}", "it writes more than 1,048,576 characters"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "is unsafe"),
    ],
    ids=["round", "doubled", "long", "error", "globals"],
)
def test_what_a_template_may_not_do_is_told(template: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if template == ROUND:
        monkeypatch.setattr(templating, "SECONDS", 1)

    with pytest.raises(MergeError) as caught:
        rendered(template, "x")

    assert str(caught.value).startswith("The chat template could not be used (")
    assert words in str(caught.value)
    assert str(caught.value).endswith("). Sample without it.")
