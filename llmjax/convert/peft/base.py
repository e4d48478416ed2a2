"""Which published model a run's adapters stand on, by a name that PEFT can load."""

import logging
from pathlib import Path

from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin

log = logging.getLogger(__name__)


def base_name(config: Config, origin: Origin | None) -> str | None:
    """base_model_name_or_path; None, with a warning that says what to do, where the adapters stand
    on no model as it was published, or on one that PEFT has no name for.

    Args:
      config: of a run with adapters.
      origin: where its model comes from.
    """
    base = config.init_from
    if origin is None or not origin.source or (base and not is_untouched(Run(Path(base)))):
        why = f"{base or 'the model that they stand on'} is not a model as it was published"
    elif not _can_be_loaded(origin):
        why = f"{origin.source} is no name for PEFT"
    else:
        return origin.source
    if base:
        fix = f"write it with llmjax export {base} FOLDER --to hf, and load the adapters onto that"
    else:
        fix = "load the adapters onto a folder of it"
    log.warning("base_model_name_or_path is left empty, for %s; %s", why, fix)
    return None


def is_untouched(run: Run) -> bool:
    """Whether a run is an import that nobody trained since, nor put adapters beside; False where
    there is none any more."""
    if read_origin(run.folder) is None or not run.config_path.is_file():
        return False
    config = run.config()
    return config.init_from is None and config.model.lora is None and run.steps() == [0]


def _can_be_loaded(origin: Origin) -> bool:
    """Whether the source is a folder or a name on the hub; a revision of that has a field of its
    own in PEFT."""
    if origin.format != "hf" or origin.source.startswith("sample:"):
        return False
    return "@" not in origin.source or Path(origin.source).is_dir()
