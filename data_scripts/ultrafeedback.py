"""UltraFeedback, binarised: single questions, answers ranked by a language model."""

from functools import partial

from data_scripts.preferences import ROLES_OF_COLUMNS, prepare_pairs
from data_scripts.source import Source

HUB = "trl-lib/ultrafeedback_binarized"
FACTS = {
    "title": "UltraFeedback",
    "url": f"https://huggingface.co/datasets/{HUB}",
    "licence": "MIT",
    **ROLES_OF_COLUMNS,
    "notes": "Pairs of answers of language models, ranked by another one.",
}
SOURCE = Source(
    name="ultrafeedback",
    files=(),
    facts=FACTS,
    build=partial(prepare_pairs, "ultrafeedback", HUB, FACTS),
)
