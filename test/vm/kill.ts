// Life and death of one VM, disturbed at every phase of every action: the agent is killed, libvirtd is killed and started again, or frozen for a
// while. After each action there is one VM in the right state, and libvirt, the registry, the files and the processes agree; after the last
// nothing is left.
import { readFileSync, watch } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { VmPhase } from '../../src/vm/types.ts'
import { drop, endOf, type Status, statusOf } from '../support/results.ts'
import { until } from '../support/wait.ts'
import { NETWORK, NOTHING, type Scene, type Traces, vmManifest } from './scene.ts'

export type Disturbance = 'agent killed' | 'libvirtd killed' | 'libvirtd frozen'
export const DISTURBANCES: readonly Disturbance[] = ['agent killed', 'libvirtd killed', 'libvirtd frozen']

export interface Step {
  action: 'create' | 'stop' | 'start' | 'restart' | 'delete'
  phases: readonly VmPhase[]
  /** the job itself ends as a failure, each time */
  fails?: boolean
  /** what is there of it afterwards */
  after: 'running' | 'stopped' | 'gone'
}

/** In this order they make a life. */
export const LIFE: readonly Step[] = [
  { action: 'create', phases: ['admit', 'image', 'disks', 'seed', 'define', 'start', 'address'], after: 'running' },
  { action: 'stop', phases: ['stop'], after: 'stopped' },
  { action: 'start', phases: ['start'], after: 'running' },
  { action: 'restart', phases: ['stop', 'start'], after: 'running' },
  { action: 'delete', phases: ['stop', 'undefine', 'remove'], after: 'gone' },
]

/** A create that libvirt refuses in the end: everything made until then is taken back. */
export const REFUSED: Step = {
  action: 'create',
  phases: ['admit', 'disks', 'seed', 'define', 'start', 'roll-back'],
  fails: true,
  after: 'gone',
}

export interface Blow {
  disturbance: Disturbance
  phase: VmPhase
  /** from the moment when the phase is seen, ms */
  after_ms: number
  /** how long libvirtd is gone or frozen, or nobody follows the agent, ms */
  for_ms: number
}

export interface Struck {
  /** the phase was seen while the action was under way */
  hit: boolean
  attempts: number
  /** libvirt was stuck over a start that was cut off, and had to be helped by hand as the job's reason says: a fault of its own */
  stuck: number
  seconds: number
}

/** The registry as it is at this moment: what the job is doing. */
function doing(s: Scene, name: string): { phase: string; epoch: number } | undefined {
  try {
    const { vms } = JSON.parse(readFileSync(join(s.bed.layout.output, 'vms/vms.json'), 'utf8'))
    return vms[name]?.doing
  } catch {
    return undefined // not there yet
  }
}

/** Calls back the moment that an action on the VM is seen in this phase. */
async function atPhase(s: Scene, name: string, phase: VmPhase, over: Promise<unknown>): Promise<boolean> {
  const dir = join(s.bed.layout.output, 'vms')
  await mkdir(dir, { recursive: true })
  let seen!: (hit: boolean) => void
  const found = new Promise<boolean>((resolve) => {
    seen = resolve
  })
  const look = (): void => {
    if (doing(s, name)?.phase === phase) seen(true)
  }
  const watcher = watch(dir, look)
  // before its entry is written the job's status is all there is
  const poll = setInterval(async () => {
    look()
    const status = await statusOf(s.bed, `${name}.vm`).catch(() => undefined)
    if (status?.state === 'running' && status.phase === phase) seen(true)
  }, 5)
  void over.then(() => seen(false))
  try {
    return await found
  } finally {
    watcher.close()
    clearInterval(poll)
  }
}

async function strike(s: Scene, b: Blow): Promise<void> {
  if (b.after_ms > 0) await sleep(b.after_ms)
  if (b.disturbance === 'agent killed') {
    for (const agent of s.bed.agents) if (agent.alive()) await agent.kill()
    await sleep(b.for_ms)
    await s.bed.start()
  } else if (b.disturbance === 'libvirtd killed') {
    await s.libvirtd.signal('KILL')
    await sleep(b.for_ms)
    await s.libvirtd.start()
  } else {
    await s.libvirtd.signal('STOP')
    await sleep(b.for_ms)
    await s.libvirtd.signal('CONT')
  }
}

