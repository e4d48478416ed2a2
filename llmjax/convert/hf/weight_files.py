"""Which files of a model's folder are its weights: those that Transformers would load.

The choice is that of `PreTrainedModel.from_pretrained` without a variant: the file that
config.json names, or model.safetensors, or else the files of model.safetensors.index.json. Others
(a variant, an adapter, another program's form of the same weights) are never taken for them.
"""

from pathlib import Path, PurePosixPath

from llmjax.convert.hf.reading import read_object
from llmjax.convert.hf.safetensors import Stored, TensorFiles, read_header
from llmjax.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMED = "transformers_weights"
"""The field of config.json that names another file, or an index."""
SHOWN = 3
"""How many names of files a message lists."""
MOST_TENSORS = 200_000
"""Of all files together; the largest published models of the supported families have some 1,000."""


def open_folder(folder: Path, named: object = None) -> TensorFiles:
    """The tensors of a model's folder.

    Args:
      folder: has model.safetensors, or an index and the files that it names.
      named: what config.json has under `NAMED`; None where it says nothing.

    Raises:
      UserError: there are none, or a file is damaged, missing or outside of the folder.
    """
    if named is not None:
        name = _inside(folder / "config.json", named)
        if name.endswith(".safetensors.index.json"):
            return _open_shards(folder / name)
        return TensorFiles(read_header(folder / name))
    if (folder / SINGLE).is_file():
        return TensorFiles(read_header(folder / SINGLE))
    if (folder / INDEX).is_file():
        return _open_shards(folder / INDEX)
    if (folder / SINGLE).exists():
        raise UserError(folder / SINGLE, "is not a regular file", "download it again")
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        raise UserError(
            folder,
            f"has neither {SINGLE} nor {INDEX}, but {shown}",
            f"complete the download, or give the weights' file the name {SINGLE}",
        )
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            pickled[0],
            "is a pickle, which could run any program when it is read",
            "save the model as safetensors",
        )
    raise UserError(folder, f"holds no {SINGLE}", "check that the download is complete")


def _open_shards(path: Path) -> TensorFiles:
    """The tensors of the files that an index names."""
    folder = path.parent
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(path, "has no weight_map", "restore the file")
    if len(weight_map) > MOST_TENSORS:
        raise UserError(path, f"names more than {MOST_TENSORS:,} tensors")
    found: dict[str, Stored] = {}
    for shard in sorted(_names_of(path, weight_map)):
        if not (folder / shard).is_file():
            raise UserError(
                folder / shard, f"is missing, but {path.name} names it", "download it too"
            )
        for name, stored in read_header(folder / shard).items():
            if name in found:
                raise UserError(
                    f"tensor {name}", f"is both in {found[name].path.name} and in {shard}"
                )
            found[name] = stored
        if len(found) > MOST_TENSORS:
            raise UserError(path, f"names files of more than {MOST_TENSORS:,} tensors")
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise UserError(f"tensor {name}", f"is not in {shard}, where {path.name} has it")
    return TensorFiles(found)


def _names_of(path: Path, weight_map: dict[str, object]) -> set[str]:
    """The files that an index names."""
    words = [name if isinstance(name, str) else _inside(path, name) for name in weight_map.values()]
    return {_inside(path, name) for name in set(words)}


def _inside(path: Path, name: object) -> str:
    """The name of a file in the folder of `path`, which says it; refused if it is a way out."""
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(path, f"names the file {name!r}, which is not in its own folder")
    return name
