# Sourced by the scripts in locoop, coop, clipn, sct and fobor, which take the published positional
# arguments. The flags and KEY VALUE pairs of scripts/train.sh and eval.sh may follow them.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# usage "NAMES" "$@": print the names of the arguments and exit unless as many come before flags.
usage() {
    local names=$1 words=($1) positional=0
    shift
    for word in "$@"; do
        case $word in --*) break ;; esac
        positional=$((positional + 1))
    done
    if [ "$positional" -lt "${#words[@]}" ]; then
        echo "usage: bash $0 $names [--FLAG VALUE ...] [KEY VALUE ...]" >&2
        exit 2
    fi
}

# node_of TRAINER: print the trainer's node of the config.
node_of() { echo "TRAINER.$(echo "$1" | tr '[:lower:]' '[:upper:]')"; }

# train_seeds TRAINER DATASET CONFIG CTP NCTX SHOTS CSC [MORE...]: one run per seed of $SEEDS.
train_seeds() {
    local trainer=$1 dataset=$2 config=$3 ctp=$4 nctx=$5 shots=$6 csc=$7 node
    node=$(node_of "$trainer")
    shift 7
    for seed in ${SEEDS:-1 2 3}; do
        bash "$REPOSITORY/scripts/train.sh" --seed "$seed" --trainer "$trainer" --dataset "$dataset" \
            --config "$config" --shots "$shots" "$node.N_CTX" "$nctx" "$node.CSC" "$csc" \
            "$node.CLASS_TOKEN_POSITION" "$ctp" "$@"
    done
}

# evaluate TRAINER DATA DATASET CONFIG T MODEL_DIR [MORE...]
evaluate() {
    usage "DATA DATASET CONFIG TEMPERATURE MODEL_DIR" "${@:2}"
    bash "$REPOSITORY/scripts/eval.sh" --root "$2" --trainer "$1" --dataset "$3" --config "$4" --T "$5" \
        --model-dir "$6" "${@:7}"
}

# visualize TRAINER DATA DATASET CONFIG MODEL_DIR IMAGE LABEL [MORE...]
visualize() {
    usage "DATA DATASET CONFIG MODEL_DIR IMAGE LABEL" "${@:2}"
    bash "$REPOSITORY/scripts/demo_visualization.sh" --root "$2" --trainer "$1" --dataset "$3" --config "$4" \
        --model-dir "$5" --image "$6" --label "$7" "${@:8}"
}

# fobor_arguments TRAINER... DATASET CONFIG CTP NCTX SHOTS CSC ALPHA BETA ETA CLASSES PATCHES FUSE K
# [--FLAG ... KEY VALUE ...]: sets the arrays trainers and more, and a variable for each other argument.
fobor_arguments() {
    local words=() last
    # Stops at a flag or a key of the config, such as OPTIM.LR or SEED.
    while [ $# -gt 0 ] && [[ $1 != --* && $1 != [A-Z]*.* && $1 == *[!A-Z_]* ]]; do words+=("$1"); shift; done
    more=("$@")
    last=$((${#words[@]} - 13))
    if [ "$last" -lt 1 ] || [ "${words[last+9]} ${words[last+10]}" != "1 1" ]; then
        echo "usage: bash $0 TRAINER [TRAINER ...] DATASET CONFIG CLASS_TOKEN_POSITION N_CTX SHOTS CSC" \
            "ALPHA BETA ETA 1 1 FUSE K [--FLAG VALUE ...] [KEY VALUE ...]" >&2
        echo "1 1 stands for one confusable class and one patch of it, as in every published command" >&2
        exit 2
    fi
    trainers=("${words[@]:0:last}")
    read -r dataset config ctp nctx shots csc alpha beta eta _ _ fuse k <<<"${words[*]:last}"
}
