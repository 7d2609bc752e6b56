import type { Ovf, OvfController, OvfNic } from './ovf-types.ts'
import { all, attribute, bytesOf, type Node, one, sections, textOf } from './ovf-xml.ts'

export interface Attachment {
  /** the drive's HostResource, e.g. ovf:/disk/vmdisk1 */
  resource: string
  controller?: OvfController
  unit?: number
  boot_order?: number
}

/** CIM resource types. Source: DMTF CIM_ResourceAllocationSettingData. */
const TYPE = { cpu: '3', memory: '4', ide: '5', scsi: '6', ethernet: '10', storage: '20', usb: '23' } as const

/** Drives in the order of the buses as listed, then controller, then place on the controller. */
export function attachments(system: Node | undefined, envelope: Node): Attachment[] {
  const items = itemsOf(system, envelope)
  const byId = new Map(items.map((i) => [instanceOf(i), i]))
  const controllers = controllersOf(items)
  const buses = [...new Set([...controllers.values()].map((c) => c.bus))]
  // vSphere's boot order names items
  const boot = all(system?.BootOrderSection).filter((b) => attribute(b, 'type') === 'disk')
  const first = boot.map((b) => attribute(b, 'instanceId'))
  const out: (Attachment & { bus: number })[] = []
  for (const item of items) {
    const resource = textOf(item.HostResource)
    if (resource === '') continue
    const parent = byId.get(textOf(item.Parent))
    const controller = parent ? controllers.get(parent) : undefined
    const unit = wholeNumber(item.AddressOnParent)
    const order = wholeNumber(item.BootOrder) || first.indexOf(instanceOf(item)) + 1
    out.push({
      resource,
      ...(controller ? { controller } : {}),
      ...(unit === undefined ? {} : { unit }),
      ...(order ? { boot_order: order } : {}),
      bus: controller ? buses.indexOf(controller.bus) : buses.length,
    })
  }
  out.sort(
    (a, b) => a.bus - b.bus || (a.controller?.index ?? 0) - (b.controller?.index ?? 0) || (a.unit ?? 0) - (b.unit ?? 0),
  )
  return out.map(({ bus: _, ...a }) => a)
}

function controllersOf(items: readonly Node[]): Map<Node, OvfController> {
  const found: { item: Node; bus: OvfController['bus']; address: number | undefined }[] = []
  for (const item of items) {
    const bus = busOf(item)
    if (bus) found.push({ item, bus, address: wholeNumber(item.Address) })
  }
  const out = new Map<Node, OvfController>()
  for (const bus of new Set(found.map((f) => f.bus))) {
    const own = found.filter((f) => f.bus === bus)
    // vSphere lists IDE 1 before IDE 0: the address tells, where every one has its own
    const told = own.every((f) => f.address !== undefined) && new Set(own.map((f) => f.address)).size === own.length
    if (told) own.sort((a, b) => a.address! - b.address!)
    own.forEach((f, n) => {
      const model = textOf(f.item.ResourceSubType)
      // a lone secondary IDE controller is still the secondary one
      const index = told && bus === 'ide' ? f.address! : n
      out.set(f.item, { bus, ...(model === '' ? {} : { model }), index })
    })
  }
  return out
}

function busOf(item: Node): OvfController['bus'] | undefined {
  const model = textOf(item.ResourceSubType).toLowerCase()
  switch (textOf(item.ResourceType)) {
    case TYPE.ide:
      return 'ide'
    case TYPE.scsi:
      return 'scsi'
    case TYPE.usb:
      return 'usb'
    case TYPE.storage:
      // "other storage": SATA (AHCI, vmware.sata.ahci), NVMe, and VirtualBox's virtio-scsi
      if (model.includes('nvme')) return 'nvme'
      return model.includes('scsi') ? 'scsi' : 'sata'
    default:
      return undefined
  }
}

/** Everything of the virtual hardware but the disks. */
export function readHardware(system: Node | undefined, envelope: Node): Omit<Ovf, 'disks' | 'name'> {
  const items = itemsOf(system, envelope)
  const vcpus = wholeNumber(items.find((i) => textOf(i.ResourceType) === TYPE.cpu)?.VirtualQuantity)
  const memory = memoryOf(items.find((i) => textOf(i.ResourceType) === TYPE.memory))
  const os = operatingSystem(system)
  return {
    ...(vcpus ? { vcpus } : {}),
    ...(memory ? { memory_bytes: memory } : {}),
    ...firmwareOf(system),
    nics: nicsOf(system, items),
    ...(os ? { os } : {}),
  }
}

function memoryOf(item: Node | undefined): number | undefined {
  if (!item) return undefined
  const amount = textOf(item.VirtualQuantity)
  const units = textOf(item.AllocationUnits)
  // no unit means bytes by the book, but nobody means a machine with 2048 bytes
  return units === '' && Number(amount) < 2 ** 22 ? bytesOf(amount, 'MegaBytes') : bytesOf(amount, units)
}

