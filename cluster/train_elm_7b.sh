#!/usr/bin/env bash
#SBATCH --job-name=elm_7b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# sbatch cluster/train_elm_7b.sh [SECTION.KEY=VALUE]...
source cluster/common.sh || exit
run_training configs/elm_7b.yaml "$@"
