/** Man pages (man(7)) from the help texts: vmspool(1), and one for each command. */
import type { Option } from 'commander'
import { type CommandText, commandTexts } from './commands.ts'

export interface Page {
  file: string
  text: string
}

export async function manPages(version: string): Promise<Page[]> {
  const commands = await commandTexts()
  const head = (name: string): string => `.TH ${name.toUpperCase()} 1 "" "vmspool ${version}" "vmspool"\n.nh\n.ad l\n`
  const overview =
    head('vmspool') +
    `.SH NAME\nvmspool \\- a work queue for virtual machines in a folder\n` +
    `.SH SYNOPSIS\n.B vmspool\n.I COMMAND\n[options] [arguments]\n` +
    '.SH DESCRIPTION\nA client drops a manifest into the folder queue/; an agent converts the disks it names, or runs its program; the client finds verified disks and truthful status files in output/. Each command has a page of its own.\n' +
    '.SH COMMANDS\n' +
    commands.map((c) => `.TP\n.BR vmspool\\-${roff(c.name)} (1)\n${roff(c.summary)}\n`).join('') +
    files +
    environment
  const pages = commands.map((c) => ({ file: `vmspool-${c.name}.1`, text: head(`vmspool-${c.name}`) + page(c) }))
  return [{ file: 'vmspool.1', text: overview }, ...pages]
}

const files = `.SH FILES
.TP
.I /var/lib/vmspool/INSTANCE
the spool: queue/ to drop into, output/ to read from
.TP
.I /etc/vmspool/agent.yaml
the configuration of all agents
.TP
.I /etc/vmspool/agent@INSTANCE.yaml
the configuration of one; read after the other
`
const environment = `.SH ENVIRONMENT
.TP
.B VMSPOOL_ROOT
the folder of all spools
.TP
.B VMSPOOL_INSTANCE
the instance to use; default: "default"
.TP
.B NO_COLOR
no colours
`

function page(c: CommandText): string {
  return (
    `.SH NAME\nvmspool\\-${roff(c.name)} \\- ${roff(c.summary)}\n` +
    `.SH SYNOPSIS\n.B vmspool ${roff(c.usage)}\n` +
    `.SH DESCRIPTION\n${roff(c.description)}\n` +
    (c.subcommands.length > 0
      ? `.SH COMMANDS\n${c.subcommands.map((s) => `.TP\n.B ${roff(s.name)}\n${roff(s.summary)}\n`).join('')}`
      : '') +
    (c.arguments.length > 0
      ? `.SH ARGUMENTS\n${c.arguments.map((a) => `.TP\n.I ${roff(a.name)}\n${roff(a.description)}${a.choices.length > 0 ? ` (${roff(a.choices.join(', '))})` : ''}\n`).join('')}`
      : '') +
    `.SH OPTIONS\n${c.options.map(option).join('')}` +
    `.SH EXAMPLES\n.nf\n${roff(c.more.replace(/^Examples:\n/, ''))}\n.fi\n` +
    '.SH SEE ALSO\n.BR vmspool (1)\n'
  )
}

function option(o: Option): string {
  const choices = o.argChoices ? ` (${o.argChoices.join(', ')})` : ''
  return `.TP\n.B ${roff(o.flags)}\n${roff(o.description + choices)}\n`
}

/** Text as roff takes it literally: backslashes, hyphens that are copied into a shell, and lines that begin like a request. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1')
}
