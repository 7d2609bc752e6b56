// <name>.xml: what it says follows from manifest, OVF and guest; libvirt's own schema and libvirt's QEMU driver judge what it is.
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from '../support/fc.ts'
import { XMLParser } from 'fast-xml-parser'
import { afterAll, describe, expect, test } from 'vitest'
import { mergeDomain, type MadeDisk, renderDomain, type VmWords } from '../../src/domain/index.ts'
import { element, escapeXml, printXml, writable } from '../../src/domain/xml.ts'
import { withMachine } from '../../src/convert/describe.ts'
import type { Inspected } from '../../src/convert/inspect.ts'
import type { ConvertPlan } from '../../src/convert/index.ts'
import type { Ovf } from '../../src/images/index.ts'
import { privateLibvirt } from '../support/libvirt.ts'
import { bench, disk, qemuImg, tempFolder } from './harness.ts'

// biome-ignore lint/suspicious/noExplicitAny: a parsed document is looked at in many places
type Xml = Record<string, any>

const dir = tempFolder()
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const words = (more: Partial<VmWords> = {}): VmWords => ({
  write_xml: true,
  job_id: '01JTEST',
  output_dir: '/srv/out',
  source: {},
  networks: { by_name: {}, otherwise: 'default' },
  ...more,
})
const ovf = (more: Partial<Ovf> = {}): Ovf => ({ disks: [], nics: [], ...more })
const made = (n: number, more: Partial<MadeDisk> = {}): MadeDisk[] =>
  Array.from({ length: n }, (_, i) => ({
    id: `d${i}`,
    path: `/srv/out/vm.disks/d${i}.qcow2`,
    format: 'qcow2' as const,
    boot: i === 0,
    boot_order_hint: 999,
    ...more,
  }))
const merge = (w: Partial<VmWords>, o?: Ovf, disks = made(1), facts = {}) =>
  mergeDomain('vm', words(w), o, disks, facts)

function parse(xml: string): Xml {
  const parser = new XMLParser({
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseTagValue: false,
    parseAttributeValue: false,
    trimValues: false,
    htmlEntities: true, // numeric ones too
    isArray: (name) => ['disk', 'interface', 'boot', 'controller'].includes(name),
  })
  return parser.parse(xml).domain
}

