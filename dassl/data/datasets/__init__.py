from .base_dataset import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
