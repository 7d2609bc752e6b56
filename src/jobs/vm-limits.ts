/** What a new VM may be: Ghost Agent's bounds (contracts B1), which the configuration may move. */
import type { Config } from '../config/index.ts'
import { vmNameProblem } from '../manifest/index.ts'
import { JobError } from './types.ts'

type Limits = Config['vm']['limits']

/** What is asked for, in bytes; what is absent is not checked. */
export interface Asked {
  name: string
  vcpus: number
  memory_bytes: number
  /** of the boot disk when it comes from a template */
  template_disk_bytes?: number
  /** of all disks for which a size is asked */
  disks: readonly { what: string; bytes: number }[]
}

/** @throws {JobError} vm-invalid, with everything that is wrong */
export function checkLimits(asked: Asked, limits: Limits): void {
  const wrong: string[] = []
  const name = vmNameProblem(asked.name)
  if (name !== undefined) wrong.push(`name ${name}`)
  const bound = (what: string, value: string, ok: boolean, allowed: string): void => {
    if (!ok) wrong.push(`${what} is ${value}; allowed is ${allowed}.`)
  }
  bound(
    'vcpus',
    String(asked.vcpus),
    asked.vcpus >= 1 && asked.vcpus <= limits.vcpus,
    `1 to ${limits.vcpus} (vm.limits.vcpus)`,
  )
  bound(
    'memory',
    human(asked.memory_bytes),
    asked.memory_bytes >= limits.min_memory && asked.memory_bytes <= limits.memory,
    `${human(limits.min_memory)} to ${human(limits.memory)} (vm.limits.min_memory, vm.limits.memory)`,
  )
  if (asked.template_disk_bytes !== undefined && asked.template_disk_bytes < limits.min_disk) {
    wrong.push(
      `disk is ${human(asked.template_disk_bytes)}; a disk made from a template has at least ${human(limits.min_disk)} (vm.limits.min_disk).`,
    )
  }
  for (const d of asked.disks) {
    bound(d.what, human(d.bytes), d.bytes <= limits.disk, `at most ${human(limits.disk)} (vm.limits.disk)`)
  }
  if (wrong.length === 0) return
  throw new JobError(`The VM ${JSON.stringify(asked.name)} cannot be created. ${wrong.join(' ')}`, {
    code: 'vm-invalid',
    transient: false,
    phase: 'admit',
    hint: 'Change the manifest, or the limit in the configuration that is named (vmspool config show).',
  })
}

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']

/** 10 GiB, 1.5 GiB, 512 MiB */
function human(bytes: number): string {
  let n = bytes
  let unit = 0
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024
    unit++
  }
  return `${Math.round(n * 100) / 100} ${UNITS[unit]}`
}
