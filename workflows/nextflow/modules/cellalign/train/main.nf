process CELLALIGN_TRAIN {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "cellalign:0.1.0"

    input:
    tuple val(meta), path(cells)

    output:
    tuple val(meta), path("${prefix}"), emit: model
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    cellalign train $cells -m ${prefix} $args --threads $task.cpus

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}
    touch ${prefix}/model.yaml

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """
}
