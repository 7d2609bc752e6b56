// What a test run must not leave behind: processes, mounts, files.
import { readdirSync, readFileSync } from 'node:fs'

export interface LivingProcess {
  pid: number
  ppid: number
  command: string
}

/** Processes of this machine that inherited `marker` in their environment; a zombie counts as ended. */
export function processesMarked(marker: string): LivingProcess[] {
  const found: LivingProcess[] = []
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const environment = readFileSync(`/proc/${entry}/environ`, 'latin1')
      if (!environment.split('\0').includes(marker)) continue
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (fields[0] === 'Z' || fields[0] === 'X') continue
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      found.push({ pid: Number(entry), ppid: Number(fields[1]), command })
    } catch {
      // It ended while we looked, or belongs to somebody else.
    }
  }
  return found
}

/** Shims (src/process/shim.pl) of commands below `dir`. They have an environment of their own, and so no mark. */
export function shimsBelow(dir: string): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((entry) => {
      try {
        const [, program, folder] = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
        return program?.endsWith('/shim.pl') === true && folder?.startsWith(`${dir}/`) === true
      } catch {
        return false // ended while we looked
      }
    })
    .map(Number)
}

/** Mount points below `dir`. */
export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .map((point) => point.replaceAll('\\040', ' '))
    .filter((point) => point.startsWith(`${dir}/`))
}
