process CELLALIGN_EMBED {
    tag "$meta.id"
    label 'process_low'

    conda "${moduleDir}/environment.yml"
    container "cellalign:0.1.0"

    input:
    tuple val(meta), path(cells), path(model)

    output:
    tuple val(meta), path("${prefix}.emb.${ending}"), emit: embedded
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    ending = task.ext.ending ?: "h5ad"
    """
    cellalign embed $cells -m $model -o ${prefix}.emb.${ending} $args --threads $task.cpus

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    ending = task.ext.ending ?: "h5ad"
    """
    touch ${prefix}.emb.${ending}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """
}
