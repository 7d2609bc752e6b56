/** The host around the spool: inotify, clock, limits. */
import { watch } from 'node:fs'
import { access, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { output } from './tools.ts'
import { codeOf, type Finding, fail, note, ok, warn } from './types.ts'

async function number(path: string): Promise<number | undefined> {
  try {
    return Number((await readFile(path, 'utf8')).trim())
  } catch {
    return undefined
  }
}

/** The drop box is watched and listed: without a watch everything still works, a second later. So try one, and look at the limits. */
export async function checkInotify(): Promise<Finding> {
  const limit = async (name: string): Promise<number | undefined> => number(`/proc/sys/fs/inotify/${name}`)
  const [watches, instances] = [await limit('max_user_watches'), await limit('max_user_instances')]
  const raise =
    'Raise the limits: sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=65536 (and in /etc/sysctl.d/).'
  const folder = await mkdtemp(join(tmpdir(), 'vmspool-doctor-'))
  try {
    const watcher = watch(folder)
    await new Promise((resolve) => {
      watcher.once('error', resolve)
      setImmediate(resolve)
    })
    watcher.close()
  } catch (error) {
    return warn(
      'inotify',
      `A folder could not be watched (${codeOf(error)}); drops are then seen by listing, up to a second later.`,
      raise,
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  const detail = `a folder can be watched; limits: ${watches ?? '?'} watches, ${instances ?? '?'} instances per user`
  if ((instances ?? 128) < 64 || (watches ?? 8192) < 4096)
    return warn('inotify', `${detail}. They are small for several agents of one user.`, raise)
  return ok('inotify', detail)
}

/** Is the clock right? Leases compare no clocks, but due times, retention and what people read do. */
export async function checkClock(): Promise<Finding> {
  const now = new Date().toISOString()
  if (new Date().getUTCFullYear() < 2025) {
    return fail(
      'clock',
      `The clock says ${now}: due times, retention and certificates will be wrong.`,
      'Set it, and run a time service: apt-get install systemd-timesyncd (or chrony).',
    )
  }
  const told = await synchronised()
  if (told === true) return ok('clock', `${now}, synchronised`)
  if (told === false) {
    return warn(
      'clock',
      `${now}; the time service says that the clock is not synchronised. With several hosts on one spool, not_before and retention then differ between them.`,
      'Run a time service: apt-get install systemd-timesyncd (or chrony), then timedatectl set-ntp true.',
    )
  }
  return note(
    'clock',
    `${now}; whether it is synchronised cannot be told here (neither timedatectl nor chronyc answers).`,
  )
}

async function synchronised(): Promise<boolean | undefined> {
  const timedate = await output('timedatectl', ['show', '-p', 'NTPSynchronized', '--value'])
  if (timedate?.text.trim() === 'yes') return true
  if (timedate?.text.trim() === 'no') return false
  const chrony = await output('chronyc', ['-n', 'tracking'])
  if (chrony?.code === 0) return /Leap status\s*:\s*Normal/.test(chrony.text)
  try {
    await access('/run/systemd/timesync/synchronized')
    return true
  } catch {
    return undefined
  }
}

export async function checkOpenFiles(): Promise<Finding> {
  const limits = await readFile('/proc/self/limits', 'utf8')
  const soft = /Max open files\s+(\S+)/.exec(limits)?.[1] ?? '?'
  const open = (await readdir('/proc/self/fd')).length
  if (soft !== 'unlimited' && Number(soft) < 1024) {
    return warn(
      'open-files',
      `At most ${soft} files may be open (${open} are).`,
      'Raise it: ulimit -n 65536, or LimitNOFILE=65536 in the unit.',
    )
  }
  return ok('open-files', `limit ${soft}`)
}
