_trackbed() {
  local program=${COMP_WORDS[0]} line=${COMP_LINE:0:COMP_POINT} word candidate cut
  local -a words ask
  IFS=$' \t\n' read -ra words <<<"$line"
  if [[ $line == *[[:blank:]] ]]; then words+=(""); fi
  type -P "$program" >/dev/null || program=@INVOKE@
  ask=("$program")
  if (( EUID == 0 )); then ask=(@AS_ROOT@); fi
  word=${words[${#words[@]} - 1]}
  COMPREPLY=()
  while IFS= read -r candidate; do
    if [[ $candidate == "$word"* ]]; then COMPREPLY+=("$candidate"); fi
  done < <("${ask[@]}" --complete -- "${words[@]}" 2>/dev/null)
  if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
    cut=${word%"${word##*=}"}  # readline replaces only what follows the =
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  fi
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _trackbed invoke inv
