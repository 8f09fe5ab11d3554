process CELLALIGN_EVALUATE {
    tag "$meta.id"
    label 'process_low'

    conda "${moduleDir}/environment.yml"
    container "cellalign:0.1.0"

    input:
    tuple val(meta), path(predicted), path(cells)

    output:
    tuple val(meta), path("${prefix}.scores.csv"), emit: scores
    tuple val(meta), path("${prefix}.scores.txt"), emit: text
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    cellalign evaluate $predicted --against $cells -o ${prefix}.scores.csv $args --threads $task.cpus > ${prefix}.scores.txt

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.scores.csv ${prefix}.scores.txt

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellalign: \$(cellalign --version | sed 's/^cellalign //')
    END_VERSIONS
    """
}
