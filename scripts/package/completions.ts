/** Completions for bash, zsh and fish, from the definitions of the commands. */
import type { Option } from 'commander'
import { type CommandText, commandTexts } from './commands.ts'

export interface Completions {
  bash: string
  zsh: string
  fish: string
}

export async function completions(): Promise<Completions> {
  const commands = await commandTexts()
  return { bash: bash(commands), zsh: zsh(commands), fish: fish(commands) }
}

/** What a word that is not an option may be. */
function operands(c: CommandText): string {
  const fixed = [...c.subcommands.map((s) => s.name), ...c.arguments.flatMap((a) => a.choices)]
  if (fixed.length > 0) return fixed.join(' ')
  return c.arguments.some((a) => a.name.startsWith('job')) ? '@jobs' : ''
}

/** What follows an option: its choices, names of instances, or (undefined) files. */
function values(o: Option): string | undefined {
  if (o.argChoices) return o.argChoices.join(' ')
  return o.long === '--instance' ? '@instances' : undefined
}

const takesValue = (o: Option): boolean => o.required || o.optional
const flags = (o: Option): string[] => [o.short, o.long].filter((f) => f !== undefined)

const lists = `  case $1 in
    @instances) for d in "\${VMSPOOL_ROOT:-/var/lib/vmspool}"/*/; do d=\${d%/}; [ -d "$d/output" ] && printf '%s\\n' "\${d##*/}"; done ;;
    @jobs) vmspool list -o name --limit 200 2>/dev/null ;;
    *) printf '%s\\n' $1 ;;
  esac`

function bash(commands: CommandText[]): string {
  const cases = commands.map((c) => {
    const valued = c.options.filter(takesValue)
    const after = valued
      .filter((o) => values(o) !== undefined)
      .map((o) => `        ${flags(o).join('|')}) words='${values(o)}' ;;`)
    const others = valued.filter((o) => values(o) === undefined).flatMap(flags)
    if (others.length > 0) after.push(`        ${others.join('|')}) return ;;`)
    return `    ${c.name})
      options='${c.options.flatMap(flags).join(' ')}' words='${operands(c)}'
      case $before in
${after.join('\n')}
        *) case $now in -*) words=$options ;; esac ;;
      esac ;;`
  })
  return `# bash completion of vmspool; made by scripts/package.ts
_vmspool_words() {
${lists}
}

_vmspool() {
  local now=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} command=\${COMP_WORDS[1]} words='' options=''
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W '${commands.map((c) => c.name).join(' ')} --help --version' -- "$now"))
    return
  fi
  case $command in
${cases.join('\n')}
    *) return ;;
  esac
  [ -n "$words" ] || return
  COMPREPLY=($(compgen -W "$(_vmspool_words "$words")" -- "$now"))
}
# Where nothing is known: files.
complete -o default -F _vmspool vmspool
complete -o default hyper2kvm
`
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
const described = (text: string): string => text.replace(/[[\]:\\]/g, '\\$&')

function zsh(commands: CommandText[]): string {
  const cases = commands.map((c) => {
    const specs = c.options.map((o) => {
      const action = takesValue(o) ? `:value:${zshValues(values(o))}` : ''
      const names = flags(o).map((f) => f + (takesValue(o) && f.startsWith('--') ? '=' : ''))
      const repeated = o.variadic ? '*' : `(${flags(o).join(' ')})`
      return names.map((n) => `      ${quoted(`${repeated}${n}[${described(o.description)}]${action}`)}`).join(' \\\n')
    })
    const rest = operands(c)
    specs.push(`      ${quoted(`*:word:${rest === '' ? '_files' : zshValues(rest)}`)}`)
    return `    ${c.name})\n      _arguments -s \\\n${specs.join(' \\\n')} ;;`
  })
  return `#compdef vmspool
# zsh completion of vmspool; made by scripts/package.ts
_vmspool_words() {
  local -a words
  words=(\${(f)"$(_vmspool_list $1)"})
  compadd -a words
}
_vmspool_list() {
${lists.replace("printf '%s\\n' $1 ;;", `print -l \${=1} ;;`)}
}
_vmspool() {
  local -a commands
  commands=(
${commands.map((c) => `    ${quoted(`${c.name}:${c.summary}`)}`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
# Loaded by itself at the first completion, or sourced.
if [[ $funcstack[1] == _vmspool ]]; then _vmspool "$@"; else compdef _vmspool vmspool; fi
`
}

function zshValues(words: string | undefined): string {
  if (words === undefined) return '_files'
  return words.startsWith('@') ? `{_vmspool_words ${words}}` : `(${words})`
}

function fish(commands: CommandText[]): string {
  const lines = [
    '# fish completion of vmspool; made by scripts/package.ts',
    'function __vmspool_instances; for d in (set -q VMSPOOL_ROOT; and echo $VMSPOOL_ROOT; or echo /var/lib/vmspool)/*/; test -d $d/output; and basename $d; end; end',
    'complete -c vmspool -n __fish_use_subcommand -f',
    ...commands.map((c) => `complete -c vmspool -n __fish_use_subcommand -a ${c.name} -d ${quoted(c.summary)}`),
  ]
  for (const c of commands) {
    const when = `-n '__fish_seen_subcommand_from ${c.name}'`
    for (const o of c.options) {
      const names = [o.short && `-s ${o.short.slice(1)}`, o.long && `-l ${o.long.slice(2)}`].filter(Boolean).join(' ')
      const words = values(o)
      const list = words === undefined ? ' -rF' : ` -xa ${fishValues(words)}`
      lines.push(`complete -c vmspool ${when} ${names}${takesValue(o) ? list : ''} -d ${quoted(o.description)}`)
    }
    const rest = operands(c)
    if (rest !== '') lines.push(`complete -c vmspool ${when} -fa ${fishValues(rest)}`)
  }
  return `${lines.join('\n')}\n`
}

function fishValues(words: string): string {
  if (words === '@instances') return "'(__vmspool_instances)'"
  return words === '@jobs' ? "'(vmspool list -o name --limit 200 2>/dev/null)'" : quoted(words)
}
