#!/bin/sh
# Environments of the peers, one each, in a folder:  sh benchmarks/peers/make.sh FOLDER [pertpy cellflow cpa]
#
# PYTHON names the interpreter (python3.11: cpa-tools runs on nothing newer). The package scgen 2.1.0 has no environment:
# it imports scvi._compat, which no scvi-tools since 1.0 has; pertpy's scGen, of the same authors' group, stands for it.
set -eu

[ $# -ge 1 ] || { echo "usage: sh make.sh FOLDER [pertpy cellflow cpa]" >&2; exit 2; }
folder=$1
shift
[ $# -gt 0 ] || set -- pertpy cellflow cpa

fresh() {
    "${PYTHON:-python3.11}" -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet --upgrade pip
    pip="$folder/$1/bin/pip install --quiet"
}

for peer in "$@"; do
    fresh "$peer"
    case $peer in
    pertpy) # statsmodels 1.x breaks its import
        $pip torch==2.13.0 pertpy==1.0.3 "statsmodels<0.15" scvi-tools
        ;;
    cellflow)
        $pip torch==2.13.0 cellflow-tools==0.0.9 requests jax==0.10.2
        ;;
    cpa) # it asks for torch<2, which nothing has any more: what it imports first, then itself alone, then an old jax
        $pip torch==2.13.0 scvi-tools==0.20.3 rdkit adjustText "numpy<2" "anndata<0.10" "scanpy<1.10" \
            "setuptools<81" requests
        $pip --no-deps cpa-tools==0.8.1
        $pip jax==0.4.30 jaxlib==0.4.30 flax==0.8.5 numpyro==0.15.3 optax==0.2.3 chex==0.1.86 \
            orbax-checkpoint==0.5.23 "numpy<2" "scipy<1.13"
        ;;
    *)
        echo "no peer '$peer'; there are pertpy, cellflow and cpa" >&2
        exit 2
        ;;
    esac
done
