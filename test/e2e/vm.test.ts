// The proof of the VM service: a real guest, exported as hypervisors export it, becomes a VM through a real agent, on a libvirtd of our own and
// QEMU without KVM. It gets its address by DHCP, answers on it, is stopped by its power button, runs again, is deleted, and nothing of it is left.
import { randomUUID } from 'node:crypto'
import { chmod, readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { reportSchema } from '../../src/jobs/report-schema.ts'
import { type Bed, bed, vmspool } from '../support/agent.ts'
import { exportOva } from '../support/export-ova.ts'
import { isRoot, type Libvirtd, type NatNetwork, privateLibvirtd } from '../support/libvirtd.ts'
import { drop, endOf, readJson, type Status, statusOf } from '../support/results.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { guestAnswered, makeTinyGuest } from '../support/tiny-guest.ts'
import { until } from '../support/wait.ts'

const MIB = 2 ** 20
/** SYSLINUX and the kernel are for x86, namespaces for root. */
const possible = process.arch === 'x64' && isRoot
/** One boot takes 10 s without KVM, on a busy machine several times that. */
const BOOT = { deadline_ms: 300_000, every_ms: 200 }

const proof = `proof ${randomUUID()}`
let dir: TempDir
let libvirtd: Libvirtd
let network: NatNetwork
let ova = ''

beforeAll(async () => {
  if (!possible) return
  dir = await passable()
  const raw = [join(dir.path, 'tiny.raw'), join(dir.path, 'data.raw')] as const
  await makeTinyGuest(raw[0], proof, { serve: true })
  await execa('truncate', ['-s', '4M', raw[1]])
  const disks = []
  for (const path of raw) {
    const vmdk = path.replace(/raw$/, 'vmdk')
    await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', path, vmdk])
    disks.push({ path: vmdk, capacity_bytes: (await stat(path)).size })
  }
  ova = await exportOva('tiny', disks)
  // guests are not root's, as on an installed host: their files are given to them and taken back
  libvirtd = await privateLibvirtd({ guests: 'libvirt-qemu' })
  network = await libvirtd.natNetwork()
}, 300_000)
afterAll(async () => {
  await libvirtd?.[Symbol.asyncDispose]()
  await dir?.[Symbol.asyncDispose]()
})

/** A folder that another user passes through, as the one of an installed spool. */
async function passable(): Promise<TempDir> {
  const made = await tempDir()
  await chmod(made.path, 0o711)
  return made
}

const uri = () => libvirtd.uri('qemu:///system')
const virsh = (...args: string[]) => libvirtd.virsh(uri(), ...args)
const config = () => ({
  libvirt: { uri: uri(), networks: { 'VM Network': network.name } },
  vm: {
    accelerator: 'qemu',
    limits: { min_memory: '64M', min_disk: '1M' },
    reserved: { memory: 0, disk: 0 },
    cpu_overcommit: 100,
  },
  retry: { max_attempts: 0 },
})
const fromOva = (name: string, more: object = {}) => ({
  manifest_version: '1.0',
  name,
  disks: [{ id: 'disk', source_format: 'ova', bytes: 0, local_path: ova }],
  ...more,
})

/** Everything outside of the agent's own folders that a VM could leave behind. */
async function traces() {
  const lines = async (...argv: [string, ...string[]]) => (await libvirtd.inside(argv)).split('\n').filter(Boolean)
  return {
    domains: await virsh('list', '--all', '--name'),
    firewall: await network.firewall(),
    mounts: await lines('cat', '/proc/mounts'),
    processes: (await lines('ps', '-e', '-o', 'comm=')).filter((p) => /qemu|virtiofsd|swtpm/.test(p)),
    links: (await lines('ip', '-br', 'link')).map((l) => l.split(/\s+/)[0]).filter((l) => /^(vnet|tap)/.test(l!)),
    // what QEMU's driver keeps of each guest: sockets, logs of a guest that is gone are libvirt's own history
    state: (await readdir(join(libvirtd.dir, 'run/libvirt/qemu'))).filter((f) => /\.(xml|pid)$/.test(f)),
  }
}

/** What ends with a VM, ends a moment later: processes that were told to, and libvirt's own files. */
async function asBefore(before: Awaited<ReturnType<typeof traces>>): Promise<void> {
  const same = async () => isDeepStrictEqual(await traces(), before)
  await until('nothing of the VM is left', same, { every_ms: 200, deadline_ms: 60_000 }).catch(() => {})
  expect(await traces()).toEqual(before)
}
const vmJob = async (b: Bed, name: string, action: string, more: object = {}) => {
  const last = (await statusOf(b, `${name}.vm`))?.id
  await drop(b, { kind: 'vm', name, action, ...more })
  let now: Status | undefined
  const status = await until(
    `the VM ${name}: ${action}`,
    async () => {
      now = await statusOf(b, `${name}.vm`)
      return otherEnd(now, last)
    },
    { ...BOOT, also: () => `${JSON.stringify(now)}\n${b.agents.map((a) => a.output()).join('\n')}` },
  )
  // biome-ignore lint/suspicious/noExplicitAny: the result is looked at as a client would
  const result = (await readJson<any>(join(b.layout.output, `${name}.vm.result.json`)))!
  return { status, result }
}

test.runIf(possible)(
  'a disk from an OVA becomes a VM that answers, stops, answers again, and is gone without a trace',
  async () => {
    await using b = await bed(dir.path, config())
    const before = await traces()
    await b.start()
    // both at once: the VM's job waits for the conversion that it comes after
    await drop(b, fromOva('tiny'))
    await until('the conversion is accepted', () => statusOf(b, 'tiny'))
    const vm = { from_job: 'tiny', vcpus: 1, memory: '256M', networks: [network.name] }
    const created = await vmJob(b, 'web', 'create', { vm, wait_for_address: '4m' })
    expect(created.status, JSON.stringify(created)).toMatchObject({ state: 'succeeded' })
    const image = join(b.layout.output, 'tiny.qcow2')
    const untouched = await readFile(image)

    const [address] = created.result.vm.addresses
    expect(address).toMatch(/^192\.0\.2\.\d+$/)
    const first = guestAnswered(await until('the guest answers', () => network.ask(address).catch(() => ''), BOOT))
    expect(first).toMatchObject({ proof, boots: 1 })

    const stopped = await vmJob(b, 'web', 'stop', { grace: '3m' })
    expect(stopped.status).toMatchObject({ state: 'succeeded' })
    expect(stopped.result.summary).toContain('shut down when it was asked to')
    expect(await readFile(join(b.layout.output, 'vms/web/serial.log'), 'latin1')).toContain('GUEST-BUTTON')
    expect(await virsh('domstate', 'web')).toBe('shut off')

    const started = await vmJob(b, 'web', 'start', { wait_for_address: '4m' })
    expect(started.result.vm.addresses, JSON.stringify(started)).toEqual([address])
    const second = guestAnswered(await until('the guest answers', () => network.ask(address).catch(() => ''), BOOT))
    expect(second).toMatchObject({ proof, boots: 2 })
    expect(second.boot).not.toBe(first.boot)

    // it runs, and goes all the same
    const deleted = await vmJob(b, 'web', 'delete', { force: true })
    expect(deleted.status, JSON.stringify(deleted)).toMatchObject({ state: 'succeeded' })
    await asBefore(before)
    expect(await readdir(join(b.layout.output, 'vms'))).not.toContain('web')
    const registry = await readJson<{ vms: object }>(join(b.layout.output, 'vms/vms.json'))
    expect(registry?.vms).toEqual({})
    // what the guests wrote went into the VM's own disk
    expect(untouched.equals(await readFile(image))).toBe(true)
  },
  900_000,
)

test.runIf(possible)(
  'a conversion defines and starts its VM; a later one of the name neither touches it nor is lost',
  async () => {
    await using own = await passable()
    await using b = await bed(own.path, config())
    const before = await traces()
    await b.start()
    const mac = '52:54:00:12:34:56'
    const wanted = (libvirt_integration: object) =>
      fromOva('site', {
        vm: { cpu: 1, mem_gb: 1 },
        nics: [{ id: 'nic-0', mac, network: 'VM Network' }],
        libvirt_integration: { enabled: true, ...libvirt_integration },
      })
    await drop(b, wanted({ auto_start: true, create_snapshot: true }))
    const done = await endOf(b, 'site', BOOT.deadline_ms)
    expect(done, JSON.stringify(done)).toMatchObject({ state: 'succeeded' })

    const answer = (file: string) => join(b.layout.output, file)
    const folder = answer(`vms/site/${done.id}-e0`)
    const disks = (await readdir(folder)).sort()
    expect(disks).toHaveLength(2)
    // biome-ignore lint/suspicious/noExplicitAny: as a reader of it would
    const report: any = reportSchema.parse(await readJson(answer('site.report.json')))
    expect(report.pipeline.stages.libvirt_integration).toMatchObject({ success: true })
    expect(report.define).toMatchObject({ name: 'site', started: true, running: true, type: 'qemu', kept: [] })
    const inode = async (path: string) => (await stat(path)).ino
    for (const d of report.define.disks) {
      expect(d.how).toBe('link')
      const artifact = report.artifacts.find((a: { disk_id: string }) => a.disk_id === d.disk_id)
      expect(await inode(d.path)).toBe(await inode(answer(artifact.path)))
    }
    const xml = await virsh('dumpxml', '--inactive', 'site')
    const emitted = await readFile(answer('site.xml'), 'utf8')
    expect(xml).toContain(`<uuid>${report.define.uuid}</uuid>`)
    expect(emitted).toContain(`<uuid>${report.define.uuid}</uuid>`)
    for (const file of disks) expect(emitted).toContain(join(folder, file))
    expect(emitted).toContain(mac)

    const lease = await until(
      'the guest has an address',
      async () => new RegExp(`${mac}\\s+ipv4\\s+([\\d.]+)`).exec(await virsh('net-dhcp-leases', network.name))?.[1],
      BOOT,
    )
    const said = guestAnswered(await until('the guest answers', () => network.ask(lease).catch(() => ''), BOOT))
    expect(said).toMatchObject({ proof, boots: 1, disks: [`vda=${(64 * MIB) / 512}`, `vdb=${(4 * MIB) / 512}`] })

    // the answer's name is free for the next one, which may not define a VM that runs; its disks are kept, and the VM's are where they were
    await drop(b, wanted({ auto_start: false }))
    const refused = await until('the second job ends', async () => otherEnd(await statusOf(b, 'site'), done.id), BOOT)
    expect(refused).toMatchObject({ state: 'failed' })
    const why = await readFile(answer('site.error'), 'utf8')
    expect(why).toContain('The disks are converted, but the VM was not defined.')
    expect(why).toContain('runs')
    expect(why).toContain('vmspool vm stop site')
    expect(why).toContain(`vmspool retry ${refused.id}`)
    expect(await virsh('domstate', 'site')).toBe('running')
    expect(guestAnswered(await network.ask(lease))).toMatchObject({ boot: said.boot! })
    expect((await readdir(folder)).sort()).toEqual(disks)

    const onTop = await vmJob(b, 'other', 'create', { vm: { from_job: done.id, memory: '64M', networks: [] } })
    expect(onTop.status).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('The VM "site" runs on the disks'),
    })

    const stopped = await vmJob(b, 'site', 'stop', { grace: '3m' })
    expect(stopped.result.summary).toContain('shut down when it was asked to')
    await execa(vmspool, ['retry', refused.id, '--root', b.dir, '--instance', b.instance], { env: b.env })
    const retried = await until('the retry ends', async () => otherEnd(await statusOf(b, 'site'), refused.id), BOOT)
    expect(retried, JSON.stringify(retried)).toMatchObject({ state: 'succeeded' })
    // biome-ignore lint/suspicious/noExplicitAny: as a reader of it would
    const result = (await readJson<any>(answer('site.result.json')))!
    expect(result.disks.map((d: { adopted: boolean }) => d.adopted)).toEqual([true, true])
    expect(result.define).toMatchObject({ started: false, running: false, kept: disks.map((f) => join(folder, f)) })
    expect(result.warnings.map((w: { message: string }) => w.message).join()).toContain('were kept')
    expect(await virsh('dumpxml', '--inactive', 'site')).toContain(`${retried.id}-e0/`)
    expect(await virsh('domstate', 'site')).toBe('shut off')

    const deleted = await vmJob(b, 'site', 'delete')
    expect(deleted.status, JSON.stringify(deleted)).toMatchObject({ state: 'succeeded' })
    await asBefore(before)
    expect(await readdir(answer('vms'))).not.toContain('site')
    expect((await stat(answer('site.qcow2'))).nlink).toBe(1)
  },
  900_000,
)

const ENDED = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])

/** The end of whatever job of that name came after `id`. */
function otherEnd(s: Status | undefined, id: string | undefined): Status | undefined {
  return s && s.id !== id && ENDED.has(s.state) ? s : undefined
}
