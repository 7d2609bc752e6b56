/**
 * `vmspool list` on its short way: with a million jobs in the history its parser of options would be most of the time it takes. Reads plain
 * options alone; what it does not know (help, mistakes) is left to commands/list.ts, which describes the same options.
 */
import { jobStates } from '../client/status.ts'
import { ghostWords, type ListOptions, list } from './list-jobs.ts'
import { guardStdout } from './stdout.ts'

const formats = ['table', 'json', 'yaml', 'name']
const words: readonly string[] = [...jobStates, ...ghostWords]

/** Options with a value; `-s` and its like take several. */
const valued: Readonly<Record<string, keyof ListOptions>> = {
  '--kind': 'kind',
  '--name': 'name',
  '--batch': 'batch',
  '-n': 'limit',
  '--limit': 'limit',
  '-o': 'output',
  '--output': 'output',
  '--instance': 'instance',
  '--root': 'root',
  '--config': 'config',
}
const several: Readonly<Record<string, 'state' | 'status'>> = {
  '-s': 'state',
  '--state': 'state',
  '--status': 'status',
}

/** @returns undefined when the arguments are not for it */
export async function listNow(args: readonly string[]): Promise<number | undefined> {
  const o = read(args)
  if (o === undefined) return undefined
  guardStdout()
  await list(o)
  return 0
}

function read(args: readonly string[]): ListOptions | undefined {
  const o: Record<string, unknown> = { limit: 50, output: 'table' }
  for (let i = 0; i < args.length; ) {
    const arg = args[i++]!
    const one = Object.hasOwn(valued, arg) ? valued[arg]! : undefined
    const many = Object.hasOwn(several, arg) ? several[arg]! : undefined
    if (arg === '--ghost') o.ghost = true
    else if (one !== undefined) {
      const value = args[i++]
      if (value === undefined || value.startsWith('-')) return undefined
      if (one === 'limit' && !/^\d{1,15}$/.test(value)) return undefined
      if (one === 'output' && !formats.includes(value)) return undefined
      o[one] = one === 'limit' ? Number(value) : value
    } else if (many !== undefined) {
      const given: string[] = []
      while (i < args.length && !args[i]!.startsWith('-')) given.push(args[i++]!)
      if (given.length === 0 || !given.every((w) => words.includes(w))) return undefined
      o[many] = [...((o[many] as string[] | undefined) ?? []), ...given]
    } else return undefined
  }
  if (o.state !== undefined && o.status !== undefined) return undefined
  return o as unknown as ListOptions
}