function firmwareOf(system: Node | undefined): Pick<Ovf, 'firmware' | 'secure_boot'> {
  const config = new Map<string, string>()
  for (const hardware of sections(system, 'VirtualHardwareSection')) {
    for (const c of [...all(hardware.ExtraConfig), ...all(hardware.Config)])
      config.set(attribute(c, 'key').toLowerCase(), attribute(c, 'value').toLowerCase())
  }
  const vbox = attribute(one(one(one(system?.Machine)?.Hardware)?.Firmware) ?? {}, 'type').toLowerCase()
  const ovirt = textOf(system?.BiosType)
  const told = config.get('firmware') || vbox
  const efi = told.startsWith('efi') || told.startsWith('uefi') || ovirt === '3' || ovirt === '4'
  const bios = told === 'bios' || ovirt === '1' || ovirt === '2'
  const secure = config.get('bootoptions.efisecurebootenabled') ?? config.get('uefi.secureboot.enabled')
  return {
    ...(efi ? { firmware: 'uefi' } : bios ? { firmware: 'bios' } : {}),
    ...(secure !== undefined ? { secure_boot: secure === 'true' } : ovirt === '4' ? { secure_boot: true } : {}),
  }
}

/** oVirt writes its network cards as numbers. Source: oVirt's VmInterfaceType. */
const OVIRT_NICS = ['rtl8139', 'rtl8139', 'e1000', 'virtio']

function nicsOf(system: Node | undefined, items: readonly Node[]): OvfNic[] {
  const cards = items.filter((i) => textOf(i.ResourceType) === TYPE.ethernet)
  // VirtualBox keeps the addresses in its own part only, in the order of the slots
  const adapters = all(one(one(one(system?.Machine)?.Hardware)?.Network)?.Adapter)
    .filter((a) => attribute(a, 'enabled') === 'true')
    .sort((a, b) => Number(attribute(a, 'slot')) - Number(attribute(b, 'slot')))
  return cards.map((item, n) => {
    const name = textOf(item.ElementName) || textOf(item.Name) || textOf(item.Caption)
    const mac =
      macOf(textOf(item.Address)) ??
      macOf(textOf(item.MACAddress)) ??
      (adapters.length === cards.length ? macOf(attribute(adapters[n]!, 'MACAddress')) : undefined)
    const network = textOf(item.Connection)
    const written = textOf(item.ResourceSubType)
    const model = OVIRT_NICS[/^\d$/.test(written) ? Number(written) : -1] ?? written
    return {
      ...(name === '' ? {} : { name }),
      ...(mac === undefined ? {} : { mac }),
      ...(network === '' ? {} : { network }),
      ...(model === '' ? {} : { model }),
    }
  })
}

function macOf(text: string): string | undefined {
  const digits = text.replace(/[:.-]/g, '').toLowerCase()
  return /^[0-9a-f]{12}$/.test(digits) ? digits.match(/../g)!.join(':') : undefined
}

function operatingSystem(system: Node | undefined): Ovf['os'] {
  const s = sections(system, 'OperatingSystemSection')[0]
  if (!s) return undefined
  const id = wholeNumber(attribute(s, 'id'))
  const type = attribute(s, 'osType') || textOf(s.OSType)
  const version = attribute(s, 'version')
  const description = textOf(s.Description)
  return {
    ...(id === undefined ? {} : { id }),
    ...(type === '' ? {} : { type }),
    ...(version === '' ? {} : { version }),
    ...(description === '' ? {} : { description }),
  }
}

/**
 * The items that count: those of the default configuration (an appliance may offer "small" and "large"), in place of the general ones of
 * the same id, and no bounds. OVF 2 has its own names for disks and network cards.
 */
function itemsOf(system: Node | undefined, envelope: Node): Node[] {
  const configurations = sections(envelope, 'DeploymentOptionSection').flatMap((s) => all(s.Configuration))
  const chosen = attribute(
    configurations.find((c) => attribute(c, 'default') === 'true') ?? configurations[0] ?? {},
    'id',
  )
  const listed = sections(system, 'VirtualHardwareSection')
    .flatMap((h) => [...all(h.Item), ...all(h.StorageItem), ...all(h.EthernetPortItem)])
    .filter((i) => !['min', 'max'].includes(attribute(i, 'bound')))
  const applies = (i: Node) => attribute(i, 'configuration').split(/\s+/).includes(chosen)
  const special = new Set(listed.filter((i) => attribute(i, 'configuration') !== '' && applies(i)).map(instanceOf))
  return listed.filter((i) => (attribute(i, 'configuration') === '' ? !special.has(instanceOf(i)) : applies(i)))
}

function instanceOf(item: Node): string {
  return textOf(item.InstanceID) || textOf(item.InstanceId)
}

function wholeNumber(v: unknown): number | undefined {
  const t = textOf(v)
  return /^\d{1,9}$/.test(t) ? Number(t) : undefined
}
