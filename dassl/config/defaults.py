"""Every configuration key and its default. A yacs CfgNode is built from it."""

INPUT = {
    "SIZE": (224, 224),
    # bilinear | bicubic | nearest
    "INTERPOLATION": "bilinear",
    # Extension of ours, of test images: shortest (resize the smaller edge, crop the centre) |
    # squash (resize both edges, whatever their ratio)
    "RESIZE_MODE": "shortest",
    # Names of data.transforms, in any order; they are applied in a fixed order
    "TRANSFORMS": (),
    # True: images are not transformed at all
    "NO_TRANSFORM": False,
    # ImageNet's
    "PIXEL_MEAN": [0.485, 0.456, 0.406],
    "PIXEL_STD": [0.229, 0.224, 0.225],
    # random_crop
    "CROP_PADDING": 4,
    # random_resized_crop
    "RRCROP_SCALE": (0.08, 1.0),
    "CUTOUT_N": 1,
    "CUTOUT_LEN": 16,
    "GN_MEAN": 0.0,
    "GN_STD": 0.15,
    "RANDAUGMENT_N": 2,
    "RANDAUGMENT_M": 10,
    "COLORJITTER_B": 0.4,
    "COLORJITTER_C": 0.4,
    "COLORJITTER_S": 0.4,
    "COLORJITTER_H": 0.1,
    # randomgrayscale: probability
    "RGS_P": 0.2,
    # gaussian_blur: probability, kernel size
    "GB_P": 0.5,
    "GB_K": 21,
}

DATASET = {
    "ROOT": "",
    "NAME": "",
    "SOURCE_DOMAINS": (),
    "TARGET_DOMAINS": (),
    "NUM_LABELED": -1,
    # Images a class to train on; below 1: all
    "NUM_SHOTS": -1,
    "VAL_PERCENT": 0.1,
    "STL10_FOLD": -1,
    "CIFAR_C_TYPE": "",
    "CIFAR_C_LEVEL": 1,
    "ALL_AS_UNLABELED": False,
    # all | base | new (CoOp)
    "SUBSAMPLE_CLASSES": "all",
}

DATALOADER = {
    # Processes that read images, for each rank. Augmentations depend on their number
    "NUM_WORKERS": 4,
    # Transform each training image so many times
    "K_TRANSFORMS": 1,
    # Also return the image without augmentation, as img0
    "RETURN_IMG0": False,
    # Extension of ours: stop | skip, when an image cannot be read
    "BAD_IMAGES": "stop",
    # Extension of ours: training images are decoded once and their pixels kept, bit-identical to
    # decoding them in each epoch. GIB: how much of them, of all sets together; 0: none. FOLDER:
    # where; empty: promptood/decoded in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)
    "DECODED": {"GIB": 32.0, "FOLDER": ""},
    "TRAIN_X": {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16},
    "TRAIN_U": {
        # True: TRAIN_X's settings count
        "SAME_AS_X": True,
        "SAMPLER": "RandomSampler",
        "BATCH_SIZE": 32,
        "N_DOMAIN": 0,
        "N_INS": 16,
    },
    "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
}

MODEL = {
    # Weights to begin with
    "INIT_WEIGHTS": "",
    "BACKBONE": {"NAME": "", "PRETRAINED": True},
    "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
}

OPTIM = {
    # adam | amsgrad | sgd | rmsprop | radam | adamw
    "NAME": "adam",
    "LR": 0.0003,
    "WEIGHT_DECAY": 5e-4,
    "MOMENTUM": 0.9,
    "SGD_DAMPNING": 0,
    "SGD_NESTEROV": False,
    "RMSPROP_ALPHA": 0.99,
    "ADAM_BETA1": 0.9,
    "ADAM_BETA2": 0.999,
    # True: children named in NEW_LAYERS learn at LR, all else at LR * BASE_LR_MULT
    "STAGED_LR": False,
    "NEW_LAYERS": (),
    "BASE_LR_MULT": 0.1,
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
    # Epochs between intermediate checkpoints; 0: none
    "CHECKPOINT_FREQ": 0,
    # Batches between progress lines
    "PRINT_FREQ": 10,
    "COUNT_ITER": "train_x",
}

TEST = {
    "EVALUATOR": "Classification",
    "PER_CLASS_RESULT": False,
    # True: the confusion matrix is saved as cmat.pt
    "COMPUTE_CMAT": False,
    # True: no test after training
    "NO_TEST": False,
    # test | val
    "SPLIT": "test",
    # last_step | best_val
    "FINAL_MODEL": "last_step",
}

# Settings of upstream's trainers for domain adaptation and semi-supervised learning. We have none
# of those trainers; the keys stay so that a configuration saved by upstream merges.
TRAINER = {
    "NAME": "",
    "MCD": {"N_STEP_F": 4},
    "MME": {"LMDA": 0.1},
    "CDAC": {
        "CLASS_LR_MULTI": 10,
        "RAMPUP_COEF": 30,
        "RAMPUP_ITRS": 1000,
        "TOPK_MATCH": 5,
        "P_THRESH": 0.95,
        "STRONG_TRANSFORMS": (),
    },
    "SE": {"EMA_ALPHA": 0.999, "CONF_THRE": 0.95, "RAMPUP": 300},
    "M3SDA": {"LMDA": 0.5, "N_STEP_F": 4},
    "DAEL": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
    "CROSSGRAD": {"EPS_F": 1.0, "EPS_D": 1.0, "ALPHA_F": 0.5, "ALPHA_D": 0.5},
    "DDAIG": {
        "G_ARCH": "",
        "LMDA": 0.3,
        "CLAMP": False,
        "CLAMP_MIN": -1.0,
        "CLAMP_MAX": 1.0,
        "WARMUP": 0,
        "ALPHA": 0.5,
    },
    "DAELDG": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
    "DOMAINMIX": {"TYPE": "crossdomain", "ALPHA": 1.0, "BETA": 1.0},
    "ENTMIN": {"LMDA": 1e-3},
    "MEANTEACHER": {"WEIGHT_U": 1.0, "EMA_ALPHA": 0.999, "RAMPUP": 5},
    "MIXMATCH": {"WEIGHT_U": 100.0, "TEMP": 2.0, "MIXUP_BETA": 0.75, "RAMPUP": 20000},
    "FIXMATCH": {"WEIGHT_U": 1.0, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
}

DEFAULTS = {
    "VERSION": 1,
    "OUTPUT_DIR": "./output",
    # Folder of an earlier run to go on from; empty: OUTPUT_DIR, if it holds one
    "RESUME": "",
    # Below 0: not seeded
    "SEED": -1,
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": INPUT,
    "DATASET": DATASET,
    "DATALOADER": DATALOADER,
    "MODEL": MODEL,
    "OPTIM": OPTIM,
    "TRAIN": TRAIN,
    "TEST": TEST,
    "TRAINER": TRAINER,
}
