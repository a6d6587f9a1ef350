#!/usr/bin/env bash
#SBATCH --job-name=tokenize
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# sbatch cluster/tokenize_imagenet.sh [OPTION]...   An option given again goes before those here.
source cluster/common.sh || exit
run_processes -m elm_dist tokenize --images data/imagenet --tokenizer tokenizers/bae_24 --out shards/imagenet256_bae24 \
    --flip "$@"
