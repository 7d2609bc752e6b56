/** The disks that an earlier conversion made, for a VM that is to run on them. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { JobResultDisks } from '../jobs/types.ts'
import { jobsNamed, keyOf, type Spool, ULID } from '../spool/index.ts'

interface Artifact {
  path: string
  disk_id: string
  format: string
  boot: boolean
}

/**
 * @param ref a job's id, or an answer name: then the latest of its jobs that succeeded
 * @param before only jobs older than this one
 * @returns undefined when there is no such job; without disks when it made none, or they are gone
 */
export async function resultOf(s: Spool, ref: string, before: string): Promise<JobResultDisks | undefined> {
  const job = ULID.test(ref.toUpperCase()) ? ref.toUpperCase() : await lastOf(s, ref, before)
  if (job === undefined) return undefined
  const result = await readJson(join(s.layout.outputJobs, job, 'result.json'))
  if (result?.state !== 'succeeded') return undefined
  const chosen = choose(Array.isArray(result.artifacts) ? result.artifacts.filter(isDisk) : [])
  const disks: JobResultDisks['disks'][number][] = []
  for (const a of chosen) {
    const path = await whereIs(s, job, String(result.name), a.path)
    if (path === undefined) return { job, disks: [] }
    disks.push({ id: a.disk_id, path, format: a.format, boot: a.boot })
  }
  return { job, disks }
}

async function lastOf(s: Spool, name: string, before: string): Promise<string | undefined> {
  const key = keyOf(name)
  const jobs = (await jobsNamed(s, new Set([key]))).get(key) ?? []
  return jobs.filter((j) => j.outcome === 'done' && j.id < before).at(-1)?.id
}

function isDisk(a: unknown): a is Artifact {
  const x = a as Partial<Artifact> | null
  return (
    typeof x?.path === 'string' &&
    typeof x.disk_id === 'string' &&
    typeof x.boot === 'boolean' &&
    typeof x.format === 'string' &&
    !x.path.startsWith('/') &&
    !x.path.split('/').includes('..')
  )
}

/** One file for each disk: where there is a raw image, the qcow2 beside it only points to that by its name. */
function choose(artifacts: readonly Artifact[]): Artifact[] {
  const rank = (a: Artifact | undefined): number => ['qcow2', 'raw'].indexOf(a?.format ?? '')
  const byDisk = new Map<string, Artifact>()
  for (const a of artifacts) {
    const known = byDisk.get(a.disk_id)
    if (!known || rank(a) > rank(known)) byDisk.set(a.disk_id, a)
  }
  return [...byDisk.values()].sort((a, b) => Number(b.boot) - Number(a.boot))
}

/** The public name belongs to the last accepted job of that name; the answers of others were moved aside. */
async function whereIs(s: Spool, job: string, name: string, path: string): Promise<string | undefined> {
  const { output, superseded, outputJobs } = s.layout
  const current = await readJson(join(output, `${name}.result.json`))
  const places = [
    ...(current?.id === job ? [output] : []),
    ...[join(superseded, job), join(superseded, job, 'answer'), join(outputJobs, job, 'answer')],
  ]
  for (const place of places) {
    try {
      if ((await s.fs.lstat(join(place, path))).kind === 'file') return join(place, path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  return undefined
}

async function readJson(path: string): Promise<Record<string, unknown> | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
