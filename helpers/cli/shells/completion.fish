function __trackbed
    set -l words (commandline -opc) (commandline -ct)
    if test "$words" != "$__trackbed_words"
        set -l program $words[1]
        command -q $program; or set program @INVOKE@
        test (id -u) = 0; and set program @AS_ROOT@
        set -g __trackbed_words $words
        set -g __trackbed_found ($program --complete --described $words 2>/dev/null)
    end
    test (count $__trackbed_found) -gt 0; and printf '%s\n' $__trackbed_found
end
for name in invoke inv
    complete -c $name -f -a '(__trackbed)'
    complete -c $name -n 'not __trackbed >/dev/null' -F
end
