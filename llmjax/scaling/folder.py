"""The folder of a ladder: which runs it has, and what they reached.

ladder.json       the config and the ladder's settings, with a checksum
runs/NAME/        an ordinary run folder of each run
points.csv, points.parquet   what the finished runs reached
fit.json          the fitted laws
report.html       all of it on one page
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.run.config.build import build
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import from_json, to_json
from llmjax.run.folder import Run
from llmjax.scaling.ladder import LadderConfig, Member, members
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import json_text, parse_json, read_json
from llmjax.storage.writing import write_atomically

FORMAT = 1


@dataclass(frozen=True)
class LadderFolder:
    """A ladder on disk."""

    path: Path
    config: Config
    ladder: LadderConfig

    @classmethod
    def create(cls, path: Path, config: Config, ladder: LadderConfig) -> "LadderFolder":
        """A new folder, or that of the same ladder, to continue; more depths, ratios, seeds and
        a held-out run may be added.

        Raises:
          UserError: the folder holds something else, or a ladder of another config.
        """
        config = replace(config, run_dir=str(path))
        file = path / "ladder.json"
        if file.is_file():
            stored = cls.open(path)
            if stored.config != config:
                reason = "holds a ladder of another config"
                raise UserError(path, reason, "choose another folder, or give the same config")
        elif path.is_dir() and any(path.iterdir()):
            raise UserError(path, "is not empty and holds no ladder", "choose another folder")
        document = {
            "format": FORMAT,
            "config": parse_json(to_json(config), file),
            "ladder": {name: _listed(value) for name, value in asdict(ladder).items()},
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json_text(with_checksum(document), indent=1) + "\n")
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror or error}") from error
        return cls(path, config, ladder)

    @classmethod
    def open(cls, path: Path) -> "LadderFolder":
        """The ladder in a folder.

        Raises:
          UserError: there is none, or it is damaged.
        """
        file = path / "ladder.json"
        if not file.is_file():
            raise UserError(path, "holds no ladder", "`llmjax scale CONFIG FOLDER` makes one")
        document: Any = read_json(file)
        values = check_checksum(document, file)
        if values.get("format") != FORMAT:
            raise UserError(file, f"has format {values.get('format')}, and {FORMAT} is read")
        config = from_json(json_text(values["config"]))
        problems = list[str]()
        ladder = build(LadderConfig, values["ladder"], "ladder", problems)
        if problems:
            raise UserError(file, "; ".join(problems))
        return cls(path, config, ladder)

    def members(self) -> list[Member]:
        """The runs; see `ladder.members`."""
        return members(self.config, self.ladder, self.path)

    def rows(self, held_out: bool) -> list[list[Member]]:
        """Runs to train one after the other, as each may continue the one before; rows are
        independent of each other. The held-out runs, or the others."""
        rows: dict[str, list[Member]] = {}
        for member in self.members():
            if member.is_held_out == held_out:
                first = member.name if member.begins_from is None else member.begins_from
                row = next((r for r in rows.values() if r[-1].name == first), None)
                if row is None or member.begins_from is None:
                    rows[member.name] = [member]
                else:
                    row.append(member)
        return list(rows.values())


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def is_finished(member: Member) -> bool:
    """Whether a run has been trained to its last step and evaluated."""
    return final_record(Run(Path(member.config.run_dir)), member.config.steps) is not None


def final_record(run: Run, steps: int) -> dict[str, Any] | None:
    """The evaluation after the last step; None: there is none yet."""
    if steps not in run.steps():
        return None
    found = [
        record
        for record in run.records()
        if record.get("kind") == "eval" and record.get("step") == steps
    ]
    return found[-1] if found and found[-1].get("bits_per_byte") is not None else None


def prepare_branch(member: Member, source: Run) -> None:
    """Makes the folder of a run that continues another one's checkpoint, unless it exists.

    Args:
      member: with `begins_from`.
      source: that run, trained beyond `branch_step`.

    Raises:
      UserError: it lacks the checkpoint; or the folder cannot be written.
    """
    target = Path(member.config.run_dir)
    if target.exists():
        return
    step = member.branch_step
    if step not in source.steps():
        reason = f"lacks the checkpoint of step {step}, which {member.name} continues"
        raise UserError(source.address, reason, "remove both folders, to train them again")
    temporary = target.with_name(f".{target.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        name = source.checkpoints.name
        shutil.copytree(source.checkpoints / str(step), temporary / name / str(step))
        shutil.copytree(source.tokenizer, temporary / source.tokenizer.name)
        shutil.copy2(source.folder / "environment.json", temporary)
        kept = [record for record in source.records() if record.get("step", 0) <= step]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(temporary / source.metrics_file.name, lines)
        write_atomically(temporary / "config.json", to_json(member.config))
        temporary.rename(target)
    except OSError as error:
        raise UserError(target, f"cannot be written: {error.strerror or error}") from error