describe('right devices for the guest', () => {
  const os = (type: string): Ovf => ovf({ os: { type } })
  test.each<[string, Partial<VmWords>, Ovf | undefined, [string, string, string, string]]>([
    ['a Linux, by the hint alone', { os_hint: 'linux' }, undefined, ['virtio', 'virtio', 'virtio', 'q35']],
    ['Debian 12 in vSphere', {}, os('debian12_64Guest'), ['virtio', 'virtio', 'virtio', 'q35']],
    ['some Debian in VirtualBox', {}, os('Debian_64'), ['virtio', 'virtio', 'virtio', 'q35']],
    ['Ubuntu in vSphere, which names no release', {}, os('ubuntu64Guest'), ['virtio', 'virtio', 'virtio', 'q35']],
    ['RHEL 9', {}, os('rhel9_64Guest'), ['virtio', 'virtio', 'virtio', 'q35']],
    ['RHEL 5', {}, os('rhel5_64Guest'), ['ide', 'ide', 'e1000', 'pc']],
    ['CentOS 4 or 5', {}, os('centos64Guest'), ['ide', 'ide', 'e1000', 'pc']],
    ['Debian 5', { os_hint: 'linux', os_version: 'Debian GNU/Linux 5' }, undefined, ['ide', 'ide', 'e1000', 'pc']],
    ['Linux 2.4', {}, os('other24xLinuxGuest'), ['ide', 'ide', 'e1000', 'pc']],
    ['a Linux of the kernels 2.6', {}, os('other26xLinux64Guest'), ['sata', 'sata', 'e1000e', 'q35']],
    ['a Linux by its CIM number', {}, ovf({ os: { id: 101 } }), ['virtio', 'virtio', 'virtio', 'q35']],
    ['Windows, by the hint alone', { os_hint: 'windows' }, undefined, ['sata', 'sata', 'e1000e', 'q35']],
    ['Windows 10', {}, os('windows9_64Guest'), ['sata', 'sata', 'e1000e', 'q35']],
    ['Server 2019', {}, os('windows2019srv_64Guest'), ['sata', 'sata', 'e1000e', 'q35']],
    ['Windows 7', {}, os('windows7_64Guest'), ['ide', 'ide', 'e1000', 'pc']],
    ['Server 2008 R2', { os_version: 'Microsoft Windows Server 2008 R2' }, undefined, ['ide', 'ide', 'e1000', 'pc']],
    ['Server 2008 with UEFI', { firmware: 'uefi' }, os('winLonghorn64Guest'), ['sata', 'sata', 'e1000', 'q35']],
    ['Windows XP', {}, os('WindowsXP'), ['ide', 'ide', 'rtl8139', 'pc']],
    ['Server 2003', {}, os('winNetStandardGuest'), ['ide', 'ide', 'rtl8139', 'pc']],
    ['FreeBSD', {}, os('freebsd12_64Guest'), ['sata', 'sata', 'e1000e', 'q35']],
    ['macOS, which is no Windows', {}, os('darwin19_64Guest'), ['sata', 'sata', 'e1000e', 'q35']],
    ['nothing known', {}, undefined, ['sata', 'sata', 'e1000e', 'q35']],
    [
      "the manifest's word against the OVF's",
      { os_hint: 'windows' },
      os('debian12_64Guest'),
      ['sata', 'sata', 'e1000e', 'q35'],
    ],
  ])('%s', (_, w, o, [row, bus, nic, machine]) => {
    const { domain } = merge(w, o && { ...o, nics: [{}] })
    expect([domain.devices.row, domain.disks[0]!.bus, domain.nics[0]!.model, domain.machine]).toEqual([
      row,
      bus,
      nic,
      machine,
    ])
  })

  test('an unknown guest stays on the bus it ran from, when that was IDE or virtio', () => {
    const on = (bus: 'ide' | 'virtio' | 'scsi', model?: string) =>
      merge(
        {},
        ovf({ disks: [{ disk_id: 'a', href: 'a', controller: { bus, index: 0, ...(model ? { model } : {}) } }] }),
      ).domain.disks[0]!.bus
    expect([on('ide'), on('virtio'), on('scsi', 'VirtIO SCSI'), on('scsi', 'lsilogic')]).toEqual([
      'ide',
      'virtio',
      'virtio',
      'sata',
    ])
  })

  test('what virt-v2v made of the guest counts more than what it was', () => {
    const info = {
      type: 'windows',
      distro: 'windows',
      product_name: 'Windows Server 2019',
      major_version: 10,
      minor_version: 0,
    }
    const fixed = (block_bus: string, net_bus?: string, more = info) =>
      merge({ os_hint: 'windows', nics: [{}] }, undefined, made(1), {
        info: more,
        block_bus,
        ...(net_bus ? { net_bus } : {}),
      }).domain
    expect(fixed('virtio-blk', 'virtio-net')).toMatchObject({ disks: [{ bus: 'virtio' }], nics: [{ model: 'virtio' }] })
    expect(fixed('virtio-scsi', 'e1000')).toMatchObject({ disks: [{ bus: 'scsi' }], nics: [{ model: 'e1000' }] })
    expect(fixed('ide')).toMatchObject({ disks: [{ bus: 'sata' }], nics: [{ model: 'e1000e' }], machine: 'q35' })
    const xp = { ...info, product_name: 'Windows XP', major_version: 5, minor_version: 1 }
    expect(fixed('ide', 'rtl8139', xp)).toMatchObject({
      disks: [{ bus: 'ide' }],
      nics: [{ model: 'rtl8139' }],
      machine: 'pc',
    })
    // old enough for transitional virtio, which QEMU has on PCI alone
    expect(fixed('virtio-blk', 'virtio-net', xp)).toMatchObject({ disks: [{ bus: 'virtio' }], machine: 'pc' })
  })

  test('an initramfs that may lack virtio is warned of, until the guest is fixed', () => {
    expect(merge({}, os('rhel9_64Guest')).warnings).toEqual([expect.stringContaining('pipeline.fix')])
    expect(merge({}, os('rhel9_64Guest'), made(1), { block_bus: 'virtio-blk' }).warnings).toEqual([])
    expect(merge({}, os('debian12_64Guest')).warnings).toEqual([])
  })
})

