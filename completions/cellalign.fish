function __cellalign_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l asked (string join \n -- $words | string collect)
    set -l lines (env _CELLALIGN_COMPLETE=fish _CELLALIGN_WORDS="$asked" $words[1] 2>/dev/null)
    switch "$lines[1]"
        case ':files'
            __fish_complete_path (commandline -ct)
        case ':folders'
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\n' $lines
    end
end

complete --command cellalign --no-files --arguments '(__cellalign_complete)'
