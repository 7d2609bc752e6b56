import { Command } from 'commander'
import { runFlags, runNow } from '../run-now.ts'

/** Says what can be typed; read is it by runNow(), see there. */
export default function define(): Command {
  const command = new Command('run')
    .usage('[options] [--] COMMAND [ARGUMENT...]')
    .description(
      'Start a command that goes on by itself: without an agent, in a session of its own, with its output in a log and its end on record. ' +
        'If the first argument has no white space it is the program and the rest are its arguments; else each argument is a whole command, ' +
        'split like a shell does it (quotes and backslashes; nothing is expanded: for that, write sh -c), and all are started.',
    )
    .argument('[command...]')
    .allowUnknownOption()
    .action(async () => {
      const args = process.argv.slice(2)
      process.exitCode = await runNow(args.slice(args.indexOf('run') + 1))
    })
  for (const [name, f] of Object.entries(runFlags))
    command.option(`${f.short ? `-${f.short}, ` : ''}--${name}${f.value ? ` <${f.value}>` : ''}`, f.about)
  return command.addHelpText(
    'after',
    `
Options come before the command: what follows it is the command's.

Examples:
  vmspool run rsync -a /srv/export backup:/srv/
  vmspool run -c /srv --name night --timeout 6h -- ./export.sh --all
  vmspool run 'sleep 10' "sh -c 'make all && make check'"    two commands at once
  vmspool run -e STAGE=test -e API_TOKEN -- ./deploy         API_TOKEN as it is set here, stored nowhere
  vmspool run --nice 10 --ionice idle --memory 2G tar -czf /srv/backup.tgz /srv/data
  vmspool logs -f night; vmspool stop night; vmspool rerun night

Exit code 0 when all were started, 1 when one could not be.`,
  )
}
