"""Capybara preferences: dialogues of several turns, answers ranked by a language model."""

from functools import partial

from data_scripts.preferences import ROLES_OF_COLUMNS, prepare_pairs
from data_scripts.source import Source

HUB = "argilla/distilabel-capybara-dpo-7k-binarized"
FACTS = {
    "title": "Capybara preferences",
    "url": f"https://huggingface.co/datasets/{HUB}",
    "licence": "Apache-2.0",
    **ROLES_OF_COLUMNS,
    "notes": "Dialogues of several turns; answers to the last, ranked by a language model.",
}
SOURCE = Source(
    name="capybara",
    files=(),
    facts=FACTS,
    build=partial(prepare_pairs, "capybara", HUB, FACTS),
)
