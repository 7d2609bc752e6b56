// What libvirt makes of a VM's description, from the real daemon with guests that run as libvirt-qemu and files that are theirs while they run.
import { chmodSync, chownSync, linkSync, mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { XMLParser } from 'fast-xml-parser'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { macOf, OWNERSHIP, uuidOfVm } from '../../src/domain/index.ts'
import { type Connection, connect } from '../../src/libvirt/index.ts'
import { chooseAccelerator } from '../../src/vm/accelerator.ts'
import { blockedWay, handOver, hypervisorUser, keptFrom, letRead, ownBases, prepareLog } from '../../src/vm/access.ts'
import { readDomainCapabilities } from '../../src/vm/capabilities.ts'
import { makeOverlay } from '../../src/vm/disks.ts'
import { nicsOf, placeVmDisks, readOwnership, vmDomainXml, vmFiles } from '../../src/vm/domain.ts'
import { checkMachine } from '../../src/vm/firmware.ts'
import type { NicSpec, VmDisk, VmSpec } from '../../src/vm/types.ts'
import { isRoot, type Libvirtd, LIBVIRT_QEMU, privateLibvirtd } from '../support/libvirtd.ts'
import { tempDir } from '../support/temp.ts'
import { recordingHooks } from './hooks.ts'

const MIB = 2 ** 20
const hooks = recordingHooks()
const code = (c: string) => expect.objectContaining({ name: 'VmError', code: c })

const spec = (name: string, more: Partial<VmSpec> = {}): VmSpec => ({
  name,
  boot: { from: 'template', template: 't' },
  copy: 'overlay',
  disks: [],
  vcpus: 1,
  memory_bytes: 128 * MIB,
  firmware: 'bios',
  secure_boot: false,
  machine: 'q35',
  accelerator: 'auto',
  nics: [],
  autostart: false,
  start: true,
  address_timeout_ms: 0,
  metadata: {},
  ...more,
})
const network = (name = 'default', more: Partial<NicSpec> = {}): NicSpec => ({
  network: name,
  model: 'virtio',
  ...more,
})

function xmlOf(
  s: VmSpec,
  o: { dir: string; disks: readonly VmDisk[]; seed?: boolean; own_bases?: Set<string> },
): string {
  const uuid = uuidOfVm('main', s.name)
  return vmDomainXml({
    spec: s,
    uuid,
    instance: 'main',
    dir: o.dir,
    order: { job: '01JTEST', epoch: 3 },
    accelerator: { type: 'qemu', cpu: 'maximum' },
    direct_io: true,
    disks: placeVmDisks(o.disks),
    nics: nicsOf(s.nics, uuid),
    ...(o.seed ? { seed: vmFiles(o.dir, s.name).seed } : {}),
    ...(o.own_bases ? { own_bases: o.own_bases } : {}),
  })
}

// biome-ignore lint/suspicious/noExplicitAny: a parsed document is looked at in many places
type Xml = Record<string, any>
const parse = (xml: string): Xml =>
  new XMLParser({
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseTagValue: false,
    htmlEntities: true,
    isArray: (name) => ['disk', 'interface', 'serial'].includes(name),
  }).parse(xml).domain

describe('the description', () => {
  const disk: VmDisk = {
    id: 'disk',
    path: '/srv/vms/web/disk.qcow2',
    format: 'qcow2',
    size_bytes: 2 ** 30,
    base: { path: '/srv/vms/web/base.raw', format: 'raw' },
  }

  test('of a usual VM', () => {
    const s = spec('web', { firmware: 'uefi', nics: [network(), { bridge: 'br0', model: 'e1000e' }] })
    expect(xmlOf(s, { dir: '/srv/vms', disks: [disk], seed: true })).toMatchSnapshot()
  })

  test('follows the accelerator: what only KVM has is left out of an emulated machine', () => {
    const s = spec('web')
    const uuid = uuidOfVm('main', 'web')
    const on = (accelerator: Parameters<typeof vmDomainXml>[0]['accelerator']) =>
      vmDomainXml({
        spec: s,
        uuid,
        instance: 'i',
        dir: '/v',
        order: { job: 'j', epoch: 1 },
        accelerator,
        disks: [disk],
        nics: [],
      })
    expect(on({ type: 'kvm', cpu: 'host-passthrough' })).toContain('<cpu mode="host-passthrough" check="none"/>')
    expect(on({ type: 'kvm', cpu: 'host-passthrough' })).toContain('<domain type="kvm">')
    expect(on({ type: 'qemu' })).not.toContain('<cpu')
    // no word on O_DIRECT: libvirt's own way
    expect(on({ type: 'qemu' })).toContain('<driver name="qemu" type="qcow2" discard="unmap"/>')
  })

  test('cards have addresses that stay, and none twice', () => {
    const uuid = uuidOfVm('main', 'web')
    const macs = nicsOf([network(), network(), { bridge: 'br0', model: 'virtio' }], uuid).map((n) => n.mac)
    expect(new Set(macs).size).toBe(3)
    for (const mac of macs) expect(mac).toMatch(/^52:54:00(:[0-9a-f]{2}){3}$/)
    expect(nicsOf([network('other')], uuid)[0]!.mac).toBe(macs[0])
    expect(nicsOf([network()], uuidOfVm('main', 'web2'))[0]!.mac).not.toBe(macs[0])
    // somebody asks for the very address that the first card would have
    const asked = nicsOf([network(), network('default', { mac: macs[0]!.toUpperCase() })], uuid)
    expect(asked[1]!.mac).toBe(macs[0])
    expect(asked[0]!.mac).toBe(macOf(uuid, 0, new Set([macs[0]!])))
    for (const mac of ['01:00:5e:00:00:01', '00:00:00:00:00:00', 'fe:54:00:00:00:01'])
      expect(() => nicsOf([network('default', { mac })], uuid)).toThrow(/cannot be one card's/)
    const same = network('default', { mac: '52:54:00:00:00:01' })
    expect(() => nicsOf([same, same], uuid)).toThrow(/Two network cards/)
  })

  test('whose it is comes back from it, and from nothing that only looks like it', () => {
    const owner = { instance: 'main', dir: '/srv/<v>&"ms', name: 'web', job: '01JTEST', epoch: 3 }
    const xml = xmlOf(spec('web'), { dir: owner.dir, disks: [disk] })
    expect(readOwnership(xml)).toEqual(owner)
    // as libvirt gives the element alone
    expect(readOwnership("<vm instance='a' dir='/b' name='c'>\n  <job id='d' epoch='7'/>\n</vm>")).toEqual({
      ...{ instance: 'a', dir: '/b', name: 'c' },
      ...{ job: 'd', epoch: 7 },
    })
    const foreign = [
      xml.replace(OWNERSHIP, 'urn:somebody:else'),
      xml.replace('<metadata>', '<title>').replace('</metadata>', '</title>'),
      xml.replace('epoch="3"', 'epoch="-3"'),
      xml.replace('epoch="3"', 'epoch="3e2"'),
      xml.replace('instance="main"', 'instance=""'),
      xml.replace(/<vmspool:job[^>]*>/, ''),
      '<domain><metadata><vm instance="a" dir="/b" name="c"><job id="d" epoch="7"/></vm></metadata></domain>',
      '<domain>',
      '',
      'vm',
    ]
    for (const x of foreign) expect(readOwnership(x), x).toBeUndefined()
    // another prefix for the same namespace, declared further out
    const moved = xml
      .replaceAll('vmspool:', 'q:')
      .replace(`xmlns:q="${OWNERSHIP}"`, '')
      .replace(` xmlns:vmspool="${OWNERSHIP}"`, '')
      .replace('<domain ', `<domain xmlns:q="${OWNERSHIP}" `)
    expect(readOwnership(moved)).toEqual(owner)
  })
})

describe.runIf(isRoot)('in the real daemon', () => {
  let daemon: Libvirtd
  let c: Connection
  let dir: string
  const s = () => ({ query: c })
  beforeAll(async () => {
    daemon = await privateLibvirtd({ guests: 'libvirt-qemu' })
    c = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    dir = join(daemon.dir, 'vms')
    mkdirSync(dir)
    // the first look starts every QEMU that there is
    await chooseAccelerator(s(), 'qemu')
  }, 600_000)
  afterAll(async () => {
    await c?.close()
    await daemon?.[Symbol.asyncDispose]()
  })

  /** real files, in the VM's folder; nobody may read them but their owner */
  function files(name: string, o: { disks?: number; seed?: boolean } = {}): VmDisk[] {
    const f = vmFiles(dir, name)
    mkdirSync(f.folder)
    chmodSync(f.folder, 0o711)
    const disks: VmDisk[] = []
    for (let i = 0; i < (o.disks ?? 1); i++) {
      const path = join(f.folder, `d${i}.raw`)
      writeFileSync(path, '', { mode: 0o600 })
      truncateSync(path, MIB)
      disks.push({ id: `d${i}`, path, format: 'raw', size_bytes: MIB })
    }
    if (o.seed) writeFileSync(f.seed, Buffer.alloc(65_536), { mode: 0o600 })
    return disks
  }
  const owner = (path: string) => statSync(path).uid

  test('what is described is what libvirt defines, strictly by its schema, and what QEMU starts with', async () => {
    await daemon.natNetwork()
    const run = true
    const cases: [string, Partial<VmSpec>, number, boolean?][] = [
      ['bios', { vcpus: 3, nics: [network(), network('default', { model: 'rtl8139' })] }, 1],
      ['secure', { firmware: 'uefi', secure_boot: true }, 1, run],
      ['pc-uefi', { machine: 'pc', firmware: 'uefi' }, 2],
      ['pc', { machine: 'pc', nics: Array.from({ length: 16 }, () => network()) }, 20, run],
      ['more', { nics: Array.from({ length: 16 }, () => network()) }, 25],
      // libvirt, here in the locale C, cuts the name after 20 bytes for a folder, and no character of it may be cut
      [`-a<&"'>]]> %s é ,x=y😀${'z'.repeat(160)}`, { firmware: 'uefi' }, 2, run],
    ]
    for (const [name, more, disks, runs] of cases) {
      const made = files(name, { disks, seed: true })
      const want = spec(name, more)
      await checkMachine(s(), want, 'qemu')
      const d = await c.domains.define(xmlOf(want, { dir, disks: made, seed: true }), ['validate'])
      expect(d).toMatchObject({ name, uuid: uuidOfVm('main', name) })
      if (runs) await c.domains.create(d)
      const live = parse(await c.domains.xml(d))
      expect(live.memory['#text'], name).toBe(String(128 * 1024))
      expect(live.vcpu['#text']).toBe(String(want.vcpus))
      expect(live.os.type.machine).toMatch(want.machine === 'q35' ? /^pc-q35-/ : /^pc-i440fx-/)
      expect(live.os.nvram?.['#text'] ?? live.os.nvram, name).toBe(
        want.firmware === 'uefi' ? vmFiles(dir, name).nvram : undefined,
      )
      // which image libvirt took shows while it runs
      if (runs) expect(live.os.loader?.secure).toBe(want.secure_boot ? 'yes' : undefined)
      const seen = (live.devices.disk as Xml[]).map((x) => [x.device, x.source.file, x.target.dev, x.target.bus])
      const meant = placeVmDisks(made).map((x) => ['disk', x.path, x.target, x.bus])
      const cdrom = want.machine === 'q35' ? ['sda', 'sata'] : ['hda', 'ide']
      if (disks > 20) cdrom[0] = 'sdz' // after sda to sdy, on virtio-scsi
      expect(seen.sort()).toEqual([...meant, ['cdrom', vmFiles(dir, name).seed, ...cdrom]].sort())
      expect((live.devices.interface ?? []).map((n: Xml) => n.mac.address)).toEqual(
        nicsOf(want.nics, d.uuid).map((n) => n.mac),
      )
      expect(live.devices.graphics.listen.type).toBe('socket')
      expect(live.devices.channel.target.name).toBe('org.qemu.guest_agent.0')
      expect(live.devices.memballoon).toMatchObject({ freePageReporting: 'on', stats: { period: '10' } })
      expect(await c.domains.autostart(d)).toBe(false)
      expect(readOwnership((await c.domains.metadata(d, OWNERSHIP))!)).toEqual({
        ...{ instance: 'main', dir, name },
        ...{ job: '01JTEST', epoch: 3 },
      })
      if (runs) await c.domains.destroy(d)
      await c.domains.undefine(d, ['nvram'])
    }
  }, 600_000)

  test('while a guest runs its disk is its user’s, and nothing is taken from who shares the base', async () => {
    const who = (await hypervisorUser(s(), 'qemu'))!
    expect(who).toMatchObject({ uid: LIBVIRT_QEMU, gid: LIBVIRT_QEMU })
    const cached = join(daemon.dir, 'cached.raw')
    // whoever probed it would look for a file that is not there
    await execa('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', '/nowhere', cached, '1M'])
    chownSync(cached, 4321, 4321)
    chmodSync(cached, 0o640)
    const f = vmFiles(dir, 'shared')
    mkdirSync(f.folder)
    const base = { path: join(f.folder, 'base.raw'), format: 'raw' as const }
    linkSync(cached, base.path)
    const path = join(f.folder, 'disk.qcow2')
    const size_bytes = await makeOverlay({ base, path, hooks })
    chownSync(path, 1234, 1234) // an agent that is not root
    await prepareLog(f.serial_log)
    const own_bases = await ownBases([base.path])
    expect([...own_bases]).toEqual([])
    const xml = xmlOf(spec('shared'), {
      dir,
      disks: [{ id: 'disk', path, format: 'qcow2', size_bytes, base }],
      own_bases,
    })
    const d = await c.domains.define(xml, ['validate'])

    // no group, no mode lets the guest in: libvirt does not either
    expect(await keptFrom(base.path, who)).toBe('file')
    await expect(c.domains.create(d)).rejects.toThrow(/base\.raw.*Permission denied/s)
    expect(await letRead(base.path, who, hooks)).toBe(true)
    expect(await keptFrom(base.path, who)).toBeUndefined()
    expect(statSync(cached)).toMatchObject({ uid: 4321, gid: 4321 })
    await c.domains.create(d)
    expect([owner(path), owner(base.path)]).toEqual([LIBVIRT_QEMU, 4321])
    await c.domains.destroy(d)
    expect([owner(path), owner(base.path)]).toEqual([1234, 4321])

    // a base that is this VM's alone needs no help
    const alone = join(f.folder, 'alone.raw')
    writeFileSync(alone, Buffer.alloc(MIB), { mode: 0o600 })
    const own = { path: alone, format: 'raw' as const }
    const over = join(f.folder, 'over.qcow2')
    const size = await makeOverlay({ base: own, path: over, hooks })
    const disks: VmDisk[] = [{ id: 'disk', path: over, format: 'qcow2', size_bytes: size, base: own }]
    await c.domains.define(xmlOf(spec('shared'), { dir, disks, own_bases: await ownBases([alone]) }), ['validate'])
    await c.domains.create(d)
    expect(owner(alone)).toBe(LIBVIRT_QEMU)
    await c.domains.destroy(d)
    await c.domains.undefine(d)
  }, 600_000)

  test('a folder that shuts the guest out is named; root gives files away itself', async () => {
    const who = (await hypervisorUser(s(), 'qemu'))!
    await using private_ = await tempDir() // 0700
    expect(await blockedWay(join(private_.path), who)).toMatch(`cannot pass through the folder ${private_.path}`)
    expect(await blockedWay(dir, who)).toBeUndefined()
    expect(await blockedWay(private_.path, { uid: 0, gid: 0, groups: [] })).toBeUndefined()
    const file = join(private_.path, 'disk')
    writeFileSync(file, '')
    expect(await keptFrom(file, who)).toBe('folder')
    await handOver([file], who)
    expect(owner(file)).toBe(LIBVIRT_QEMU)
    await handOver([file], undefined)
  })

  test('what the host cannot give is said before anything is made', async () => {
    const check = (more: Partial<VmSpec>) => checkMachine(s(), spec('x', more), 'qemu')
    await expect(check({ secure_boot: true })).rejects.toThrow(/firmware is a BIOS/)
    await expect(check({ secure_boot: true, firmware: 'uefi', machine: 'pc' })).rejects.toThrow(/needs the machine q35/)
    await expect(check({ vcpus: 256 })).rejects.toThrow(/256 virtual processors.*takes 255/)
    // a host whose descriptors are gone
    await daemon.inside(['mount', '-t', 'tmpfs', 'tmpfs', '/usr/share/qemu/firmware'])
    await daemon.signal('TERM')
    await daemon.start()
    await using bare = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    await expect(checkMachine({ query: bare }, spec('x', { firmware: 'uefi' }), 'qemu')).rejects.toThrow(
      /finds no UEFI firmware.*machine "q35"/,
    )
    await checkMachine({ query: bare }, spec('x'), 'qemu')
    await daemon.inside(['umount', '/usr/share/qemu/firmware'])
  }, 600_000)

  test('KVM is chosen where it works, and nowhere else', async () => {
    await using now = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    const query = { query: now }
    const flags = (f: string) => async () =>
      `processor\t: 0\nflags\t\t: fpu ${f} sse\n\nprocessor\t: 1\nflags\t\t: fpu\n`
    const offered = await now.host.domainCapabilities({ virt_type: 'kvm', machine: 'q35' }).then(
      () => true,
      () => false,
    )
    if (offered) {
      // /dev/kvm of this host is enough for libvirt, with or without a processor behind it
      expect(await chooseAccelerator(query, 'auto', { cpuinfo: flags('svm') })).toMatchObject({
        ...{ type: 'kvm', cpu: 'host-passthrough' },
        reason: 'this host has it',
      })
      expect(await chooseAccelerator(query, 'auto', { cpuinfo: flags('avx') })).toMatchObject({
        ...{ type: 'qemu', cpu: 'maximum' },
        reason: expect.stringMatching(/neither vmx nor svm.*never run/),
      })
      await expect(chooseAccelerator(query, 'kvm', { cpuinfo: flags('avx') })).rejects.toEqual(code('vm-invalid'))
    }
    expect(await chooseAccelerator(query, 'qemu', { cpuinfo: flags('vmx') })).toMatchObject({
      ...{ type: 'qemu', cpu: 'maximum' },
      reason: 'emulation is asked for',
    })
    // a host without it
    const nodes = 'mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9'
    await daemon.inside(['/bin/sh', '-c', `mount -t tmpfs tmpfs /dev && ${nodes}`])
    await daemon.signal('TERM')
    await daemon.start()
    await using without = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    const none = { query: without }
    expect(await chooseAccelerator(none, 'auto', { cpuinfo: flags('vmx') })).toMatchObject({
      ...{ type: 'qemu', cpu: 'maximum' },
      reason: expect.stringMatching(/^KVM does not work on this host: libvirt offers none/),
    })
    await expect(chooseAccelerator(none, 'kvm', { cpuinfo: flags('vmx') })).rejects.toThrow(
      /is to run on KVM, which does not work on this host/,
    )
    const readme = readDomainCapabilities(await without.host.domainCapabilities({ virt_type: 'qemu', machine: 'q35' }))
    // libvirt refuses to start an emulated guest with the host's processor
    expect(readme.cpu_modes.has('host-passthrough')).toBe(false)
  }, 600_000)
})
