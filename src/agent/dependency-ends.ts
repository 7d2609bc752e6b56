/** What the folders tell of jobs that wait for others, and of those that are waited for. */
import { join } from 'node:path'
import { errno, type JobRecord, readRecord, type Spool } from '../spool/index.ts'
import type { End } from './dependency-words.ts'

/** The record of a job in held/; undefined when somebody has moved it. */
export async function readIfThere(s: Spool, file: string): Promise<JobRecord | undefined> {
  try {
    return await readRecord(s, join(s.layout.held, file))
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined
    throw error
  }
}

/** Whether it runs without an agent. */
export async function isStarted(s: Spool, id: string): Promise<boolean> {
  return (await s.fs.readdirFresh(s.layout.started)).some((file) => file.slice(2, 28) === id)
}

const FINAL = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])

/** How a job ended: its result is moved to its place only by a publication. And whether there is any trace of it. */
export async function endOf(s: Spool, id: string, exists = false): Promise<{ end?: End; exists: boolean }> {
  const result = await readJson(s, join(s.layout.outputJobs, id, 'result.json'))
  if (result?.id === id && FINAL.has(String(result.state))) {
    const { message } = (result.error ?? {}) as { message?: string }
    const state = result.state as End['state']
    return { end: { state, name: String(result.name), ...(message ? { why: message } : {}) }, exists: true }
  }
  return { exists: exists || (await readJson(s, join(s.layout.outputJobs, id, 'status.json'))) !== undefined }
}

async function readJson(s: Spool, path: string): Promise<Record<string, unknown> | undefined> {
  try {
    const { bytes } = await s.fs.readFile(path, 4 << 20)
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    if (['ENOENT', 'ESTALE', 'ENOTREG'].includes(errno(error)) || error instanceof SyntaxError) return undefined
    throw error
  }
}
