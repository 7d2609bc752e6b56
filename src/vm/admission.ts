/**
 * Whether the host has room for one more VM, asked before anything of it is made. What there is comes from libvirt and the filesystem, what
 * is taken from libvirt's domains, the entries that should run, and the promises of VMs under way (promises.ts), each time anew.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../config/index.ts'
import type { Session } from '../libvirt/index.ts'
import { bytes } from '../text/people.ts'
import { disksOn, dueRecords, type Filesystem, filesystemOf, runningDomains, type Taker } from './host.ts'
import { openPromises, type Promised } from './promises.ts'
import { VmError, type VmRecord } from './types.ts'

export interface Want {
  uuid: string
  name: string
  vcpus: number
  memory_bytes: number
  /** what its disks may come to write; 0 for a VM whose disks exist */
  disk_bytes: number
  /** where the disks come to lie; it need not exist yet */
  path: string
}

export interface HostResources {
  vcpus: { total: number; reserved: number; overcommit: number; limit: number; taken: number; free: number }
  memory: { total_bytes: number; reserved_bytes: number; taken_bytes: number; free_bytes: number }
  /** `growth_bytes`: what disks of our VMs on it may still write; `free_bytes`: what a new VM may have */
  disk: {
    path: string
    total_bytes: number
    available_bytes: number
    reserved_bytes: number
    growth_bytes: number
    free_bytes: number
  }
  /** who takes processors and memory, the most memory first */
  takers: Taker[]
}

export interface Admission {
  /**
   * Promises that the VM may have what it wants, until the result is disposed of: when libvirt shows the VM running, or it is given up. What the VM
   * has already is not counted twice.
   * @throws VmError vm-resources that says what is wanted, what is free, and who has the most
   */
  admit(want: Want, s: Session): Promise<AsyncDisposable>
  report(s: Session): Promise<HostResources>
}

export interface AdmissionOptions {
  /** for the promises: of this host alone, the same for all its instances */
  dir: string
  /** of the VMs */
  vmDir: string
  /** as it is now */
  config(): Pick<Config['vm'], 'cpu_overcommit' | 'reserved'>
  /** the entries of this instance */
  records(): Promise<readonly VmRecord[]>
}

/** Others that announced something before us, and do not know yet whether they get it, are waited for so long. */
const OTHERS_MS = 10_000
const POLL_MS = 20

export function openAdmission(o: AdmissionOptions): Admission {
  const promises = openPromises(o.dir)
  // They count no more in any case; whoever asks next would remove them too.
  promises.clean().catch(() => {})

  /** Promises first, domains after them: a promise that ends in between has become a domain that is seen. */
  async function look(s: Session, fs: Filesystem, promised: readonly Promised[], without?: string) {
    const config = o.config()
    const records = await o.records()
    const [node, running] = await Promise.all([s.query.host.node(), runningDomains(s)])
    const takers = new Map<string, Taker>()
    for (const p of promised) takers.set(p.uuid, larger(takers.get(p.uuid), { ...p, why: 'promised' }))
    for (const t of [...running, ...dueRecords(records)]) takers.set(t.uuid, larger(takers.get(t.uuid), t))
    if (without !== undefined) takers.delete(without)
    const growth = new Map<string, number>()
    for (const p of promised) {
      if (p.dev === fs.dev) growth.set(p.uuid, Math.max(growth.get(p.uuid) ?? 0, p.disk_bytes))
    }
    let written = 0
    for (const r of records) {
      const d = await disksOn(fs.dev, r)
      if (r.uuid === without) written = d.written
      growth.set(r.uuid, Math.max(growth.get(r.uuid) ?? 0, d.growth))
    }
    if (without !== undefined) growth.delete(without)
    const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0)
    const all = [...takers.values()].sort((a, b) => b.memory_bytes - a.memory_bytes || (a.name < b.name ? -1 : 1))
    const limit = Math.floor(Math.max(0, node.cpus - config.reserved.vcpus) * config.cpu_overcommit)
    const vcpus = sum(all.map((t) => t.vcpus))
    const memory = sum(all.map((t) => t.memory_bytes))
    const growing = sum(growth.values())
    const report: HostResources = {
      vcpus: {
        total: node.cpus,
        reserved: config.reserved.vcpus,
        overcommit: config.cpu_overcommit,
        limit,
        taken: vcpus,
        free: Math.max(0, limit - vcpus),
      },
      memory: {
        total_bytes: node.memory_bytes,
        reserved_bytes: config.reserved.memory,
        taken_bytes: memory,
        free_bytes: Math.max(0, node.memory_bytes - config.reserved.memory - memory),
      },
      disk: {
        path: fs.path,
        total_bytes: fs.total_bytes,
        available_bytes: fs.free_bytes,
        reserved_bytes: config.reserved.disk,
        growth_bytes: growing,
        free_bytes: Math.max(0, fs.free_bytes - config.reserved.disk - growing),
      },
      takers: all,
    }
    return { report, written }
  }

  return {
    async admit(want, s) {
      const fs = await filesystemOf(want.path)
      const { uuid, name, vcpus, memory_bytes, disk_bytes } = want
      const mine = await promises.announce({ uuid, name, vcpus, memory_bytes, disk_bytes, dev: fs.dev })
      try {
        for (const began = performance.now(); ; await sleep(POLL_MS)) {
          const before = await mine.before()
          const all = await look(s, fs, before, uuid)
          const short = shortOf(want, all)
          if (short.length === 0) break
          // Those who do not know yet may be refused, and then there is room.
          const known = before.filter((p) => p.admitted)
          const undecided = known.length < before.length && performance.now() - began < OTHERS_MS
          if (undecided && shortOf(want, await look(s, fs, known, uuid)).length === 0) continue
          throw refused(want, all.report, short)
        }
        await mine.admit()
        return mine
      } catch (error) {
        await mine[Symbol.asyncDispose]()
        throw error
      }
    },
    async report(s) {
      const promised = await promises.list()
      return (await look(s, await filesystemOf(o.vmDir), promised)).report
    },
  }
}

