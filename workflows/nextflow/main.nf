#!/usr/bin/env nextflow
/*
 * Preprocess, train by several methods, embed, predict, evaluate:
 *
 *     nextflow run main.nf --input cells.h5ad --condition stim --to stimulated --label cell_type
 *
 * -stub runs it without computing; -profile conda or docker says where cellalign comes from.
 */
nextflow.enable.dsl = 2

include { CELLALIGN_PREPROCESS     } from './modules/cellalign/preprocess/main'
include { CELLALIGN_TRAIN          } from './modules/cellalign/train/main'
include { CELLALIGN_EMBED          } from './modules/cellalign/embed/main'
include { CELLALIGN_COUNTERFACTUAL } from './modules/cellalign/counterfactual/main'
include { CELLALIGN_EVALUATE       } from './modules/cellalign/evaluate/main'

workflow {
    if (!params.input) {
        error "name the cells: --input cells.h5ad"
    }
    ch_cells = Channel.fromPath(params.input, checkIfExists: true, type: 'any')
        .map { file -> [[id: file.simpleName], file] }
    CELLALIGN_PREPROCESS(ch_cells)

    // every method on the same cells: meta.method is what ext.args of the training reads
    ch_methods = Channel.fromList(params.methods.tokenize(','))
    ch_training = CELLALIGN_PREPROCESS.out.preprocessed
        .combine(ch_methods)
        .map { meta, cells, method -> [meta + [id: "${meta.id}.${method}", method: method], cells] }
    CELLALIGN_TRAIN(ch_training)

    ch_models = ch_training.join(CELLALIGN_TRAIN.out.model)
    CELLALIGN_EMBED(ch_models)
    CELLALIGN_COUNTERFACTUAL(ch_models, params.to)
    CELLALIGN_EVALUATE(CELLALIGN_COUNTERFACTUAL.out.predicted.join(ch_training))
}
