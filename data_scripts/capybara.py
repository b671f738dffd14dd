"""Capybara preferences: dialogues of several turns, answers ranked by a language model."""

from data_scripts.preferences import source_of_pairs

SOURCE = source_of_pairs(
    name="capybara",
    hub="argilla/distilabel-capybara-dpo-7k-binarized",
    title="Capybara preferences",
    licence="Apache-2.0",
    notes="Dialogues of several turns; answers to the last, ranked by a language model.",
)