/** One VM that is known in several ways: what it takes is the larger, and what libvirt shows is told. */
function larger(a: Taker | undefined, b: Taker): Taker {
  const { uuid, name, why } = a?.why === 'runs' ? a : b
  return {
    uuid,
    name,
    why,
    vcpus: Math.max(a?.vcpus ?? 0, b.vcpus),
    memory_bytes: Math.max(a?.memory_bytes ?? 0, b.memory_bytes),
  }
}

interface Shortage {
  text: string
  /** not even an empty host has so much */
  never: boolean
}

function shortOf(want: Want, { report: r, written }: { report: HostResources; written: number }): Shortage[] {
  const out: Shortage[] = []
  if (want.memory_bytes > r.memory.free_bytes) {
    const taken = holders(r.takers, (t) => t.memory_bytes, bytes)
    out.push({
      text: `${bytes(want.memory_bytes)} of memory, of which ${bytes(r.memory.free_bytes)} are free (the host has ${bytes(r.memory.total_bytes)}, ${bytes(r.memory.reserved_bytes)} are reserved by vm.reserved.memory, ${taken})`,
      never: want.memory_bytes > r.memory.total_bytes - r.memory.reserved_bytes,
    })
  }
  if (want.vcpus > r.vcpus.free) {
    const taken = holders(r.takers, (t) => t.vcpus, String)
    out.push({
      text: `${want.vcpus} virtual processors, of which ${r.vcpus.free} are free (the host has ${r.vcpus.total} processors, ${r.vcpus.reserved} are reserved by vm.reserved.vcpus, vm.cpu_overcommit ${r.vcpus.overcommit} makes ${r.vcpus.limit} of the rest, ${taken})`,
      never: want.vcpus > r.vcpus.limit,
    })
  }
  const disk = Math.max(0, want.disk_bytes - written)
  if (disk > r.disk.free_bytes) {
    out.push({
      text: `${bytes(disk)} on the filesystem of ${r.disk.path}, of which ${bytes(r.disk.free_bytes)} may be used (${bytes(r.disk.available_bytes)} are free now, ${bytes(r.disk.reserved_bytes)} are reserved by vm.reserved.disk, disks of other VMs may still grow by ${bytes(r.disk.growth_bytes)})`,
      never: disk > r.disk.total_bytes - r.disk.reserved_bytes,
    })
  }
  return out
}

/** How much is taken, and who takes the most. */
function holders(takers: readonly Taker[], of: (t: Taker) => number, text: (n: number) => string): string {
  if (takers.length === 0) return 'no VM takes any'
  const sum = takers.reduce((n, t) => n + of(t), 0)
  const most = [...takers].sort((a, b) => of(b) - of(a)).slice(0, 3)
  const names = most.map((t) => `"${t.name}" ${text(of(t))}${WHY[t.why]}`).join(', ')
  return `${takers.length === 1 ? '1 VM takes' : `${takers.length} VMs take`} ${text(sum)}, most of it ${names}`
}
const WHY: Record<Taker['why'], string> = {
  runs: '',
  due: ' (which should run)',
  promised: ' (which is being started)',
}

function refused(want: Want, r: HostResources, short: readonly Shortage[]): VmError {
  const never = short.some((s) => s.never)
  return new VmError(
    `There is no room for the VM "${want.name}": it wants ${short.map((s) => s.text).join('; and ')}.`,
    {
      code: 'vm-resources',
      transient: !never,
      phase: 'admit',
      hint: never
        ? 'This host never has so much for one VM: ask for less, or change vm.reserved and vm.cpu_overcommit.'
        : `Stop or remove VMs${r.takers.length > 0 ? `, such as "${r.takers[0]!.name}"` : ''}, or ask for less; the job is tried again.`,
    },
  )
}