describe('manifest first, then OVF, then defaults', () => {
  const source = ovf({
    name: 'from the OVF',
    vcpus: 4,
    memory_bytes: 3 * 2 ** 30,
    firmware: 'uefi',
    secure_boot: true,
    nics: [{ mac: '00:50:56:aa:bb:01', network: 'VM Network', model: 'VmxNet3' }],
    os: { type: 'debian12_64Guest' },
  })

  test('all of the OVF, where the manifest says nothing', () => {
    const { domain, assumed } = merge({}, source)
    expect(assumed).toEqual([])
    expect(domain).toMatchObject({
      name: 'from the OVF',
      vcpus: 4,
      memory_bytes: 3 * 2 ** 30,
      firmware: 'uefi',
      secure_boot: true,
      nics: [{ mac: '00:50:56:aa:bb:01', network: 'default', original: { network: 'VM Network', model: 'VmxNet3' } }],
      source: { vm_name: 'from the OVF' },
    })
  })

  test("the manifest's words, where it has them; an OVF's model of the same card still counts", () => {
    const { domain } = merge(
      {
        name: 'mine',
        vcpus: 8,
        memory_bytes: 2 ** 30,
        firmware: 'bios',
        nics: [{ mac: '00-50-56-AA-BB-01', network: 'DMZ' }],
        networks: { by_name: { DMZ: 'bridge:br1' }, otherwise: 'default' },
      },
      source,
    )
    expect(domain).toMatchObject({
      name: 'mine',
      vcpus: 8,
      memory_bytes: 2 ** 30,
      firmware: 'bios',
      secure_boot: false,
      nics: [{ mac: '00:50:56:aa:bb:01', network: 'bridge:br1', original: { model: 'VmxNet3', network: 'DMZ' } }],
    })
  })

  test('defaults, said to be such; one network card unless a list says none', () => {
    const { domain, assumed } = merge({})
    expect(assumed).toEqual(['vcpus', 'memory', 'firmware', 'os'])
    expect(domain).toMatchObject({
      name: 'vm',
      vcpus: 2,
      memory_bytes: 2 ** 31,
      firmware: 'bios',
      nics: [{ network: 'default' }],
    })
    expect(merge({ nics: [] }, source).domain.nics).toEqual([])
    expect(merge({}, ovf()).domain.nics).toEqual([])
  })

  test('addresses that no card can have are left to libvirt, and told', () => {
    const macs = [
      '01:00:5e:00:00:01',
      'ff:ff:ff:ff:ff:ff',
      '00:00:00:00:00:00',
      'fe:54:00:00:00:01',
      'none',
      '52:54:00:aa:bb:cc',
      '52-54-00-AA-BB-CC',
    ]
    const { domain, warnings } = merge({ nics: macs.map((mac) => ({ mac })) })
    expect(domain.nics.map((n) => n.mac)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
      '52:54:00:aa:bb:cc',
      undefined,
    ])
    expect(warnings).toHaveLength(6)
  })

  test('the boot disk is first to boot and keeps its place', () => {
    const disks = made(3).map((d, i) => ({ ...d, boot: i === 2, boot_order_hint: i === 1 ? 1 : 999 }))
    const { domain } = merge({ os_hint: 'linux' }, undefined, disks)
    expect(domain.disks.map((d) => [d.id, d.target, d.boot_order])).toEqual([
      ['d0', 'vda', 3],
      ['d1', 'vdb', 2],
      ['d2', 'vdc', 1],
    ])
  })

  test('virt-v2v is told of the machine as it was', () => {
    const fix = { machine: { firmware: 'bios', memory_bytes: 2 ** 30, cpus: 1 } }
    const inspected = (o?: Ovf) =>
      ({ opened: [{ disks: [] }, ...(o ? [{ disks: [], ovf: o }] : [])] }) as unknown as Inspected
    const told = (w: Partial<VmWords>, o?: Ovf) =>
      withMachine({ fix, vm: words(w) } as unknown as ConvertPlan, inspected(o)).fix?.machine
    expect(told({}, source)).toEqual({ firmware: 'uefi', memory_bytes: 3 * 2 ** 30, cpus: 4 })
    expect(told({ firmware: 'bios', vcpus: 2 }, source)).toEqual({
      firmware: 'bios',
      memory_bytes: 3 * 2 ** 30,
      cpus: 2,
    })
    expect(told({})).toEqual(fix.machine)
  })

  test('the same job has the same uuid, another job another', () => {
    const id = (job_id: string) => merge({ job_id }).domain.uuid
    expect(id('01A')).toBe(id('01A'))
    expect(id('01A')).not.toBe(id('01B'))
    expect(id('01A')).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  })
})

