# Sourced by scripts/locoop, coop and clipn, which take the published positional arguments. Flags of
# the named scripts and config keys (KEY VALUE) may follow them.

# usage N "NAMES" "$@": stops with the names of the arguments if there are fewer than N.
usage() {
    local count=$1 names=$2
    shift 2
    if [ $# -lt "$count" ]; then
        echo "usage: bash $0 $names [FLAGS] [KEY VALUE ...]" >&2
        exit 2
    fi
}

# train_seeds TRAINER NODE DATA DATASET CFG CTP NCTX SHOTS CSC [FLAGS] [KEY VALUE ...]: one run per
# seed of $SEEDS.
train_seeds() {
    local trainer=$1 node=$2 data=$3 dataset=$4 cfg=$5 ctp=$6 nctx=$7 shots=$8 csc=$9
    shift 9
    for seed in ${SEEDS:-1 2 3}; do
        bash "$REPOSITORY/scripts/train.sh" --root "$data" --seed "$seed" --trainer "$trainer" \
            --dataset "$dataset" --config "$cfg" --shots "$shots" "$@" \
            "TRAINER.$node.N_CTX" "$nctx" "TRAINER.$node.CSC" "$csc" \
            "TRAINER.$node.CLASS_TOKEN_POSITION" "$ctp"
    done
}

# evaluate TRAINER DATA DATASET CFG T MODEL_DIR [FLAGS] [KEY VALUE ...]
evaluate() {
    bash "$REPOSITORY/scripts/eval.sh" --root "$2" --trainer "$1" --dataset "$3" --config "$4" --T "$5" \
        --model-dir "$6" "${@:7}"
}

# visualize TRAINER DATA DATASET CFG MODEL_DIR IMAGE LABEL [FLAGS] [KEY VALUE ...]
visualize() {
    bash "$REPOSITORY/scripts/demo_visualization.sh" --root "$2" --trainer "$1" --dataset "$3" --config "$4" \
        --model-dir "$5" --image "$6" --label "$7" "${@:8}"
}
