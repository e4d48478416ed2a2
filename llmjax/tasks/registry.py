"""The registry of tasks: a new kind is one file and one line here."""

from llmjax.registry import Registry
from llmjax.tasks.config import TaskConfig

TASKS: Registry[TaskConfig] = Registry(
    "task",
    {
        "classification": "llmjax.tasks.classification:ClassificationTask",
        "multilabel": "llmjax.tasks.multilabel:MultiLabelTask",
        "regression": "llmjax.tasks.regression:RegressionTask",
        "token_classification": "llmjax.tasks.token_classification:TokenClassificationTask",
        "extractive_qa": "llmjax.tasks.extractive_qa:ExtractiveQATask",
        "sequence": "llmjax.tasks.sequence:SequenceTask",
        "chat": "llmjax.tasks.chat:ChatTask",
        "preference": "llmjax.tasks.preference:PreferenceTask",
        "similarity": "llmjax.tasks.similarity:SimilarityTask",
    },
)
