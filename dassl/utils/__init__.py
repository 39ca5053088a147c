from .checkpoint import (
    load_checkpoint,
    load_fitting,
    load_pretrained_weights,
    load_weights_into,
    named_checkpoint,
    restore,
    resume_from_checkpoint,
    save_checkpoint,
)
from .console import escape_unprintable, progress_bar
from .errors import BadImageError, InputError, NonFiniteLossError, WriteError, explain_out_of_memory
from .files import (
    atomic_write,
    check_isfile,
    explain_full_disk,
    explain_write_error,
    listdir_nohidden,
    mkdir_if_missing,
    plain,
    read_json,
    remove_leftovers,
    write_json,
)
from .logger import RunLog, setup_logger
from .meters import AverageMeter, MetricMeter
from .names import check_availability, get_most_similar_str_to_a_from_b, nearest_name
from .provenance import collect_env_info, versions
from .registry import Registry
from .rng import get_rng_state, seed_cpu, set_rng_state
from .tools import as_rgb, flatten, read_image, set_random_seed, tolist_if_not
from .torchtools import (
    count_num_param,
    init_network_weights,
    open_all_layers,
    open_specified_layers,
)
