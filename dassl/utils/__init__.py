from .checkpoint import (
    load_checkpoint,
    load_pretrained_weights,
    load_weights_into,
    named_checkpoint,
    restore,
    resume_from_checkpoint,
    save_checkpoint,
    save_tensors,
)
from .errors import (
    BadImageError,
    InputError,
    NonFiniteLossError,
    UnknownNameError,
    memory_errors_named,
)
from .files import (
    atomic_write,
    check_isfile,
    listdir_nohidden,
    mkdir_if_missing,
    plain,
    read_json,
    write_errors_named,
    write_json,
)
from .logger import RunLog, setup_logger
from .meters import AverageMeter, MetricMeter
from .names import (
    check_availability,
    check_set_name,
    get_most_similar_str_to_a_from_b,
    nearest_name,
)
from .registry import Registry
from .rng import get_rng_state, same_rng_state, set_rng_state
from .tools import (
    as_rgb,
    collect_env_info,
    flatten,
    read_image,
    set_random_seed,
    tolist_if_not,
    versions,
)
from .torchtools import (
    count_num_param,
    init_network_weights,
    open_all_layers,
    open_specified_layers,
)

__all__ = [
    "AverageMeter",
    "BadImageError",
    "InputError",
    "MetricMeter",
    "NonFiniteLossError",
    "Registry",
    "RunLog",
    "UnknownNameError",
    "as_rgb",
    "atomic_write",
    "check_availability",
    "check_isfile",
    "check_set_name",
    "collect_env_info",
    "count_num_param",
    "flatten",
    "get_most_similar_str_to_a_from_b",
    "get_rng_state",
    "init_network_weights",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "load_weights_into",
    "memory_errors_named",
    "mkdir_if_missing",
    "named_checkpoint",
    "nearest_name",
    "open_all_layers",
    "open_specified_layers",
    "plain",
    "read_image",
    "read_json",
    "restore",
    "resume_from_checkpoint",
    "same_rng_state",
    "save_checkpoint",
    "save_tensors",
    "set_random_seed",
    "set_rng_state",
    "setup_logger",
    "tolist_if_not",
    "versions",
    "write_errors_named",
    "write_json",
]
