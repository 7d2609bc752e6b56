import { hostname } from 'node:os'
import { Command } from 'commander'
import type { Place } from '../../client/place.ts'
import type { VmViews } from '../../client/vms.ts'
import { startCommand } from '../../spool/start-command.ts'
import { CliError, exitCodes, explain } from '../errors.ts'
import { type Column, type Format, formatOption, printRows, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age } from '../units.ts'
import { type WaitFlags, waitFlags, waitForAll } from '../waiting.ts'

type Left = VmViews['orphans'][number]

interface Options extends SpoolOptions, WaitFlags {
  yes?: boolean
  wait?: boolean
  output: Format
}

interface Row extends Left {
  /** what removing it would do */
  action: string
  /** what was done */
  done?: string
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('gc').summary('what is left over of VMs, and its removal')))
    .description(
      'List what is left over of VMs and what removing it would do: domains that carry our mark and folders below the VMs that no registry names, as the agent saw them. --yes removes: domains by jobs, folders into .trash beside them.',
    )
    .option('-y, --yes', 'remove them')
    .option('-w, --wait', 'with --yes: wait for the jobs')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm gc
  vmspool vm gc --yes --wait

Nothing that a registry names, that a job works on, or that is not ours is ever listed. What was seen only once
may be something that is just being made, and stays.`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { vmDirOf, vmsOf } = await import('../../client/vms.ts')
  const { MIN_PASSES } = await import('../../vm/drift.ts')
  const place = await locate(o)
  const { orphans, reports, vms } = await vmsOf(place, { live: false })
  if (vms.length === 0 && reports.length === 0) await requireSpool(place, 'read')
  const dir = vmDirOf(place)
  const rows = orphans.map((left): Row => ({ ...left, action: actionOf(left, dir, MIN_PASSES) }))
  if (o.yes) process.exitCode = await remove(place, rows, o, MIN_PASSES)
  await printRows(o.output, rows, {
    columns: o.yes ? [...columns, { title: 'DONE', value: (r) => r.done ?? '-' }] : columns,
    name: (r) => r.name,
    empty: 'Nothing is left over.',
  })
  if (o.output !== 'table') return
  if (reports.length === 0)
    say(`No agent has looked at the VMs in ${dir} yet. It does when it runs: ${startCommand(place.layout)}`)
  for (const r of reports) say(`Seen by the agent on ${r.host}, ${age(r.seen_at ?? r.at)} ago.`)
  if (rows.length > 0 && !o.yes) say('To remove them: vmspool vm gc --yes')
}

const columns: readonly Column<Row>[] = [
  { title: 'NAME', value: (r) => r.name },
  { title: 'KIND', value: (r) => r.kind },
  { title: 'HOST', value: (r) => r.host },
  { title: 'SINCE', value: (r) => `${age(r.since)} ago` },
  { title: 'REMOVING IT', value: (r) => r.action },
]

function actionOf(left: Left, dir: string, passes: number): string {
  if (left.passes < passes) return 'nothing yet: it was seen only once'
  if (left.kind === 'folder') return `moves ${left.path} to ${dir}/.trash`
  return `${left.running ? 'stops and undefines' : 'undefines'} the domain ${left.uuid}, and removes its folder`
}

/** @returns the exit code */
async function remove(place: Place, rows: readonly Row[], o: Options, passes: number): Promise<number> {
  const ripe = rows.filter((r) => r.passes >= passes)
  let code: number = exitCodes.ok
  const failed = (row: Row, error: unknown): void => {
    const { message, exitCode } = explain(error)
    row.done = `failed: ${message}`
    code ||= exitCode
  }
  for (const row of ripe.filter((r) => r.kind === 'folder')) {
    try {
      row.done = `moved to ${await toTrash(place, row)}`
    } catch (error) {
      failed(row, error)
    }
  }
  const domains = ripe.filter((r) => r.kind === 'domain')
  if (domains.length === 0) return code
  const { requireSpool } = await import('../../client/place.ts')
  const { dropManifests } = await import('../../client/submit.ts')
  const { hostOf, vmJob } = await import('../../client/vm-manifest.ts')
  await requireSpool(place, 'submit')
  const prepared = await Promise.all(
    domains.map(async (row) => {
      const hosts = await hostOf(place, row)
      return vmJob('delete', row.name, { labels: { by: 'gc' }, ...(hosts === undefined ? {} : { hosts }) })
    }),
  )
  const submissions = await dropManifests(place, prepared)
  if (!o.wait) {
    for (const [i, row] of domains.entries()) row.done = `submitted as ${submissions[i]!.drop_file}`
    return code
  }
  const { latest, exitCode } = await waitForAll(place, submissions, o)
  for (const [i, row] of domains.entries()) row.done = latest[i]?.state ?? 'not accepted'
  return code || exitCode
}

async function toTrash(place: Place, left: Left): Promise<string> {
  const { vmDirOf } = await import('../../client/vms.ts')
  const { openRegistry } = await import('../../vm/registry.ts')
  const { trashFolder } = await import('../../vm/orphans.ts')
  if (left.host !== hostname()) throw new CliError(exitCodes.jobFailed, `It belongs to ${left.host}; run this there.`)
  const dir = vmDirOf(place)
  const registry = await openRegistry({ dir, instance: place.instance, host: hostname(), log() {} })
  return trashFolder(registry, dir, left)
}
