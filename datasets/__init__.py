"""ID and OOD data sets; importing the package registers every ID data set."""

from datasets import classfolders, imagelist, imagenet
