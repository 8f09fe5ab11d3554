
_cellalign_completion() {
    local line IFS=$'\n'
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default 2>/dev/null || COMPREPLY=( $(compgen -f -- "$2") ); return ;;
            :folders) compopt -o dirnames 2>/dev/null || COMPREPLY=( $(compgen -d -- "$2") ); return ;;
            *[=.]) compopt -o nospace 2>/dev/null ;;
        esac
        COMPREPLY+=( "$line" )
    done < <(_CELLALIGN_COMPLETE=bash COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT \
        COMP_WORDBREAKS=$COMP_WORDBREAKS "$1" 2>/dev/null)
}

complete -F _cellalign_completion cellalign
