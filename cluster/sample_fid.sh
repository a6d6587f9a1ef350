#!/usr/bin/env bash
#SBATCH --job-name=sample_fid
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# sbatch cluster/sample_fid.sh RUN [SECTION.KEY=VALUE]...
# 50,000 images of a run, 50 of each class, and their scores in RUN/fid.json. The two files that a score needs, which
# docs/evaluation.md describes, lie in data/.
source cluster/common.sh || exit
run=${1:?give the run.directory of a training}
shift
run_processes -m elm_dist sample "$run" --out "$run/fid" --per-class 50 --npz "$@"
run_process -m elm_dist evaluate "$run/fid" --out "$run/fid.json" --reference data/VIRTUAL_imagenet256_labeled.npz \
    --inception-weights data/pt_inception-2015-12-05-6726825d.pth
