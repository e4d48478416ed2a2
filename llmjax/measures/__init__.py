"""How good predictions are: accepted metrics, with bootstrap intervals.

scikit-learn, scipy and sacrebleu are known here alone, and imported where they are used.
"""

from llmjax.measures.figures import Measure, Measures
from llmjax.measures.labels import classification, multilabel
from llmjax.measures.numbers import regression
from llmjax.measures.spans import answers
from llmjax.measures.tags import entities, tags
from llmjax.measures.text import language, preference, similarity
from llmjax.measures.written import translation

__all__ = [
    "Measure",
    "Measures",
    "answers",
    "classification",
    "entities",
    "language",
    "multilabel",
    "preference",
    "regression",
    "similarity",
    "tags",
    "translation",
]
