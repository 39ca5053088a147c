"""The defaults of all settings but those of the methods, which are in trainers/.

Names and values are upstream's, except for keys marked as ours. A key is here only if something
reads it: upstream's settings of trainers, transforms and data sets that this project does not have
are left out, so that setting one is refused as unknown.
"""

INPUT = {
    "SIZE": (224, 224),
    # bilinear | bicubic | nearest
    "INTERPOLATION": "bilinear",
    # Ours, for test images: shortest (resize the smaller edge, crop the centre) | squash (resize
    # both edges, which changes their ratio)
    "RESIZE_MODE": "shortest",
    # Names from AVAI_CHOICES (data/transforms); they are applied in the order given there
    "TRANSFORMS": (),
    # Mean and standard deviation of ImageNet's channels
    "PIXEL_MEAN": [0.485, 0.456, 0.406],
    "PIXEL_STD": [0.229, 0.224, 0.225],
    # random_resized_crop: smallest and largest share of the area
    "RRCROP_SCALE": (0.08, 1.0),
    # Ours, for random_rotation: largest angle either way, in degrees
    "ROTATION": 5.0,
    # colorjitter: brightness, contrast, saturation, hue
    "COLORJITTER_B": 0.4,
    "COLORJITTER_C": 0.4,
    "COLORJITTER_S": 0.4,
    "COLORJITTER_H": 0.1,
    # randomgrayscale: probability
    "RGS_P": 0.2,
}

DATASET = {
    # Folder that holds all data sets (upstream: empty)
    "ROOT": "data",
    "NAME": "",
    # Ours: the data set's folder under ROOT. Empty: the data set's default, which is `imagenet`
    # for ImageNet and ROOT itself for ImageFolder
    "FOLDER": "",
    # Ours: the classes to use. Empty: all, each of which must be there; present: those whose
    # folders exist; or class folders (WordNet ids), separated by commas, or a .txt file with one a
    # line. Labels follow the sorted folder names, not the list
    "CLASSES": "",
    # Ours, for ImageList: the images' folder under FOLDER, and the file (in FOLDER, or a path) that
    # divides them: CoOp's split_zhou_*.json, or lists with {} for train, val and test
    "IMAGES": "",
    "SPLIT_FILE": "",
    # Ours: the hand-written prompt for the data set, with {} for the class name
    "TEMPLATE": "a photo of a {}.",
    # Ours: a file of lines `n01440764 tench`, instead of the built-in names; for ImageList, a .txt
    # file with a name a line in label order, or the names themselves, separated by commas. `#` and
    # a blank begin a comment; numbers from 0 or 1, in order, before all names are dropped
    "CLASSNAMES_FILE": "",
    # Ours: where to get the data set, or the command that makes it, for the data check; {root}
    # stands for ROOT. OOD sets and pairs have a DOWNLOAD of their own
    "DOWNLOAD": "",
    # Training images per class; -1: all (upstream: any number below 1)
    "NUM_SHOTS": -1,
    # Share of each class that is held out if a data set has no test images of its own
    "VAL_PERCENT": 0.1,
    # all | base (first half of the classes) | new (second half), as CoOp
    "SUBSAMPLE_CLASSES": "all",
    # Ours: the image-caption pairs that CLIPN and ZOC train on
    "PAIRS": {
        # shards | csv | classnames (see datasets/captions.py)
        "SOURCE": "",
        # Under ROOT, or absolute: `cc3m/{00000..00331}.tar`, a folder of tars, or a table
        "PATH": "",
        # Pairs per epoch, chosen anew in each; 0: all
        "NUM_PAIRS": 0,
        # csv: names of the columns of paths and captions
        "COLUMNS": ("path", "caption"),
        # classnames: sentences with {} for the class name
        "TEMPLATES": ("a photo of a {}.",),
        # shards: size of each worker's shuffle buffer, in undecoded pairs
        "SHUFFLE": 2000,
        "DOWNLOAD": "",
    },
}

# Ours: the OOD sets and the shifted ID sets of the benchmark
OOD = {
    # NAME: {FOLDERS, LIST, CLASSES, IMAGES, MD5, GROUP}, see docs/data.md
    "SETS": {},
    # Shifted ID sets in the same form; each has a LIST with the ID set's labels
    "SHIFTED": {},
    # IMAGES and MD5 of the protocol's list of ID test images (ImageList)
    "ID": {},
    # The FPR95 that tables show first: fpr95_id_nearest (MCM, LoCoOp) | fpr95_ood_first (OpenOOD)
    "FPR95": "fpr95_id_nearest",
}