describe('escaping', () => {
  test('any text comes back as it was, or with U+FFFD where XML has no way to say it', () => {
    const texts = fc.sample(fc.string({ unit: 'binary' }), { numRuns: 1000, seed: 7 })
    const xml = printXml(
      element(
        'domain',
        {},
        texts.map((t) => element('b', { a: t }, t)),
      ),
    )
    execFileSync('xmllint', ['--noout', '-'], { input: xml })
    const back: Xml[] = parse(xml).b
    expect(back).toHaveLength(texts.length)
    for (const [i, text] of texts.entries()) {
      const { a, '#text': inner } = typeof back[i] === 'string' ? { a: '', '#text': back[i] } : back[i]!
      if (writable(text)) expect([a, inner ?? '']).toEqual([text, text])
      else expect(a).toContain('\ufffd')
    }
  })

  test('text cannot become markup', () => {
    const evil = [
      '</name><devices>',
      '" x="',
      "' y='",
      '<![CDATA[',
      ']]>',
      '<!--',
      '&amp;',
      '&#60;',
      '\u0000\u001b\ud800\ufffe',
    ]
    for (const e of evil) {
      const back = parse(printXml(element('domain', { a: e }, element('b', {}, e))))
      expect(
        Object.keys(back)
          .filter((k) => k !== '#text')
          .sort(),
      ).toEqual(['a', 'b'])
    }
    expect(escapeXml('\u0000\ud800\ufffe😀')).toBe('\ufffd\ufffd\ufffd😀')
  })
})

