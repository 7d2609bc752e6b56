/** Submitting VM jobs, and what is printed of them. */
import { ManifestError, sentenceOf } from '../../client/errors.ts'
import type { Prepared } from '../../client/manifest-files.ts'
import type { Place } from '../../client/place.ts'
import type { VmView } from '../../client/vms.ts'
import { diagnosticText } from '../diagnostics.ts'
import { CliError, exitCodes } from '../errors.ts'
import { type Column, type Format, out, plain, printRows, say, wantsColour } from '../output.ts'
import { jobColumns, outcomes, type Row } from '../submitting.ts'
import type { WaitFlags } from '../waiting.ts'
import { ghostStatus } from './ghost.ts'

export interface VmJob {
  name: string
  prepared: Prepared
}

interface VmRow extends Row {
  vm_name: string
  /** as it is afterwards; only with --wait */
  vm?: VmView
}

interface Flags extends WaitFlags {
  wait?: boolean
  dryRun?: boolean
  ghost?: boolean
  output: Format
}

/** @returns the exit code */
export async function submitVmJobs(place: Place, jobs: readonly VmJob[], o: Flags): Promise<number> {
  for (const { prepared } of jobs)
    for (const d of prepared.warnings) say(diagnosticText(prepared.fileName, d, wantsColour(process.stderr)))
  if (o.dryRun) {
    await printManifests(jobs, o.output)
    return 0
  }
  const { dropManifests } = await import('../../client/submit.ts')
  const submissions = await dropManifests(
    place,
    jobs.map((j) => j.prepared),
  )
  const { rows, exitCode } = await outcomes(place, submissions, o)
  const all: VmRow[] = rows.map((row, i) => ({ ...row, vm_name: jobs[i]!.name }))
  if (o.wait) await addViews(place, all)
  if (o.ghost) {
    for (const row of all)
      out(row.vm ? ghostStatus(row.vm) : `VM ID:      ${plain(row.vm_name)}\nStatus:     ${row.state ?? 'dropped'}`)
    return exitCode
  }
  await printRows(o.output, all, {
    columns: o.wait ? [...columns, ...afterwards] : columns,
    name: (r) => (o.wait ? r.vm_name : (r.id ?? r.drop_file)),
    empty: 'Nothing was submitted.',
  })
  return exitCode
}

const [id, , state] = jobColumns
const columns: readonly Column<VmRow>[] = [
  { title: 'VM', value: (r) => r.vm_name },
  { ...id!, title: 'JOB' },
  { ...state!, title: 'JOB STATE' },
]
const afterwards: readonly Column<VmRow>[] = [
  { title: 'VM STATE', value: (r) => r.vm?.state ?? '-' },
  { title: 'ADDRESS', value: (r) => r.vm?.addresses.join(' ') || '-' },
]

async function addViews(place: Place, rows: VmRow[]): Promise<void> {
  const { vmsOf } = await import('../../client/vms.ts')
  try {
    const { vms } = await vmsOf(place, { live: false })
    for (const row of rows) {
      const vm = vms.find((v) => v.name === row.vm_name)
      if (vm !== undefined) row.vm = vm
    }
  } catch {
    // who may submit need not be one who may read the registry
  }
}

async function printManifests(jobs: readonly VmJob[], format: Format): Promise<void> {
  const { parse, stringify } = await import('yaml')
  for (const [i, { prepared }] of jobs.entries()) {
    const text = Buffer.from(prepared.bytes).toString()
    if (format !== 'yaml') out(text)
    else out(`${i > 0 ? '---\n' : ''}${stringify(parse(text))}`)
  }
}

/** What was typed cannot be a manifest: each fault is a line, in the words of `vmspool check`. */
export async function checked<T>(make: () => T | Promise<T>): Promise<T> {
  try {
    return await make()
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error
    const faults = error.diagnostics.filter((d) => d.severity === 'error').map(sentenceOf)
    throw new CliError(exitCodes.badManifest, `Nothing was submitted. ${faults.join(' ')}`)
  }
}
