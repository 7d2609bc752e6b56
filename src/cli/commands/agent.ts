import { Command } from 'commander'
import type { SpoolOptions } from '../spool-options.ts'

interface Options extends SpoolOptions {
  worker?: boolean
}

export default function define(): Command {
  return new Command('agent')
    .description(
      'Run an agent in the foreground: it takes what is dropped into the queue of its instance, does the work and publishes the results. There is one main agent per instance and host; more join it with --worker. Logs are JSON lines on stdout.',
    )
    .argument('[name]', 'the instance (default: $VMSPOOL_INSTANCE, else "default")')
    .option('--root <dir>', 'the folder of all spools (default: $VMSPOOL_ROOT, else as in the configuration)')
    .option('--config <file>', 'read this configuration file too')
    .option('--worker', 'join the main agent of this instance on this host: work, without a control socket')
    .addHelpText(
      'after',
      `
Examples:
  vmspool agent vsphere
  vmspool agent test --root /tmp/spools --config ./agent.yaml
  vmspool agent vsphere --worker

Signals: TERM and INT drain with a deadline and give unfinished jobs back, HUP reloads what is safe to
reload, USR1 logs the statistics.
Exit codes: 0 ended in good order, 73 the spool cannot be made, 75 another main agent of the instance
runs on this host, 77 permission, 78 the configuration has errors.`,
    )
    .action(run)
}

async function run(name: string | undefined, o: Options): Promise<void> {
  const { defaultInstance } = await import('../../client/place.ts')
  const { runAgent } = await import('../../agent/index.ts')
  const { version } = await import('../version.ts')
  const instance = name ?? (process.env.VMSPOOL_INSTANCE || defaultInstance)
  process.exitCode = await runAgent({
    instance,
    root: o.root,
    configFile: o.config,
    worker: o.worker === true,
    version: version(),
  })
}
