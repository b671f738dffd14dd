"""UltraFeedback, binarised: single questions, answers ranked by a language model."""

from data_scripts.preferences import source_of_pairs

SOURCE = source_of_pairs(
    name="ultrafeedback",
    hub="trl-lib/ultrafeedback_binarized",
    title="UltraFeedback",
    licence="MIT",
    notes="Pairs of answers of language models, ranked by another one.",
)