describe('what libvirt says', () => {
  const check = (path: string) => execFileSync('virt-xml-validate', [path, 'domain'], { stdio: 'pipe' })
  const hostile = `a<&"'>]]> é 😀`
  const cases: Record<string, [Partial<VmWords>, Ovf | undefined, MadeDisk[]]> = {
    linux: [{ os_hint: 'linux', nics: [{ mac: '00:50:56:aa:bb:01', network: 'VM Network' }, {}] }, undefined, made(3)],
    'linux-uefi': [
      { os_hint: 'linux', firmware: 'uefi' },
      undefined,
      made(1, { format: 'raw', path: '/srv/out/vm.raw' }),
    ],
    secure: [{ os_hint: 'windows', firmware: 'uefi', secure_boot: true }, undefined, made(2, { format: 'vdi' })],
    'many-virtio': [{ os_hint: 'linux' }, undefined, made(130)],
    'many-sata': [{}, undefined, made(14)],
    xp: [
      { os_hint: 'windows', os_version: 'Windows XP', networks: { by_name: {}, otherwise: 'bridge:br0' } },
      undefined,
      made(7),
    ],
    'win7-uefi': [{ os_hint: 'windows', os_version: 'Windows 7', firmware: 'uefi' }, undefined, made(1)],
    huge: [{ vcpus: 4000, memory_bytes: 2 ** 40 + 1 }, undefined, made(1)],
    small: [{ memory_bytes: 1000 }, undefined, made(1)],
    hostile: [
      {
        name: `${hostile}/\n\u0007`,
        os_hint: 'linux',
        os_version: hostile,
        source: { provider: hostile, vm_id: '\u0001\ud800', vm_name: hostile, datacenter: '\n\t' },
        nics: [{ id: hostile, network: hostile, mac: hostile }],
      },
      undefined,
      made(1, { path: `/srv/${hostile},x=y:z/vm.qcow2` }),
    ],
  }

  test('every kind of VM passes the schema and is defined as meant', async () => {
    await using libvirt = await privateLibvirt()
    for (const [name, [w, o, disks]] of Object.entries(cases)) {
      const { domain } = mergeDomain(name, words({ name, ...w, job_id: `job ${name}` }), o, disks, {})
      const file = join(dir, `${name}.xml`)
      writeFileSync(file, renderDomain(domain))
      check(file)
      const defined = parse(await libvirt.define(file))
      const devices = defined.devices
      expect(defined, name).toMatchObject({
        name: domain.name,
        uuid: domain.uuid,
        vcpu: { '#text': String(domain.vcpus) },
        memory: { unit: 'KiB', '#text': String(Math.ceil(domain.memory_bytes / 1024)) },
      })
      expect(defined.os.type.machine).toMatch(domain.machine === 'q35' ? /^pc-q35-/ : /^pc-i440fx-/)
      expect(defined.os.firmware).toBe(domain.firmware === 'uefi' ? 'efi' : undefined)
      // libvirt sorts by bus; the place of each disk is its target
      const seen = devices.disk.map((d: Xml) => [
        d.target.dev,
        d.target.bus,
        d.source.file,
        d.driver.type,
        d.boot[0].order,
      ])
      const meant = domain.disks.map((d) => [d.target, d.bus, d.path, d.format, String(d.boot_order)])
      expect(seen.sort()).toEqual(meant.sort())
      const nics = (devices.interface ?? []).map((n: Xml) => [
        n.model.type,
        n.source.network ?? `bridge:${n.source.bridge}`,
      ])
      expect(nics).toEqual(domain.nics.map((n) => [n.model, n.network]))
      for (const [i, n] of domain.nics.entries()) if (n.mac) expect(devices.interface[i].mac.address).toBe(n.mac)
      expect(defined.metadata['vmspool:vm']['vmspool:job'].id).toBe(domain.job_id)
    }
  }, 600_000)

  test("QEMU's command line can be made of it: every device exists and has a place", async () => {
    await using libvirt = await privateLibvirt()
    for (const [name, [w, o, disks]] of Object.entries(cases)) {
      // a network card would be plugged into a bridge of this host
      const { domain } = mergeDomain(name, words({ name, ...w, nics: [], job_id: `job ${name}` }), o, disks, {})
      const file = join(libvirt.dir, 'try.xml')
      writeFileSync(file, renderDomain(domain).replace('type="kvm"', 'type="qemu"'))
      const argv = await libvirt.virsh('domxml-to-native', 'qemu-argv', '--xml', file)
      expect(argv.match(/"bootindex":1[,}]/g), name).toHaveLength(1)
      expect(argv.includes('driver=cfi.pflash01,property=secure,value=on'), name).toBe(domain.secure_boot)
      expect(argv.includes('virtio-blk-pci')).toBe(domain.disks.some((d) => d.bus === 'virtio'))
    }
  }, 600_000)
})

