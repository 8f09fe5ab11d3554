process CELLALIGN_EMBED {
    tag "$meta.id"
    label 'process_low'

    conda "${moduleDir}/environment.yml"
    container "cellalign:0.1.0"

    input:
    tuple val(meta), path(cells), path(model)

    output:
    tuple val(meta), path("${prefix}.emb.h5ad"), emit: embedded
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    cellalign embed $cells -m $model -o ${prefix}.emb.h5ad $args --threads $task.cpus

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.emb.h5ad

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """
}