/** One action, with a blow in the middle of it. @throws when what is there afterwards is not what should be */
export async function act(s: Scene, name: string, step: Step, blow?: Blow): Promise<Struck> {
  const began = performance.now()
  const before = await statusOf(s.bed, `${name}.vm`)
  const over = new AbortController()
  const ended = new Promise((resolve) => over.signal.addEventListener('abort', resolve, { once: true }))
  const hit = blow ? atPhase(s, name, blow.phase, ended) : Promise.resolve(false)
  const blown = hit.then(async (yes) => {
    if (yes) await strike(s, blow!)
    return yes
  })
  try {
    const wanted = step.action === 'create' ? createWith(s, step, blow?.phase) : {}
    await drop(s.bed, vmManifest(s, name, step.action, wanted))
    await until(`the job to ${step.action} is accepted`, async () => {
      const now = await statusOf(s.bed, `${name}.vm`)
      return now && now.id !== before?.id
    })
    let stuck = 0
    const mending = restartWhenStuck(s, name, over.signal, () => stuck++)
    const status = await endOf(s.bed, `${name}.vm`, 360_000)
    over.abort()
    await mending
    const struck = {
      hit: await blown,
      stuck,
      attempts: Number(status.attempt ?? 1),
      seconds: (performance.now() - began) / 1000,
    }
    check(name, step, status)
    await agree(s, name, step.after)
    return struck
  } finally {
    over.abort()
    await blown.catch(() => {})
  }
}

/** What whoever runs the host is told to do, and does. */
async function restartWhenStuck(s: Scene, name: string, over: AbortSignal, tell: () => void): Promise<void> {
  for (let last = ''; !over.aborted; await sleep(500)) {
    const status = await statusOf(s.bed, `${name}.vm`)
    const told = `${status?.attempt} ${status?.state}`
    if (status?.state !== 'retrying' || !/libvirt is stuck/.test(status.reason ?? '') || told === last) continue
    last = told
    tell()
    await s.libvirtd.signal('KILL')
    await s.libvirtd.inside(['rm', '-f', `/run/libvirt/qemu/${name}.xml`])
    await s.libvirtd.start()
  }
}

/** As little as makes the action pass through the phase: each costs its time. */
function createWith(s: Scene, step: Step, phase: VmPhase | undefined): object {
  const vm = { vcpus: 1, memory: '32M', disk: '4M', cloud_init: { user: 'nobody' } }
  const from = phase === 'image' ? { template: 'blank', copy: 'full' } : { image: s.image, image_format: 'raw' }
  const networks = step.fails ? [{ bridge: 'no-such-bridge' }] : phase === 'address' ? [NETWORK] : []
  return { vm: { ...vm, ...from, networks }, wait_for_address: phase === 'address' ? 3 : false }
}

function check(name: string, step: Step, status: Status): void {
  if (status.state === (step.fails ? 'failed' : 'succeeded')) return
  throw new Error(`The job to ${step.action} ${name} ended as ${status.state}: ${status.reason}`)
}

/** libvirt, the registry, the files and the processes all say the same. */
async function agree(s: Scene, name: string, after: Step['after']): Promise<void> {
  let t: Traces | undefined
  let said = ''
  const right = async (): Promise<boolean> => {
    try {
      t = await s.traces(name)
    } catch (error) {
      said = String(error) // libvirtd is just starting
      return false
    }
    const record = await s.record(name)
    said = JSON.stringify({ traces: t, record })
    if (after === 'gone') return JSON.stringify(t) === JSON.stringify(NOTHING) && record === undefined
    const on = after === 'running'
    const disks = record?.disks.map((d) => d.path.split('/').at(-1)!) ?? []
    return (
      JSON.stringify(t.domains) === JSON.stringify([on ? 'running' : 'shut off']) &&
      t.guests === (on ? 1 : 0) &&
      record?.doing === undefined &&
      record?.desired === after &&
      record.state === after &&
      disks.length > 0 &&
      [...disks, 'seed.iso'].every((f) => t!.files.includes(f)) &&
      t.files.every((f) => disks.includes(f) || f === 'seed.iso' || f === 'serial.log' || f.startsWith('base.'))
    )
  }
  await until(`${name} is ${after} everywhere`, right, { every_ms: 100, also: () => said })
}

/** What must not be there when all VMs are gone. */
export async function nothingLeft(s: Scene): Promise<string[]> {
  const left: string[] = []
  const vms = join(s.bed.layout.output, 'vms')
  const files = (await readdir(vms)).filter((f) => !/^(vms\.json(\.bak)?|\.reconcile\.json|\.images)$/.test(f))
  if (files.length > 0) left.push(`files: ${files.join(' ')}`)
  const domains = await s.libvirtd.virsh(s.uri, 'list', '--all', '--name')
  if (domains.trim() !== '') left.push(`domains: ${domains}`)
  const qemus = (await s.libvirtd.inside(['sh', '-c', 'cat /proc/[0-9]*/comm']))
    .split('\n')
    .filter((c) => c.startsWith('qemu'))
  if (qemus.length > 0) left.push(`${qemus.length} QEMU processes`)
  for (const dir of ['vm-promises', 'run/vm-promises', 'run/vm-locks']) {
    const there = await readdir(join(s.bed.dir, dir)).catch(() => [])
    if (there.length > 0) left.push(`${dir}: ${there.join(' ')}`)
  }
  return left
}
