# bash completion for terok-gate, which knows its commands and flags itself.

_terok_gate() {
	local program=${1##*/} current=$2 words
	case $3 in --token-file | --log-file | --env-dir | --gate-socket | --projects | --repos | --desks | --control | --metrics | --tls-cert | --tls-key | --tls-ca | --vouch-file | =)
		compopt -o default
		return
		;;
	esac
	# Not COMP_WORDS, which are split at = and : too.
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ -z $current ]] || unset 'words[-1]'
	# After -- the program would take the request for an argument.
	[[ " ${words[*]} " != *" -- "* ]] || return
	[[ $current != -* ]] || words+=("${current/#--/-}")
	mapfile -t COMPREPLY < <(compgen -W "$(
		"$program" "${words[@]:1}" --generate-bash-completion </dev/null 2>/dev/null
	)" -- "$current")
}

complete -F _terok_gate terok-gate
