// An OVA as an exporting hypervisor writes it, made with tar, and sha256sum for its manifest.
import { stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { execa } from 'execa'

export interface ExportedDisk {
  /** a streamOptimized VMDK */
  path: string
  capacity_bytes: number
}

/** `<name>.ova` beside the disks, which must lie in one folder: descriptor, manifest, disks. Returns its path. */
export async function exportOva(name: string, disks: readonly ExportedDisk[]): Promise<string> {
  const dir = dirname(disks[0]!.path)
  await writeFile(join(dir, `${name}.ovf`), await envelope(name, disks))
  const members = [`${name}.ovf`, ...disks.map((d) => basename(d.path))]
  const { stdout } = await execa('sha256sum', members, { cwd: dir })
  const mf = stdout.split('\n').map((line) => `SHA256(${line.slice(66)})= ${line.slice(0, 64)}\n`)
  await writeFile(join(dir, `${name}.mf`), mf.join(''))
  const [ovf, ...vmdks] = members
  await execa('tar', ['--format=ustar', '-cf', `${name}.ova`, ovf!, `${name}.mf`, ...vmdks], { cwd: dir })
  return join(dir, `${name}.ova`)
}

async function envelope(name: string, disks: readonly ExportedDisk[]): Promise<string> {
  const files: string[] = []
  const list: string[] = []
  const items: string[] = []
  for (const [i, d] of disks.entries()) {
    const { size } = await stat(d.path)
    files.push(`<File ovf:id="file${i}" ovf:href="${basename(d.path)}" ovf:size="${size}"/>`)
    list.push(
      `<Disk ovf:diskId="vmdisk${i}" ovf:fileRef="file${i}" ovf:capacity="${d.capacity_bytes}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`,
    )
    items.push(
      `<Item><rasd:AddressOnParent>${i}</rasd:AddressOnParent><rasd:ElementName>disk ${i}</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk${i}</rasd:HostResource><rasd:InstanceID>${i + 10}</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`,
    )
  }
  return `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>${files.join('')}</References>
  <DiskSection><Info>Disks</Info>${list.join('')}</DiskSection>
  <VirtualSystem ovf:id="${name}"><Info>A virtual machine</Info><Name>${name}</Name>
    <OperatingSystemSection ovf:id="96"><Info>Guest</Info><Description>Debian GNU/Linux 12 (64-bit)</Description></OperatingSystemSection>
    <VirtualHardwareSection><Info>Hardware</Info>
      <Item><rasd:ElementName>2 processors</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>1024 MB</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
      ${items.join('\n      ')}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`
}
