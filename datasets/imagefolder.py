"""Any folder of class folders as an ID data set, by YAML or flags alone."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders
from datasets.classnames import names_from_file, read_class_list
from datasets.folders import absolute, class_folders, in_all, require_folders, some


@DATASET_REGISTRY.register()
class ImageFolder(ClassFolders):
    """``<ROOT>/<FOLDER>/[images/]{train,val,test}/<class>/...``, classes in sorted order.

    ``test`` is the test set and ``val`` the validation set; ``val`` alone is the test set. Class
    names are the folder names with spaces for underscores, unless DATASET.CLASSNAMES_FILE gives
    others.
    """

    def choose_classes(self, cfg) -> list[str]:
        found = {name: class_folders(path) for name, path in self.splits.items()}
        if cfg.DATASET.CLASSES == "":
            return _same_in_all(found, self.splits)
        if cfg.DATASET.CLASSES == "present":
            return in_all(found)
        classes = sorted(read_class_list(cfg.DATASET.CLASSES))
        for name, path in self.splits.items():
            require_folders(path, classes, found[name])
        return classes

    def name_classes(self, cfg) -> tuple[list[str], str]:
        path = cfg.DATASET.CLASSNAMES_FILE
        if path:
            return names_from_file(path, self.class_folders), absolute(path)
        return [folder.replace("_", " ") for folder in self.class_folders], "the folder names"


def _same_in_all(found: dict[str, list[str]], splits: dict) -> list[str]:
    """The classes, if all splits agree; a difference would shift labels or lose images."""
    first, *others = found
    for other in others:
        only_first = sorted(set(found[first]) - set(found[other]))
        only_other = sorted(set(found[other]) - set(found[first]))
        if only_first or only_other:
            raise InputError(
                f"The class folders of {absolute(splits[first])} and {absolute(splits[other])} "
                f"differ. Only in {first}/: {some(only_first) or 'none'}. Only in {other}/: "
                f"{some(only_other) or 'none'}. Make them agree, or set DATASET.CLASSES: "
                '"present" takes the classes that all splits have, or name them.'
            )
    return found[first]
