"""Every setting and its default, but for the methods' own: those are in trainers/.

Upstream's names and values. A key is here only if something reads it: upstream's settings of
trainers, transforms and data sets that this project does not have are left out, so that setting
one is refused as unknown. Keys marked "ours" are not upstream's.
"""

INPUT = {
    "SIZE": (224, 224),
    # bilinear | bicubic | nearest
    "INTERPOLATION": "bilinear",
    # Extension of ours, of test images: shortest (resize the smaller edge, crop the centre) |
    # squash (resize both edges, whatever their ratio)
    "RESIZE_MODE": "shortest",
    # Names of data.transforms, in any order; they are applied in a fixed order
    "TRANSFORMS": (),
    # ImageNet's
    "PIXEL_MEAN": [0.485, 0.456, 0.406],
    "PIXEL_STD": [0.229, 0.224, 0.225],
    # random_resized_crop
    "RRCROP_SCALE": (0.08, 1.0),
    # Ours: random_rotation, by at most so many degrees either way
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
    # Folder of all data sets (upstream: empty)
    "ROOT": "data",
    "NAME": "",
    # Ours: the data set's folder under ROOT. Empty: the data set's own default, `imagenet` for
    # ImageNet, ROOT itself for ImageFolder
    "FOLDER": "",
    # Ours. Empty: all classes, each of which must be there; present: those whose folders exist; or
    # class folders (WordNet ids), separated by commas, or a .txt file with one a line. Labels
    # follow the sorted folder names, not the list
    "CLASSES": "",
    # Ours, of ImageList: the folder of the images under FOLDER, and the file that divides them, in
    # FOLDER or a path of yours: CoOp's split_zhou_*.json, or lists with {} for train, val and test
    "IMAGES": "",
    "SPLIT_FILE": "",
    # Ours: the hand-written prompt that goes with the data set, with {} for the class name
    "TEMPLATE": "a photo of a {}.",
    # Ours: a file of lines `n01440764 tench`, instead of the built-in names; of ImageList, a name a
    # line in label order, or names separated by commas
    "CLASSNAMES_FILE": "",
    # Ours: where the data set can be had, or the command that makes it, for the data check;
    # {root} stands for ROOT. OOD sets and pairs have such a line of their own
    "DOWNLOAD": "",
    # Images a class to train on; below 1: all
    "NUM_SHOTS": -1,
    # Share of each class that is held out where a set has no test images of its own
    "VAL_PERCENT": 0.1,
    # all | base | new (CoOp)
    "SUBSAMPLE_CLASSES": "all",
    # Ours: the image-caption pairs that CLIPN and ZOC learn from
    "PAIRS": {
        # shards | csv | classnames (see datasets/captions.py)
        "SOURCE": "",
        # Under ROOT, or absolute: `cc3m/{00000..00331}.tar` a folder of tars, or a table
        "PATH": "",
        # Pairs an epoch, another choice of them in each; 0: all
        "NUM_PAIRS": 0,
        # csv: columns of the path and of the caption
        "COLUMNS": ("path", "caption"),
        # classnames: sentences with {} for the class name
        "TEMPLATES": ("a photo of a {}.",),
        # shards: pairs that each worker holds, undecoded, to draw from
        "SHUFFLE": 2000,
        "DOWNLOAD": "",
    },
}

# Ours: the benchmark, which sets the ID set is measured against, and how
OOD = {
    # NAME: {FOLDERS, LIST, CLASSES, IMAGES, MD5, GROUP}, see docs/data.md
    "SETS": {},
    # Shifted ID sets, in the same form, each with a LIST whose labels are the ID set's
    "SHIFTED": {},
    # IMAGES and MD5 of the protocol's list of ID test images (ImageList)
    "ID": {},
    # The FPR95 that tables show first: fpr95_id_nearest (MCM, LoCoOp) | fpr95_ood_first (OpenOOD)
    "FPR95": "fpr95_id_nearest",
}

TRAIN_LOADER = {
    "SAMPLER": "RandomSampler",
    "BATCH_SIZE": 32,
    # Ours: leave the last batch of an epoch out if it is not whole
    "DROP_LAST": True,
    "N_DOMAIN": 0,
    "N_INS": 16,
}

DATALOADER = {
    # Processes that read images, for each rank
    "NUM_WORKERS": 4,
    # Ours: V, epoch e has the augmentations of epoch e mod V, and the features of the images are
    # kept in EVAL.FEATURES; 0: each epoch has its own (as published)
    "VIEWS": 0,
    # Extension of ours: stop | skip, when an image cannot be read
    "BAD_IMAGES": "stop",
    # Ours: the decoded pixels of training images, kept on disk (docs/training.md). GIB: of all sets
    # together; 0: none. FOLDER: where; empty: promptood/decoded in the user's cache folder
    "DECODED": {"GIB": 32.0, "FOLDER": ""},
    "TRAIN_X": TRAIN_LOADER,
    # SAME_AS_X: TRAIN_X's settings count
    "TRAIN_U": {"SAME_AS_X": True, **TRAIN_LOADER},
    "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
}

MODEL = {
    # Weights to begin with
    "INIT_WEIGHTS": "",
    # ACTIVATION (ours): quick_gelu | gelu, for files of weights that do not say which
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
    # Below 1 for single_step: MAX_EPOCH
    "STEPSIZE": (-1,),
    "GAMMA": 0.1,
    "MAX_EPOCH": 10,
    # Above 0: so many epochs of warm-up come first
    "WARMUP_EPOCH": -1,
    # linear | constant
    "WARMUP_TYPE": "linear",
    "WARMUP_CONS_LR": 1e-5,
    "WARMUP_MIN_LR": 1e-5,
    # True: the schedule proper begins at its epoch 0 after the warm-up
    "WARMUP_RECOUNT": True,
}

TRAIN = {
    # train_x | train_u | smaller_one: what makes an epoch where there are unlabelled images
    "COUNT_ITER": "train_x",
    # Epochs between intermediate checkpoints, of which the newest is kept; 0: none (upstream: 0)
    "CHECKPOINT_FREQ": 1,
    # Batches between progress lines
    "PRINT_FREQ": 10,
    # Ours: a GPU is given the steps of prompt learners as one graph; False: kernel by kernel
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

# Ours: what an evaluation computes and keeps
# Ours. eval_ood.py, whose flags set them, says by --help what each is
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

DEFAULTS = {
    "OUTPUT_DIR": "./output",
    # Folder of an earlier run to go on from; empty: OUTPUT_DIR, if it holds one
    "RESUME": "",
    # Below 0: not seeded (upstream: -1)
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
