_trackbed() {
  local program=${(Q)words[1]}
  local -a candidates ask
  (( $+commands[$program] )) || [[ -x $program ]] || program=@INVOKE@
  ask=("$program")
  if (( EUID == 0 )); then ask=(@AS_ROOT@); fi
  candidates=("${(@f)$("${ask[@]}" --complete -- "${(@Q)words[1,CURRENT]}" 2>/dev/null)}")
  candidates=("${(@)candidates:#}")
  if (( ! $#candidates )); then
    if [[ $PREFIX == --*=* ]]; then compset -P '*='; fi
    _files
    return
  fi
  compadd -S '' -- "${(@M)candidates:#*=}"
  compadd -- "${(@)candidates:#*=}"
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit && compinit; fi
compdef _trackbed invoke inv
