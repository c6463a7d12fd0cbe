_trackbed() {
  local program=${(Q)words[1]} line candidate shown
  local -a ask found flags flags_shown others others_shown
  (( $+commands[$program] )) || [[ -x $program ]] || program=@INVOKE@
  ask=("$program")
  if (( EUID == 0 )); then ask=(@AS_ROOT@); fi
  found=("${(@f)$("${ask[@]}" --complete --described "${(@Q)words[1,CURRENT]}" 2>/dev/null)}")
  found=("${(@)found:#}")
  if (( ! $#found )); then
    if [[ $PREFIX == --*=* ]]; then compset -P '*='; fi
    _files
    return
  fi
  for line in "${(@)found}"; do
    candidate=${line%%$'\t'*} shown=${line%%$'\t'*}
    if [[ $line == *$'\t'* ]]; then shown="${(r:26:)candidate} ${line#*$'\t'}"; fi
    if (( $#candidate > 26 )); then shown=${line/$'\t'/ }; fi
    if (( COLUMNS > 20 )); then shown=${shown[1,COLUMNS-1]}; fi
    if [[ $candidate == *= ]]; then
      flags+=("$candidate") flags_shown+=("$shown")
    else
      others+=("$candidate") others_shown+=("$shown")
    fi
  done
  compadd -l -S '' -d flags_shown -a flags
  compadd -l -d others_shown -a others
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit && compinit; fi
compdef _trackbed invoke inv
