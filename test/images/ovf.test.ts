/** What is read of an OVF envelope, in the words of each hypervisor that writes one. */
import { describe, expect, test } from 'vitest'
import { parseOvf } from '../../src/images/formats/index.ts'

const GiB = 2 ** 30
const NAMESPACES =
  'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:sasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData.xsd" xmlns:epasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_EthernetPortAllocationSettingData.xsd" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'

/** `<rasd:Key>value</rasd:Key>…` */
const item = (o: Record<string, string | number>, tag = 'Item', ns = 'rasd', more = '') =>
  `<${tag}${more}>${Object.entries(o)
    .map(([k, v]) => `<${ns}:${k}>${v}</${ns}:${k}>`)
    .join('')}</${tag}>`

const references = (...names: string[]) =>
  `<References>${names.map((n, i) => `<File ovf:href="${n}" ovf:id="file${i + 1}"/>`).join('')}</References>`
const disk = (n: number, more = '') =>
  `<Disk ovf:capacity="${n}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk${n}" ovf:fileRef="file${n}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"${more}/>`

describe('vSphere', () => {
  const text = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope vmw:buildId="build-21560480" ${NAMESPACES}>
${references('a-1.vmdk', 'a-2.vmdk', 'a-3.vmdk', 'a-4.vmdk', 'a.nvram')}
<DiskSection><Info>Virtual disk information</Info>${disk(1)}${disk(2)}${disk(3)}${disk(4)}<Disk ovf:capacity="5" ovf:diskId="scratch"/></DiskSection>
<NetworkSection><Info/><Network ovf:name="VM Network"><Description/></Network></NetworkSection>
<VirtualSystem ovf:id="vm-7"><Info>A virtual machine</Info><Name>db &amp; web</Name>
<OperatingSystemSection ovf:id="96" ovf:version="12" vmw:osType="debian12_64Guest"><Info/><Description>Debian GNU/Linux 12 (64-bit)</Description></OperatingSystemSection>
<VirtualHardwareSection><Info/><System><vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType></System>
${item({ AllocationUnits: 'hertz * 10^6', ElementName: '4 virtual CPU(s)', InstanceID: 1, ResourceType: 3, VirtualQuantity: 4 })}
${item({ AllocationUnits: 'byte * 2^20', ElementName: '6144MB of memory', InstanceID: 2, ResourceType: 4, VirtualQuantity: 6144 })}
${item({ Address: 1, ElementName: 'SCSI controller 1', InstanceID: 3, ResourceSubType: 'lsilogicsas', ResourceType: 6 })}
${item({ Address: 0, ElementName: 'SCSI controller 0', InstanceID: 4, ResourceSubType: 'VirtualSCSI', ResourceType: 6 })}
${item({ Address: 1, ElementName: 'IDE 1', InstanceID: 5, ResourceType: 5 })}
${item({ Address: 0, ElementName: 'IDE 0', InstanceID: 6, ResourceType: 5 })}
${item({ Address: 0, ElementName: 'NVMe', InstanceID: 7, ResourceSubType: 'vmware.nvme.controller', ResourceType: 20 })}
${item({ AddressOnParent: 0, AutomaticAllocation: 'false', ElementName: 'CD/DVD drive 1', InstanceID: 8, Parent: 5, ResourceSubType: 'vmware.cdrom.remotepassthrough', ResourceType: 15 })}
${item({ AddressOnParent: 2, HostResource: 'ovf:/disk/vmdisk1', InstanceID: 10, Parent: 7, ResourceType: 17 })}
${item({ AddressOnParent: 0, HostResource: 'ovf:/disk/vmdisk2', InstanceID: 11, Parent: 3, ResourceType: 17 })}
${item({ AddressOnParent: 1, HostResource: 'ovf:/disk/vmdisk3', InstanceID: 12, Parent: 4, ResourceType: 17 })}
${item({ AddressOnParent: 0, HostResource: 'ovf:/disk/vmdisk4', InstanceID: 13, Parent: 4, ResourceType: 17 })}
${item({ Address: '00:50:56:AB:cd:01', AddressOnParent: 7, AutomaticAllocation: 'true', Connection: 'VM Network', ElementName: 'Network adapter 1', InstanceID: 14, ResourceSubType: 'VmxNet3', ResourceType: 10 })}
${item({ AddressOnParent: 8, AutomaticAllocation: 'true', Connection: 'DMZ', ElementName: 'Network adapter 2', InstanceID: 15, ResourceSubType: 'E1000', ResourceType: 10 })}
<vmw:Config ovf:required="false" vmw:key="cpuHotAddEnabled" vmw:value="false"/>
<vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>
<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
</VirtualHardwareSection></VirtualSystem></Envelope>`

  test('everything but the disks', () => {
    const { disks: _, ...ovf } = parseOvf(text)
    expect(ovf).toEqual({
      name: 'db & web',
      empty_disks: ['scratch'],
      vcpus: 4,
      memory_bytes: 6 * GiB,
      firmware: 'uefi',
      secure_boot: true,
      nics: [
        { name: 'Network adapter 1', mac: '00:50:56:ab:cd:01', network: 'VM Network', model: 'VmxNet3' },
        { name: 'Network adapter 2', network: 'DMZ', model: 'E1000' },
      ],
      os: { id: 96, type: 'debian12_64Guest', version: '12', description: 'Debian GNU/Linux 12 (64-bit)' },
    })
  })

  test('disks by bus as listed, controller by address, unit', () => {
    const scsi = (index: number, model: string) => ({ bus: 'scsi', model, index })
    expect(parseOvf(text).disks.map(({ capacity, format, ...d }) => [d, capacity, format])).toEqual(
      [
        { disk_id: 'vmdisk4', href: 'a-4.vmdk', controller: scsi(0, 'VirtualSCSI'), unit: 0 },
        { disk_id: 'vmdisk3', href: 'a-3.vmdk', controller: scsi(0, 'VirtualSCSI'), unit: 1 },
        { disk_id: 'vmdisk2', href: 'a-2.vmdk', controller: scsi(1, 'lsilogicsas'), unit: 0 },
        {
          disk_id: 'vmdisk1',
          href: 'a-1.vmdk',
          controller: { bus: 'nvme', model: 'vmware.nvme.controller', index: 0 },
          unit: 2,
        },
      ].map((d) => [d, Number(d.disk_id.slice(-1)) * GiB, 'vmdk']),
    )
  })

  test('a stated boot order comes before the hardware', () => {
    const order = '<vmw:BootOrderSection vmw:instanceId="11" vmw:type="disk"><Info/></vmw:BootOrderSection>'
    const disks = parseOvf(text.replace('</VirtualSystem>', `${order}</VirtualSystem>`)).disks
    expect(disks.map((d) => d.disk_id)).toEqual(['vmdisk2', 'vmdisk4', 'vmdisk3', 'vmdisk1'])
    expect(disks[0]!.boot_order).toBe(1)
  })

  test.each([
    ['bios', 'vmw:key="firmware" vmw:value="bios"', { firmware: 'bios' }],
    ['nothing said', 'vmw:key="other" vmw:value="x"', {}],
    [
      'secure boot among the extra settings',
      'vmw:key="uefi.secureBoot.enabled" vmw:value="TRUE"',
      { secure_boot: true },
    ],
    ['secure boot off', 'vmw:key="uefi.secureBoot.enabled" vmw:value="FALSE"', { secure_boot: false }],
  ])('firmware: %s', (_name, attributes, want) => {
    const { firmware, secure_boot } = parseOvf(
      text.replace(/<vmw:Config .*\n<vmw:Config .*\n<vmw:Config .*\n/, `<vmw:ExtraConfig ${attributes}/>`),
    )
    expect({ firmware, secure_boot }).toEqual({ firmware: undefined, secure_boot: undefined, ...want })
  })
})

describe('VirtualBox', () => {
  const machine = `<vbox:Machine ovf:required="false" version="1.19-linux" uuid="{1}" name="v" OSType="Debian_64"><ovf:Info/><Hardware>
<CPU count="2"/><Memory RAMSize="2048"/><Firmware type="EFI"/><Network>
<Adapter slot="0" enabled="true" MACAddress="080027A1B2C3" type="82540EM"><NAT/></Adapter>
<Adapter slot="1" enabled="false" MACAddress="0800270000FF"/>
<Adapter slot="2" enabled="true" MACAddress="080027000002" type="virtio"/></Network></Hardware></vbox:Machine>`
  const os =
    '<OperatingSystemSection ovf:id="96"><Info/><Description>Debian_64</Description><vbox:OSType ovf:required="false">Debian_64</vbox:OSType></OperatingSystemSection>'

  test('version 1: MegaBytes, /disk/ without a scheme, MACs in its own part', () => {
    const ovf = parseOvf(`<Envelope ovf:version="1.0" ${NAMESPACES}>${references('v-1.vmdk')}
<DiskSection><Info/><Disk ovf:capacity="1073741824" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized" vbox:uuid="1"/></DiskSection>
<VirtualSystem ovf:id="v">${os}<VirtualHardwareSection><Info/>
${item({ Caption: '2 virtual CPU', InstanceID: 1, ResourceType: 3, VirtualQuantity: 2 })}
${item({ AllocationUnits: 'MegaBytes', InstanceID: 2, ResourceType: 4, VirtualQuantity: 2048 })}
${item({ Address: 0, Caption: 'sataController0', InstanceID: 5, ResourceSubType: 'AHCI', ResourceType: 20 })}
${item({ AddressOnParent: 0, Caption: 'disk1', HostResource: '/disk/vmdisk1', InstanceID: 7, Parent: 5, ResourceType: 17 })}
${item({ AutomaticAllocation: 'true', Caption: "Ethernet adapter on 'NAT'", Connection: 'NAT', InstanceID: 8, ResourceSubType: 'E1000', ResourceType: 10 })}
${item({ Caption: "Ethernet adapter on 'Bridged'", Connection: 'Bridged', InstanceID: 9, ResourceSubType: 'virtio', ResourceType: 10 })}
</VirtualHardwareSection>${machine}</VirtualSystem></Envelope>`)
    expect(ovf).toEqual({
      name: 'v',
      disks: [
        {
          disk_id: 'vmdisk1',
          href: 'v-1.vmdk',
          capacity: GiB,
          format: 'vmdk',
          controller: { bus: 'sata', model: 'AHCI', index: 0 },
          unit: 0,
        },
      ],
      vcpus: 2,
      memory_bytes: 2 * GiB,
      firmware: 'uefi',
      nics: [
        { name: "Ethernet adapter on 'NAT'", mac: '08:00:27:a1:b2:c3', network: 'NAT', model: 'E1000' },
        { name: "Ethernet adapter on 'Bridged'", mac: '08:00:27:00:00:02', network: 'Bridged', model: 'virtio' },
      ],
      os: { id: 96, type: 'Debian_64', description: 'Debian_64' },
    })
  })

  test('version 2 has items of its own for disks and cards; the second IDE channel', () => {
    const ovf =
      parseOvf(`<Envelope ovf:version="2.0" ${NAMESPACES}>${references('v-1.vmdk')}<DiskSection>${disk(1)}</DiskSection>
<VirtualSystem ovf:id="v"><VirtualHardwareSection>
${item({ Address: 1, InstanceID: 4, ResourceSubType: 'PIIX4', ResourceType: 5 })}
${item({ AddressOnParent: 1, HostResource: '/disk/vmdisk1', InstanceID: 7, Parent: 4, ResourceType: 17 }, 'StorageItem', 'sasd')}
${item({ Caption: 'card', Connection: 'NAT', InstanceID: 8, ResourceSubType: 'PCNet32', ResourceType: 10 }, 'EthernetPortItem', 'epasd')}
</VirtualHardwareSection></VirtualSystem></Envelope>`)
    expect(ovf.disks[0]).toMatchObject({ controller: { bus: 'ide', model: 'PIIX4', index: 1 }, unit: 1 })
    expect(ovf.nics).toEqual([{ name: 'card', network: 'NAT', model: 'PCNet32' }])
  })
})

test('oVirt: sections by type, sizes in GiB, names without an extension, numbers for cards', () => {
  const image = (n: number) => `0000000${n}-0000-0000-0000-00000000000${n}`
  const declared = (n: number, format: string, bus: string, boot: string) =>
    `<Disk ovf:diskId="${image(n)}" ovf:size="${n}" ovf:actual_size="1" ovf:vm_snapshot_id="x" ovf:parentRef="" ovf:fileRef="group/${image(n)}" ovf:format="http://www.vmware.com/specifications/vmdk.html#sparse" ovf:volume-format="${format}" ovf:disk-interface="${bus}" ovf:boot="${boot}"/>`
  const drive = (n: number, order: number) =>
    `<Item><rasd:InstanceId>${image(n)}</rasd:InstanceId><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>group/${image(n)}</rasd:HostResource><rasd:Parent>00000000-0000-0000-0000-000000000000</rasd:Parent><BootOrder>${order}</BootOrder></Item>`
  const ovf =
    parseOvf(`<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" xmlns:rasd="r" xmlns:xsi="x" ovf:version="4.4.0.0">
<References>${[1, 2].map((n) => `<File ovf:href="group/${image(n)}" ovf:id="group/${image(n)}" ovf:size="1"/>`).join('')}<Nic ovf:id="n"/></References>
<Section xsi:type="ovf:DiskSection_Type"><Info/>${declared(1, 'RAW', 'VirtIO', 'false')}${declared(2, 'COW', 'VirtIO_SCSI', 'True')}</Section>
<Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type"><Name>ov</Name><BiosType>4</BiosType>
<Section ovf:id="y" ovf:required="false" xsi:type="ovf:OperatingSystemSection_Type"><Info/><Description>debian_9</Description></Section>
<Section xsi:type="ovf:VirtualHardwareSection_Type"><Info/>
<Item><rasd:InstanceId>1</rasd:InstanceId><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>8</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceId>1</rasd:InstanceId><rasd:ResourceType>4</rasd:ResourceType><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
${drive(1, 0)}${drive(2, 1)}
<Item><rasd:InstanceId>n</rasd:InstanceId><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>3</rasd:ResourceSubType><rasd:Connection>ovirtmgmt</rasd:Connection><rasd:Name>nic1</rasd:Name><rasd:MACAddress>00:1A:4a:16:01:51</rasd:MACAddress></Item>
</Section></Content></ovf:Envelope>`)
  expect(ovf).toEqual({
    name: 'ov',
    disks: [
      {
        disk_id: image(2),
        href: `group/${image(2)}`,
        capacity: 2 * GiB,
        format: 'qcow2',
        controller: { bus: 'scsi', model: 'VirtIO_SCSI', index: 0 },
        boot_order: 1,
      },
      {
        disk_id: image(1),
        href: `group/${image(1)}`,
        capacity: GiB,
        format: 'raw',
        controller: { bus: 'virtio', index: 0 },
      },
    ],
    vcpus: 8,
    memory_bytes: GiB,
    firmware: 'uefi',
    secure_boot: true,
    nics: [{ name: 'nic1', mac: '00:1a:4a:16:01:51', network: 'ovirtmgmt', model: 'virtio' }],
    os: { description: 'debian_9' },
  })
})

test('an appliance with several configurations is read as its default one, without bounds', () => {
  const cpu = (n: number, more: string) =>
    item({ InstanceID: 1, ResourceType: 3, VirtualQuantity: n }, 'Item', 'rasd', more)
  const ovf = parseOvf(`<Envelope ${NAMESPACES}>${references('a.vmdk')}<DiskSection>${disk(1)}</DiskSection>
<DeploymentOptionSection><Configuration ovf:id="small"/><Configuration ovf:id="large" ovf:default="true"/></DeploymentOptionSection>
<VirtualSystem ovf:id="v"><VirtualHardwareSection>${cpu(1, '')}${cpu(2, ' ovf:configuration="small"')}${cpu(16, ' ovf:configuration="medium large"')}
${item({ InstanceID: 2, ResourceType: 4, VirtualQuantity: 1, AllocationUnits: 'byte * 2^30' }, 'Item', 'rasd', ' ovf:bound="min"')}
${item({ InstanceID: 2, ResourceType: 4, VirtualQuantity: 4096 })}
</VirtualHardwareSection></VirtualSystem></Envelope>`)
  expect([ovf.vcpus, ovf.memory_bytes]).toEqual([16, 4 * GiB])
})

test('several machines, and references that mean two things, are refused', () => {
  const vm = (id: string) => `<VirtualSystem ovf:id="${id}"/>`
  const envelope = (body: string) => `<Envelope ${NAMESPACES}>${references('a.vmdk')}${body}</Envelope>`
  const disks = `<DiskSection>${disk(1)}</DiskSection>`
  expect(() =>
    parseOvf(envelope(`${disks}<VirtualSystemCollection>${vm('a')}${vm('b')}</VirtualSystemCollection>`)),
  ).toThrow('describes 2 virtual machines')
  expect(
    parseOvf(envelope(`${disks}<VirtualSystemCollection ovf:id="c">${vm('a')}</VirtualSystemCollection>`)).name,
  ).toBe('a')
  expect(() => parseOvf(envelope(`<DiskSection>${disk(1)}${disk(1)}</DiskSection>`))).toThrow('two disks with the id')
  expect(() => parseOvf(envelope(disks).replace('</References>', '<File ovf:id="file1"/></References>'))).toThrow(
    'two files with the id',
  )
})

test('names as exporters write them, and text that is cut off', () => {
  const named = (name: string) =>
    `\uFEFF<Envelope>${references('a.vmdk')}<DiskSection>${disk(1)}</DiskSection><VirtualSystem><Name>${name}</Name></VirtualSystem></Envelope>`
      .replaceAll('ovf:', '')
      .trim()
  for (const [written, read] of [
    ['R&D &amp; Q&A', 'R&D & Q&A'],
    ['&lt;b&gt; &#38; &#xfc;', '<b> & ü'],
    ['&unknown; &', '&unknown; &'],
    ['<![CDATA[a<b]]>', 'a<b'],
    ['Überwachung 監視', 'Überwachung 監視'],
  ] as const)
    expect(parseOvf(named(written)).name, written).toBe(read)
  const whole = named('n')
  for (let at = 0; at < whole.length; at += 7) expect(() => parseOvf(whole.slice(0, at)), `${at}`).toThrow('The OVF')
})

test('a reference to one disk twice attaches it once', () => {
  const twice = [1, 2].map((id) =>
    item({ AddressOnParent: id, HostResource: 'ovf:/disk/vmdisk1', InstanceID: id, ResourceType: 17 }),
  )
  const ovf = parseOvf(
    `<Envelope ${NAMESPACES}>${references('a.vmdk')}<DiskSection>${disk(1)}</DiskSection><VirtualSystem><VirtualHardwareSection>${twice.join('')}</VirtualHardwareSection></VirtualSystem></Envelope>`,
  )
  expect(ovf.disks).toHaveLength(1)
})

test('units of capacity', () => {
  const capacity = (n: string, units: string) =>
    parseOvf(
      `<Envelope><References><File id="f" href="a.vmdk"/></References><DiskSection><Disk diskId="d" fileRef="f" capacity="${n}" capacityAllocationUnits="${units}"/></DiskSection></Envelope>`,
    ).disks[0]!.capacity
  for (const [n, units, want] of [
    ['7', 'byte', 7],
    ['7', 'bytes', 7],
    ['7', 'KiloBytes', 7 * 1024],
    ['7', 'GB', 7 * GiB],
    ['7', 'TeraBytes', 7 * 2 ** 40],
    ['7', 'byte*2^20', 7 * 2 ** 20],
    ['7', 'byte * 512', 7 * 512],
    ['7', 'byte * 10^9', 7e9],
    ['9007199254740993', 'byte * 2^30', undefined],
    ['-1', 'byte', undefined],
    ['$'.concat('{size}'), 'byte', undefined],
  ] as const)
    expect(capacity(n, units), `${n} ${units}`).toBe(want)
})