TRAIN_LOADER = {
    "SAMPLER": "RandomSampler",
    "BATCH_SIZE": 32,
    # Ours: drop the last batch of an epoch if it is incomplete
    "DROP_LAST": True,
    # Upstream's; no sampler here reads them
    "N_DOMAIN": 0,
    "N_INS": 16,
}

DATALOADER = {
    # Processes that load images, for each rank
    "NUM_WORKERS": 4,
    # Ours: the number V of views. Epoch e has the augmentations of epoch e mod V, and image
    # features are kept in EVAL.FEATURES. 0: each epoch has new augmentations (as published)
    "VIEWS": 0,
    # Ours, for an image that cannot be read: stop | skip
    "BAD_IMAGES": "stop",
    # Labelled (X) and unlabelled (U) training images; SAME_AS_X: use TRAIN_X's settings
    "TRAIN_X": TRAIN_LOADER,
    "TRAIN_U": {"SAME_AS_X": True, **TRAIN_LOADER},
    "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
}

MODEL = {
    # File of weights to begin with; empty: none
    "INIT_WEIGHTS": "",
    # ACTIVATION (ours): quick_gelu | gelu, for weight files that do not say which
    "BACKBONE": {"NAME": "", "ACTIVATION": ""},
}

OPTIM = {
    # adam | adamw | sgd
    "NAME": "adam",
    "LR": 0.0003,
    "WEIGHT_DECAY": 5e-4,
    "MOMENTUM": 0.9,
    "SGD_DAMPNING": 0,
    "SGD_NESTEROV": False,
    "ADAM_BETA1": 0.9,
    "ADAM_BETA2": 0.999,
    # single_step | multi_step | cosine
    "LR_SCHEDULER": "single_step",
    # single_step: epochs between drops of LR, below 1: MAX_EPOCH; multi_step: epochs of the drops
    "STEPSIZE": (-1,),
    "GAMMA": 0.1,
    "MAX_EPOCH": 10,
    # Epochs of warm-up before the schedule; below 1: none
    "WARMUP_EPOCH": -1,
    # linear | constant
    "WARMUP_TYPE": "linear",
    "WARMUP_CONS_LR": 1e-5,
    "WARMUP_MIN_LR": 1e-5,
    # True: after the warm-up the schedule begins at its epoch 0
    "WARMUP_RECOUNT": True,
}

TRAIN = {
    # What counts as an epoch with unlabelled images: train_x | train_u | smaller_one
    "COUNT_ITER": "train_x",
    # Epochs between intermediate checkpoints, of which only the newest is kept; 0: none (upstream)
    "CHECKPOINT_FREQ": 1,
    # Batches between progress lines
    "PRINT_FREQ": 10,
    # Ours: on a GPU, run a step of a prompt learner as one CUDA graph; False: kernel by kernel
    "CUDA_GRAPH": True,
}

TEST = {
    "EVALUATOR": "Classification",
    # True: no test after training
    "NO_TEST": False,
    # test | val
    "SPLIT": "test",
    # last_step | best_val
    "FINAL_MODEL": "last_step",
}

# Ours: what an evaluation computes and keeps. Its flags set them: see eval_ood.py --help
EVAL = {
    "SCORES": "all",
    "TEMPERATURE": 1.0,
    "LOCAL_WEIGHT": 1.0,
    "NEGATIVES": "",
    "NEGATIVES_SHARE": 0.15,
    "OUTLIERS": "",
    "STREAMS": "",
    "STREAM_RATIO": "",
    "STREAM_BATCH": 0,
    "STREAM_SEED": 110,
    "TPR": 0.95,
    "FEATURES": "output/features",
    "FEATURES_LIMIT": 20.0,
    "FEATURES_LOCAL": False,
}

# Settings of earlier versions, which are ignored with a warning: the cache of decoded images
REMOVED = ("DATALOADER.DECODED", "DATALOADER.DECODED.GIB", "DATALOADER.DECODED.FOLDER")

DEFAULTS = {
    "OUTPUT_DIR": "./output",
    # Folder of an earlier run to resume; empty: OUTPUT_DIR, if it holds a checkpoint
    "RESUME": "",
    # Below 0: no seed (upstream: -1)
    "SEED": 1,
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": INPUT,
    "DATASET": DATASET,
    "DATALOADER": DATALOADER,
    "MODEL": MODEL,
    "OPTIM": OPTIM,
    "TRAIN": TRAIN,
    "TEST": TEST,
    "OOD": OOD,
    "EVAL": EVAL,
    # NAME, and a node for each registered trainer
    "TRAINER": {"NAME": ""},
}