describe('in a job', () => {
  const gib = 2 ** 30
  const text = (disks: string[]) => `<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References>${disks.map((d, i) => `<File ovf:id="f${i}" ovf:href="${d}"/>`).join('')}</References>
<DiskSection><Info/>${disks.map((_, i) => `<Disk ovf:diskId="v${i}" ovf:fileRef="f${i}" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^20"/>`).join('')}</DiskSection>
<NetworkSection><Info/><Network ovf:name="Front &amp; Back"><Description/></Network></NetworkSection>
<VirtualSystem ovf:id="web"><Info/><Name>web server</Name>
<OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><Info/></OperatingSystemSection>
<VirtualHardwareSection><Info/>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>3</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
${disks.map((_, i) => `<Item><rasd:AddressOnParent>${i}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/v${i}</rasd:HostResource><rasd:InstanceID>${10 + i}</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`).join('')}
<Item><rasd:Address>00:50:56:aa:bb:cc</rasd:Address><rasd:Connection>Front &amp; Back</rasd:Connection><rasd:ElementName>nic</rasd:ElementName><rasd:InstanceID>20</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
<vmw:Config vmw:key="firmware" vmw:value="efi"/>
</VirtualHardwareSection></VirtualSystem></Envelope>`

  function export2(): string {
    for (const i of [0, 1])
      qemuImg('create', '-q', '-f', 'vmdk', '-o', 'subformat=streamOptimized', join(dir, `disk${i}.vmdk`), '1M')
    const path = join(dir, 'web.ovf')
    writeFileSync(path, text(['disk0.vmdk', 'disk1.vmdk']))
    return path
  }

  test("an OVF's words become the description; paths are those of the published answer; the report tells all of it", async () => {
    const b = bench({ config: { libvirt: { networks: { 'Front & Back': 'bridge:br-front' } } } })
    try {
      const r = await b.run(
        { disks: [disk(export2(), 'ovf')], vm: { mem_gb: 1 }, output: { checksum: true } },
        { publicDir: '/srv/spool/output' },
      )
      expect(b.answers()).toEqual(['vm.disks/disk-0-1.qcow2', 'vm.qcow2', 'vm.report.json', 'vm.xml'])
      execFileSync('virt-xml-validate', [join(b.answerDir, 'vm.xml'), 'domain'], { stdio: 'pipe' })
      const xml = parse(readFileSync(join(b.answerDir, 'vm.xml'), 'utf8'))
      expect(xml).toMatchObject({
        name: 'web server',
        memory: { '#text': '1024' },
        vcpu: { '#text': '3' },
        os: { firmware: 'efi' },
      })
      expect(xml.devices.disk.map((d: Xml) => [d.source.file, d.target.dev])).toEqual([
        ['/srv/spool/output/vm.qcow2', 'vda'],
        ['/srv/spool/output/vm.disks/disk-0-1.qcow2', 'vdb'],
      ])
      expect(xml.devices.interface).toMatchObject([
        {
          type: 'bridge',
          mac: { address: '00:50:56:aa:bb:cc' },
          source: { bridge: 'br-front' },
          model: { type: 'virtio' },
        },
      ])
      expect(xml.metadata['vmspool:vm']['vmspool:nic']).toMatchObject({ network: 'Front & Back', model: 'VmxNet3' })

      const report = b.report()
      expect(report.domain).toMatchObject({ path: 'vm.xml', memory_bytes: gib, devices: 'virtio', assumed: [] })
      expect(r.domain).toEqual(report.domain)
      expect(report.artifacts.map((a: Xml) => [a.type, a.path])).toEqual([
        ['converted_disk', 'vm.qcow2'],
        ['converted_disk', 'vm.disks/disk-0-1.qcow2'],
        ['domain_xml', 'vm.xml'],
      ])
      const sum = execFileSync('sha256sum', [join(b.answerDir, 'vm.qcow2')], { encoding: 'utf8' }).slice(0, 64)
      expect(report.artifacts[0].checksum).toBe(`sha256:${sum}`)
      expect(report.summary).toMatchObject({ total_artifacts: 3, input_disks: 1, output_disks: 2 })
      const { convert, validate } = report.pipeline.stages
      expect(convert.result).toMatchObject({
        output_directory: '/srv/spool/output',
        domain_xml: 'vm.xml',
        disks_converted: 2,
      })
      for (const d of convert.result.converted_disks)
        expect(d).toMatchObject({
          path: expect.stringMatching(/^(zero-copy|inflate|qemu-img)$/),
          path_reason: expect.stringMatching(/./),
        })
      expect(validate.result.validation_results[0]).toMatchObject({
        passed: true,
        check: 'qemu-img check',
        compare: 'none',
      })
    } finally {
      b.close()
    }
  })

  test('switched off there is none, and after a failure none is left', async () => {
    const off = bench({ config: { libvirt: { emit_domain_xml: false } } })
    const bad = bench()
    try {
      const disks = [disk(export2(), 'ovf')]
      await off.run({ disks: [disk(export2(), 'ovf')] })
      expect(off.answers()).not.toContain('vm.xml')
      expect(off.report().domain).toBeUndefined()
      // where the boot disk is to go lies a folder: collecting fails, after the description was written
      execFileSync('mkdir', ['-p', join(bad.answerDir, 'vm.qcow2/in the way')])
      await expect(bad.run({ disks })).rejects.toMatchObject({ name: 'JobError' })
      expect(bad.answers()).toEqual(['vm.report.json'])
      expect(bad.report()).toMatchObject({ pipeline: { success: false, stages: { convert: { success: false } } } })
    } finally {
      off.close()
      bad.close()
    }
  })
})
