/**
 * What the agent saw at its last look at the VMs, in a file beside the registry (`.reconcile.json`): so that `vmspool vm list`, `gc` and
 * `doctor` need no agent to ask. Replaced as a whole, not fsynced: it is made anew in a moment.
 */
import { randomBytes } from 'node:crypto'
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'

const time = z.string()

export const vmReportSchema = z
  .looseObject({
    schema: z.literal(1),
    at: time.meta({ description: 'When this was written.' }),
    seen_at: time.optional().meta({ description: 'When libvirt was looked at last.' }),
    instance: z.string(),
    host: z.string(),
    libvirt: z.looseObject({
      uri: z.string(),
      state: z.enum(['connected', 'connecting', 'open']),
      since: time,
      reason: z.string().optional(),
    }),
    drift: z
      .array(z.looseObject({ name: z.string(), kind: z.string(), message: z.string(), since: time }))
      .meta({ description: 'What differs between the registry, libvirt and the files.' }),
    orphans: z
      .array(
        z.looseObject({
          kind: z.enum(['domain', 'folder']),
          name: z.string(),
          uuid: z.string().optional(),
          running: z.boolean().optional(),
          path: z.string().optional(),
          since: time,
          passes: z.int().meta({ description: 'How often it was seen; from 2 on it is left over.' }),
        }),
      )
      .meta({ description: 'What carries our mark and stands in no registry.' }),
    problems: z
      .array(z.looseObject({ at: time, message: z.string(), kept: z.string().optional() }))
      .meta({ description: 'Of the registry, since the agent started.' }),
    usage: z
      .record(
        z.string(),
        z.looseObject({
          at: time,
          cpu_percent: z.number().optional().meta({ description: 'Of one processor, since the look before.' }),
          cpu_time_ms: z.number(),
          memory_bytes: z.number().optional().meta({ description: 'What the guest has.' }),
          rss_bytes: z.number().optional().meta({ description: 'What it takes of the host.' }),
          memory_used_bytes: z
            .number()
            .optional()
            .meta({ description: 'As the guest says, where its balloon driver runs.' }),
          read_bytes: z.number().optional(),
          written_bytes: z.number().optional(),
          received_bytes: z.number().optional(),
          sent_bytes: z.number().optional(),
        }),
      )
      .meta({ description: 'Of VMs that run, by name.' }),
  })
  .meta({ title: 'What the agent saw of the VMs' })

type Known<T> = { [K in keyof T as string extends K ? never : K]: T[K] }
type Item<T> = T extends readonly (infer U)[] ? Known<U>[] : never
type Raw = Known<z.output<typeof vmReportSchema>>
export type VmReport = Omit<Raw, 'drift' | 'orphans' | 'problems' | 'usage' | 'libvirt'> & {
  libvirt: Known<Raw['libvirt']>
  drift: Item<Raw['drift']>
  orphans: Item<Raw['orphans']>
  problems: Item<Raw['problems']>
  usage: Record<string, VmUsage>
}
export type VmUsage = Known<Raw['usage'][string]>

/** `vms.json` → `.reconcile.json`, `vms@host.json` → `.reconcile@host.json` */
const reportPath = (registryPath: string): string =>
  join(dirname(registryPath), basename(registryPath).replace(/^vms/, '.reconcile'))

export async function writeVmReport(registryPath: string, report: VmReport): Promise<void> {
  const path = reportPath(registryPath)
  const temp = `${path}.${randomBytes(4).toString('hex')}.tmp`
  try {
    await writeFile(temp, `${JSON.stringify(report, null, 2)}\n`, { mode: 0o644 })
    await rename(temp, path)
  } catch (error) {
    await rm(temp, { force: true })
    throw error
  }
}

/** The reports of all hosts that have a registry in this folder; one that cannot be read counts as none. */
export async function readVmReports(dir: string): Promise<VmReport[]> {
  const files = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const reports: VmReport[] = []
  for (const file of files.filter((f) => /^\.reconcile(?:@[^/]+)?\.json$/.test(f)).sort()) {
    try {
      const read = vmReportSchema.safeParse(JSON.parse(await readFile(join(dir, file), 'utf8')))
      if (read.success) reports.push(read.data as VmReport)
    } catch {
      // made anew in a moment
    }
  }
  return reports
}
