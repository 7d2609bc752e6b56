/** Bringing a job's answer out of the spool into a folder of one's own. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ANSWER_SUFFIXES, publicationOrder } from '../spool/names.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { type JobStatus, statusOfName } from './status.ts'

const exec = promisify(execFile)

/** What stays behind: the status is the spool's, not the result's. */
const notFetched = new Set(['.status.json'])

/**
 * Copies a job's answer into `dir`, each file whole or not at all: cloned where the filesystem can, holes kept. Never
 * hard-linked: whoever starts a VM on the copy must not change what the spool holds.
 * @returns the paths made, the boot disk last
 * @throws ClientError 1 when the job's answer is gone
 */
export async function fetchAnswer(
  place: Place,
  status: JobStatus,
  dir: string,
  o: { signal?: AbortSignal } = {},
): Promise<string[]> {
  const from = await answerFolder(place, status)
  const wanted = new Set(ANSWER_SUFFIXES.filter((s) => !notFetched.has(s)).map((s) => status.name + s))
  const files = publicationOrder((await readdir(from)).filter((f) => wanted.has(f)))
  if (files.length === 0) {
    throw new ClientError(1, `The answer of job ${status.id} (${status.name}) is not in ${from} any more.`)
  }
  await mkdir(dir, { recursive: true })
  const temp = await mkdtemp(join(dir, '.vmspool-'))
  try {
    // coreutils' cp knows how to clone and how to keep holes; a raw image copied without them fills the disk.
    await exec('cp', ['-R', '--reflink=auto', '--sparse=auto', '--', ...files.map((f) => join(from, f)), temp], {
      ...(o.signal === undefined ? {} : { signal: o.signal }),
    })
    for (const file of files) await syncTree(join(temp, file))
    const made: string[] = []
    for (const file of files) {
      const target = join(dir, file)
      await rm(target, { recursive: true, force: true })
      await rename(join(temp, file), target)
      made.push(target)
    }
    await syncTree(dir, false)
    return made
  } finally {
    await rm(temp, { recursive: true, force: true })
  }
}

/** Where the answer lies: under its public name as long as the job is the last of that name, else by job id. */
async function answerFolder(place: Place, status: JobStatus): Promise<string> {
  const current = await statusOfName(place, status.name)
  if (current?.id === status.id) return place.layout.output
  const candidates = [
    join(place.layout.outputJobs, status.id, 'answer'),
    join(place.layout.superseded, status.id, 'answer'),
    join(place.layout.superseded, status.id),
  ]
  for (const folder of candidates) {
    try {
      if ((await readdir(folder)).some((f) => f.startsWith(`${status.name}.`))) return folder
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  throw new ClientError(
    1,
    `The answer of job ${status.id} (${status.name}) is gone: a later job took the name, and its retention time has passed.`,
  )
}

async function syncTree(path: string, deep = true): Promise<void> {
  const handle = await open(path, 'r')
  try {
    if (deep && (await handle.stat()).isDirectory())
      for (const name of await readdir(path)) await syncTree(join(path, name))
    await handle.sync()
  } finally {
    await handle.close()
  }
}
