import { join } from 'node:path'
import { locate } from '../spool/find.ts'
import { type JobRecord, readRecord } from '../spool/record.ts'
import { directFile } from '../spool/started.ts'
import { masked, shownValue } from '../text/secret.ts'
import type { View } from './place.ts'
import type { JobStatus } from './status.ts'

/**
 * The variables that a command was given beside those of whoever started it, for people: names with values, secrets masked.
 * @returns undefined when none were given, or the record is gone or may not be read
 */
export async function environmentOf(place: View, status: JobStatus): Promise<[string, string][] | undefined> {
  let command: { env?: Record<string, unknown>; secret_env?: string[]; env_file?: string | string[] } | undefined
  try {
    const record = await recordOf(place, status)
    command = (record?.manifest as { command?: typeof command } | undefined)?.command
  } catch (error) {
    if (!['EACCES', 'EPERM', 'ENOENT'].includes(String((error as NodeJS.ErrnoException).code))) throw error
  }
  const given = Object.entries(command?.env ?? {}).map(([name, value]): [string, string] => [
    name,
    typeof value === 'string' ? shownValue(name, value) : masked,
  ])
  for (const name of command?.secret_env ?? []) given.push([name, masked])
  return given.length === 0 ? undefined : given
}

async function recordOf(place: View, s: JobStatus): Promise<JobRecord | undefined> {
  if (!s.direct) {
    const found = (await locate(place.spool, new Set([s.id]))).get(s.id)
    return found && readRecord(place.spool, found.path)
  }
  const state = s.state === 'running' ? 'started' : s.state === 'succeeded' ? 'done' : s.state
  if (state !== 'started' && state !== 'done' && state !== 'failed' && state !== 'cancelled') return undefined
  return readRecord(place.spool, join(place.layout[state], directFile(s.id, s.name)))
}
