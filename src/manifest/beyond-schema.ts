import { isAbsolute } from 'node:path'
import { cronProblem, knownZone } from '../text/cron.ts'
import { show } from '../text/diagnostic.ts'
import { vmJob } from './beyond-vm.ts'
import type { ManifestKind } from './kinds/index.ts'
import { rfc3339 } from './kinds/parts.ts'
import type { Say } from './prepare.ts'
import { timeOf } from './time.ts'

/*
 * Checks that a schema cannot say: one field against another, and fields that are accepted but mean something only
 * together with the rest. The manifest may have errors here, so nothing about types is taken for granted.
 */
export function beyondSchema(
  root: Record<string, unknown>,
  kind: ManifestKind,
  o: { baseDir?: string },
  say: Say,
): void {
  reserved(root, say)
  const { not_before: start } = root
  if (typeof start === 'string' && rfc3339.test(start) && Number.isNaN(timeOf(start)))
    say('error', ['not_before'], `not_before is ${show(start)}; there is no such day.`)
  if (isObject(root.repeat)) repeat(root.repeat, say)
  if (kind === 'convert') convert(root, o, say)
  if (kind === 'command') command(root, say)
  if (kind === 'vm') vmJob(root, o, say)
}

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v)

function reserved(root: Record<string, unknown>, say: Say): void {
  for (const key of ['parent', 'notify'])
    if (root[key] !== undefined)
      say(
        'warning',
        [key],
        `${key} is reserved: this version keeps it and does not act on it; the job does not wait for it.`,
        { at: 'key' },
      )
  if (root.submitter !== undefined)
    say('warning', ['submitter'], 'submitter is set by the agent; what the manifest says is dropped.', { at: 'key' })
}

function repeat(r: Record<string, unknown>, say: Say): void {
  const { cron, timezone, until } = r
  const wrong = typeof cron === 'string' && cron !== '' ? cronProblem(cron) : undefined
  if (wrong !== undefined) say('error', ['repeat', 'cron'], `repeat.cron is ${show(cron)}, which ${wrong}.`)
  if (typeof timezone === 'string' && !knownZone(timezone))
    say(
      'error',
      ['repeat', 'timezone'],
      `repeat.timezone is ${show(timezone)}, which this host does not know; it must be an IANA name such as "Europe/Berlin" or "UTC".`,
    )
  if (typeof until === 'string' && rfc3339.test(until) && Number.isNaN(timeOf(until)))
    say('error', ['repeat', 'until'], `repeat.until is ${show(until)}; there is no such day.`)
}

function convert(root: Record<string, unknown>, o: { baseDir?: string }, say: Say): void {
  if (Array.isArray(root.disks)) disks(root.disks, o, say)
  if (root.mode === 'delta' || root.base_manifest_id !== undefined)
    say(
      'error',
      root.mode === 'delta' ? ['mode'] : ['base_manifest_id'],
      'This is a delta manifest: its disks hold only what changed since another export, and converting them alone would make a broken disk. Export the VM whole.',
    )
  if (root.hooks !== undefined)
    say(
      'warning',
      ['hooks'],
      'hooks are not run: a program named in a manifest would run with the rights of the agent.',
      { at: 'key' },
    )
  for (const key of ['profile', 'profile_overrides', 'profiles_directory'])
    if (root[key] !== undefined)
      say(
        'warning',
        [key],
        `${key} is kept and not acted on: this version has no profiles. Write the settings into the manifest.`,
        { at: 'key' },
      )
}

function disks(list: unknown[], o: { baseDir?: string }, say: Say): void {
  const seen = new Map<string, number>()
  list.forEach((disk, i) => {
    if (!isObject(disk)) return
    const { id, local_path: path, bytes, checksum } = disk
    if (typeof id === 'string') {
      const first = seen.get(id)
      if (first === undefined) seen.set(id, i)
      else say('error', ['disks', i, 'id'], `duplicate disk ID: "${id}" (disks[${first}] has it already)`)
      if (/^[a-zA-Z0-9_-]+\s+$/.test(id))
        say('warning', ['disks', i, 'id'], `disks[${i}].id ends in white space.`, { suggestion: id.trim() })
    }
    if (typeof path === 'string' && path !== '' && !isAbsolute(path) && o.baseDir === undefined)
      say(
        'error',
        ['disks', i, 'local_path'],
        `disks[${i}].local_path is ${show(path)}; it must be an absolute path: a manifest in a queue has no folder of its own to start from${
          path.startsWith('~') ? ', and "~" is nobody\'s home there' : ''
        }.`,
      )
    if (bytes === undefined && checksum === undefined && disk.source_format !== 'ova' && disk.source_format !== 'ovf')
      say(
        'warning',
        ['disks', i],
        `disks[${i}] has neither bytes nor checksum: whether the file is whole cannot be verified.`,
      )
    if (
      typeof checksum === 'string' &&
      /^sha256:[a-fA-F0-9]{64}$/.test(checksum) &&
      checksum !== checksum.toLowerCase()
    )
      say('warning', ['disks', i, 'checksum'], 'A checksum is written in lower case.', {
        suggestion: checksum.toLowerCase(),
      })
  })
}

function command(root: Record<string, unknown>, say: Say): void {
  if (!isObject(root.command)) return
  const { argv, shell } = root.command
  if (argv === undefined && shell === undefined)
    say(
      'error',
      ['command'],
      'command has neither argv (the program and its arguments) nor shell (a line for /bin/sh).',
    )
  if (argv !== undefined && shell !== undefined && JSON.stringify(argv) !== JSON.stringify(['/bin/sh', '-c', shell]))
    say('error', ['command', 'shell'], 'command has both argv and shell; only one of them can be run.')
}
