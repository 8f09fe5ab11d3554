process CELLALIGN_COUNTERFACTUAL {
    tag "$meta.id"
    label 'process_low'

    conda "${moduleDir}/environment.yml"
    container "cellalign:0.1.0"

    input:
    tuple val(meta), path(cells), path(model)
    val to

    output:
    tuple val(meta), path("${prefix}.predicted.h5ad"), emit: predicted
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    cellalign counterfactual $cells -m $model --to '$to' -o ${prefix}.predicted.h5ad $args --threads $task.cpus

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.predicted.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """
}
